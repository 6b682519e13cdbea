//! Searches of several objectives: the front, its page, the nearest point of it, kills.

use std::{path::Path, process::Stdio, thread, time::Duration};

use serde_json::Value;

use crate::{
    program::{command, stderr},
    search::Small,
};

/// A small search of two objectives, from a tenth to a half.
const LINE: &str = "search {model} --objectives loss,params --ratio 0.1..0.5 --calibration {pool} \
                    --samples 24 --sample-tokens 16 --text {text} --window 32 --limit 6 \
                    --study {study} --allow-overlap";

fn searched(small: &Small, more: &str) -> Value {
    small.json(&format!("{LINE} {more}"))
}

/// What is said of a line that is refused, as a usage error or later.
fn refused(line: &str) -> String {
    let output = command(Small::new().words(line)).output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{line}: {output:?}");
    stderr(&output)
}

/// Loss and parameters of each point of a front.
fn points(result: &Value) -> Vec<(f64, u64)> {
    let of =
        |point: &Value| (point["loss"].as_f64().unwrap(), point["parameters"].as_u64().unwrap());
    result["front"].as_array().unwrap().iter().map(of).collect()
}

/// Trials that count: a ratio may be out of reach of some configurations.
fn trials(result: &Value) -> u64 {
    ["complete", "infeasible"].map(|state| result[state].as_u64().unwrap()).into_iter().sum()
}

