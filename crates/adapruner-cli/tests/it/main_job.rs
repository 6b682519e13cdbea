//! Measure, prune, measure again, write, open that, get the same number.

use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{entries, fail, json, model, succeed, tiny};

/// Perplexity of the same weights after a way through a file, both in f32.
const SAME: f64 = 1e-6;
/// The same through 16-bit weights.
const HALF: f64 = 5e-3;

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn perplexity(model: &Path, text: &Path) -> f64 {
    number(&json("eval {model} --text {text}", &[("model", model), ("text", text)]), "/perplexity")
}

#[test]
fn inspect_says_what_a_model_is_made_of() {
    let report = json("inspect {model} --digest", &[("model", &tiny())]);
    assert_eq!(report["config"]["layers"].as_array().unwrap().len(), 4);
    // 512 · 64 of the embedding, 36 992 a layer, 64 of the last norm.
    assert_eq!(report["parameters"], 180_800);
    assert_eq!(report["digest"].as_str().unwrap().len(), 64);
    let text = succeed("inspect {model}", &[("model", &model("per_layer"))]);
    assert!(text.contains("no attention"), "{text}");
}

#[test]
fn eval_reports_what_its_numbers_are_of() {
    let (model, text) = (tiny(), tiny().join("text.txt"));
    let paths = [("model", model.as_path()), ("text", text.as_path())];
    let report = json("eval {model} --text {text}", &paths);
    let (windows, window) = (number(&report, "/windows"), number(&report, "/window"));
    assert_eq!(window, 128.0);
    assert_eq!(number(&report, "/tokens"), windows * 127.0);
    assert!((number(&report, "/nll").exp() - number(&report, "/perplexity")).abs() < 1e-9);
    for key in ["text_digest", "model_digest", "tokens_digest"] {
        assert_eq!(report[key].as_str().unwrap().len(), 64, "{key}");
    }
    let limited = json("eval {model} --text {text} --window 64 --limit 3", &paths);
    assert_eq!((number(&limited, "/windows"), number(&limited, "/window")), (3.0, 64.0));
    let other = json("eval {model} --text {text} --batch-tokens 1 --threads 1", &paths);
    assert!((number(&other, "/nll") - number(&report, "/nll")).abs() < 1e-6);
    let shown = succeed("eval {model} --text {text}", &paths);
    assert!(shown.contains("windows of 128 tokens"), "{shown}");
}

#[test]
fn a_fifth_is_removed_in_both_layouts_and_all_formats_agree() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, calibration) = (model.join("text.txt"), model.join("calibration.txt"));
    for options in [
        "--layout uniform --importance param_first",
        "--protect 1,1 --importance param_first",
        "--attention-share 0.3 --importance vectorize --protect 0,0",
    ] {
        let out = dir.path().join(options.replace(' ', "_"));
        let paths = [
            ("model", model.as_path()),
            ("text", text.as_path()),
            ("calibration", calibration.as_path()),
            ("out", out.as_path()),
        ];
        let report = json(
            &format!(
                "prune {{model}} --ratio 0.2 --calibration {{calibration}} --samples 8 \
                 --sample-tokens 64 --learn-masks 0 {options} --text {{text}} --format hf,gguf --save-dtype f32 --gguf-type f32 --out {{out}}"
            ),
            &paths,
        );
        let manifest = &report["manifest"];
        let (before, after) =
            (number(manifest, "/model/parameters"), number(manifest, "/parameters"));
        let removed = (before - after) / before;
        // A unit of this small model is more than a thousandth of it.
        assert!((removed - 0.2).abs() < 0.003, "{options}: {removed}");
        assert!((number(manifest, "/plan/reached_ratio") - removed).abs() < 1e-9);
        let layers = manifest["plan"]["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 4);
        for layer in layers {
            for key in ["query_heads", "kv_heads", "ffn"] {
                assert!(layer[key].is_array(), "{key} in {layer}");
            }
        }
        let (dense, pruned) = (
            number(manifest, "/evaluation/before/perplexity"),
            number(manifest, "/evaluation/after/perplexity"),
        );
        assert!(pruned > dense, "{options}: {dense} {pruned}");
        assert!((perplexity(&model, &text) / dense - 1.0).abs() < SAME);
        for written in [out.clone(), out.join("model.gguf")] {
            let found = perplexity(&written, &text);
            assert!((found / pruned - 1.0).abs() < SAME, "{options}: {found} {pruned}");
        }
        // The file beside the folder stays nothing but what was asked for.
        let mut on_disk: Value =
            serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
        assert!(on_disk.as_object_mut().unwrap().remove("sealed").is_some());
        assert_eq!(&on_disk, manifest);
    }
    let top: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(top.len(), 3, "{top:?}");
}

