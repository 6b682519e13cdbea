//! `eval --tasks`: what is printed and written, and what is refused.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{command, json, stderr, succeed, tiny, words};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tasks")
}

const SEVEN: &str = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa";

#[test]
fn results_have_the_layout_of_the_harness_and_say_what_they_are_of() {
    let (model, data, dir) = (tiny(), data(), tempdir().unwrap());
    let log = dir.path().join("answers.jsonl");
    let paths = [("model", model.as_path()), ("data", &data), ("log", &log)];
    let line = format!("eval {{model}} --tasks {SEVEN},wikitext --data-dir {{data}}");
    let report = json(&format!("{line} --log-samples {{log}}"), &paths);
    // The harness's own figures are compared in the tests of adapruner-eval.
    assert_eq!(report["results"]["boolq"]["acc,none"], 0.375);
    assert_eq!(report["results"]["arc_challenge"]["acc_norm,none"], 0.6);
    assert_eq!(report["n-samples"]["piqa"], serde_json::json!({"original": 8, "effective": 8}));
    assert!(report["results"]["wikitext"]["word_perplexity,none"].as_f64().unwrap() > 1e5);
    assert_eq!(report["data"]["boolq"]["truncated_requests"], 2);
    assert_eq!(report["data"]["piqa"]["files"].as_array().unwrap().len(), 2);
    assert_eq!(report["data"]["piqa"]["files"][1]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(report["means"]["literature"]["of"].as_array().unwrap().len(), 7);
    assert!(report["means"]["acc_norm_where_defined"]["value"].is_number());
    assert_eq!(report["model_digest"].as_str().unwrap().len(), 64);
    assert!(report["version"].is_string() && report["dtype"] == "bf16");

    let answers = std::fs::read_to_string(&log).unwrap();
    let answers: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 6 * 8 + 5);
    let of_boolq = answers.iter().filter(|answer| answer["task"] == "boolq");
    let right = of_boolq.filter(|answer| answer["predictions"][0]["right"] == true).count();
    assert_eq!(right, 3);

    let shown = succeed(&line, &paths);
    for words in ["boolq", "8 of 8", "0.3750 ± 0.1830", "as in the literature", "word perplexity"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_text_and_limited_tasks_in_one_run() {
    let (model, data) = (tiny(), data());
    let text = model.join("text.txt");
    let paths = [("model", model.as_path()), ("data", &data), ("text", &text)];
    let line = "eval {model} --text {text} --tasks piqa --data-dir {data} --limit 3";
    let report = json(line, &paths);
    assert_eq!(report["n-samples"]["piqa"]["effective"], 3);
    assert_eq!(report["perplexity"]["windows"], 3);
    assert!(report["means"].get("literature").is_none());
    let line = "eval {model} --tasks piqa --data-dir {data} --sample 3 --seed 7";
    assert_eq!(json(line, &paths)["results"], json(line, &paths)["results"]);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (model, data, dir) = (tiny(), data(), tempdir().unwrap());
    let log = dir.path().join("answers.jsonl");
    let own = dir.path().join("own.toml");
    std::fs::write(&own, "name = \"own\"\nfiles = [\"own.jsonl\"]\n").unwrap();
    let paths = [
        ("model", model.as_path()),
        ("data", &data),
        ("log", &log),
        ("dir", dir.path()),
        ("own", &own),
    ];
    for (line, expected) in [
        ("--tasks hellaswga --data-dir {data}", "did you mean hellaswag?"),
        ("--tasks piqa,piqa --data-dir {data}", "task piqa: given twice"),
        ("--tasks piqa --data-dir {dir}", "hint: name the folder of the data sets"),
        ("--tasks piqa", "no data folder was given"),
        ("--task-file {own}", "own.toml: TOML parse error"),
        ("--tasks piqa --data-dir {data} --limit 0", "expected at least one question"),
        ("", "or tasks, --tasks boolq,piqa"),
    ] {
        let line = format!("eval {{model}} {line} --log-samples {{log}}");
        let output = command(words(&line, &paths)).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(stderr(&output).contains(expected), "{line}: {}", stderr(&output));
        assert!(!log.exists(), "{line}");
    }
    std::fs::write(&log, "kept").unwrap();
    let line = "eval {model} --tasks piqa --data-dir {data} --log-samples {log}";
    let output = command(words(line, &paths)).output().unwrap();
    assert!(stderr(&output).contains("already exists"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "kept");
    succeed(&format!("{line} --force"), &paths);
}
