//! The main job on a real model: SmolLM2-135M-Instruct as a Q4_1 GGUF, whose
//! path `ADAPRUNER_SMOLLM2` holds (`tools/smollm2` fetches it and prints it).
//! Calibration and evaluation text are drawn from the model itself, so nothing
//! else is needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn smollm2() -> PathBuf {
    let path = std::env::var_os("ADAPRUNER_SMOLLM2")
        .expect("ADAPRUNER_SMOLLM2 must hold the path that tools/smollm2 prints");
    PathBuf::from(path)
}

fn json(args: &[&str], paths: &[&Path]) -> Value {
    let mut words: Vec<String> = args.iter().map(|w| (*w).to_owned()).collect();
    for word in &mut words {
        for (at, path) in paths.iter().enumerate() {
            *word = word.replace(&format!("{{{at}}}"), path.to_str().unwrap());
        }
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_adapruner")).args(&words).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}\n{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// Texts drawn from the model: to measure on, and to calibrate with.
fn texts() -> (&'static Path, &'static Path) {
    static TEXTS: OnceLock<(TempDir, PathBuf, PathBuf)> = OnceLock::new();
    let (_, text, calibration) = TEXTS.get_or_init(|| {
        let dir = tempdir().unwrap();
        let model = smollm2();
        let draw = |name: &str, samples: &str, seed: &str| {
            let path = dir.path().join(name);
            json(
                &[
                    "sample",
                    "{0}",
                    "--samples",
                    samples,
                    "--sample-tokens",
                    "64",
                    "--seed",
                    seed,
                    "--out",
                    "{1}",
                ],
                &[&model, &path],
            );
            path
        };
        let (text, calibration) =
            (draw("text.json", "16", "1"), draw("calibration.json", "10", "2"));
        (dir, text, calibration)
    });
    (text, calibration)
}

#[test]
fn a_fifth_of_smollm2_is_removed_and_every_format_agrees() {
    let (text, calibration) = texts();
    let (model, dir) = (smollm2(), tempdir().unwrap());
    for (layout, name) in [("uniform", "uniform"), ("per-layer", "per-layer")] {
        let out = dir.path().join(name);
        let protect = if layout == "uniform" { "0,0" } else { "4,2" };
        let report = json(
            &[
                "prune",
                "{0}",
                "--ratio",
                "0.2",
                "--calibration",
                "{1}",
                "--layout",
                layout,
                "--protect",
                protect,
                "--importance",
                "param_first",
                "--samples",
                "10",
                "--sample-tokens",
                "64",
                "--learn-masks",
                "0",
                "--text",
                "{2}",
                "--window",
                "64",
                "--format",
                "hf,gguf",
                "--save-dtype",
                "f32",
                "--gguf-type",
                "f32",
                "--out",
                "{3}",
            ],
            &[&model, calibration, text, &out],
        );
        let manifest = &report["manifest"];
        let (before, after) =
            (number(manifest, "/model/parameters"), number(manifest, "/parameters"));
        assert_eq!(before, 134_515_008.0);
        let removed = (before - after) / before;
        assert!((removed - 0.2).abs() <= 0.001, "{layout}: {removed}");
        let pruned = number(manifest, "/evaluation/after/perplexity");
        assert!(pruned > number(manifest, "/evaluation/before/perplexity"), "{layout}");
        for written in [out.clone(), out.join("model.gguf")] {
            let again =
                json(&["eval", "{0}", "--text", "{1}", "--window", "64"], &[&written, text]);
            let found = number(&again, "/perplexity");
            assert!((found / pruned - 1.0).abs() < 1e-4, "{layout}: {found} {pruned}");
        }
        if layout == "uniform" {
            // Memory stays far below a copy of weights, gradients and logits.
            let peak = number(&report, "/peak_memory_bytes");
            assert!(peak < 2.0e9, "{peak}");
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_search_finds_a_cut_and_the_model_it_makes_measures_as_its_trial() {
    let (text, pool) = texts();
    let (model, dir) = (smollm2(), tempdir().unwrap());
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    let found = json(
        &[
            "search",
            "{0}",
            "--ratio",
            "0.2",
            "--calibration",
            "{1}",
            "--samples",
            "4",
            "--text",
            "{2}",
            "--window",
            "64",
            "--limit",
            "16",
            "--trials",
            "5",
            "--matmul-precision",
            "highest",
            "--study",
            "{3}",
        ],
        &[&model, pool, text, &study],
    );
    assert_eq!(number(&found, "/complete") + number(&found, "/stopped_early"), 5.0);
    let loss = number(&found, "/best/loss");
    assert!(loss > number(&found, "/dense_loss"));
    assert!(number(&found, "/costs/peak_memory_bytes") < 3.0e9);
    let words = ["apply", "{0}", "--study", "{1}", "--save-dtype", "f32", "--out", "{2}"];
    let manifest = json(&words, &[&model, &study, &out]);
    assert!((number(&manifest, "/plan/reached_ratio") - 0.2).abs() <= 0.001);
    let again = json(&["eval", "{0}", "--text", "{1}", "--window", "64"], &[&out, text]);
    // The same 16 windows, chunk by chunk there and at once here.
    let measured = number(&again, "/nll");
    assert!((measured - loss).abs() < 1e-4, "{measured} {loss}");
}

/// The bounds that figures are promised to keep, whatever the processor makes products of.
#[test]
fn precisions_of_products_move_perplexity_by_no_more_than_is_promised() {
    let (text, _) = texts();
    let perplexity = |dtype: &str, precision: &str| {
        let options = ["--window", "64", "--dtype", dtype, "--matmul-precision", precision];
        let command = ["eval", "{0}", "--text", "{1}"].iter().chain(&options).copied();
        let found = json(&command.collect::<Vec<_>>(), &[&smollm2(), text]);
        assert_eq!(found.pointer("/run/matmul_precision"), Some(&Value::from(precision)));
        number(&found, "/perplexity")
    };
    for (dtype, of_high) in [("f32", 1e-4), ("bf16", 2e-4)] {
        let highest = perplexity(dtype, "highest");
        for (precision, within) in [("high", of_high), ("medium", 3e-3)] {
            let found = perplexity(dtype, precision);
            let apart = (found / highest - 1.0).abs();
            assert!(apart < within, "{dtype}, {precision}: {found} for {highest}");
        }
    }
}

#[test]
fn the_tokenizer_of_the_gguf_is_that_of_the_model() {
    let report = json(&["inspect", "{0}"], &[&smollm2()]);
    assert_eq!(report["tokenizer_size"], 49152);
    let checkpoint = adapruner_checkpoint::Checkpoint::open(&smollm2()).unwrap();
    // As the model's own tokenizer.json encodes it.
    let text = "The year 2024, isn't it? \u{1f600} caf\u{e9}\n\n  x = 10\n";
    let ids = checkpoint.tokenizer.encode(text).unwrap();
    assert_eq!(ids, EXPECTED);
    assert_eq!(checkpoint.tokenizer.decode(&ids, false).unwrap(), text);
}

/// Ids of the text above by the `tokenizers` package and the model's
/// tokenizer.json.
const EXPECTED: [u32; 22] = [
    504, 713, 216, 34, 32, 34, 36, 28, 3247, 982, 357, 47, 40303, 218, 37366, 8866, 1792, 446, 216,
    33, 32, 198,
];
