//! Sizes: foreseen to the byte, and asked for.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::{fail, json, succeed, tiny};

struct Bench {
    dir: TempDir,
    model: PathBuf,
    text: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let (dir, model) = (tempdir().unwrap(), tiny());
        Self { dir, text: model.join("calibration.txt"), model }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn paths<'a>(&'a self, out: &'a Path) -> [(&'static str, &'a Path); 3] {
        [("model", &self.model), ("text", &self.text), ("out", out)]
    }

    fn prune(&self, options: &str) -> Value {
        let out = self.out();
        let line = "prune {model} --calibration {text} --samples 8 --sample-tokens 32 --out {out} \
                    --force ";
        json(&format!("{line}{options}"), &self.paths(&out))
    }

    /// Bytes of the files that were written in a format.
    fn written(&self, report: &Value, gguf: bool) -> u64 {
        let files = report["manifest"]["files"].as_array().unwrap();
        let of = files.iter().filter(|file| (file["name"] == "model.gguf") == gguf);
        of.map(|file| {
            let path = self.out().join(file["name"].as_str().unwrap());
            let bytes = path.metadata().unwrap().len();
            assert_eq!(file["bytes"].as_u64(), Some(bytes));
            bytes
        })
        .sum()
    }
}

fn foreseen(report: &Value, format: &str) -> u64 {
    let files = report["footprint"]["files"].as_array().unwrap();
    let of = files.iter().find(|file| file["format"] == format).unwrap();
    of["bytes"].as_u64().unwrap()
}

/// `apply` and `export` foresee sizes as `prune` does, and write nothing.
#[test]
fn sizes_of_plans_and_exports_are_foreseen() {
    let bench = Bench::new();
    let (out, plan) = (bench.out(), bench.dir.path().join("plan.json"));
    let (applied, fresh) = (bench.dir.path().join("applied"), bench.dir.path().join("fresh"));
    let pruned = bench.prune("--ratio 0.2 --fast");
    std::fs::copy(out.join("manifest.json"), &plan).unwrap();
    let paths = [
        ("model", bench.model.as_path()),
        ("plan", &plan),
        ("applied", &applied),
        ("fresh", &fresh),
    ];
    let bytes = |manifest: &Value| manifest["files"][0]["bytes"].as_u64().unwrap();
    for kind in ["f32", "q8_0"] {
        let form = format!("--format gguf --gguf-type {kind}");
        let dry = json(&format!("apply {{model}} --plan {{plan}} {form} --dry-run"), &paths);
        let written = json(
            &format!("apply {{model}} --plan {{plan}} {form} --out {{applied}} --force"),
            &paths,
        );
        assert_eq!(foreseen(&dry, "gguf"), bytes(&written));
        assert_eq!(dry["plan"], pruned["plan"]);
        let dry = json(&format!("export {{model}} {form} --dry-run"), &paths);
        let written = json(&format!("export {{model}} {form} --out {{applied}} --force"), &paths);
        assert_eq!(foreseen(&dry, "gguf"), bytes(&written));
        assert_eq!(dry["parameters"], pruned["plan"]["parameters_before"]);
    }
    succeed("apply {model} --plan {plan} --out {fresh} --dry-run", &paths);
    succeed("export {model} --out {fresh} --dry-run", &paths);
    assert!(!fresh.exists());
    // What is written needs a place.
    assert!(fail("export {model}", &paths).contains("out: missing"));
}

/// What cannot be written as asked is refused by a dry run, too.
#[test]
fn a_dry_run_refuses_what_the_run_would() {
    let model = crate::program::model("opt");
    let text = tiny().join("calibration.txt");
    let paths = [("model", model.as_path()), ("text", text.as_path())];
    let said = fail("export {model} --format gguf --dry-run", &paths);
    assert!(said.contains("GGUF") || said.contains("gguf"), "{said}");
    let line = "prune {model} --ratio 0.2 --calibration {text} --fast --format gguf --dry-run";
    assert_eq!(fail(line, &paths), said);
}

/// What a dry run says of a file is what the file has.
#[test]
fn sizes_are_foreseen_to_the_byte() {
    let bench = Bench::new();
    for options in [
        "--ratio 0.2 --fast",
        "--ratio 0.2 --fast --layout uniform --save-dtype f32 --gguf-type q8_0",
        "--ratio 0.1 --fast --gguf-type q4_k_m",
        "--drop-layers 1-2 --gguf-type q4_0",
        "--vocab 400 --gguf-type bf16",
        "--ratio 0.3 --fast --drop-attention 2 --gguf-type f32",
    ] {
        let options = format!("{options} --format hf,gguf");
        let report = bench.prune(&options);
        let dry = bench.prune(&format!("{options} --dry-run"));
        assert_eq!(dry["footprint"], report["footprint"], "{options}");
        for (format, gguf) in [("hf", false), ("gguf", true)] {
            let (said, found) = (foreseen(&dry, format), bench.written(&report, gguf));
            assert_eq!(said, found, "{options}: {format}");
        }
    }
    // The cache of four layers with two key-value heads of 16, in 16 bits, and of two.
    let dry = bench.prune("--drop-layers 1-2 --dry-run");
    assert_eq!(dry["footprint"]["cache_bytes_before"], 4 * 2 * 2 * 16 * 2);
    assert_eq!(dry["footprint"]["cache_bytes_after"], 2 * 2 * 2 * 16 * 2);
}

