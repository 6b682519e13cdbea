//! Every family through the whole program: searched, applied, compensated, its masks learned,
//! trained, merged, run.

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{fail, json, model, succeed, tiny};

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// The whole job on a fixture; `adapter` where its adapters are PEFT's.
fn whole(name: &str, adapter: bool) {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (model, text, test) =
        (model(name), tiny().join("calibration.txt"), tiny().join("text.txt"));
    let (study, cut, masked) = (at("study"), at("cut"), at("masked"));
    let (trained, full, merged) = (at("trained"), at("full"), at("merged"));
    let of_adapter = trained.join("adapter");
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("test", test.as_path()),
        ("study", study.as_path()),
        ("cut", cut.as_path()),
        ("masked", masked.as_path()),
        ("trained", trained.as_path()),
        ("full", full.as_path()),
        ("merged", merged.as_path()),
        ("adapter", of_adapter.as_path()),
    ];
    let perplexity = |model: &str| {
        let line = format!("eval {{{model}}} --text {{test}} --window 32 --limit 6");
        let found = number(&json(&line, &paths), "/perplexity");
        assert!(found.is_finite() && found > 1.0, "{name}, {model}: {found}");
        found
    };
    let dense = number(&json("inspect {model}", &paths), "/parameters");

    let found = json(
        "search {model} --ratio 0.1 --calibration {text} --samples 16 --sample-tokens 16 \
         --text {test} --window 32 --limit 4 --study {study} --trials 3 --allow-overlap",
        &paths,
    );
    assert_eq!(found["result"]["trials"]["completed"].as_u64().unwrap_or(3), 3, "{found}");
    let line = "apply {model} --study {study} --compensate --compensate-text {text} \
                --compensate-samples 12 --compensate-tokens 32 --out {cut}";
    let applied = json(line, &paths);
    assert!(number(&applied, "/parameters") <= 0.91 * dense, "{name}");
    assert!(applied["compensation"]["refits"].as_array().is_some_and(|all| !all.is_empty()));
    let before = perplexity("cut");

    let line = "prune {model} --ratio 0.1 --calibration {text} --samples 8 --sample-tokens 16 \
                --learn-masks 3 --mask-samples 24 --mask-tokens 16 --attention-share 0.2 \
                --save-dtype f32 --out {masked}";
    json(line, &paths);
    perplexity("masked");

    let training = "--data {text} --cutoff 32 --batch-size 4 --max-steps 6 --warmup 1 \
                    --validate-every 3 --save-dtype f32 --format hf";
    let line = format!(
        "recover {{cut}} --teacher {{model}} --rank 4 --learning-rate 1e-2 --out {{trained}} \
         {training}"
    );
    if !adapter {
        let error = fail(&line.replace(" --format hf", ""), &paths);
        assert!(error.contains("an adapter alone cannot be written"), "{error}");
    }
    let report = json(&line, &paths);
    assert_eq!(of_adapter.exists(), adapter, "{name}");
    let warned = report["manifest"]["warnings"].to_string().contains("adapter is merged");
    assert_eq!(warned, !adapter, "{report}");
    let after = perplexity("trained");
    assert!(after < before, "{name}: {before} → {after}");
    if adapter {
        succeed("merge {cut} --adapter {adapter} --out {merged} --save-dtype f32", &paths);
        let again = perplexity("merged");
        assert!((again / after - 1.0).abs() < 1e-6, "{name}: {after}, {again}");
    }
    let line =
        format!("recover {{cut}} --method full --learning-rate 1e-3 --out {{full}} {training}");
    json(&line, &paths);
    let after = perplexity("full");
    assert!(after < before, "{name}, all parameters: {before} → {after}");

    let line = "generate {trained} --raw --prompt river --max-tokens 8";
    succeed(line, &paths);
}

