//! A search from pool to pruned model, resumed, compared, applied and shown.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{command, fail, json, model, succeed, tiny, words};

/// The paths and words of a small search on the fixture model.
pub struct Small {
    pub dir: TempDir,
    pub study: PathBuf,
}

/// Most of a search's line: 24 samples of 16 tokens, 6 windows of 32.
pub const LINE: &str = "{model} --ratio 0.2 --calibration {pool} --samples 24 --sample-tokens 16 \
                        --text {text} --window 32 --limit 6 --study {study} --allow-overlap";

impl Small {
    pub fn new() -> Self {
        let dir = tempdir().unwrap();
        Self { study: dir.path().join("study"), dir }
    }

    pub fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("model", tiny()),
            ("pool", tiny().join("calibration.txt")),
            ("text", tiny().join("text.txt")),
            ("study", self.study.clone()),
            ("out", self.dir.path().join("out")),
            ("page", self.dir.path().join("page.html")),
        ]
    }

    pub fn json(&self, line: &str) -> Value {
        json(line, &borrowed(&self.paths()))
    }

    pub fn fail(&self, line: &str) -> String {
        fail(line, &borrowed(&self.paths()))
    }

    pub fn words(&self, line: &str) -> Vec<String> {
        words(line, &borrowed(&self.paths()))
    }

    pub fn search(&self, more: &str) -> Value {
        self.json(&format!("search {LINE} {more}"))
    }

    pub fn refused(&self, more: &str) -> String {
        self.fail(&format!("search {LINE} {more}"))
    }
}

