//! Budgets: the key-value cache and predicted speed, of `prune`, `apply` and `search`.
//!
//! No assertion rests on a time: costs of units are put into a calibration.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::program::{command, fail, json as run, model, succeed, tiny, words};

struct Bench {
    dir: TempDir,
    model: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self { dir: tempdir().unwrap(), model: model(name) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("model", self.model.clone()),
            ("text", tiny().join("calibration.txt")),
            ("eval", tiny().join("text.txt")),
            ("out", self.path("out")),
            ("study", self.path("study")),
            ("costs", self.path("costs.json")),
        ]
    }

    fn of<T>(&self, line: &str, work: fn(&str, &[(&str, &Path)]) -> T) -> T {
        let paths = self.paths();
        let paths: Vec<_> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
        work(line, &paths)
    }

    fn prune(&self, options: &str) -> Value {
        self.of(&format!("{PRUNE} {options}"), run)
    }

    fn refused(&self, options: &str) -> String {
        self.of(&format!("{PRUNE} {options}"), fail)
    }

    /// A calibration of generation after 40 tokens in which a weight costs as much in every
    /// matrix, and a layer and an attention sublayer something of their own.
    fn calibrate(&self) -> Value {
        let path = self.path("costs.json");
        // Whether a cut is predicted to be faster depends on the machine; that the calibration is
        // written does not.
        let options = "--target-speedup 1.01 --fast --budget-context 40 --dry-run";
        let line = format!("{PRUNE} {options} --speed-calibration {{costs}}");
        let output = self.of(&line, |line, paths| command(words(line, paths)).output().unwrap());
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let mut made: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(made["samples"][0]["name"], "dense");
        assert!(made["samples"].as_array().unwrap().len() > 8, "{made}");
        made["costs"] = json!({
            "fixed": 0.0, "layers": 1e-5, "attention": 2e-5, "weights": 1e-9, "head": 1e-9,
            "cached": 1e-10, "scores": 1e-10
        });
        made.as_object_mut().unwrap().remove("sealed");
        std::fs::write(&path, made.to_string()).unwrap();
        made
    }
}

const PRUNE: &str = "prune {model} --calibration {text} --samples 8 --sample-tokens 32 --out {out} \
                     --force";

fn number(value: &Value, at: &str) -> f64 {
    let found = value.pointer(at).unwrap_or_else(|| panic!("no {at} in {value}"));
    found.as_f64().unwrap_or_else(|| panic!("{at}: {found}"))
}

/// Key-value heads of each layer of a plan.
fn heads(plan: &Value) -> Vec<usize> {
    let layers = plan["layers"].as_array().unwrap().iter();
    layers.map(|kept| kept["kv_heads"].as_array().unwrap().len()).collect()
}

/// Channels of each layer of a plan.
fn channels(plan: &Value) -> Vec<usize> {
    let layers = plan["layers"].as_array().unwrap().iter();
    layers.map(|kept| kept["ffn"].as_array().unwrap().len()).collect()
}