#[test]
fn whole_attention_sublayers_can_go() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let out = dir.path().join("out");
    let (text, calibration) = (model.join("text.txt"), model.join("calibration.txt"));
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("calibration", calibration.as_path()),
        ("out", out.as_path()),
    ];
    let report = json(
        "prune {model} {taylor} --ratio 0.2 --calibration {calibration} --drop-attention 2 --text {text} \
         --save-dtype f32 --out {out}",
        &paths,
    );
    let manifest = &report["manifest"];
    assert_eq!(manifest["plan"]["layers"][2]["query_heads"].as_array().unwrap().len(), 0);
    let after = number(manifest, "/evaluation/after/perplexity");
    assert!((perplexity(&out, &text) / after - 1.0).abs() < SAME);
}

#[test]
fn statistics_are_collected_once_and_reused() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let calibration = model.join("calibration.txt");
    let (bank, out) = (dir.path().join("bank.safetensors"), dir.path().join("out"));
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("bank", bank.as_path()),
        ("out", out.as_path()),
    ];
    let report = json("stats {model} --calibration {calibration} --stats {bank}", &paths);
    assert!(number(&report, "/mean_loss") > 0.0);
    let modified = std::fs::metadata(&bank).unwrap().modified().unwrap();
    let prune = "prune {model} {bare} --importance param_first --samples 10 --sample-tokens 64 \
                 --calibration {calibration} --ratio 0.1 --dry-run";
    let fresh = json(prune, &paths);
    let reused = json(&format!("{prune} --stats {{bank}}"), &paths);
    assert_eq!(fresh["full_plan"], reused["full_plan"]);
    assert_eq!(std::fs::metadata(&bank).unwrap().modified().unwrap(), modified);
    let refused = fail(&format!("{prune} --seed 7 --stats {{bank}}"), &paths);
    assert!(refused.contains("bank.safetensors") && refused.contains("digest"), "{refused}");
    // The first run of `prune` keeps them as well.
    let kept = dir.path().join("kept.safetensors");
    json(&format!("{prune} --stats {{kept}}"), &[&paths[..], &[("kept", kept.as_path())]].concat());
    assert!(kept.is_file());
}

#[test]
fn a_plan_is_applied_again_from_a_manifest() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (out, again) = (dir.path().join("out"), dir.path().join("again"));
    let plan = out.join("manifest.json");
    let paths = [
        ("model", model.as_path()),
        ("out", out.as_path()),
        ("again", again.as_path()),
        ("plan", plan.as_path()),
    ];
    json("prune {model} {bare} --ratio 0.3 --importance magnitude_l2 --out {out}", &paths);
    json("apply {model} --plan {plan} --out {again}", &paths);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights(&out), weights(&again));
    let other = crate::program::model("mha_tied");
    let refused = fail(
        "apply {other} --plan {plan} --out {third}",
        &[("other", &other), ("plan", &plan), ("third", &dir.path().join("third"))],
    );
    assert!(refused.contains("plan"), "{refused}");
    assert!(!dir.path().join("third").exists());
}

