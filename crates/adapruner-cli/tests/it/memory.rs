//! Statistics within the memory that is allowed.

use std::{fmt::Write, path::Path};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{fail, json, model, stderr, tiny, words};

/// A file of `rows` calibration samples of `tokens` token ids each.
fn write_ids(path: &Path, rows: usize, tokens: usize) {
    let mut text = String::from("[");
    for row in 0..rows {
        let ids: Vec<String> = (0..tokens)
            .map(|at| ((row * 7919 + at * 31 + row * at) % 500 + 3).to_string())
            .collect();
        write!(text, "{}[{}]", if row == 0 { "" } else { "," }, ids.join(",")).unwrap();
    }
    std::fs::write(path, text + "]").unwrap();
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report}"))
}

/// Whatever may be used: the same file, the terms of the whole set included. What is
/// estimated falls with it, and the peak of the process stays near it.
#[test]
fn less_memory_gives_the_same_statistics() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let ids = dir.path().join("ids.json");
    write_ids(&ids, 64, 256);
    let collect = |name: &str, options: &str| {
        let bank = dir.path().join(name);
        let paths = [("model", model.as_path()), ("ids", ids.as_path()), ("bank", bank.as_path())];
        let line = format!(
            "stats {{model}} --calibration {{ids}} --samples 64 --sample-tokens 256 --force \
             --threads 2 --batch-tokens 1024 --stats {{bank}} {options} --json"
        );
        let output = crate::program::command(words(&line, &paths)).output().unwrap();
        let report = (output.status.code() == Some(0)).then(|| {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            (report, std::fs::read(&bank).unwrap())
        });
        report.ok_or_else(|| stderr(&output))
    };
    let with_gradients = &[0.048, 0.04, 0.032][..];
    let forward = &[0.032, 0.028, 0.024, 0.02, 0.016, 0.012][..];
    for (terms, held, memories) in [
        ("", 5, with_gradients),
        ("--no-batch", 5, with_gradients),
        ("--terms coarse", 5, with_gradients),
        ("--terms activations", 1, forward),
    ] {
        let (whole, bytes) = collect("whole", terms).unwrap();
        // 16 micro-batches of 1024 tokens of 64 numbers; four blocks and a gradient, or of
        // a forward pass one block.
        let states = number(&whole, "/memory_estimate/states");
        assert_eq!(states, (held * 16 * (1024 * 64 * 4 + 65_536) + 16_384 * 8) as f64, "{terms}");
        // What the program itself holds differs between machines, so that one of these is
        // too little for all block inputs and enough for some.
        let mut cut = 0;
        for &memory in memories {
            match collect("less", &format!("{terms} --memory {memory}")) {
                Ok((less, same)) => {
                    assert!(same == bytes, "{terms}, {memory}: another bank");
                    let estimate = number(&less, "/memory_estimate_bytes");
                    assert!(estimate < memory * f64::from(1 << 30), "{memory}: {less}");
                    cut += usize::from(number(&less, "/memory_estimate/states") < states);
                }
                Err(refused) => assert!(refused.contains("need at least"), "{refused}"),
            }
        }
        assert!(cut > 0, "{terms}: no memory led to smaller groups");
    }
}

/// What a collection adds to the memory of its process, against the estimate: within
/// a factor of 1.5 either way.
#[test]
fn the_memory_estimate_is_what_is_used() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let ids = dir.path().join("ids.json");
    write_ids(&ids, 192, 256);
    let peak = |samples: usize| {
        let bank = dir.path().join(format!("{samples}"));
        let paths = [("model", model.as_path()), ("ids", ids.as_path()), ("bank", bank.as_path())];
        let line = format!(
            "stats {{model}} --calibration {{ids}} --samples {samples} --sample-tokens 256 \
             --threads 2 --batch-tokens 1024 --stats {{bank}}"
        );
        let report = json(&line, &paths);
        (number(&report, "/peak_memory_bytes"), number(&report, "/memory_estimate_bytes"))
    };
    let ((small, of_small), (large, of_large)) = (peak(8), peak(192));
    let (added, estimate) = (large - small, of_large - of_small);
    assert!(estimate > 5e7, "{estimate}");
    let factor = estimate / added;
    assert!((1.0 / 1.5..1.5).contains(&factor), "{estimate} estimate, {added} used: {factor}");
}