#[test]
fn the_largest_cache_that_fits_is_kept() {
    let bench = Bench::new("tiny");
    // Four layers of two key-value heads.
    for (options, share, kept) in [
        ("", "0.5", 4),
        ("", "62.5%", 5),
        ("", "0.624", 4),
        ("", "0.2", 1),
        ("--kv-cache-by score", "0.7", 5),
        ("--kv-cache-by score --allocation global", "0.9", 7),
        ("--layout uniform", "0.5", 4),
        ("--kv-mode query-heads", "0.7", 4),
        ("--drop-attention 1", "0.5", 4),
        ("--drop-layers 2-2", "0.5", 4),
        ("--ratio 0.35 --fast", "0.5", 4),
        ("--ratio 0.3 --learn-masks 2 --mask-samples 24 --mask-tokens 16", "0.5", 4),
        ("--format hf,gguf", "0.5", 4),
    ] {
        let report = bench.prune(&format!("--target-kv-cache {share} {options}"));
        let (plan, manifest) = (&report["manifest"]["plan"], &report["manifest"]);
        assert_eq!(heads(plan).iter().sum::<usize>(), kept, "{options} {share}: {plan}");
        let bytes = |at: &str| number(&report, &format!("/footprint/{at}"));
        assert_eq!(bytes("cache_bytes_before"), 512.0);
        assert_eq!(bytes("cache_bytes_after"), 64.0 * kept as f64);
        assert_eq!(number(&report, "/kv_cache/reached"), kept as f64 / 8.0);
        assert_eq!(manifest["kv_cache"], report["kv_cache"]);
        assert_eq!(manifest["footprint"], report["footprint"]);
        assert_eq!(number(manifest, "/settings/kv_cache/context"), 256.0);
        let written: Value = bench.of("inspect {out}", run);
        assert_eq!(number(&written, "/cache_bytes"), 64.0 * kept as f64, "{written}");
        // What is left of a ratio falls on channels; without one they stay.
        let reached = number(plan, "/reached_ratio");
        if options.contains("--ratio") {
            assert!((reached - number(plan, "/requested_ratio")).abs() < 0.005, "{plan}");
        } else {
            assert!(channels(plan).iter().all(|&width| width == 128 || width == 0), "{plan}");
        }
    }
    // The same is chosen again, and nothing is written in a dry run.
    let dry = || bench.prune("--target-kv-cache 0.4 --dry-run")["full_plan"].clone();
    assert_eq!(dry(), dry());
}

/// Layers without attention hold nothing, whatever else decides the ratio.
#[test]
fn layers_without_attention_are_passed_over() {
    let bench = Bench::new("per_layer");
    let whole: Value = bench.of("inspect {model}", run);
    let layers = whole["config"]["layers"].as_array().unwrap();
    let count = |of: &Value| of["kv_heads"].as_u64().unwrap() as usize;
    assert!(layers.iter().any(|of| count(of) == 0), "{whole}");
    let all: usize = layers.iter().map(count).sum();
    let parameters = whole["parameters"].as_u64().unwrap() * 7 / 10;
    for more in ["", &format!("--target-params {parameters} --fast")] {
        let report = bench.prune(&format!("--target-kv-cache 0.7 {more} --dry-run"));
        let kept: usize = heads(&report["full_plan"]).iter().sum();
        assert_eq!(kept, all * 7 / 10, "{report}");
    }
}

/// Layers with a window hold no more than that: what costs least loss a byte goes.
#[test]
fn caches_of_windows_are_counted_at_a_context() {
    // Six of seven layers see six tokens, one all of them; a head in each.
    let bench = Bench::new("gemma3");
    let full = bench.prune("--target-kv-cache 0.5 --dry-run");
    let before = (6 * 6 + 256) * 2 * 2 * 8;
    assert_eq!(number(&full, "/footprint/cache_bytes_before"), f64::from(before / 256 + 1));
    assert_eq!(heads(&full["full_plan"])[5], 0, "{full}");
    assert!((number(&full, "/kv_cache/reached") - 36.0 / 292.0).abs() < 1e-9);
    let short = bench.prune("--target-kv-cache 0.5 --budget-context 6 --dry-run");
    assert_eq!(heads(&short["full_plan"]).iter().sum::<usize>(), 3, "{short}");
    assert_eq!(number(&short, "/footprint/cache_context"), 6.0);
}

#[test]
fn caches_out_of_reach_are_refused_with_what_can_be_reached() {
    let bench = Bench::new("tiny");
    for (options, said) in [
        ("--target-kv-cache 0.3 --kv-cache-by score", "these options reach 0.5000 at the least"),
        ("--target-kv-cache 0.3 --protect 1,1", "these options reach 0.5000 at the least"),
        ("--target-kv-cache 0.5 --ratio 0.05", "more than the ratio 0.0500"),
        ("--target-kv-cache 1.5", "above 0 and below 1, found 1.5"),
        ("--target-kv-cache 0.5 --budget-context 257", "from 1 to the model's 256 tokens"),
        ("--target-kv-cache 0.5 --layout uniform --kv-cache-by loss", "the layout is uniform"),
        (
            "--target-kv-cache 0.5 --kv-mode query-heads --kv-cache-by score",
            "query heads hold no keys",
        ),
        ("--target-kv-cache 0.5 --ratio 0.3 --allocation measured", "together with --allocation"),
        ("--ratio 0.2 --budget-context 9", "nothing is counted at it"),
        ("--target-kv-cache 0.5 --learn-masks 3", "only attention is removed"),
    ] {
        let error = bench.refused(options);
        assert!(error.contains(said), "{options}: {error}");
    }
}