#[test]
fn one_search_serves_every_size() {
    let small = Small::new();
    let result = searched(&small, "--trials 30");
    assert_eq!(trials(&result), 30, "{result}");
    let front = points(&result);
    // The largest first: every smaller model loses more.
    assert!(front.len() >= 3, "{front:?}");
    assert!(front.is_sorted_by(|a, b| a.1 > b.1 && a.0 < b.0), "{front:?}");
    let dense = result["dense_parameters"].as_u64().unwrap();
    for point in result["front"].as_array().unwrap() {
        let removed = point["removed"].as_f64().unwrap();
        assert!((0.05..0.55).contains(&removed), "{removed}");
        assert!((point["configuration"]["ratio"].as_f64().unwrap() - removed).abs() < 0.05);
    }
    // A target takes the nearest point that fits, and that point as it was measured.
    let middle = front[front.len() / 2];
    let target = format!("--target-params {}", middle.1 + 1);
    let apply = "apply {model} --study {study} --out {out} --force";
    let applied = small.json(&format!("{apply} {target}"));
    assert_eq!(applied["parameters"].as_u64(), Some(middle.1), "{applied}");
    assert_eq!(applied["study"]["loss"].as_f64(), Some(middle.0));
    assert_eq!(applied["study"]["point"]["asked"], format!("{} parameters", middle.1 + 1));
    let ratio = 1.0 - (middle.1 as f64 + 1.0) / dense as f64;
    let by_ratio = small.json(&format!("{apply} --ratio {ratio}"));
    assert_eq!(by_ratio["study"]["trial"], applied["study"]["trial"]);
    let number = applied["study"]["trial"].as_u64().unwrap();
    let by_number = small.json(&format!("{apply} --trial {number}"));
    assert_eq!(by_number["parameters"].as_u64(), Some(middle.1));
    // A size is that of the file that is written.
    let written = |result: &Value| -> u64 {
        let files = result["files"].as_array().unwrap();
        files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum()
    };
    let as_gguf = "--format gguf --gguf-type q8_0";
    let bytes = written(&small.json(&format!("{apply} --trial {number} {as_gguf}")));
    let sized = small.json(&format!("{apply} --target-size {bytes} {as_gguf}"));
    assert_eq!(written(&sized), bytes);
    assert!(sized["study"]["loss"].as_f64() <= Some(middle.0), "{sized}");
    // What cannot be: what can is said.
    for (line, said) in [
        (apply.to_owned(), "several objectives, so a front and no best trial"),
        (format!("{apply} --target-params {}", dense / 10), "no point of the front fits"),
        (format!("{apply} --target-size 1kB"), "the smallest takes"),
        (format!("{apply} --target-params {dense}"), "below the model's"),
        (format!("{apply} --ratio 0.2 --trial {number}"), "its own ratio"),
    ] {
        let error = small.fail(&line);
        assert!(error.contains(said), "{line}: {error}");
    }
    // The page shows it, the rows say which trials are of it.
    small.json("report {study} --out {page}");
    let page = std::fs::read_to_string(small.dir.path().join("page.html")).unwrap();
    assert!(page.contains("Loss against size") && page.contains("points on the front"));
    assert!(!page.contains("Best so far") && !page.contains("Best trial"));
    let rows = small.json("trials {study}");
    let of_front = rows["trials"].as_array().unwrap().iter().filter(|row| row["front"] == true);
    assert!(of_front.count() >= front.len(), "{rows}");
    // It goes on, and only as what it is.
    let more = searched(&small, "--trials 32");
    assert_eq!(trials(&more), 32);
    for (line, said) in [
        (LINE.replace("0.1..0.5", "0.1..0.4"), "the ratio was 0.1..0.5, now 0.1..0.4"),
        (
            LINE.replace("loss,params", "params,loss"),
            "the list of objectives was loss,params, now params,loss",
        ),
        (
            LINE.replace("--objectives loss,params --ratio 0.1..0.5", "--ratio 0.2"),
            "objectives was",
        ),
    ] {
        let error = small.fail(&line);
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[test]
fn bytes_are_those_of_the_type_that_is_named() {
    let small = Small::new();
    let line = LINE.replace("loss,params", "loss,bytes");
    let result = small.json(&format!("{line} --gguf-type q8_0 --trials 12"));
    let point = &result["front"][0];
    let trial = point["trial"].as_u64().unwrap();
    let applied = small.json(&format!(
        "apply {{model}} --study {{study}} --out {{out}} --trial {trial} --format gguf --gguf-type q8_0"
    ));
    let file = &applied["files"][0];
    assert_eq!(point["bytes"], file["bytes"], "{point} {file}");
}

#[test]
fn what_does_not_go_with_several_objectives_is_refused() {
    let with = |from: &str, to: &str| LINE.replace(from, to);
    for (line, said) in [
        (with("loss,params", "loss,parms"), "did you mean params?"),
        (with("loss,params", "loss,loss"), "loss is there twice"),
        (with("loss,params", "params,bytes"), "expected loss among them"),
        (with("loss,params", "params"), "params alone would remove"),
        (with("0.1..0.5", "0.2"), "expected a range for several objectives, found 0.2"),
        (with("0.1..0.5", "0.5..0.1"), "the smaller first"),
        (with("0.1..0.5", "0.1.5"), "expected a share"),
        (with("--ratio 0.1..0.5", ""), "ratio: missing"),
        (with("--objectives loss,params", ""), "found the range 0.1..0.5"),
        (format!("{LINE} --early-stop median"), "measured whole"),
        (format!("{LINE} --gguf-type q8_0"), "bytes are no objective"),
        (format!("{LINE} --test {{text}}"), "no best trial"),
        (format!("{LINE} --search baseline"), "one setting at one ratio"),
        (with("search", "compare"), "compare ranks arms"),
        ("prune {model} --ratio 0.1..0.5 --out {out}".to_owned(), "expected one share"),
    ] {
        let error = refused(&line);
        assert!(error.contains(said), "{line}: {error}");
    }
}

/// The finished trials of a journal: parameters and values, in order.
fn finished(study: &Path) -> Vec<String> {
    let journal = std::fs::read_to_string(study.join("journal.log")).unwrap_or_default();
    let mut trials: Vec<(Vec<String>, Option<String>)> = Vec::new();
    for record in journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let id = || record["trial_id"].as_u64().unwrap() as usize;
        match record["op_code"].as_u64().unwrap() {
            4 => trials.push(Default::default()),
            5 => trials[id()]
                .0
                .push(format!("{}={}", record["param_name"], record["param_value_internal"])),
            6 if matches!(record["state"].as_u64(), Some(1 | 2)) => {
                let (params, end) = &mut trials[id()];
                params.sort();
                *end = Some(format!("{params:?} {}", record["values"]));
            }
            _ => {}
        }
    }
    trials.into_iter().filter_map(|(_, end)| end).collect()
}

#[test]
fn a_killed_search_of_several_objectives_finds_what_an_undisturbed_one_finds() {
    const TRIALS: &str = "--trials 30 --threads 1";
    let undisturbed = Small::new();
    let whole = searched(&undisturbed, TRIALS);
    let small = Small::new();
    for kill in 0..8_u64 {
        let mut command = command(small.words(&format!("{LINE} {TRIALS}")));
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(60 + (kill * 7919) % 500));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let found = searched(&small, TRIALS);
    assert_eq!(points(&found), points(&whole));
    assert_eq!(finished(&small.study), finished(&undisturbed.study));
    assert_eq!(finished(&small.study).len(), 30);
}

#[test]
fn workers_share_a_search_of_several_objectives() {
    let small = Small::new();
    let result = searched(&small, "--trials 16 --workers 2 --threads 1");
    assert_eq!(trials(&result), 16, "{result}");
    assert!(!points(&result).is_empty());
}