#[test]
fn what_does_not_fit_is_refused_before_work_begins() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let calibration = model.join("calibration.txt");
    let (bank, out, study) =
        (dir.path().join("bank"), dir.path().join("out"), dir.path().join("study"));
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("text", &model.join("text.txt")),
        ("bank", bank.as_path()),
        ("out", out.as_path()),
        ("study", study.as_path()),
    ];
    for line in [
        "stats {model} --calibration {calibration} --stats {bank} --memory 0.0001",
        "prune {model} {taylor} --ratio 0.2 --calibration {calibration} --out {out} --memory 0.0001",
    ] {
        let text = fail(line, &paths);
        assert!(text.contains("need at least") && text.contains("may be used"), "{text}");
        assert!(text.contains("block states") && text.contains("bank"), "{text}");
        assert!(text.contains("hint: ") && text.contains("--memory"), "{text}");
    }
    let line = "search {model} --ratio 0.2 --calibration {calibration} --samples 8 --text {text} \
                --trials 2 --study {study} --memory 0.0001";
    assert!(fail(line, &paths).contains("memory"));
    let refused =
        fail("stats {model} --calibration {calibration} --stats {bank} --memory -1", &paths);
    assert!(refused.contains("-1 found"), "{refused}");
    let refused = fail(
        "prune {model} {bare} --ratio 0.2 --importance magnitude_l2 --compensate --calibration \
         {calibration} --compensate-samples 2 --out {out} --memory 0.0001",
        &paths,
    );
    assert!(refused.contains("compensation needs") && refused.contains("hint: "), "{refused}");
    for path in [&bank, &out, &study] {
        assert!(!path.exists(), "{}", path.display());
    }
}

/// With one key-value head a layer, no share of attention can be had by groups.
#[test]
fn a_share_of_attention_that_was_not_reached_is_said() {
    let (model, dir) = (model("llama3_rope"), tempdir().unwrap());
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("out", out.as_path())];
    let line = words(
        "prune {model} {bare} --ratio 0.2 --importance magnitude_l2 --attention-share 0.5 --out {out} \
         --json",
        &paths,
    );
    let output = crate::program::command(line).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("attention-share: 0.5 asked, 0.000 reached"), "{text}");
    assert!(text.contains("hint: kv-mode query-heads"), "{text}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&report, "/plan/reached_attention_share"), 0.0);
    assert_eq!(number(&report, "/manifest/plan/requested_attention_share"), 0.5);
    assert_eq!(number(&report, "/manifest/plan/reached_attention_share"), 0.0);
    let warnings = report["manifest"]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|w| w.as_str().unwrap().contains("0.5 asked")), "{warnings:?}");
    assert_eq!(report["warnings"], report["manifest"]["warnings"]);
}

/// A model that is cut to pieces says so, with a next step.
#[test]
fn a_perplexity_that_more_than_doubled_is_said() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (out, text) = (dir.path().join("out"), model.join("text.txt"));
    let paths = [("model", model.as_path()), ("out", out.as_path()), ("text", text.as_path())];
    let of = |ratio: &str| {
        let line = format!(
            "prune {{model}} {{bare}} --ratio {ratio} --importance random --text {{text}} --limit 4 --force \
             --out {{out}} --json"
        );
        let output = crate::program::command(words(&line, &paths)).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |when: &str| number(&report, &format!("/evaluation/{when}/perplexity"));
        let warnings = report["manifest"]["warnings"].to_string();
        (of("after") / of("before"), stderr(&output) + &warnings)
    };
    let (factor, said) = of("0.45");
    assert!(factor > 2.0, "{factor}");
    for part in
        ["quality collapsed", "--protect 1,1", "--learn-masks", "--compensate", "search", "recover"]
    {
        assert_eq!(said.matches(part).count() / 2, 1, "{part} in {said}");
    }
    let (factor, said) = of("0.01");
    assert!(factor < 2.0 && !said.contains("collapsed"), "{factor}: {said}");
}