fn borrowed<'a>(paths: &'a [(&'static str, PathBuf)]) -> Vec<(&'static str, &'a Path)> {
    paths.iter().map(|(name, path)| (*name, path.as_path())).collect()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

#[test]
fn the_best_trial_is_pruned_to_and_measures_as_it_did() {
    let small = Small::new();
    // What is opened again is measured in the default precision.
    let found = small.search("--trials 14 --matmul-precision highest");
    let finished = number(&found, "/complete") + number(&found, "/stopped_early");
    assert_eq!(finished, 14.0);
    let loss = number(&found, "/best/loss");
    assert!(loss > number(&found, "/dense_loss"));
    let chosen: Vec<&Value> = found["samples"].as_array().unwrap().iter().collect();
    assert_eq!(chosen.len(), 24);
    let count = chosen.iter().filter(|sample| sample["chosen"] == true).count();
    assert_eq!(count, found["best"]["configuration"]["samples"].as_array().unwrap().len());
    for sample in chosen {
        assert!(!sample["text"].as_str().unwrap().is_empty());
        assert!(sample["source"].as_str().unwrap().contains("calibration.txt"), "{sample}");
        assert!(number(sample, "/loss") > 0.0 && sample["influence"].is_number());
    }
    for phase in ["bank", "attention", "dense"] {
        assert!(number(&found, &format!("/costs/{phase}/flops")) > 0.0, "{phase}");
    }
    assert!(number(&found, "/costs/naive/flops") > number(&found, "/costs/trials/evaluate/flops"));
    let refused = small.fail("apply {model} --study {study} --trial 99 --out {out}");
    assert!(refused.contains("no trial 99"), "{refused}");
    let refused = small.fail("apply {model} --study {study} --study-name other --out {out}");
    assert!(refused.contains("full-joint-tpe-42"), "{refused}");
    // The model that is written is the one that was measured: the same windows,
    // in a file of token ids.
    small.json("apply {model} --study {study} --save-dtype f32 --out {out}");
    let manifest = std::fs::read(small.dir.path().join("out/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["study"]["trial"], found["best"]["number"]);
    // At another ratio, which is said.
    let more = small.json("apply {model} --study {study} --ratio 0.25 --out {out}/more");
    let (before, after) = (number(&more, "/model/parameters"), number(&more, "/parameters"));
    assert!((1.0 - after / before - 0.25).abs() < 0.02, "{after} of {before}");
    let warning = more["warnings"][0].as_str().unwrap();
    assert!(warning.contains("the ratio is 0.25; the study searched at 0.2"), "{warning}");
    let rest = "--text {text} --window 32";
    let whole = small.json(&format!("eval {{out}} {rest}"));
    let windows = number(&whole, "/windows") as usize;
    let again = small.json(
        "search {model} --ratio 0.2 --calibration {pool} --samples 24 --sample-tokens 16 --text \
         {text} --window 32 --limit 6 --study {study} --allow-overlap --trials 14 --test {text} \
         --test-windows 100000 --matmul-precision highest",
    );
    assert_eq!(again["best"]["number"], found["best"]["number"]);
    assert_eq!(number(&again, "/tests/0/text/windows") as usize, windows);
    let (measured, opened) = (number(&again, "/tests/0/pruned"), number(&whole, "/perplexity"));
    assert!((measured / opened - 1.0).abs() < 1e-6, "{measured} {opened}");
}

#[test]
fn a_finished_search_is_not_run_again_and_a_longer_one_goes_on() {
    let small = Small::new();
    let first = small.search("--trials 12");
    let journal = std::fs::read(small.study.join("journal.log")).unwrap();
    let again = small.search("--trials 12");
    assert_eq!(std::fs::read(small.study.join("journal.log")).unwrap(), journal);
    assert_eq!(first["best"], again["best"]);
    let longer = small.search("--trials 20");
    let straight = Small::new();
    let straight = straight.search("--trials 20");
    assert_eq!(longer["best"], straight["best"]);
    assert_eq!(longer["plan_digest"], straight["plan_digest"]);
}

/// Earlier versions knew no precision of products, and had the highest.
#[test]
fn a_study_that_is_older_than_the_precision_goes_on_in_the_highest() {
    let small = Small::new();
    small.search("--trials 3 --matmul-precision highest");
    let journal = std::fs::read_to_string(small.study.join("journal.log")).unwrap();
    assert!(!journal.contains("precision"), "{journal}");
    let path = small.study.join("search.json");
    crate::program::edit_unsealed(&path, |record| {
        assert!(record.as_object_mut().unwrap().remove("matmul_precision").is_some());
    });
    let refused = small.refused("--matmul-precision high");
    assert!(refused.contains("the matmul-precision was highest, now high"), "{refused}");
    let straight = Small::new().search("--trials 6 --matmul-precision highest");
    assert_eq!(small.search("--trials 6")["best"], straight["best"]);
    // A new one has the high precision.
    let new = Small::new();
    new.search("--trials 1");
    let refused = new.refused("--matmul-precision highest");
    assert!(refused.contains("the matmul-precision was high, now highest"), "{refused}");
}

#[test]
fn another_search_does_not_mix_with_one_that_is_there() {
    let small = Small::new();
    small.search("--trials 3");
    let line = |change: (&str, &str)| format!("search {}", LINE.replace(change.0, change.1));
    for (change, named) in [
        (("--ratio 0.2", "--ratio 0.3"), "ratio was 0.2, now 0.3"),
        (("--samples 24", "--samples 20"), "the pool digest"),
        (("--limit 6", "--limit 5"), "the evaluation text digest"),
        (("{study}", "{study} --seed 7"), "the pool seed was 42, now 7"),
        (("{study}", "{study} --chunk 3"), "the chunk was 1, now 3"),
        (("{study}", "{study} --multiple-of 8"), "multiple-of"),
        (("{study}", "{study} --early-stop off"), "another early stop"),
        (("{model}", "{model} --dtype f32"), "the dtype"),
        (
            ("{model}", "{model} --matmul-precision highest"),
            "the matmul-precision was high, now highest",
        ),
    ] {
        let refused = small.fail(&line(change));
        assert!(refused.contains(named), "{change:?}: {refused}");
    }
    let config = small.dir.path().join("space.toml");
    std::fs::write(&config, "[space]\nalpha1 = [0.2, 0.4]\n").unwrap();
    let refused = small.refused(&format!("--config {}", config.display()));
    assert!(refused.contains("another space") && refused.contains("0.2"), "{refused}");
}

#[test]
fn parts_of_the_space_can_be_fixed_or_left_out() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    std::fs::write(
        &config,
        "[space]\nsamples = 5\nalpha1 = 0.25\ngrouping = \"sum\"\nnormalisation = [\"mean\", \
         \"rank\"]\nbeta-coarse = false\ncurve-linear = [-0.5, 0.5]\n",
    )
    .unwrap();
    let found = small.search(&format!("--trials 6 --config {}", config.display()));
    let best = &found["best"]["configuration"];
    assert_eq!(best["samples"].as_array().unwrap().len(), 5);
    assert_eq!((number(best, "/alpha1"), number(best, "/beta_coarse")), (0.25, 0.0));
    assert_eq!(best["grouping"], "sum");
    for (space, named) in [
        ("samples = 25", "expected 1 to 24, found 25"),
        ("samples = [8, 64]", "expected a range within 1 to 24"),
        ("alpha1 = 2", "alpha1"),
        ("alpha1 = \"much\"", "alpha1"),
        ("normalisation = [\"mean\", \"mean\"]", "twice"),
        ("grouping = [\"none\"]", "grouping"),
        ("protect-first = 0.5", "whole number"),
        ("colour = 1", "colour"),
        ("activation = 1.5", "expected 0 to 1, found 1.5"),
        ("activation-metric = \"magnitude\"", "expected one of [\"wanda\", \"flap\"]"),
    ] {
        std::fs::write(&config, format!("[space]\n{space}\n")).unwrap();
        let refused = small.refused(&format!("--config {}", config.display()));
        assert!(refused.contains(named), "{space}: {refused}");
    }
}

#[test]
fn as_many_attention_sublayers_go_as_are_asked_for() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    std::fs::write(&config, "[space]\nprotect-first = 1\nprotect-last = 0\ndrop-attention = 3\n")
        .unwrap();
    let line = LINE.replace("--ratio 0.2", "--ratio 0.4");
    let found = small.json(&format!("search {line} --trials 2 --config {}", config.display()));
    let rows = found["plan"]["rows"].as_array().unwrap();
    let kept: Vec<u64> =
        rows.iter().map(|row| row["after"]["query_heads"].as_u64().unwrap()).collect();
    assert!(kept[0] > 0 && kept[1..] == [0, 0, 0], "{kept:?}");
}

#[test]
fn a_space_of_one_value_is_tried_once() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    std::fs::write(
        &config,
        "[space]\nalpha1 = 0.5\nbeta-coarse = 0\nbeta-fine = 0\nactivation = 0\n\
         normalisation = \"mean\"\ngrouping = \"sum\"\nprotect-first = 0\nprotect-last = 0\nattention-share = 0\n\
         drop-attention = 0\ncurve-linear = 0\ncurve-quadratic = 0\n",
    )
    .unwrap();
    let found = small.search(&format!("--search metric --trials 9 --config {}", config.display()));
    assert_eq!((number(&found, "/complete"), number(&found, "/stopped_early")), (1.0, 0.0));
}

#[test]
fn signs_of_failure_are_said() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    // Paragraphs that are one text, with another beginning each.
    let calibration = std::fs::read_to_string(tiny().join("calibration.txt")).unwrap();
    let tail: String = calibration.split_whitespace().take(40).collect::<Vec<_>>().join(" ");
    let pool = small.dir.path().join("alike.txt");
    std::fs::write(&pool, format!("{tail}\n\n").repeat(30)).unwrap();
    let line = LINE.replace("{pool}", pool.to_str().unwrap());
    let cases = [
        ("samples = 6", "0.2", "chosen samples are nearly one text"),
        ("protect-first = [1, 2]", "0.1", "protect-first of the best trial is"),
        ("alpha1 = [0, 0.01]\nactivation = 0.5", "0.2", "the coarse side is switched off"),
        ("alpha1 = [0.99, 1]\nactivation = 0", "0.2", "the fine side is switched off"),
        ("activation = [0.99, 1]", "0.2", "both Taylor sides are switched off"),
        (
            "protect-first = 0\nprotect-last = 0\ndrop-attention = 0\ncurve-linear = 0\n\
             curve-quadratic = -2",
            "0.5",
            "feed-forward channels",
        ),
    ];
    for (at, (space, ratio, sign)) in cases.into_iter().enumerate() {
        std::fs::write(&config, format!("[space]\n{space}\n")).unwrap();
        let study = small.dir.path().join(format!("study-{at}"));
        let line = line
            .replace("{study}", study.to_str().unwrap())
            .replace("--ratio 0.2", &format!("--ratio {ratio}"));
        let found = small.json(&format!("search {line} --trials 4 --config {}", config.display()));
        let warnings = found["warnings"].as_array().unwrap();
        let said = warnings.iter().any(|warning| warning.as_str().unwrap().contains(sign));
        assert!(said, "{space}: {warnings:?}");
    }
}

