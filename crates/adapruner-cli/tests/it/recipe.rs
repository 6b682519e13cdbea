//! What `prune` does where little is said.

use std::{
    fs,
    path::{Path, PathBuf},
};

use adapruner::prelude::*;
use adapruner_prune::{StatsBank, Terms};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{command, fail, json, stderr, succeed, tiny, words};

/// A folder with a text that is long enough to learn masks on.
struct Bench {
    dir: TempDir,
    model: PathBuf,
    text: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let (dir, model) = (tempdir().unwrap(), tiny());
        let text = dir.path().join("long.txt");
        let read = |name: &str| fs::read_to_string(model.join(name)).unwrap();
        fs::write(&text, read("calibration.txt") + &read("text.txt")).unwrap();
        Self { dir, model, text }
    }

    fn run(&self, options: &str) -> Value {
        let out = self.dir.path().join("out");
        json(
            &format!("prune {{model}} --calibration {{text}} --out {{out}} --force {options}"),
            &[("model", &self.model), ("text", &self.text), ("out", &out)],
        )
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn options(report: &Value) -> Vec<&str> {
    let options = report["recipe"]["options"].as_array().unwrap();
    options.iter().map(|option| option.as_str().unwrap()).collect()
}

/// A recipe is nothing but options: typed, they give the same model.
#[test]
fn what_a_recipe_chose_can_be_typed() {
    let bench = Bench::new();
    for (recipe, line) in
        [("default", "--ratio 0.2 --mask-tokens 64"), ("fast", "--ratio 0.2 --fast")]
    {
        let report = bench.run(line);
        assert_eq!(report["recipe"]["recipe"], recipe);
        assert_eq!(report["manifest"]["settings"]["recipe"], report["recipe"]);
        let options = options(&report);
        for option in ["--importance wanda", "--protect 1,1"] {
            assert!(options.contains(&option), "{options:?}");
        }
        let learns = options.iter().any(|option| option.starts_with("--learn-masks "));
        assert_eq!(learns, recipe == "default", "{options:?}");
        assert_eq!(report["masks"].is_object(), learns);
        let typed = bench.run(&format!("{line} {}", options.join(" ")));
        assert_eq!(typed["recipe"]["options"].as_array().unwrap().len(), 0);
        assert_eq!(typed["manifest"]["plan"], report["manifest"]["plan"]);
        assert_eq!(typed["masks"], report["masks"]);
        let shown = succeed(
            &format!("prune {{model}} --calibration {{text}} --dry-run {line}"),
            &[("model", &bench.model), ("text", &bench.text)],
        );
        assert!(shown.contains(&format!("{recipe}: --importance wanda")), "{shown}");
    }
}

/// A program that uses the library gets what `prune --fast` makes of the same samples.
#[test]
fn the_library_prunes_as_the_fast_recipe_does() {
    let bench = Bench::new();
    let options = "--ratio 0.2 --fast --samples 24 --sample-tokens 32 --seed 3";
    let plan = bench.run(options)["manifest"]["plan"].clone();
    let model = Checkpoint::open(&bench.model).unwrap();
    let text = text::read(bench.text.to_str().unwrap(), &TextOptions::default()).unwrap();
    let samples = TokenSet::samples(&text, &model.tokenizer, 24, 32, 3).unwrap();
    let pruned = Pruning::new(&model, 0.2).run(&model, &samples, &()).unwrap();
    assert_eq!(serde_json::to_value(&pruned.plan).unwrap()["layers"], plan["layers"]);
}

/// Structured Wanda's plan, by activation sums alone.
#[test]
fn the_fast_recipe_is_one_forward_pass() {
    let bench = Bench::new();
    let stats = bench.dir.path().join("stats");
    let fast = bench.run(&format!("--ratio 0.2 --fast --stats {}", stats.display()));
    let bank = StatsBank::from_bytes(&fs::read(&stats).unwrap()).unwrap();
    assert_eq!(bank.header().terms, Terms::Activations);
    assert!(!bank.header().batch && fast["masks"].is_null());
    let samples = bank.header().sample_tokens.len();
    let wanda = bench.run(&format!(
        "--ratio 0.2 --importance wanda --protect 1,1 --learn-masks 0 --samples {samples} \
         --sample-tokens 128"
    ));
    assert_eq!(wanda["manifest"]["plan"]["layers"], fast["manifest"]["plan"]["layers"]);
    // Samples are those of the statistics where there are some.
    let few = bench.dir.path().join("few");
    let paths = [("model", &*bench.model), ("text", &*bench.text), ("few", &*few)];
    let drawn = "--calibration {text} --samples 6 --sample-tokens 32 --stats {few}";
    json(&format!("stats {{model}} {drawn} --terms activations"), &paths);
    let reused = bench.run(&format!("--ratio 0.2 --fast --stats {}", few.display()));
    assert_eq!(number(&reused, "/manifest/statistics/calibration/windows"), 6.0);
    assert_eq!(number(&reused, "/manifest/statistics/calibration/window"), 32.0);
}

#[test]
fn options_that_are_given_win() {
    let bench = Bench::new();
    let given = "--ratio 0.2 --importance param_first --protect 0,0 --learn-masks 0 --samples 10 \
                 --sample-tokens 64";
    let plain = bench.run(given);
    assert_eq!(options(&plain), [""; 0]);
    let settings = &plain["manifest"]["settings"];
    assert_eq!(settings["plan"]["protect"], serde_json::json!([0, 0]));
    assert!(plain["masks"].is_null() && settings["masks"].is_null());
    assert_eq!(
        bench.run(&format!("{given} --fast"))["manifest"]["plan"],
        plain["manifest"]["plan"]
    );
    // Each by itself, and by the file as well.
    let config = bench.dir.path().join("c.toml");
    fs::write(&config, "[recipe]\nfast = true\n[importance]\nimportance = \"flap\"\n").unwrap();
    let line = format!("--ratio 0.2 --config {}", config.display());
    let filed = bench.run(&line);
    assert_eq!(filed["recipe"]["recipe"], "fast");
    assert!(options(&filed).iter().all(|option| !option.starts_with("--importance")));
    assert_eq!(filed["manifest"]["settings"]["score"]["importance"], "flap");
    let typed = bench.run(&format!("{line} --fast=false --mask-tokens 64 --learn-masks 2"));
    assert_eq!(typed["recipe"]["recipe"], "default");
    assert_eq!(number(&typed, "/masks/outcome/steps"), 2.0);
    // What contradicts an option that is given is not chosen.
    for (given, absent) in [
        ("--layout uniform --mask-tokens 64", ["--protect", "--mask-budget"]),
        ("--drop-attention 0 --fast", ["--protect", "--learn-masks"]),
        ("--attention-share 1 --ratio 0.05", ["--learn-masks", "--mask-budget"]),
        ("--sensitivity --fast", ["--protect", "--learn-masks"]),
    ] {
        let ratio = if given.contains("--ratio") { "" } else { "--ratio 0.1" };
        let report = bench.run(&format!("{ratio} {given}"));
        for option in options(&report) {
            assert!(absent.iter().all(|absent| !option.starts_with(absent)), "{given}: {option}");
        }
    }
}

#[test]
fn a_text_that_is_missing_or_too_short_is_said() {
    let bench = Bench::new();
    let out = bench.dir.path().join("none");
    let paths = [("model", bench.model.as_path()), ("out", out.as_path())];
    let error = fail("prune {model} --ratio 0.2 --out {out}", &paths);
    for part in ["no text is named", "c4", "--calibration FILE"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!out.exists());
    // One that holds no samples to hold out.
    let short = bench.model.join("calibration.txt");
    let report = json(
        "prune {model} --ratio 0.2 --calibration {short} --out {out}",
        &[("model", &bench.model), ("out", &out), ("short", &short)],
    );
    assert!(report["masks"].is_null());
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("no masks were learned") && warnings.contains("64 are needed"));
    let samples = number(&report, "/manifest/statistics/calibration/windows");
    assert!((1.0..64.0).contains(&samples), "{samples}");
}