/// The largest model that fits: not larger than asked, and not smaller by more than a step.
#[test]
fn a_size_is_reached_and_not_overshot() {
    let bench = Bench::new();
    let whole = bench.prune("--drop-layers 1-1 --format hf,gguf --dry-run");
    for (options, format, gguf, least) in [
        ("--fast", "hf", false, 0.99),
        ("--fast --format hf,gguf", "gguf", true, 0.99),
        // A step of 32 channels is a thirtieth of the file.
        ("--fast --format gguf --gguf-type q8_0", "gguf", true, 0.96),
        ("--fast --format gguf --allocation global", "gguf", true, 0.99),
        ("--drop-layers 1 --fast --format gguf", "gguf", true, 0.99),
        ("--vocab 400 --fast --format gguf", "gguf", true, 0.99),
        ("--learn-masks 2 --mask-samples 24 --mask-tokens 16", "hf", false, 0.99),
    ] {
        // What the model without a layer takes, a little less.
        let q8 = options.contains("q8_0");
        let size = (foreseen(&whole, format) as f64 * if q8 { 0.6 } else { 0.97 }) as u64;
        let report = bench.prune(&format!("--target-size {size} {options}"));
        let found = bench.written(&report, gguf);
        assert!(found <= size && found as f64 >= least * size as f64, "{options}: {found} {size}");
        let manifest = &report["manifest"];
        assert_eq!(manifest["settings"]["target"]["bytes"], size);
        assert_eq!(manifest["plan"]["requested_ratio"], manifest["settings"]["plan"]["ratio"]);
        let chosen = report["recipe"]["options"].to_string();
        assert_eq!(chosen.contains("--multiple-of 32"), q8, "{options}: {chosen}");
        if q8 {
            let layers = manifest["plan"]["layers"].as_array().unwrap();
            let widths = layers.iter().map(|kept| kept["ffn"].as_array().unwrap().len());
            assert!(widths.into_iter().all(|width| width % 32 == 0));
            assert!(!manifest["warnings"].to_string().contains("stored as F16"));
        }
    }
}

#[test]
fn sizes_out_of_reach_are_refused_with_what_can_be_reached() {
    let bench = Bench::new();
    let refused = |options: &str| {
        let out = bench.out();
        let line = format!("prune {{model}} --calibration {{text}} --out {{out}} {options}");
        fail(&line, &bench.paths(&out))
    };
    let small = refused("--target-size 10kB --fast");
    assert!(small.contains("10000 bytes asked, these options reach"), "{small}");
    assert!(small.contains("--gguf-type q4_k_m"), "{small}");
    let large = refused("--target-size 1GB --fast");
    assert!(large.contains("as it would be written"), "{large}");
    // Tokens may be enough.
    let size = foreseen(&bench.prune("--vocab 400 --dry-run"), "hf");
    let report = bench.prune(&format!("--target-size {size} --vocab 400"));
    assert!(report["manifest"]["plan"]["layers"][1]["ffn"].as_array().unwrap().len() == 128);
    assert!(bench.written(&report, false) <= size);
}

/// A model that is stored in more bits than before is said to be larger.
#[test]
fn a_file_larger_than_the_source_is_said() {
    let bench = Bench::new();
    let small = bench.dir.path().join("small");
    let paths = [("model", &*bench.model), ("out", &*small)];
    json("export {model} --out {out} --format gguf --gguf-type q4_0", &paths);
    let (file, back) = (small.join("model.gguf"), bench.dir.path().join("back"));
    let paths = [("model", &*file), ("out", &*back)];
    let manifest = json("export {model} --out {out}", &paths);
    let warnings = manifest["warnings"].to_string();
    assert!(warnings.contains("hf: the weights take") && warnings.contains("--gguf-type q4_k_m"));
    let same = bench.dir.path().join("same");
    let paths = [("model", &*bench.model), ("out", &*same)];
    let shown = succeed("export {model} --out {out} --format hf", &paths);
    assert!(!shown.contains("times the"), "{shown}");
}
