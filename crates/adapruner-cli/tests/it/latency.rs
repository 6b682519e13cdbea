//! `latency`: every figure is there and fits the others. How large they are
//! depends on the machine.

use crate::program::{fail, json, model, succeed, tiny};

const SHORT: &str = "--prompt-tokens 8,16 --new-tokens 4 --rounds 3";

#[test]
fn figures_of_one_model() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    let report = json(&format!("latency {{model}} {SHORT}"), &paths);
    let timings = report["timings"].as_array().unwrap();
    assert_eq!(timings.len(), 2);
    for (timing, prompt) in timings.iter().zip([8.0, 16.0]) {
        assert_eq!(timing["prompt_tokens"], prompt as u64);
        let of = |key: &str, which: &str| timing[key][which].as_f64().unwrap();
        for key in ["prefill_tokens_per_second", "first_token_seconds", "decode_tokens_per_second"]
        {
            assert!(of(key, "least") > 0.0 && of(key, "least") <= of(key, "median"), "{key}");
            assert!(of(key, "median") <= of(key, "largest"), "{key}");
        }
        // The fastest reading is the shortest time to the first token.
        let product =
            of("prefill_tokens_per_second", "largest") * of("first_token_seconds", "least");
        assert!((product - prompt).abs() < 1e-6 * prompt, "{product}");
    }
    let inspected = json("inspect {model}", &paths);
    assert_eq!(report["bytes"], inspected["bytes"]);
    assert_eq!(report["parameters"], inspected["parameters"]);
    assert!(report["peak_memory_bytes"].as_u64().unwrap() > report["bytes"].as_u64().unwrap());
    assert!(report.get("against").is_none() && report.get("ratios").is_none());
}

#[test]
fn against_another_model() {
    let (tiny, other) = (tiny(), model("mha_tied"));
    let paths = [("tiny", tiny.as_path()), ("other", &other)];
    let line = format!("latency {{other}} --against {{tiny}} {SHORT} --threads 1");
    let report = json(&line, &paths);
    assert!(report["model"].as_str().unwrap().ends_with("mha_tied"));
    assert!(report["against"]["model"].as_str().unwrap().ends_with("tiny"));
    assert_eq!(report["ratios"].as_array().unwrap().len(), 2);
    assert!(report["ratios"][0]["decode_tokens_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert!(report["peak_memory_bytes"].is_u64());
    assert!(report["against"]["peak_memory_bytes"].is_u64());
    let shown = succeed(&line, &paths);
    for words in ["peak memory", "first token after 8", "first divided by second", "3 rounds"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    for (options, expected) in [
        ("--rounds 0", "rounds: at least 1 expected"),
        ("--new-tokens 0", "new-tokens: at least 1 expected"),
        ("--prompt-tokens 0", "prompt-tokens: at least 1 expected"),
        ("--prompt-tokens 100000", "do not fit the context"),
        ("--new-tokens 100000", "at least one length expected, none found"),
    ] {
        let error = fail(&format!("latency {{model}} {options}"), &paths);
        assert!(error.contains(expected), "{options}: {error}");
    }
}