/// The whole job on a mixture of experts: what is not done to them is refused, the rest is.
fn mixture(name: &str, gguf: Option<&str>) {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (model, text, test) =
        (model(name), tiny().join("calibration.txt"), tiny().join("text.txt"));
    let (study, cut, even, file) = (at("study"), at("cut"), at("even"), at("file"));
    let (trained, full, merged) = (at("trained"), at("full"), at("merged"));
    let (of_adapter, written) = (trained.join("adapter"), file.join("model.gguf"));
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("test", test.as_path()),
        ("study", study.as_path()),
        ("cut", cut.as_path()),
        ("written", written.as_path()),
        ("even", even.as_path()),
        ("file", file.as_path()),
        ("trained", trained.as_path()),
        ("full", full.as_path()),
        ("merged", merged.as_path()),
        ("adapter", of_adapter.as_path()),
    ];
    let perplexity = |model: &str| {
        let line = format!("eval {{{model}}} --text {{test}} --window 32 --limit 6");
        let found = number(&json(&line, &paths), "/perplexity");
        assert!(found.is_finite() && found > 1.0, "{name}, {model}: {found}");
        found
    };
    let inspected = json("inspect {model}", &paths);
    let dense = number(&inspected, "/parameters");
    assert!(number(&inspected, "/active_parameters") < dense, "{name}");
    let shown = succeed("inspect {model}", &paths);
    assert!(shown.contains("for each token"), "{shown}");

    let line = "search {model} --ratio 0.1 --calibration {text} --samples 16 --sample-tokens 16 \
                --text {test} --window 32 --limit 4 --study {study} --trials 3 --allow-overlap";
    json(line, &paths);
    let applied = json("apply {model} --study {study} --out {cut} --format hf", &paths);
    // One channel of every expert is up to 3 % of all.
    assert!(number(&applied, "/parameters") <= 0.93 * dense, "{name}");
    let before = perplexity("cut");

    let calibrated = "prune {model} --ratio 0.2 --calibration {text} --samples 8 --sample-tokens 16 \
                      --layout uniform --attention-share 0 --save-dtype f32";
    for importance in ["param_first", "wanda", "flap", "param_mix", "magnitude_l2"] {
        let line = format!("{calibrated} --importance {importance} --dry-run");
        json(&line, &paths);
    }
    // Without masks, which is said.
    let made = json(&format!("{calibrated} --out {{even}} --format hf"), &paths);
    assert!(made["warnings"].to_string().contains("no masks were learned"), "{made}");
    perplexity("even");
    match gguf {
        None => {
            let line = format!("{calibrated} --out {{file}} --format gguf");
            assert!(fail(&line, &paths).contains("llama.cpp"), "{name}");
        }
        Some(architecture) => {
            json(&format!("{calibrated} --out {{file}} --format gguf"), &paths);
            let (folder, read) = (perplexity("even"), perplexity("written"));
            assert!((folder / read - 1.0).abs() < 1e-5, "{architecture}: {folder}, {read}");
        }
    }
    for (refused, option) in [
        ("--learn-masks 3 --mask-samples 24 --mask-tokens 16", "learn-masks"),
        ("--compensate --compensate-samples 12 --compensate-tokens 32", "compensate"),
    ] {
        let error = fail(&format!("{calibrated} {refused} --out {{full}}"), &paths);
        assert!(error.contains(option) && error.contains("is not supported"), "{error}");
        assert!(error.contains("hint: leave it out"), "{error}");
        assert!(!full.exists());
    }

    let training = "--data {text} --cutoff 32 --batch-size 4 --max-steps 6 --warmup 1 \
                    --validate-every 3 --save-dtype f32 --format hf";
    let lora = "recover {cut} --teacher {model} --rank 4 --learning-rate 1e-2 --out {trained}";
    let error = fail(&format!("{lora} --targets q,up {training}"), &paths);
    assert!(error.contains("targets") && error.contains("experts"), "{error}");
    json(&format!("{lora} {training}"), &paths);
    let after = perplexity("trained");
    assert!(after < before, "{name}: {before} → {after}");
    if of_adapter.exists() {
        succeed("merge {cut} --adapter {adapter} --out {merged} --save-dtype f32", &paths);
        let again = perplexity("merged");
        assert!((again / after - 1.0).abs() < 1e-6, "{name}: {after}, {again}");
    }
    let line =
        format!("recover {{cut}} --method full --learning-rate 1e-3 --out {{full}} {training}");
    json(&line, &paths);
    let after = perplexity("full");
    assert!(after < before, "{name}, all parameters: {before} → {after}");
    succeed("generate {trained} --raw --prompt river --max-tokens 8", &paths);
}

#[test]
fn qwen3_moe() {
    mixture("qwen3_moe", Some("qwen3moe"));
}

#[test]
fn olmoe() {
    mixture("olmoe", Some("olmoe"));
}

#[test]
fn mixtral() {
    mixture("mixtral", None);
}

macro_rules! families {
    ($($test:ident: $adapter:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                whole(stringify!($test), $adapter);
            }
        )*
    };
}

families!(
    falcon: false,
    falcon_11b: false,
    falcon_40b: false,
    gemma2: true,
    gemma3: true,
    gemma3_vision: true,
    gpt_neox: false,
    gpt_neox_sequential: false,
    granite: true,
    mistral3_vision: true,
    mistral_windows: true,
    olmo2: true,
    opt: true,
    opt_untied: true,
    phi3: false,
    phi3_long: false,
    qwen2: true,
    qwen2_windows: true,
    qwen3: true,
    smollm3: true,
);
