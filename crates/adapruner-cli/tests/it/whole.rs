//! `run`: everything after one another, from one file.

use std::{fs, path::Path};

use adapruner_checkpoint::Digest;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{command, fail, fail_warned, json, stderr, succeed, tiny, words};

/// A configuration for the fixture model with these stages.
fn configuration(stages: &str) -> (TempDir, String) {
    let dir = tempdir().unwrap();
    let (model, out) = (tiny(), dir.path().join("out"));
    let text = |name: &str| model.join(name).display().to_string();
    let config = format!(
        r#"
[pipeline]
model = "{}"
out = "{}"
stages = [{stages}]
tests = ["{test}"]
[plan]
ratio = 0.2
[calibration]
calibration = "{}"
samples = 24
sample-tokens = 16
[eval]
text = "{test}"
window = 32
limit = 6
[search]
trials = 4
allow-overlap = true
[compensation]
compensate = "fit"
compensate-samples = 24
compensate-tokens = 16
[recover]
data = "{data}"
cutoff = 32
max-steps = 2
batch-size = 4
"#,
        model.display(),
        out.display(),
        text("calibration.txt"),
        test = text("text.txt"),
        data = text("calibration.txt"),
    );
    fs::write(dir.path().join("run.toml"), &config).unwrap();
    (dir, config)
}

fn run(dir: &Path) -> Value {
    json("run {config}", &[("config", &dir.join("run.toml"))])
}

fn seconds(run: &Value) -> Vec<f64> {
    run["stages"].as_array().unwrap().iter().map(|s| s["seconds"].as_f64().unwrap()).collect()
}