#[test]
fn the_layout_decides_what_can_be_searched() {
    let small = Small::new();
    let found = small.search("--trials 8 --layout uniform --kv-mode query-heads");
    let rows = found["plan"]["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["after"] == rows[0]["after"]), "{rows:?}");
}

#[test]
fn arms_are_compared_on_one_bank_and_shown_on_a_page() {
    let small = Small::new();
    let line = format!(
        "compare {LINE} --arms joint,random,data,metric,baseline@3 --seeds 2 --trials 6 --test \
         {{text}} --test-windows 2"
    );
    let report = small.json(&line);
    // What is kept of it carries its own digest.
    let kept = small.study.join("results/compare-full.json");
    let kept = std::fs::read(&kept).unwrap();
    assert_eq!(
        adapruner_checkpoint::sealed::check(&kept),
        adapruner_checkpoint::sealed::Seal::Whole
    );
    let rows = report["rows"].as_array().unwrap();
    let arms: Vec<&str> = rows.iter().map(|row| row["arm"].as_str().unwrap()).collect();
    assert_eq!(
        arms,
        ["full-joint-tpe", "full-joint-random", "full-data-tpe", "full-metric-tpe", "baseline"]
    );
    for row in rows {
        let (median, least, largest) =
            (number(row, "/median"), number(row, "/least"), number(row, "/largest"));
        assert!(least <= median && median <= largest);
        assert_eq!(row["reached"].as_array().unwrap().len(), 4);
        // Two seeds show no difference.
        let against = row["against"].as_array().unwrap();
        assert!(against.len() == 4 && against.iter().all(|other| other[1] == "too-few-seeds"));
        assert!(number(row, "/tests/0/median") > number(row, "/tests/0/dense"));
    }
    assert_eq!(rows[0]["seeds"], 2);
    assert_eq!(rows[4]["seeds"], 1);
    // Nothing is done again.
    let journal = std::fs::read(small.study.join("journal.log")).unwrap();
    assert_eq!(small.json(&line)["rows"], report["rows"]);
    assert_eq!(std::fs::read(small.study.join("journal.log")).unwrap(), journal);
    let shown = small.json("report {study} --out {page}");
    assert_eq!(shown["studies"], 9);
    let page = std::fs::read_to_string(small.dir.path().join("page.html")).unwrap();
    for part in ["full-joint-tpe", "calibration.txt", "adapruner compare", "alpha1"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(small.fail("report {study} --out {page}").contains("page.html"));
    assert!(small.fail("report {model} --out {out}").contains("no study"));
}

#[test]
fn what_was_found_is_used_on_another_model() {
    let small = Small::new();
    small.search("--trials 6");
    let (other, out) = (model("gqa3_untied"), small.dir.path().join("other"));
    let paths =
        [("other", other.as_path()), ("study", small.study.as_path()), ("out", out.as_path())];
    let manifest = json("apply {other} --study {study} --out {out}", &paths);
    let reached = number(&manifest, "/plan/reached_ratio");
    assert!((reached - 0.2).abs() < 0.02, "{reached}");
    let notes = manifest["study"]["notes"].as_array().unwrap();
    assert!(!notes.is_empty(), "{manifest}");
    assert_eq!(manifest["model"]["path"], other.to_str().unwrap());
}

#[test]
fn the_space_explains_itself() {
    let small = Small::new();
    let shown = succeed(&format!("search {LINE} --show-space"), &borrowed(&small.paths()));
    assert!(shown.contains("alpha1") && shown.contains("equilibrium"), "{shown}");
    // Where it depends on nothing else, the model is enough.
    let alone = succeed("search {model} --samples 24 --show-space", &borrowed(&small.paths()));
    assert_eq!(alone, shown);
}

#[test]
fn a_text_that_the_pool_was_drawn_from_is_refused() {
    let small = Small::new();
    let line = LINE
        .replace(" --allow-overlap", "")
        .replace("{text}", "{pool}")
        .replace("--limit 6", "--limit 100000");
    let refused = small.fail(&format!("search {line}"));
    assert!(refused.contains("share passages") && refused.contains("--allow-overlap"), "{refused}");
    assert!(refused.contains("the calibration pool"), "{refused}");
    // Nor may a test text be the one that trials are ranked by.
    let own = small.dir.path().join("own.txt");
    let words = (0..4000).map(|n: u32| format!("{} ", n * n % 3989)).collect::<String>();
    std::fs::write(&own, words).unwrap();
    let own = own.to_str().unwrap();
    let line = LINE.replace(" --allow-overlap", "").replace("{text}", own);
    let refused = small.fail(&format!("search {line} --test {own}"));
    assert!(refused.contains("the evaluation text"), "{refused}");
}

#[test]
fn two_workers_share_a_study() {
    let small = Small::new();
    let found = small.search("--trials 16 --workers 2");
    let finished = number(&found, "/complete") + number(&found, "/stopped_early");
    assert_eq!(finished, 16.0);
    let mut first = command(small.words(&format!("search {LINE} --trials 30 --json")));
    let mut second = command(small.words(&format!("search {LINE} --trials 30 --json")));
    let quiet = |command: &mut std::process::Command| {
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let (first, second) = (quiet(&mut first), quiet(&mut second));
    for child in [first, second] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let finished = number(&found, "/complete") + number(&found, "/stopped_early");
        assert_eq!(finished, 30.0);
    }
}

/// A server of our own, stopped when dropped, and the option that names it.
#[cfg(feature = "redis")]
struct Redis {
    child: std::process::Child,
    storage: String,
    _folder: TempDir,
}

#[cfg(feature = "redis")]
impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(feature = "redis")]
impl Redis {
    fn start() -> Self {
        use std::{net::TcpListener, process::Stdio, thread::sleep, time::Duration};

        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempdir().unwrap();
        let child = std::process::Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            sleep(Duration::from_millis(20));
        }
        let storage = format!("--storage redis://127.0.0.1:{port}");
        Self { child, storage, _folder: folder }
    }
}

