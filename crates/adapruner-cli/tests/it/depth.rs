//! Whole layers removed: alone and with widths, tokens, masks and fits, in both formats.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{command, fail, json, model, stderr, succeed, tiny, words};

/// Losses of the same weights after a way through a file, both in f32.
const SAME: f64 = 1e-6;

struct Bench {
    dir: TempDir,
    model: PathBuf,
    text: PathBuf,
    corpus: PathBuf,
}

impl Bench {
    fn new(model: PathBuf) -> Self {
        let (dir, tiny) = (tempdir().unwrap(), tiny());
        let (text, corpus) = (tiny.join("text.txt"), tiny.join("calibration.txt"));
        Self { dir, model, text, corpus }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn paths<'a>(&'a self, out: &'a Path) -> [(&'static str, &'a Path); 4] {
        [("model", &self.model), ("text", &self.text), ("corpus", &self.corpus), ("out", out)]
    }

    /// `prune` with options, to a folder of this name; the report's manifest.
    fn prune(&self, name: &str, options: &str) -> Value {
        let out = self.out(name);
        let line = "prune {model} --save-dtype f32 --gguf-type f32 --calibration {corpus} \
                    --samples 16 --sample-tokens 32 --text {text} --limit 8 --allow-overlap \
                    --out {out} --force ";
        json(&format!("{line}{options}"), &self.paths(&out))["manifest"].clone()
    }

    fn refused(&self, options: &str) -> String {
        let out = self.out("refused");
        fail(&format!("prune {{model}} --out {{out}} {options}"), &self.paths(&out))
    }