#[test]
fn what_is_done_is_not_done_again_and_what_changed_is() {
    let (dir, config) = configuration(r#""search", "prune", "report""#);
    let first = run(dir.path());
    assert_eq!(first["skipped"], serde_json::json!([]));
    assert_eq!(first["stages"].as_array().unwrap().len(), 3);
    for made in ["study/journal.log", "pruned/model.safetensors", "report.html", "run.json"] {
        assert!(dir.path().join("out").join(made).is_file(), "{made}");
    }
    let again = run(dir.path());
    assert_eq!(again["skipped"], serde_json::json!(["search", "prune", "report"]));
    assert_eq!(seconds(&again), seconds(&first));

    // More trials: the search goes on, and all that follows is made anew.
    fs::write(dir.path().join("run.toml"), config.replace("trials = 4", "trials = 6")).unwrap();
    let more = run(dir.path());
    assert_eq!(more["skipped"], serde_json::json!([]));
    let search = &more["stages"][0]["result"];
    let trials = search["complete"].as_u64().unwrap() + search["stopped_early"].as_u64().unwrap();
    assert_eq!(trials, 6);

    // Only what the outputs are written in: the search stands.
    let config = config.replace("trials = 4", "trials = 6") + "[output]\nsave-dtype = \"f16\"\n";
    fs::write(dir.path().join("run.toml"), config).unwrap();
    assert_eq!(run(dir.path())["skipped"], serde_json::json!(["search"]));

    // An output that is gone is made again, and what was made from it.
    fs::remove_dir_all(dir.path().join("out/pruned")).unwrap();
    assert_eq!(run(dir.path())["skipped"], serde_json::json!(["search"]));
}

/// What a dry run says of each stage: its state, and why it runs again.
fn planned(dir: &Path) -> Vec<(String, String)> {
    let planned = json("run {config} --dry-run", &[("config", &dir.join("run.toml"))]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stages = planned.as_array().unwrap().iter();
    stages.map(|stage| (text(&stage["state"]), text(&stage["why"]))).collect()
}

#[test]
fn a_dry_run_says_what_is_done_and_why_a_stage_runs_again() {
    let (dir, config) = configuration(r#""prune", "recover""#);
    let pool = dir.path().join("pool.txt");
    fs::copy(tiny().join("calibration.txt"), &pool).unwrap();
    let calibration = format!("calibration = \"{}\"", tiny().join("calibration.txt").display());
    let config = config.replace(&calibration, &format!("calibration = \"{}\"", pool.display()));
    let write = |config: &str| fs::write(dir.path().join("run.toml"), config).unwrap();
    write(&config);
    let states = || planned(dir.path()).into_iter().map(|(state, _)| state).collect::<Vec<_>>();
    assert_eq!(states(), ["open", "open"]);
    run(dir.path());
    assert_eq!(states(), ["done", "done"]);
    let said = |at: usize| planned(dir.path())[at].1.clone();
    write(&config.replace("ratio = 0.2", "ratio = 0.3"));
    assert_eq!(states(), ["stale", "stale"]);
    assert_eq!(said(0), "[plan] ratio: was 0.2, now 0.3");
    assert_eq!(said(1), "a stage before it runs again");
    // Every table that a stage reads counts, also those of whole layers and tokens.
    write(&format!("{config}\n[depth]\ndrop-layers = \"1\"\n"));
    assert_eq!(said(0), "[depth] drop-layers: was null, now \"1\"");
    write(&config.replace("learning-rate", "rank = 2\nlearning-rate"));
    assert_eq!(states()[0], "done");
    write(&config);
    let text = fs::read_to_string(&pool).unwrap();
    fs::write(&pool, text + "One sentence more.\n").unwrap();
    assert_eq!(said(0), format!("{} has changed", pool.display()));
    // Nothing was run.
    assert_eq!(run(dir.path())["skipped"], serde_json::json!([]));
    fs::remove_dir_all(dir.path().join("out/recovered")).unwrap();
    assert_eq!(states(), ["done", "stale"]);
    assert!(said(1).ends_with("recovered is gone"), "{}", said(1));
}

#[test]
fn another_ratio_is_searched_beside_the_old_study() {
    let (dir, config) = configuration(r#""search", "prune""#);
    run(dir.path());
    let study = |name: &str| dir.path().join("out").join(name);
    let old = fs::read(study("study/journal.log")).unwrap();
    fs::write(dir.path().join("run.toml"), config.replace("ratio = 0.2", "ratio = 0.3")).unwrap();
    let again = run(dir.path());
    assert_eq!(again["skipped"], serde_json::json!([]));
    let reached = again["stages"][0]["result"]["plan"]["reached_ratio"].as_f64().unwrap();
    assert!((reached - 0.3).abs() < 0.02, "{reached}");
    // The old study is as it was; its statistics were not collected again.
    assert_eq!(fs::read(study("study.1/journal.log")).unwrap(), old);
    assert!(fs::read(study("study/journal.log")).unwrap() != old);
    let bank = |name: &str| fs::read(study(name).join("bank.safetensors")).unwrap();
    assert_eq!(bank("study"), bank("study.1"));
    // By hand it is refused, with what to do.
    let (model, texts) = (tiny(), [tiny().join("calibration.txt"), tiny().join("text.txt")]);
    let paths = [("m", &*model), ("c", &*texts[0]), ("t", &*texts[1]), ("s", &*study("study"))];
    let line = "search {m} --ratio 0.1 --calibration {c} --samples 24 --sample-tokens 16 --text {t} \
                --window 32 --limit 6 --trials 4 --allow-overlap --study {s}";
    let said = fail(line, &paths);
    assert!(said.contains("holds another search") && said.contains("--anew"), "{said}");
}

#[test]
fn a_test_text_that_is_learned_from_is_refused_before_work() {
    let (dir, config) = configuration(r#""prune", "recover", "evaluate""#);
    let path = dir.path().join("run.toml");
    let (test, other) = (tiny().join("text.txt"), tiny().join("calibration.txt"));
    let (test, other) = (test.display().to_string(), other.display().to_string());
    for (from, to, role) in [
        (format!("data = \"{other}\""), format!("data = \"{test}\""), "the training data text.txt"),
        (
            "compensate = \"fit\"".to_owned(),
            format!("compensate = \"fit\"\ncompensate-text = \"{test}\""),
            "the text that is fitted on, text.txt",
        ),
        (format!("calibration = \"{other}\""), format!("calibration = \"{test}\""), "text.txt"),
    ] {
        let changed = config.replace(&from, &to);
        assert_ne!(changed, config);
        fs::write(&path, changed).unwrap();
        let output = command(words("run {config}", &[("config", &path)])).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        let error = error.lines().skip_while(|line| !line.starts_with("error: "));
        let error = error.collect::<Vec<_>>().join("\n");
        assert!(error.contains("windows share passages with") && error.contains(role), "{error}");
        assert!(error.contains("--allow-overlap"), "{error}");
        assert!(!dir.path().join("out").exists());
    }
    // Unless it is wanted.
    let all = config.replace(&format!("data = \"{other}\""), &format!("data = \"{test}\""));
    fs::write(&path, all.replace("[pipeline]", "[pipeline]\nallow-overlap = true")).unwrap();
    let said = succeed("run {config} --dry-run", &[("config", &path)]);
    assert!(said.contains("recover") && said.contains("--allow-overlap"), "{said}");
}

#[test]
fn all_stages_follow_each_other() {
    let (dir, config) = configuration(r#""search", "prune", "recover", "evaluate", "report""#);
    fs::write(dir.path().join("run.toml"), config.replace("tests =", "limit = 4\ntests ="))
        .unwrap();
    let path = dir.path().join("run.toml");
    let said = succeed("run {config}", &[("config", &path)]);
    for expected in ["search", "recovered", "perplexity"] {
        assert!(said.contains(expected), "{said}");
    }
    let page = fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(page.contains("id=\"recovery\"") && page.contains("Loss over steps"));
    assert!(page.contains("id=\"models\"") && page.contains("95 % interval"));
    let record = run(dir.path());
    assert_eq!(record["skipped"].as_array().unwrap().len(), 5);
    recoveries_that_are_none_are_refused(dir.path());
    // Another text under the same name is learned anew.
    let training = dir.path().join("training.txt");
    let text = fs::read_to_string(tiny().join("calibration.txt")).unwrap();
    fs::write(&training, &text).unwrap();
    let config = fs::read_to_string(&path).unwrap();
    let data = format!("data = \"{}\"", tiny().join("calibration.txt").display());
    assert!(config.contains(&data), "{config}");
    let data_here = format!("data = \"{}\"", training.display());
    fs::write(&path, config.replace(&data, &data_here)).unwrap();
    assert_eq!(run(dir.path())["skipped"], serde_json::json!(["search", "prune"]));
    assert_eq!(run(dir.path())["skipped"].as_array().unwrap().len(), 5);
    fs::write(&training, text + "And more of it.\n").unwrap();
    assert_eq!(run(dir.path())["skipped"], serde_json::json!(["search", "prune"]));
    let evaluated = &record["stages"][3]["result"];
    assert_eq!(evaluated["models"].as_array().unwrap().len(), 3);
    let rows = evaluated["rows"].as_array().unwrap();
    let parameters = rows.iter().find(|row| row["name"] == "parameters").unwrap();
    let [dense, pruned, recovered] = [0, 1, 2].map(|at| parameters["values"][at].as_f64().unwrap());
    assert!(pruned < 0.85 * dense && recovered == pruned, "{parameters}");
}

#[test]
fn a_stage_that_fails_is_named_and_those_before_it_stay() {
    let (dir, config) = configuration(r#""prune", "recover""#);
    let (path, kept) = (dir.path().join("run.toml"), dir.path().join("out/pruned"));
    // Known before any work: a folder that is not ours.
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("mine.txt"), "not yours").unwrap();
    let said = fail("run {config}", &[("config", &path)]);
    assert!(said.contains("out/pruned: is there") && said.contains("hint:"), "{said}");
    fs::write(dir.path().join("out/.adapruner"), "run\n").unwrap();
    let said = fail_warned("run {config}", &[("config", &path)]);
    assert!(said.contains("prune: ") && said.contains("no manifest.json"), "{said}");
    assert_eq!(fs::read_to_string(kept.join("mine.txt")).unwrap(), "not yours");
    fs::remove_dir_all(&kept).unwrap();
    // Found out by the stage itself: a rate at which the loss is no number.
    fs::write(&path, format!("{config}learning-rate = 1e30\nwarmup = 0\nvalidation = \"0\"\n"))
        .unwrap();
    let output = command(words("run {config}", &[("config", &path)])).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("recover: the stage failed") && said.contains("hint:"), "{said}");
    assert!(kept.join("model.safetensors").is_file());
    fs::write(&path, config).unwrap();
    assert_eq!(run(dir.path())["skipped"], serde_json::json!(["prune"]));
    let commands = succeed("run {config} --dry-run", &[("config", &path)]);
    assert!(commands.lines().count() == 4 && commands.contains("recover"), "{commands}");
}

/// What a search found, but for the numbers of trials, of which those that were
/// given up have some; and what was pruned by it.
fn made(dir: &Path) -> (Value, Value, Value, Digest) {
    let record = run(dir);
    let search = &record["stages"][0]["result"];
    let weights = Digest::of_file(&dir.join("out/pruned/model.safetensors")).unwrap();
    let (best, plan) = (&search["best"], search["plan_digest"].clone());
    (best["configuration"].clone(), best["loss"].clone(), plan, weights)
}

/// A stage ends with the run that was killed, and the next run waits until it has.
#[test]
fn a_run_that_is_killed_and_begun_again_finds_the_same() {
    let stages = r#""search", "prune""#;
    let many = |config: String| config.replace("trials = 4", "trials = 16\nchunk = 1");
    let (undisturbed, config) = configuration(stages);
    fs::write(undisturbed.path().join("run.toml"), many(config)).unwrap();
    let whole = made(undisturbed.path());
    for kill_after in [1, 6, 12] {
        let (dir, config) = configuration(stages);
        let path = dir.path().join("run.toml");
        fs::write(&path, many(config)).unwrap();
        let mut killed = command(words("run {config}", &[("config", &path)]))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let journal = dir.path().join("out/study/journal.log");
        let ended = || {
            let text = fs::read_to_string(&journal).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("{\"op_code\":6")).count()
        };
        while ended() < kill_after {
            assert!(killed.try_wait().unwrap().is_none(), "it ended before it was killed");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(made(dir.path()), whole, "killed after {kill_after} trials");
    }
}

#[test]
fn a_run_waits_for_the_stage_of_an_earlier_one() {
    use std::io::{BufRead, BufReader};

    let (dir, _) = configuration(r#""search""#);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".adapruner"), "run\n").unwrap();
    for name in ["run.lock", "stage.lock"] {
        let held = fs::File::create(out.join(name)).unwrap();
        held.lock().unwrap();
        let path = dir.path().join("run.toml");
        let mut waits = command(words("run {config}", &[("config", &path)]))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(waits.stderr.take().unwrap()).lines().map_while(Result::ok);
        let first = said.next().unwrap();
        assert!(first.contains(name) && first.contains("waiting for its end"), "{first}");
        assert!(waits.try_wait().unwrap().is_none());
        assert!(!out.join("study/journal.log").exists() || name == "stage.lock");
        drop(held);
        said.for_each(drop);
        assert!(waits.wait().unwrap().success());
    }
}

#[test]
fn files_that_do_not_say_enough_are_refused() {
    for (stages, expected) in [
        (r#""prune", "search""#, "comes before"),
        (r#""search", "recover""#, "recover needs prune"),
        (r#""bake""#, "unknown stage"),
        ("", "at least 1"),
    ] {
        let (dir, _) = configuration(stages);
        let said = fail("run {config}", &[("config", &dir.path().join("run.toml"))]);
        assert!(said.contains(expected), "{stages}: {said}");
    }
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), "[plan]\nratio = 0.2\n").unwrap();
    let said = fail("run {config}", &[("config", &dir.path().join("run.toml"))]);
    assert!(said.contains("pipeline.model: missing") && said.contains("--init"), "{said}");
}

#[test]
fn the_file_that_init_writes_is_one_that_run_reads() {
    let dir = tempdir().unwrap();
    let (path, model) = (dir.path().join("run.toml"), tiny());
    let paths: &[(&str, &Path)] = &[("config", &path), ("model", &model)];
    succeed("run {config} --init {model}", paths);
    assert!(fail("run {config} --init {model}", paths).contains("exists"));
    let commands = succeed("run {config} --dry-run", paths);
    assert_eq!(commands.lines().count(), 10, "{commands}");
    assert_eq!(commands.matches(": to do").count(), 5, "{commands}");
    assert!(commands.contains(model.to_str().unwrap()), "{commands}");
}

/// Of a folder in which the whole was run.
fn recoveries_that_are_none_are_refused(dir: &Path) {
    let (out, page, damaged) = (dir.join("out"), dir.join("page.html"), dir.join("damaged"));
    let refused = |recovery: &Path| {
        let paths = [("study", &*out.join("study")), ("recovery", recovery), ("page", &*page)];
        let said = fail("report {study} --recovery {recovery} --out {page}", &paths);
        assert!(!page.exists(), "{said}");
        said
    };
    let said = refused(&out.join("pruned"));
    assert!(said.contains("recovery: missing") && said.contains("hint:"), "{said}");
    assert!(refused(&out.join("nothing")).contains("manifest.json"));
    fs::create_dir(&damaged).unwrap();
    fs::copy(out.join("recovered/manifest.json"), damaged.join("manifest.json")).unwrap();
    let log = fs::read_to_string(out.join("recovered/training.jsonl")).unwrap();
    fs::write(damaged.join("training.jsonl"), log + "{\"step\": 3}\n").unwrap();
    let said = refused(&damaged);
    assert!(said.contains("training.jsonl: line ") && said.contains("missing field"), "{said}");
}