#[test]
fn the_smallest_cut_that_is_predicted_to_be_fast_enough_is_taken() {
    let bench = Bench::new("tiny");
    let calibration = bench.calibrate();
    let timed = "--budget-context 40 --speed-calibration {costs}";
    let mut last = 1.0;
    for (options, speedup) in [
        ("--fast --protect 0,0", 1.05),
        ("--fast --protect 0,0", 1.15),
        ("--attention-share free --fast --protect 0,0", 1.3),
        ("--drop-layers 1 --fast", 1.4),
        ("--vocab 400 --fast", 1.1),
        ("--drop-layers 1 --target-kv-cache 0.4 --fast", 1.7),
    ] {
        let report =
            bench.prune(&format!("--target-speedup {speedup} {timed} {options} --dry-run"));
        let predicted = number(&report, "/speed/predicted");
        assert_eq!(report["speed"]["asked"], speedup);
        assert!((speedup..speedup + 0.01).contains(&predicted), "{options}: {predicted}");
        assert_eq!(report["speed"]["calibration"]["costs"], calibration["costs"]);
        assert!(report["speed"]["measured"].is_null());
        let parameters = number(&report, "/plan/parameters_after");
        if options.starts_with("--fast") {
            assert!(speedup > last);
            last = speedup;
        }
        let again = bench.prune(&format!("--target-speedup {speedup} {timed} {options} --dry-run"));
        assert_eq!(again["full_plan"], report["full_plan"]);
        // A little less is less of a cut.
        let less = speedup - 0.02;
        let less = bench.prune(&format!("--target-speedup {less} {timed} {options} --dry-run"));
        assert!(number(&less, "/plan/parameters_after") > parameters, "{options}");
    }
    // What attention leaves is enough by itself.
    let alone = format!("--target-speedup 1.05 --target-kv-cache 0.5 --fast {timed} --dry-run");
    let alone = bench.prune(&alone);
    assert!(channels(&alone["full_plan"]).iter().all(|&width| width == 128), "{alone}");
    assert!(number(&alone, "/speed/predicted") > 1.05);
    // What is written is timed beside the dense model; what comes of it depends on the machine.
    let report = bench.prune(&format!("--target-speedup 1.1 {timed} --fast"));
    let speed = &report["manifest"]["speed"];
    assert_eq!(*speed, report["speed"]);
    let measured =
        ["least", "median", "largest"].map(|at| number(speed, &format!("/measured/{at}")));
    assert!(measured[0] > 0.0 && measured.is_sorted(), "{measured:?}");
    assert_eq!(report["manifest"]["settings"]["target"]["speedup"], 1.1);
    for key in ["processor", "dtype", "matmul_precision", "threads", "device"] {
        assert!(!speed["calibration"]["machine"][key].is_null() || key == "processor", "{speed}");
    }
    let text = bench.of(&format!("{PRUNE} --target-speedup 1.1 {timed} --fast --dry-run"), succeed);
    let said = "generation after 40 tokens: asked 1.10, predicted 1.1";
    assert!(text.contains(said), "{text}");
}