    fn perplexity(&self, model: &Path) -> f64 {
        let paths = [("model", model), ("text", &*self.text)];
        number(&json("eval {model} --text {text} --limit 8", &paths), "/perplexity")
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn removed(manifest: &Value) -> Vec<u64> {
    let removed = manifest["depth"]["removed"].as_array().unwrap();
    removed.iter().map(|layer| layer.as_u64().unwrap()).collect()
}

fn share(manifest: &Value) -> f64 {
    1.0 - number(manifest, "/parameters") / number(manifest, "/model/parameters")
}

/// The tiny model has four layers.
#[test]
fn layers_go_in_both_formats_and_by_the_plan() {
    let bench = Bench::new(tiny());
    let manifest = bench.prune("out", "--drop-layers 2 --format hf,gguf");
    let costs = manifest["depth"]["chosen"]["layers"].as_array().unwrap();
    assert_eq!((costs.len(), removed(&manifest).len()), (2, 2));
    assert_eq!(manifest["depth"]["chosen"]["metric"], "influence");
    assert_eq!(manifest["settings"]["recipe"]["options"][0], "--drop-layers-by influence");
    let after = number(&manifest, "/evaluation/after/perplexity");
    for written in [bench.out("out"), bench.out("out").join("model.gguf")] {
        let found = bench.perplexity(&written);
        assert!((found / after - 1.0).abs() < SAME, "{found} {after}");
        let shown = json("inspect {model}", &[("model", &written)]);
        assert_eq!(shown["config"]["layers"].as_array().unwrap().len(), 2);
    }
    let (plan, again) = (bench.out("out").join("manifest.json"), bench.out("again"));
    let paths = [("model", &*bench.model), ("plan", &*plan), ("out", &*again)];
    json("apply {model} --plan {plan} --out {out} --save-dtype f32", &paths);
    assert!((bench.perplexity(&again) / after - 1.0).abs() < SAME);
    // Named, the same layers make the same model.
    let [a, b] = removed(&manifest)[..] else { panic!("{manifest}") };
    let named = bench.prune("named", &format!("--drop-layers {a},{b}"));
    assert!(named["depth"]["chosen"].is_null());
    assert_eq!(named["plan"], manifest["plan"]);
    // What a person reads.
    let out = bench.out("shown");
    let line = "prune {model} --drop-layers 1-2 --out {out}";
    let shown = succeed(line, &bench.paths(&out));
    assert!(shown.contains("4 → 2 layers, without 1, 2"), "{shown}");
}

/// The first to go is the layer without which the loss grows least, of all of them tried.
#[test]
fn the_cheapest_layer_goes_first() {
    let bench = Bench::new(tiny());
    for metric in ["loss", "influence"] {
        let options = format!("--drop-layers 3 --drop-layers-by {metric}");
        let manifest = bench.prune(metric, &options);
        let chosen = &manifest["depth"]["chosen"];
        assert_eq!(
            (&chosen["metric"], chosen["samples"]["windows"].as_u64()),
            (&metric.into(), Some(16))
        );
        let costs = chosen["layers"].as_array().unwrap();
        let costs: Vec<f64> = costs.iter().map(|of| number(of, "/cost")).collect();
        if metric == "influence" {
            assert!(costs.is_sorted() && costs[0] > 0.0, "{costs:?}");
        }
        let first = chosen["layers"][0]["layer"].as_u64().unwrap();
        let alone = bench.prune("alone", "--drop-layers 1 --drop-layers-by loss");
        if metric == "loss" {
            assert_eq!(removed(&alone), [first]);
        }
    }
}

/// Layers count towards the ratio; widths, masks and fits are those of the model that is left.
#[test]
fn layers_and_widths_make_one_ratio() {
    let bench = Bench::new(tiny());
    let alone = share(&bench.prune("alone", "--drop-layers 1"));
    let ratio = alone + 0.1;
    for options in [
        "--fast",
        "--fast --compensate --compensate-samples 8 --compensate-tokens 32",
        "--learn-masks 3 --mask-samples 24 --mask-tokens 16",
        "--fast --drop-attention 1",
        "--importance param_first --sensitivity",
    ] {
        let manifest = bench.prune("both", &format!("--drop-layers 1 --ratio {ratio} {options}"));
        assert!((share(&manifest) - ratio).abs() < 0.002, "{options}: {}", share(&manifest));
        assert_eq!(number(&manifest, "/plan/requested_ratio"), ratio);
        let gone = removed(&manifest)[0] as usize;
        let layers = manifest["plan"]["layers"].as_array().unwrap();
        for (layer, kept) in layers.iter().enumerate() {
            assert_eq!(kept["ffn"].as_array().unwrap().is_empty(), layer == gone, "{options}");
        }
        assert_eq!(manifest["masks"].is_object(), options.contains("learn-masks"));
        assert_eq!(manifest["compensation"].is_object(), options.contains("compensate"));
        let found = bench.perplexity(&bench.out("both"));
        let after = number(&manifest, "/evaluation/after/perplexity");
        assert!((found / after - 1.0).abs() < SAME, "{options}: {found} {after}");
        // As one plan, also with masks learned anew.
        let (plan, again) = (bench.out("both").join("manifest.json"), bench.out("again"));
        let paths = [
            ("model", &*bench.model),
            ("plan", &*plan),
            ("out", &*again),
            ("text", &*bench.corpus),
        ];
        let line = "apply {model} --plan {plan} --out {out} --save-dtype f32 --force";
        let applied = json(line, &paths);
        assert_eq!(applied["plan"], manifest["plan"], "{options}");
        let masks = " --learn-masks 2 --mask-text {text} --mask-samples 24 --mask-tokens 16";
        let learned = json(&format!("{line}{masks}"), &paths);
        assert_eq!(learned["parameters"], manifest["parameters"]);
        assert!(learned["plan"]["layers"][gone]["ffn"].as_array().unwrap().is_empty());
    }
    // With fewer tokens as well.
    let options = format!("--drop-layers 1 --vocab 400 --ratio {ratio} --fast");
    let manifest = bench.prune("all", &options);
    assert!((share(&manifest) - ratio).abs() < 0.002, "{}", share(&manifest));
    assert_eq!(number(&manifest, "/vocabulary/tokens"), 400.0);
    let found = bench.perplexity(&bench.out("all"));
    let after = number(&manifest, "/evaluation/after/perplexity");
    assert!((found / after - 1.0).abs() < SAME, "{found} {after}");
    // What the layers take alone may be more than was asked for.
    let warned = bench.prune("more", "--drop-layers 2 --ratio 0.05");
    assert!(warned["warnings"].to_string().contains("the layers that go are more than that"));
    // Where widths are cut and miss it by their steps, that is what is said, of the whole.
    let coarse = bench.prune("coarse", "--drop-layers 1 --ratio 0.3 --fast --multiple-of 32");
    let warnings = coarse["warnings"].to_string();
    assert!(warnings.contains("ratio: 0.3 asked") && warnings.contains("are no closer"));
    assert!(!warnings.contains("more than that,"), "{warnings}");
}

/// A fit makes up for layers alone.
#[test]
fn layers_alone_are_made_up_for() {
    let bench = Bench::new(tiny());
    let options = "--drop-layers 1-1 --compensate --compensate-samples 32 --compensate-tokens 64";
    let manifest = bench.prune("fitted", options);
    let refits = manifest["compensation"]["refits"].as_array().unwrap();
    assert_eq!((refits.len(), &refits[0]["layer"]), (1, &0.into()));
    let loss = &manifest["compensation"]["loss"];
    assert!(number(loss, "/with") < number(loss, "/without"), "{loss}");
}

/// Every family without its second layer: windows and rotations go with their layers, in all
/// formats that hold the model.
#[test]
fn layers_of_every_family_go() {
    for name in [
        "falcon",
        "falcon_40b",
        "gemma2",
        "gemma3",
        "gpt_neox",
        "granite",
        "mistral_windows",
        "mixtral",
        "olmo2",
        "olmoe",
        "opt",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    ] {
        let bench = Bench::new(model(name));
        let out = bench.out("out");
        let line = "prune {model} --drop-layers 1-1 --save-dtype f32 --out {out} --text {text} \
                    --window 32 --limit 4";
        let manifest = json(line, &bench.paths(&out))["manifest"].clone();
        assert_eq!(removed(&manifest), [1], "{name}");
        let line = "eval {out} --text {text} --window 32 --limit 4";
        let found = number(&json(line, &bench.paths(&out)), "/perplexity");
        let after = number(&manifest, "/evaluation/after/perplexity");
        assert!((found / after - 1.0).abs() < SAME, "{name}: {found} {after}");
    }
}

#[test]
fn what_cannot_go_is_refused() {
    let bench = Bench::new(tiny());
    for (options, message) in [
        ("--drop-layers 4", "expected from 1 to 3 of the model's 4 layers, found 4"),
        ("--drop-layers 0", "expected from 1 to 3 of the model's 4 layers, found 0"),
        ("--drop-layers 3,4", "no layer 4: the model has layers 0 to 3"),
        ("--drop-layers 0-3", "found 4"),
        ("--ratio 0.1 --drop-layers-by loss", "no layers are chosen by it"),
        ("--drop-layers 1-1 --drop-layers-by loss", "no layers are chosen by it"),
        ("--drop-layers 1-1 --learn-masks 5", "only whole layers are removed"),
        ("--drop-layers 1-1 --sensitivity", "only whole layers are removed"),
    ] {
        let refused = bench.refused(&format!("{options} --calibration {{corpus}}"));
        assert!(refused.contains(message), "{options}: {refused}");
        assert!(!bench.out("refused").exists());
    }
    let out = bench.out("refused");
    let line = words("prune {model} --drop-layers x --out {out}", &bench.paths(&out));
    let odd = command(line).output().unwrap();
    assert_eq!(odd.status.code(), Some(2));
    assert!(stderr(&odd).contains("expected a number of layers, or layers as 20,22 or 20-23"));
}
