//! `compare-models`: the table, and that it says what `eval` does.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{fail, json, succeed, tiny};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tasks")
}

#[test]
fn models_side_by_side() {
    let (model, data, dir) = (tiny(), data(), tempdir().unwrap());
    let (smaller, table) = (dir.path().join("smaller"), dir.path().join("table.md"));
    let text = model.join("text.txt");
    let paths = [
        ("model", model.as_path()),
        ("smaller", &smaller),
        ("text", &text),
        ("data", &data),
        ("table", &table),
    ];
    succeed("prune {model} {bare} --ratio 0.2 --importance magnitude_l1 --out {smaller}", &paths);
    let line = "compare-models {model} {smaller} --text {text} --window 32 --limit 4 --tasks \
                piqa,boolq --data-dir {data} --prompt-tokens 8 --new-tokens 4 --rounds 2";
    let report = json(line, &paths);
    let row = |name: &str| -> &Value {
        let rows = report["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"].as_str().unwrap().starts_with(name)).unwrap()
    };
    let number = |row: &Value, key: &str, at: usize| row[key][at].as_f64().unwrap();
    for (at, path) in ["{model}", "{smaller}"].into_iter().enumerate() {
        let eval = json(&format!("eval {path} --text {{text}} --window 32 --limit 4"), &paths);
        assert_eq!(row("perplexity")["values"][at], eval["perplexity"]);
        assert_eq!(row("parameters")["values"][at].as_f64(), eval["parameters"].as_f64());
        let eval = json(&format!("eval {path} --tasks piqa --data-dir {{data}} --limit 4"), &paths);
        assert_eq!(row("piqa, acc_norm")["values"][at], eval["results"]["piqa"]["acc_norm,none"]);
    }
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(number(row, "percent", 0), 100.0, "{row}");
    }
    let (parameters, perplexity) = (row("parameters"), row("perplexity"));
    let share = number(parameters, "values", 1) / number(parameters, "values", 0);
    assert!((number(parameters, "percent", 1) - 100.0 * share).abs() < 1e-9);
    let kept = number(perplexity, "values", 0) / number(perplexity, "values", 1);
    assert!((number(perplexity, "percent", 1) - 100.0 * kept).abs() < 1e-9);
    let ratio = report["latency"][1]["ratios"][0]["decode_tokens_per_second"]["median"].as_f64();
    let shown = number(row("generated tokens per second"), "percent", 1);
    assert!((shown - 100.0 * ratio.unwrap()).abs() < 1e-9);
    assert_eq!(report["notes"], serde_json::json!([]));

    // Standard errors are those of eval, and differences pair the same questions.
    let eval = json("eval {model} --tasks piqa --data-dir {data} --limit 4", &paths);
    let piqa = row("piqa, acc_norm");
    assert_eq!(piqa["sure"]["stderrs"][0], eval["results"]["piqa"]["acc_norm_stderr,none"]);
    assert_eq!(piqa["sure"]["chance"], 0.5);
    let difference = &piqa["sure"]["differences"][1];
    let values = number(piqa, "values", 1) - number(piqa, "values", 0);
    assert!((difference["value"].as_f64().unwrap() - values).abs() < 1e-12, "{piqa}");
    let (low, high) = (number(difference, "interval", 0), number(difference, "interval", 1));
    assert!(low < high, "{piqa}");
    let losses = &perplexity["sure"];
    assert!((number(losses, "losses", 1).exp() - number(perplexity, "values", 1)).abs() < 1e-9);
    let change = number(losses, "losses", 1) - number(losses, "losses", 0);
    let difference = &losses["differences"][1];
    assert!((difference["value"].as_f64().unwrap() - change).abs() < 1e-12, "{losses}");
    // Four windows are too few for an interval.
    assert!(difference["stderr"].is_number() && difference["interval"].is_null(), "{losses}");

    let line = format!("{line} --no-latency --out {{table}}");
    let shown = succeed(&line, &paths);
    assert_eq!(std::fs::read_to_string(&table).unwrap(), shown);
    assert!(shown.starts_with("|  |") && shown.contains("| parameters |"), "{shown}");
    assert!(!shown.contains("first token"), "{shown}");
    for part in ["retained above chance", "(guessing 0.500)", "Agresti", "none: fewer than 30"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let error = fail(&line, &paths);
    assert!(error.contains("already exists"), "{error}");
    succeed(&format!("{line} --force"), &paths);
}

#[test]
fn a_page_opens_with_the_last_model_and_draws_sizes() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let place = |name: &str| dir.path().join(name);
    let (smaller, small, page) = (place("smaller"), place("small"), place("page.html"));
    let (figures, svg, pruned) = (place("sizes.json"), place("sizes.svg"), place("pruned.html"));
    let text = model.join("text.txt");
    let paths = [
        ("model", model.as_path()),
        ("smaller", &smaller),
        ("small", &small),
        ("page", &page),
        ("figures", &figures),
        ("svg", &svg),
        ("pruned", &pruned),
        ("text", &text),
    ];
    let prune =
        "prune {model} {bare} --importance magnitude_l1 --text {text} --window 32 --limit 4";
    succeed(&format!("{prune} --ratio 0.1 --out {{smaller}} --report {{pruned}}"), &paths);
    let said = json(&format!("{prune} --ratio 0.2 --out {{small}}"), &paths);
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();

    // Of prune: the figures that it prints, and the widths.
    let shown = read(&pruned);
    for words in ["adapruner prune: ", "10.0 % fewer", "perplexity, ", "Kept widths"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }

    // Of a comparison: the last model's figures are those of its own measurement.
    let line = "compare-models {model} {smaller} {small} --text {text} --window 32 --limit 4 \
                --no-latency --out {figures} --report {page}";
    succeed(line, &paths);
    let shown = read(&page);
    let number = |of: &Value| of["perplexity"].as_f64().unwrap();
    let (before, after) = (&said["evaluation"]["before"], &said["evaluation"]["after"]);
    let verdict = format!("{:.2} → {:.2}", number(before), number(after));
    for words in [verdict.as_str(), "20.0 % fewer", "MB as stored", "Models side by side"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(fail(line, &paths).contains("--force"));

    // The recorded figures are drawn again, by themselves.
    succeed("report --models {figures} --out {svg}", &paths);
    let drawn = read(&svg);
    assert!(drawn.starts_with("<svg ") && drawn.contains("bits per byte"), "{drawn}");
    let again = json("report --models {figures} --out {page} --force", &paths);
    assert_eq!(again["studies"], 0);
    assert!(read(&page).contains(&verdict));
}

#[test]
fn a_picture_needs_models_that_were_measured() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (figures, svg) = (dir.path().join("sizes.json"), dir.path().join("sizes.svg"));
    let paths = [("model", model.as_path()), ("figures", &figures), ("svg", &svg)];
    succeed("compare-models {model} {model} {model} --no-latency --out {figures}", &paths);
    let said = fail("report --models {figures} --out {svg}", &paths);
    assert!(said.contains("at least three models, measured on a text"), "{said}");
    assert!(!svg.exists());
}