#[test]
fn speedups_out_of_reach_are_refused_with_what_can_be_reached() {
    let bench = Bench::new("tiny");
    bench.calibrate();
    let timed = "--budget-context 40 --speed-calibration {costs}";
    for (options, said) in [
        (format!("--target-speedup 9 {timed} --fast"), "9 asked for generation after 40 tokens"),
        (format!("--target-speedup 9 {timed} --fast"), "these options reach"),
        (format!("--target-speedup 0.9 {timed}"), "expected a factor above 1, found 0.9"),
        (
            "--target-speedup 1.2 --speed-calibration {costs} --budget-context 41".to_owned(),
            "it is of generation after 40 tokens, expected one of generation after 41 tokens",
        ),
        (
            "--target-speedup 1.2 --budget-context 40 --speed-calibration {costs} --speedup-of prompt"
                .to_owned(),
            "expected one of a prompt of 40 tokens",
        ),
        ("--target-speedup 1.2 --budget-context 250".to_owned(), "from 1 to 248 tokens"),
        ("--ratio 0.2 --speedup-of prompt".to_owned(), "speedup-of: given without target-speedup"),
        (format!("--target-speedup 1.2 {timed} --allocation measured"), "--allocation measured"),
    ] {
        let error = bench.refused(&options);
        assert!(error.contains(said), "{options}: {error}");
    }
    let other = Bench { model: model("gqa3_untied"), ..bench };
    let error = other.refused(&format!("--target-speedup 1.2 {timed} --fast"));
    assert!(error.contains("of a model of another shape"), "{error}");
    // Costs below nothing are no costs.
    let path = other.path("costs.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("0.00001,", "-0.00001,").replace("1e-5", "-1e-5")).unwrap();
    let bench = Bench { model: tiny(), ..other };
    let error = bench.refused(&format!("--target-speedup 1.2 {timed} --fast"));
    assert!(error.contains("expected costs of at least 0"), "{error}");
}

const SEARCH: &str = "search {model} --calibration {text} --samples 24 --sample-tokens 16 --text \
                      {eval} --window 32 --limit 6 --study {study} --allow-overlap";
const FRONT: &str = "--objectives loss,latency --ratio 0.1..0.5 --budget-context 40";

/// Numbers, values and sizes of the trials of a study.
fn trials(bench: &Bench) -> Value {
    let mut rows: Value = bench.of("trials {study}", run);
    for row in rows["trials"].as_array_mut().unwrap() {
        row.as_object_mut().unwrap().retain(|key, _| !key.contains("seconds") && key != "cost");
    }
    rows["trials"].clone()
}

#[test]
fn a_search_with_latency_is_the_same_however_often_it_is_resumed() {
    let one = Bench::new("tiny");
    let calibration = one.calibrate();
    let line = format!("{SEARCH} {FRONT} --speed-calibration {{costs}}");
    let whole = one.of(&format!("{line} --trials 14"), run);
    let two = Bench::new("tiny");
    std::fs::copy(one.path("costs.json"), two.path("costs.json")).unwrap();
    two.of(&format!("{line} --trials 6"), run);
    let record = |bench: &Bench| -> Value {
        serde_json::from_slice(&std::fs::read(bench.path("study/search.json")).unwrap()).unwrap()
    };
    assert_eq!(record(&two)["calibration"]["costs"], calibration["costs"]);
    // From here on the study's own calibration counts, without the file.
    std::fs::remove_file(two.path("costs.json")).unwrap();
    let before = record(&two)["calibration"].clone();
    let resumed = two.of(&format!("{SEARCH} {FRONT} --trials 14"), run);
    assert_eq!(record(&two)["calibration"], before);
    assert_eq!(resumed["front"], whole["front"]);
    assert_eq!(trials(&two), trials(&one));
    // Another calibration or another pass is another study.
    let mut other = calibration;
    other["costs"]["layers"] = 1e-4.into();
    std::fs::write(two.path("costs.json"), other.to_string()).unwrap();
    let error = two.of(&format!("{line} --trials 15"), fail);
    assert!(error.contains("began with another calibration"), "{error}");
    let error = two.of(&format!("{SEARCH} {FRONT} --speedup-of prompt --trials 15"), fail);
    assert!(error.contains("the timed pass was generation after 40 tokens"), "{error}");
    // Points are fast as predicted, and the nearest one that fits is taken.
    let front = whole["front"].as_array().unwrap();
    assert!(front.len() >= 3, "{front:?}");
    let dense = number(&whole, "/dense_seconds");
    for point in front {
        let (seconds, speedup) = (number(point, "/seconds"), number(point, "/speedup"));
        assert!((dense / seconds - speedup).abs() < 1e-9 && speedup > 1.0);
    }
    let middle = &front[front.len() / 2];
    let speedup = number(middle, "/speedup") - 1e-6;
    let apply = "apply {model} --study {study} --out {out} --force";
    let applied = one.of(&format!("{apply} --target-speedup {speedup}"), run);
    assert!(number(&applied, "/speed/predicted") >= speedup, "{applied}");
    assert!(number(&applied, "/study/loss") <= number(middle, "/loss"));
    assert!(number(&applied, "/speed/measured/median") > 0.0);
    assert_eq!(applied["speed"]["calibration"]["costs"], record(&one)["calibration"]["costs"]);
    let error = one.of(&format!("{apply} --target-speedup 9"), fail);
    assert!(error.contains("the fastest is predicted to reach"), "{error}");
    let error = one.of(&format!("{apply} --target-kv-cache 0.01"), fail);
    assert!(error.contains("no point of the front fits 0.01 of the key-value cache"), "{error}");
}

#[test]
fn three_objectives_and_a_calibration_of_its_own() {
    let bench = Bench::new("tiny");
    let three = FRONT.replace("loss,latency", "loss,params,latency");
    let result = bench.of(&format!("{SEARCH} {three} --trials 6"), run);
    assert!(number(&result, "/dense_seconds") > 0.0);
    assert_eq!(result["speed"], json!({ "timed": "decode", "tokens": 40 }));
    for (line, said) in [
        ("--ratio 0.2 --speedup-of prompt", "speedup-of: given without latency"),
        ("--objectives loss,params --ratio 0.1..0.5 --budget-context 9", "budget-context: given"),
        ("--objectives latency --ratio 0.2", "latency alone would remove as much as it may"),
    ] {
        let error = bench.of(&format!("{SEARCH} {line}"), fail);
        assert!(error.contains(said), "{line}: {error}");
    }
}

/// A trial of a study of one objective is cut as far as its budget needs.
#[test]
fn a_trial_is_applied_within_a_budget() {
    let bench = Bench::new("tiny");
    let calibration = bench.calibrate();
    bench.of(&format!("{SEARCH} --ratio 0.2 --trials 4"), run);
    let apply = "apply {model} --study {study} --out {out} --force";
    let cached = bench.of(&format!("{apply} --target-kv-cache 0.6 --ratio 0.4"), run);
    assert_eq!(heads(&cached["plan"]).iter().sum::<usize>(), 4, "{cached}");
    assert!((number(&cached, "/plan/reached_ratio") - 0.4).abs() < 0.01);
    assert_eq!(number(&cached, "/footprint/cache_bytes_after"), 256.0);
    let dry = bench.of(&format!("{apply} --target-kv-cache 0.6 --ratio 0.4 --dry-run"), run);
    assert_eq!(dry["kv_cache"], cached["kv_cache"]);
    let timed = "--budget-context 40 --speed-calibration {costs}";
    let fast = bench.of(&format!("{apply} --target-speedup 1.2 {timed} --dry-run"), run);
    assert!((1.2..1.22).contains(&number(&fast, "/speed/predicted")), "{fast}");
    assert_eq!(fast["speed"]["calibration"]["costs"], calibration["costs"]);
    let error = bench.of(&format!("{apply} --target-speedup 9 {timed}"), fail);
    assert!(error.contains("these options reach"), "{error}");
    bench.prune("--ratio 0.2 --fast");
    std::fs::copy(bench.path("out/manifest.json"), bench.path("study/plan.json")).unwrap();
    let plan = "apply {model} --plan {study}/plan.json --out {out} --force";
    let error = bench.of(&format!("{plan} --target-kv-cache 0.5"), fail);
    assert!(error.contains("a plan says already what goes"), "{error}");
}