#[test]
fn exports_go_there_and_back() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let text = model.join("text.txt");
    let (gguf, folder) = (dir.path().join("gguf"), dir.path().join("folder"));
    let file = gguf.join("model.gguf");
    let paths = [
        ("model", model.as_path()),
        ("gguf", gguf.as_path()),
        ("file", file.as_path()),
        ("folder", folder.as_path()),
    ];
    json("export {model} --format gguf --out {gguf}", &paths);
    json("export {file} --format hf --save-dtype bf16 --out {folder}", &paths);
    let dense = perplexity(&model, &text);
    for written in [&file, &folder] {
        let found = perplexity(written, &text);
        assert!((found / dense - 1.0).abs() < HALF, "{found} {dense}");
    }
    assert!(!entries(&gguf).iter().any(|p| p.ends_with("model.safetensors")));
}

#[test]
fn a_model_calibrates_itself() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let ids = dir.path().join("ids.json");
    let paths = [("model", model.as_path()), ("ids", ids.as_path())];
    let line = "sample {model} --samples 6 --sample-tokens 40 --out {ids}";
    json(line, &paths);
    let first = std::fs::read_to_string(&ids).unwrap();
    json(&format!("{line} --force"), &paths);
    assert_eq!(std::fs::read_to_string(&ids).unwrap(), first);
    let rows: Vec<Vec<u32>> = serde_json::from_str(&first).unwrap();
    assert!(rows.len() == 6 && rows.iter().all(|row| row.len() == 40));
    let report = json("prune {model} --ratio 0.1 --calibration {ids} --dry-run", &paths);
    assert!(report["full_plan"].is_object());
    // Text of its own is easier for a model than text of others.
    let own = json("eval {model} --text {ids} --window 40", &paths);
    assert!(number(&own, "/perplexity") < 100.0, "{own}");
}