/// A machine that dies with a trial at work holds nobody up for long, and what is
/// waited for is said.
#[cfg(all(unix, feature = "redis"))]
#[test]
fn a_machine_that_dies_is_told_of() {
    use std::{process::Stdio, thread::sleep, time::Duration};

    use crate::program::stderr;

    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let redis = Redis::start();
    let (here, there) = (Small::new(), Small::new());
    // One long chunk: the trial is at work when its worker is killed.
    let text = std::fs::read_to_string(tiny().join("text.txt")).unwrap();
    let long = here.dir.path().join("long.txt");
    std::fs::write(&long, text.repeat(300)).unwrap();
    let line = LINE.replace("{text}", long.to_str().unwrap());
    let line = line.replace("--limit 6", "--limit 3000 --chunk 1000000 --threads 1 --memory 999");
    let line = format!("search {line} {} --json --trials", redis.storage);
    let mut dies = command(there.words(&format!("{line} 3")));
    let mut dies = dies.stdout(Stdio::null()).spawn().unwrap();
    // Killed once its first trial is under way, however slow the machine is.
    let trials = format!("trials {{study}} {} --json", redis.storage);
    let is_at_work = || {
        let listed = command(there.words(&trials)).output().unwrap();
        listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("\"running\"")
    };
    while !is_at_work() {
        assert!(dies.try_wait().unwrap().is_none(), "it ended before it was killed");
        sleep(Duration::from_millis(20));
    }
    dies.kill().unwrap();
    dies.wait().unwrap();
    // One trial more than the other could have done.
    let output = command(here.words(&format!("{line} 4"))).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&found, "/complete") + number(&found, "/stopped_early"), 4.0);
    assert_eq!(number(&found, "/failed"), 1.0);
    let said = stderr(&output);
    assert!(said.contains("waiting for trial "), "{said}");
    assert!(said.contains("given up in") && said.contains("without a heartbeat"), "{said}");
}

