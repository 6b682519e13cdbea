//! Whole experts removed: alone and with widths, layers and tokens, in both formats.

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
    fn new(name: &str) -> Self {
        let (dir, tiny) = (tempdir().unwrap(), tiny());
        let (text, corpus) = (tiny.join("text.txt"), tiny.join("calibration.txt"));
        Self { dir, model: model(name), text, corpus }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn paths<'a>(&'a self, out: &'a Path) -> [(&'static str, &'a Path); 4] {
        [("model", &self.model), ("text", &self.text), ("corpus", &self.corpus), ("out", out)]
    }

    /// `prune` with options, to a folder of this name; the report.
    fn report(&self, name: &str, options: &str) -> Value {
        let out = self.out(name);
        let line = "prune {model} --save-dtype f32 --gguf-type f32 --calibration {corpus} \
                    --samples 16 --sample-tokens 16 --text {text} --window 32 --limit 6 \
                    --allow-overlap --out {out} --force ";
        json(&format!("{line}{options}"), &self.paths(&out))
    }

    /// Its manifest.
    fn prune(&self, name: &str, options: &str) -> Value {
        self.report(name, options)["manifest"].clone()
    }

    fn refused(&self, options: &str) -> String {
        let out = self.out("refused");
        let line =
            "prune {model} --calibration {corpus} --samples 16 --sample-tokens 16 --out {out}";
        fail(&format!("{line} {options}"), &self.paths(&out))
    }

    fn perplexity(&self, model: &Path) -> f64 {
        let paths = [("model", model), ("text", &*self.text)];
        number(&json("eval {model} --text {text} --window 32 --limit 6", &paths), "/perplexity")
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// The experts that stay in each layer.
fn kept(manifest: &Value) -> Vec<Vec<u64>> {
    let layers = manifest["experts"]["layers"].as_array().unwrap().iter();
    let own = |layer: &Value| {
        let kept = layer["kept"].as_array().unwrap().iter();
        kept.map(|expert| expert.as_u64().unwrap()).collect()
    };
    layers.map(own).collect()
}

fn share(manifest: &Value) -> f64 {
    1.0 - number(manifest, "/parameters") / number(manifest, "/model/parameters")
}

/// Qwen 3 MoE has eleven experts, OLMoE six, Mixtral four, whose windows GGUF cannot hold.
#[test]
fn experts_go_in_both_formats_and_by_the_plan() {
    for (name, removed, before, formats) in [
        ("qwen3_moe", "4", 11, "hf,gguf"),
        ("olmoe", "50%", 6, "hf,gguf"),
        ("mixtral", "0.25", 4, "hf"),
    ] {
        let bench = Bench::new(name);
        let manifest = bench.prune("out", &format!("--drop-experts {removed} --format {formats}"));
        let record = &manifest["experts"];
        let after = record["after"].as_u64().unwrap();
        assert_eq!(record["before"], before, "{name}");
        assert_eq!(
            (&record["metric"], &record["samples"]["windows"]),
            (&"reap-sum".into(), &16.into())
        );
        assert_eq!(manifest["settings"]["recipe"]["options"][0], "--drop-experts-by reap-sum");
        for own in kept(&manifest) {
            assert_eq!(own.len() as u64, after, "{name}");
        }
        let measured = number(&manifest, "/evaluation/after/perplexity");
        let mut written = vec![bench.out("out")];
        if formats.contains("gguf") {
            written.push(bench.out("out").join("model.gguf"));
        }
        for written in written {
            let found = bench.perplexity(&written);
            assert!((found / measured - 1.0).abs() < SAME, "{name}: {found} {measured}");
            let shown = json("inspect {model}", &[("model", &written)]);
            assert_eq!(shown["config"]["experts"]["count"], after, "{name}");
            assert_eq!(number(&shown, "/parameters"), number(&manifest, "/parameters"));
        }
        let (plan, again) = (bench.out("out").join("manifest.json"), bench.out("again"));
        let paths = [("model", &*bench.model), ("plan", &*plan), ("out", &*again)];
        let applied = json("apply {model} --plan {plan} --out {out} --save-dtype f32", &paths);
        assert_eq!(applied["plan"], manifest["plan"], "{name}");
        assert!((bench.perplexity(&again) / measured - 1.0).abs() < SAME);
        // What a person reads, and the plan of another model.
        let out = bench.out("shown");
        let line = format!("prune {{model}} --drop-experts {removed} --calibration {{corpus}}");
        let shown = succeed(&format!("{line} --samples 8 --out {{out}}"), &bench.paths(&out));
        assert!(shown.contains(&format!("{before} → {after} in each layer")), "{shown}");
        let other = [("model", &*model("qwen3")), ("plan", &*plan), ("out", &*out)];
        let refused = fail("apply {model} --plan {plan} --out {out} --force", &other);
        assert!(refused.contains("plan") || refused.contains("model"), "{refused}");
    }
}

/// The experts with the smallest scores go; the control is drawn from the seed.
#[test]
fn experts_go_by_their_scores() {
    let bench = Bench::new("qwen3_moe");
    let mut choices = Vec::new();
    for metric in ["reap", "reap-sum", "frequency", "taylor"] {
        let options = format!("--drop-experts 6 --drop-experts-by {metric}");
        let manifest = bench.prune(metric, &options);
        for layer in manifest["experts"]["layers"].as_array().unwrap() {
            let scores: Vec<f64> =
                layer["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
            assert_eq!(scores.len(), 11, "{metric}");
            let kept: Vec<usize> = layer["kept"]
                .as_array()
                .unwrap()
                .iter()
                .map(|expert| expert.as_u64().unwrap() as usize)
                .collect();
            let gone = (0..11).filter(|expert| !kept.contains(expert));
            let most = gone.map(|expert| scores[expert]).fold(0.0, f64::max);
            assert!(kept.iter().all(|&expert| scores[expert] >= most), "{metric}: {layer}");
        }
        choices.push(kept(&manifest));
    }
    assert_ne!(choices[0], choices[2]);
    // Sets of experts, by what the layers give.
    let options = "--drop-experts 6 --drop-experts-by reconstruction";
    let manifest = bench.prune("reconstruction", options);
    assert!(kept(&manifest).iter().all(|own| own.len() == 5));
    assert_eq!(manifest["experts"]["samples"]["windows"], 16);
    let line = "prune {model} --drop-experts 6 --drop-experts-by random --out {out} --force";
    let out = bench.out("random");
    let drawn = |seed: u32| {
        let made = json(&format!("{line} --seed {seed}"), &bench.paths(&out));
        assert!(made["manifest"]["experts"]["samples"].is_null());
        kept(&made["manifest"])
    };
    let (first, second) = (drawn(1), drawn(2));
    assert_eq!(first, drawn(1));
    assert_ne!(first, second);
}

/// Experts count towards a ratio and a size; widths are those of the model that is left.
#[test]
fn experts_and_widths_make_one_cut() {
    let bench = Bench::new("qwen3_moe");
    let alone = share(&bench.prune("alone", "--drop-experts 4"));
    let ratio = alone + 0.12;
    // A channel of every expert is up to 3 % of all.
    let near = |found: f64, what: &str| assert!((found - ratio).abs() < 0.03, "{what}: {found}");
    for options in ["--fast", "--importance param_first", "--fast --layout uniform"] {
        let options = format!("--drop-experts 4 --ratio {ratio} {options}");
        let manifest = bench.prune("both", &options);
        near(share(&manifest), &options);
        assert_eq!(number(&manifest, "/plan/requested_ratio"), ratio);
        let found = bench.perplexity(&bench.out("both"));
        let after = number(&manifest, "/evaluation/after/perplexity");
        assert!((found / after - 1.0).abs() < SAME, "{options}: {found} {after}");
        let (plan, again) = (bench.out("both").join("manifest.json"), bench.out("again"));
        let paths = [("model", &*bench.model), ("plan", &*plan), ("out", &*again)];
        let line = "apply {model} --plan {plan} --out {out} --save-dtype f32 --force";
        assert_eq!(json(line, &paths)["plan"], manifest["plan"], "{options}");
        assert!((bench.perplexity(&again) / after - 1.0).abs() < SAME);
    }
    let dense = number(&json("inspect {model}", &[("model", &bench.model)]), "/parameters");
    let parameters = ((1.0 - ratio) * dense).round();
    let options = format!("--drop-experts 4 --target-params {parameters} --fast");
    near(share(&bench.prune("params", &options)), &options);

    // Layers and tokens as well.
    let options = "--drop-experts 5 --drop-layers 1 --vocab 262 --ratio 0.45 --fast";
    let manifest = bench.prune("all", options);
    assert_eq!((number(&manifest, "/experts/after"), kept(&manifest).len()), (6.0, 1));
    assert_eq!(number(&manifest, "/plan/requested_ratio"), 0.45);
    let found = bench.perplexity(&bench.out("all"));
    let after = number(&manifest, "/evaluation/after/perplexity");
    assert!((found / after - 1.0).abs() < SAME, "{found} {after}");
    let warned = bench.prune("more", "--drop-experts 8 --ratio 0.05");
    let warnings = warned["warnings"].to_string();
    assert!(warnings.contains("the experts that go are more than that"), "{warnings}");
}

/// A dry run tells parameters and bytes; a size is met.
#[test]
fn sizes_are_foreseen() {
    let bench = Bench::new("olmoe");
    for (options, format) in
        [("--drop-experts 2 --format gguf", "gguf"), ("--drop-experts 1 --format hf", "hf")]
    {
        let dry = bench.report("dry", &format!("{options} --dry-run"));
        assert!(dry["manifest"].is_null() && !bench.out("dry").exists());
        let written = bench.report("written", options);
        assert_eq!(dry["footprint"], written["footprint"], "{options}");
        assert_eq!(dry["experts"], written["experts"]);
        assert_eq!(dry["plan"], written["plan"]);
        assert_eq!(dry["full_plan"], written["manifest"]["plan"]);
        let foreseen = written["footprint"]["files"][0]["bytes"].as_u64().unwrap();
        assert_eq!(written["footprint"]["files"][0]["format"], format);
        let files = written["manifest"]["files"].as_array().unwrap();
        let bytes: u64 = files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
        assert!(bytes >= foreseen, "{bytes} {foreseen}");
        if format == "gguf" {
            let file = std::fs::metadata(bench.out("written").join("model.gguf")).unwrap();
            assert_eq!(file.len(), foreseen);
        }
    }
    let whole = bench.report("whole", "--drop-experts 2 --format gguf --dry-run");
    let bytes = whole["footprint"]["files"][0]["bytes"].as_u64().unwrap();
    let target = bytes - bytes / 20;
    let options = format!(
        "--drop-experts 2 --target-size {target} --format gguf --fast \
                           --layout uniform --attention-share 0"
    );
    let made = bench.report("sized", &options);
    let found = made["footprint"]["files"][0]["bytes"].as_u64().unwrap();
    assert!(found <= target && found > target - target / 8, "{found} {target}");
    assert_eq!(number(&made["manifest"], "/experts/after"), 4.0);
}

#[test]
fn what_cannot_go_is_refused() {
    let bench = Bench::new("qwen3_moe");
    for (options, message) in [
        ("--drop-experts 0", "0 of 11 experts is none: from 1 to 9 of each layer can go"),
        ("--drop-experts 5%", "5% of 11 experts is none"),
        ("--drop-experts 11", "11 of 11 experts leaves none"),
        ("--drop-experts 10", "10 of 11 experts leave 1, and each token takes 2: from 1 to 9"),
        ("--drop-experts-by reap --ratio 0.1", "no experts are chosen by it"),
        ("--drop-experts 2 --learn-masks 5", "learning masks is not supported for Qwen 3 MoE"),
        ("--drop-experts 2 --compensate", "compensation is not supported for Qwen 3 MoE"),
        ("--drop-experts 2 --sensitivity", "only whole experts are removed"),
        ("--drop-experts 2 --drop-layers 1 --sensitivity", "only whole layers and experts are"),
    ] {
        let refused = bench.refused(options);
        assert!(refused.contains(message), "{options}: {refused}");
        assert!(!bench.out("refused").exists());
    }
    let dense = Bench::new("qwen3").refused("--drop-experts 1");
    assert!(dense.contains("the model has no experts") && dense.contains("--ratio"), "{dense}");
    let out = bench.out("refused");
    for odd in ["x", "-1", "150%", "1.5"] {
        let line = format!("prune {{model}} --drop-experts {odd} --out {{out}}");
        let refused = command(words(&line, &bench.paths(&out))).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{odd}");
        assert!(stderr(&refused).contains("expected a number of experts or a share"), "{odd}");
    }
}