/// Layers that cost more to cut lose less, within the same budget.
#[test]
fn layers_are_cut_by_what_cutting_them_costs() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let [flat, spread] = ["flat", "spread"].map(|name| dir.path().join(name));
    let calibration = model.join("calibration.txt");
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("flat", flat.as_path()),
        ("spread", spread.as_path()),
    ];
    let prune = "prune {model} {taylor} --ratio 0.3 --calibration {calibration}";
    let flat = json(&format!("{prune} --sensitivity=0 --out {{flat}}"), &paths);
    let spread = json(&format!("{prune} --sensitivity --out {{spread}}"), &paths);
    let widths = |report: &Value| -> Vec<usize> {
        let layers = report["manifest"]["plan"]["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["ffn"].as_array().unwrap().len()).collect()
    };
    let gains = |report: &Value| -> Vec<f64> {
        let gains = report["manifest"]["sensitivities"].as_array().unwrap();
        gains.iter().map(|gain| gain.as_f64().unwrap()).collect()
    };
    assert_eq!(gains(&flat), gains(&spread));
    let after = |report: &Value| number(report, "/manifest/parameters");
    assert_eq!(after(&flat), after(&spread));
    let mut layers: Vec<(f64, usize)> = gains(&spread).into_iter().zip(widths(&spread)).collect();
    layers.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(layers.is_sorted_by_key(|layer| layer.1), "{layers:?}");
    assert!(layers.first().unwrap().1 < layers.last().unwrap().1, "{layers:?}");
    let even = widths(&flat);
    assert!(even.iter().max().unwrap() - even.iter().min().unwrap() <= 1, "{even:?}");
    let prune = "prune {model} --ratio 0.3 --out {flat}/x";
    for (given, said) in [
        ("--sensitivity=-1 --calibration {calibration}", "at least 0"),
        ("--sensitivity --layout uniform --calibration {calibration}", "uniform"),
        ("--sensitivity --allocation global --calibration {calibration}", "global"),
        ("--sensitivity --importance magnitude_l2 --learn-masks 0", "c4: "),
    ] {
        let refused = fail(&format!("{prune} {given}"), &paths);
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn what_remains_is_fitted_to_make_up_for_what_is_gone() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let [plain, fitted, again] = ["plain", "fitted", "again"].map(|name| dir.path().join(name));
    let (text, calibration) = (model.join("text.txt"), model.join("calibration.txt"));
    let plan = plain.join("manifest.json");
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("calibration", calibration.as_path()),
        ("plain", plain.as_path()),
        ("fitted", fitted.as_path()),
        ("again", again.as_path()),
        ("plan", plan.as_path()),
    ];
    let prune = "prune {model} {taylor} --ratio 0.3 --calibration {calibration} --text {text} \
                 --attention-share 0.2 --save-dtype f32 --format hf,gguf --gguf-type f32";
    let fit = "--compensate --compensate-samples 24 --compensate-tokens 64";
    let after = |report: &Value| number(report, "/evaluation/after/perplexity");
    let without = after(&json(&format!("{prune} --out {{plain}}"), &paths));
    let report = json(&format!("{prune} {fit} --out {{fitted}}"), &paths);
    let with = after(&report);
    assert!(with < without, "{with} {without}");
    let refits = report["manifest"]["compensation"]["refits"].as_array().unwrap();
    let count = |layer: &Value, kept: &str| layer[kept].as_array().unwrap().len();
    let layers = report["manifest"]["plan"]["layers"].as_array().unwrap();
    let lost: usize = layers
        .iter()
        .map(|l| usize::from(count(l, "query_heads") < 4) + usize::from(count(l, "ffn") < 128))
        .sum();
    assert_eq!(refits.len(), lost);
    for projection in ["self_attn.o_proj", "mlp.down_proj"] {
        assert!(refits.iter().any(|refit| refit["projection"] == projection), "{refits:?}");
    }
    for refit in refits {
        assert!(number(refit, "/error_after") < number(refit, "/error_before"), "{refit}");
    }
    assert_eq!(number(&report, "/manifest/compensation/samples/windows"), 24.0);
    let [held_out, sliced, fitted_loss] = ["samples", "without", "with"]
        .map(|key| number(&report, &format!("/manifest/compensation/loss/{key}")));
    assert!(held_out == 3.0 && fitted_loss < sliced, "{fitted_loss} {sliced}");
    for written in [fitted.clone(), fitted.join("model.gguf")] {
        assert!((perplexity(&written, &text) / with - 1.0).abs() < SAME);
    }
    // The same plan, applied later, is fitted alike.
    let line = "apply {model} --plan {plan} --save-dtype f32 --compensate-text {calibration}";
    let shown = succeed(&format!("{line} {fit} --out {{again}}"), &paths);
    assert!(shown.contains("matrices fitted on 21 samples of 64 tokens"), "{shown}");
    assert!(shown.contains("on 3 held-out samples"), "{shown}");
    assert!((perplexity(&again, &text) / with - 1.0).abs() < SAME);
    // As biases: every format carries them.
    let biased = dir.path().join("biased");
    let paths = [&paths[..], &[("biased", biased.as_path())]].concat();
    let report =
        json(&format!("{prune} {} --out {{biased}}", fit.replace("e ", "e=bias ")), &paths);
    let with_biases = after(&report);
    assert!(with_biases < without, "{with_biases} {without}");
    for written in [biased.clone(), biased.join("model.gguf")] {
        assert!((perplexity(&written, &text) / with_biases - 1.0).abs() < SAME);
    }
    let inspected = json("inspect {biased}", &paths);
    assert_eq!(inspected["parameters"], report["manifest"]["parameters"]);
    let line = "prune {model} --ratio 0.3 --calibration {calibration} --out {again}/x";
    let refused = fail(&format!("{line} --compensate=bias --compensate-ridge 0.1"), &paths);
    assert!(refused.contains("a bias has none"), "{refused}");
    // One sample for the channels of a layer, held by next to no ridge, fits noise.
    let noise =
        "--compensate --compensate-samples 2 --compensate-tokens 64 --compensate-ridge 1e-9";
    let report = json(&format!("{prune} {noise} --out {{again}}/noise"), &paths);
    let loss = report["manifest"]["compensation"]["loss"].clone();
    let helps = loss["with"].as_f64() < loss["without"].as_f64();
    let said = report["warnings"].to_string().contains("compensation was left out");
    assert!(helps != said, "{report}");
    assert!(helps || after(&report) == without, "{report}");
    let refused = fail("apply {model} --plan {plan} --compensate --out {again}/x", &paths);
    assert!(refused.contains("compensate-text: missing"), "{refused}");
}