/// Nothing is measured on what was calibrated on, and a result that is bad is said.
#[test]
fn held_out_samples_judge_the_result() {
    let bench = Bench::new();
    let out = bench.dir.path().join("out");
    let of = |ratio: &str| {
        let line = words(
            &format!(
                "prune {{model}} --ratio {ratio} --importance random --protect 0,0 --learn-masks 0 \
                 --calibration {{text}} --sample-tokens 64 --force --out {{out}} --json"
            ),
            &[("model", &bench.model), ("text", &bench.text), ("out", &out)],
        );
        let output = command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |when: &str| number(&report, &format!("/held_out/{when}/perplexity"));
        assert_eq!(report["held_out"], report["manifest"]["held_out"]);
        assert_eq!(number(&report, "/held_out/after/windows"), 16.0);
        (of("after") / of("before"), report["warnings"].to_string())
    };
    let (factor, said) = of("0.45");
    assert!(factor > 2.0, "{factor}");
    for part in ["quality collapsed", "held-out samples of long.txt", "--learn-masks", "recover"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let (factor, said) = of("0.01");
    assert!(factor < 2.0 && !said.contains("collapsed"), "{factor} {said}");
    // A text to measure on is measured instead.
    let measured: &Path = &bench.model.join("text.txt");
    let report = bench.run(&format!(
        "--ratio 0.1 --fast --text {} --limit 2 --allow-overlap",
        measured.display()
    ));
    assert!(report["held_out"].is_null() && report["evaluation"].is_object());
}