#[cfg(feature = "redis")]
#[test]
fn machines_share_a_study_in_redis() {
    use std::process::Stdio;

    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let redis = Redis::start();
    let storage = &redis.storage;
    // Two folders stand for two machines.
    let (here, there) = (Small::new(), Small::new());
    let line = format!("search {LINE} --trials 24 {storage} --json");
    let start = |small: &Small| command(small.words(&line)).stdout(Stdio::piped()).spawn().unwrap();
    let (first, second) = (start(&here), start(&there));
    let best = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (found["best"].clone(), found["plan_digest"].clone())
    };
    assert_eq!(best(first), best(second));
    let found = here.json(&format!("search {LINE} --trials 24 {storage}"));
    assert_eq!(number(&found, "/complete") + number(&found, "/stopped_early"), 24.0);
    assert!(!here.study.join("journal.log").exists());
    let other = here.refused(&format!("--trials 24 {storage} --sampler-seed 42 --chunk 2"));
    assert!(other.contains("chunk"), "{other}");
    let elsewhere = Small::new();
    let line = LINE.replace("--ratio 0.2", "--ratio 0.3");
    let other = elsewhere.fail(&format!("search {line} --trials 24 {storage}"));
    assert!(other.contains("ratio") && other.contains("0.3"), "{other}");
    here.json(&format!("apply {{model}} --study {{study}} {storage} --out {{out}}"));
    here.json(&format!("report {{study}} {storage} --out {{page}}"));
    let storage = storage.clone();
    drop(redis);
    assert!(here.refused(&format!("--trials 24 {storage}")).contains("127.0.0.1"));
}
