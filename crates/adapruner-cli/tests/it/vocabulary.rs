//! Vocabularies: chosen by texts, alone and with layers, in both formats, and what comes after.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{fail, json, succeed, tiny};

/// Losses of the same weights after a way through a file, both in f32.
const SAME: f64 = 1e-6;

struct Bench {
    dir: TempDir,
    model: PathBuf,
    text: PathBuf,
    corpus: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let (dir, model) = (tempdir().unwrap(), tiny());
        let (text, corpus) = (model.join("text.txt"), model.join("calibration.txt"));
        Self { dir, model, text, corpus }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `prune` with options, to a folder of this name.
    fn prune(&self, name: &str, options: &str) -> Value {
        let out = self.out(name);
        let line = "prune {model} --save-dtype f32 --gguf-type f32 --out {out} --force ";
        json(&format!("{line}{options}"), &self.paths(&out))
    }

    fn paths<'a>(&'a self, out: &'a Path) -> [(&'static str, &'a Path); 4] {
        [("model", &self.model), ("text", &self.text), ("corpus", &self.corpus), ("out", out)]
    }

    fn refused(&self, options: &str) -> String {
        let out = self.out("refused");
        fail(&format!("prune {{model}} --out {{out}} {options}"), &self.paths(&out))
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn bits(model: &Path, text: &Path) -> f64 {
    let report = json("eval {model} --text {text}", &[("model", model), ("text", text)]);
    number(&report, "/bits_per_byte")
}

/// The tiny model has 512 tokens and 64 hidden channels, the head tied.
#[test]
fn tokens_alone_go_in_both_formats_and_by_the_plan() {
    let bench = Bench::new();
    let options = "--vocab 400 --vocab-text {corpus} --text {text} --format hf,gguf";
    let report = bench.prune("out", options);
    let manifest = &report["manifest"];
    assert_eq!(number(manifest, "/vocabulary/rows_before"), 512.0);
    assert_eq!(number(manifest, "/vocabulary/tokens"), 400.0);
    let removed = number(manifest, "/model/parameters") - number(manifest, "/parameters");
    assert_eq!(removed, 112.0 * 64.0);
    assert_eq!(report["recipe"]["options"].as_array().unwrap().len(), 0);
    let counted = &manifest["vocabulary"]["texts"][0];
    assert_eq!(counted["digest"].as_str().unwrap().len(), 64);
    assert!(number(counted, "/tokens") > 1000.0);
    let kept = manifest["plan"]["vocabulary"]["kept"].as_array().unwrap();
    assert_eq!(kept.len(), 400);
    // Bits per byte before are those of the model, after those of what was written.
    let (before, after) = (
        number(manifest, "/evaluation/before/bits_per_byte"),
        number(manifest, "/evaluation/after/bits_per_byte"),
    );
    assert!((bits(&bench.model, &bench.text) / before - 1.0).abs() < SAME);
    for written in [bench.out("out"), bench.out("out").join("model.gguf")] {
        let found = bits(&written, &bench.text);
        assert!((found / after - 1.0).abs() < SAME, "{found} {after}");
        let shown = json("inspect {model}", &[("model", &written)]);
        assert_eq!(number(&shown, "/config/vocab_size"), 400.0);
    }
    // The plan makes the same model again.
    let (plan, again) = (bench.out("out").join("manifest.json"), bench.out("again"));
    let paths = [("model", &*bench.model), ("plan", &*plan), ("out", &*again)];
    json("apply {model} --plan {plan} --out {out} --save-dtype f32", &paths);
    assert!((bits(&again, &bench.text) / after - 1.0).abs() < SAME);
    // And it goes on like any other: generated, exported, compared, trained.
    let exported = bench.out("exported");
    let paths = [("model", &*again), ("out", &*exported)];
    json("export {model} --out {out} --format gguf --gguf-type f32", &paths);
    assert!((bits(&exported.join("model.gguf"), &bench.text) / after - 1.0).abs() < SAME);
    succeed("generate {model} --prompt \"Ida\" --max-tokens 4", &[("model", &again)]);
    let recovered = bench.out("recovered");
    let paths = [("model", &*again), ("data", &*bench.corpus), ("out", &*recovered)];
    json("recover {model} --data {data} --max-steps 1 --out {out} --cutoff 64", &paths);
    let paths = [("model", &*bench.model), ("other", &*again), ("text", &*bench.text)];
    let compared = json("compare-models {model} {other} --text {text} --no-latency", &paths);
    let rows = compared["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["kind"] == "bits_per_byte").unwrap();
    assert!((number(row, "/values/0") / before - 1.0).abs() < SAME);
    assert!((number(row, "/values/1") / after - 1.0).abs() < SAME);
    // Other tokens, so no pairs; bits per byte are what can be compared.
    assert!(row["sure"]["differences"][1].is_null());
    assert!(compared["notes"][0].as_str().unwrap().contains("bits per byte can"));
}

/// What tokens take counts towards the ratio, and the layers give the rest.
#[test]
fn tokens_and_layers_make_one_ratio() {
    let bench = Bench::new();
    let options =
        "--vocab 380 --ratio 0.2 --calibration {corpus} --fast --text {text} --allow-overlap";
    let report = bench.prune("both", options);
    let manifest = &report["manifest"];
    let (before, after) = (number(manifest, "/model/parameters"), number(manifest, "/parameters"));
    assert!(((before - after) / before - 0.2).abs() < 0.003, "{before} {after}");
    assert_eq!(number(manifest, "/plan/requested_ratio"), 0.2);
    assert_eq!(number(manifest, "/settings/plan/ratio"), 0.2);
    let ffn = manifest["plan"]["layers"][1]["ffn"].as_array().unwrap().len();
    let alone = bench.prune("layers", "--ratio 0.2 --calibration {corpus} --fast");
    let whole = alone["manifest"]["plan"]["layers"][1]["ffn"].as_array().unwrap().len();
    assert!(ffn > whole, "{ffn} {whole}");
    let found = bits(&bench.out("both"), &bench.text);
    assert!((found / number(manifest, "/evaluation/after/bits_per_byte") - 1.0).abs() < SAME);
    // The plan of both makes the same model again.
    let (plan, again) = (bench.out("both").join("manifest.json"), bench.out("again"));
    let paths = [("model", &*bench.model), ("plan", &*plan), ("out", &*again)];
    json("apply {model} --plan {plan} --out {out} --save-dtype f32", &paths);
    assert!((bits(&again, &bench.text) / found - 1.0).abs() < SAME);
    // Which is fitted in its own tokens, where that is asked for.
    let fitted = bench.out("fitted");
    let paths =
        [("model", &*bench.model), ("plan", &*plan), ("out", &*fitted), ("fit", &*bench.corpus)];
    let line = "apply {model} --plan {plan} --out {out} --compensate --compensate-text {fit} \
                --compensate-samples 30 --compensate-tokens 64";
    let report = json(line, &paths);
    assert!(report["compensation"].is_object());
    assert_eq!(number(&report, "/parameters"), after);
    assert_eq!(report["plan"]["layers"], manifest["plan"]["layers"]);
    // Where the tokens are more than the ratio, the layers stay and that is said.
    let report = bench.prune("less", "--vocab 380 --ratio 0.01 --calibration {corpus} --fast");
    assert!(number(&report, "/plan/reached_ratio") > 0.04);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("the widths stay as they are"), "{warnings}");
}

#[test]
fn auto_keeps_as_few_as_the_tolerance_allows() {
    let bench = Bench::new();
    let tokens = |tolerance: &str| {
        let options =
            format!("--vocab auto --vocab-tolerance {tolerance} --vocab-text {{corpus}} --dry-run");
        let line = format!("prune {{model}} {options}");
        let report = json(&line, &bench.paths(&bench.out("none")));
        let of = &report["vocabulary"];
        assert!(number(of, "/held_out_growth") <= number(of, "/tolerance"), "{of}");
        number(of, "/tokens")
    };
    let (strict, usual, loose) = (tokens("0"), tokens("0.005"), tokens("0.2"));
    assert!(strict >= usual && usual > loose, "{strict} {usual} {loose}");
    let shown = succeed(
        "prune {model} --vocab auto --vocab-text {corpus} --dry-run",
        &bench.paths(&bench.out("none")),
    );
    assert!(shown.contains("auto: at most 0.50 %") && shown.contains("512 → 505"), "{shown}");
}

#[test]
fn padding_rows_have_no_token_and_are_suppressed() {
    let bench = Bench::new();
    let options = "--vocab 390 --vocab-multiple-of 64 --vocab-text {corpus} --format hf,gguf";
    let report = bench.prune("padded", options);
    assert_eq!(number(&report, "/vocabulary/rows"), 448.0);
    let generation = std::fs::read(bench.out("padded").join("generation_config.json")).unwrap();
    let generation: Value = serde_json::from_slice(&generation).unwrap();
    let suppressed = generation["suppress_tokens"].as_array().unwrap();
    assert_eq!(suppressed.len(), 58);
    assert_eq!((number(&suppressed[0], ""), number(&suppressed[57], "")), (390.0, 447.0));
    let found = bits(&bench.out("padded"), &bench.text);
    let gguf = bits(&bench.out("padded").join("model.gguf"), &bench.text);
    assert!((found / gguf - 1.0).abs() < SAME, "{found} {gguf}");
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new();
    for (options, said) in [
        ("--vocab 100 --vocab-text {corpus}", "vocab: expected at least"),
        ("--vocab 512 --vocab-text {corpus}", "not fewer than the 512 rows"),
        ("--vocab 500 --vocab-text {corpus} --vocab-multiple-of 1000", "more than the 512 rows"),
        ("--vocab 400 --vocab-text {corpus} --vocab-multiple-of 0", "vocab-multiple-of"),
        ("--vocab auto --vocab-text {corpus} --vocab-tolerance 1.5", "vocab-tolerance"),
        ("--vocab 400", "vocab-text: missing"),
        (
            "--vocab-text {corpus} --ratio 0.2 --calibration {corpus}",
            "has no effect without --vocab",
        ),
        ("--vocab 400 --vocab-text {corpus} --compensate", "only tokens are removed"),
        ("--vocab 400 --vocab-text {text} --text {text}", "the vocabulary is chosen by it"),
    ] {
        let shown = bench.refused(options);
        assert!(shown.contains(said), "{options}: {shown}");
        assert!(!bench.out("refused").exists(), "{options}");
    }
}

/// A corpus of another kind than the text that is measured is said.
#[test]
fn texts_of_another_kind_are_said() {
    let bench = Bench::new();
    let foreign = bench.out("foreign.txt");
    std::fs::write(&foreign, "0123456789 ".repeat(2000)).unwrap();
    let options = format!("--vocab 330 --vocab-text {} --text {{text}}", foreign.display());
    let report = bench.prune("foreign", &options);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("of another language or kind"), "{warnings}");
    let options =
        "--vocab 505 --vocab-text {corpus} --vocab-text {text} --text {text} --allow-overlap";
    let report = bench.prune("own", options);
    let warnings = report["warnings"].to_string();
    assert!(!warnings.contains("of another language or kind"), "{warnings}");
}
