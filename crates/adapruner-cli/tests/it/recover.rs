//! `recover` and `merge` as people run them.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{command, fail, fail_warned, json, stderr, succeed, tiny, words};

/// A short training on a text of the fixture's.
const LINE: &str = "recover {model} --data {data} --out {out} --cutoff 48 --batch-size 4 --rank 4 \
                    --learning-rate 5e-3 --warmup 1 --validate-every 3 --save-every 2";

fn log(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a step was, but for its time.
fn kept(log: &[Value]) -> Vec<String> {
    let of = |entry: &Value| {
        let mut entry = entry.clone();
        entry["seconds"] = Value::Null;
        entry["tokens_per_second"] = Value::Null;
        entry.to_string()
    };
    log.iter().map(of).collect()
}

#[test]
fn an_adapter_and_the_merged_model_are_written() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let data = model.join("calibration.txt");
    let (out, merged) = (dir.path().join("out"), dir.path().join("merged"));
    let adapter = out.join("adapter");
    let paths = [
        ("model", model.as_path()),
        ("data", data.as_path()),
        ("out", out.as_path()),
        ("merged", merged.as_path()),
        ("adapter", adapter.as_path()),
    ];
    let line = format!("{LINE} --max-steps 8 --format hf,gguf --save-dtype f32");
    let report = json(&line, &paths);
    let outcome = &report["recovery"]["outcome"];
    assert_eq!((&outcome["ended"], &outcome["step"]), (&"finished".into(), &8.into()));
    let before = outcome["validation_before"].as_f64().unwrap();
    let best = outcome["best"]["loss"].as_f64().unwrap();
    assert!(best <= before, "{before} → {best}");
    assert!(!dir.path().join("out.work").exists());
    for file in [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
        "model.gguf",
        "training.jsonl",
        "manifest.json",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert_eq!(log(&out.join("training.jsonl")).len(), 8);
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["settings"]["method"]["lora"]["rank"], 4);
    assert_eq!(manifest["recovery"]["data"]["digest"], report["recovery"]["data"]["digest"]);
    // `merge` makes the same weights of the adapter.
    let line = "merge {model} --adapter {adapter} --out {merged} --save-dtype f32";
    let report = json(line, &paths);
    let digest = |manifest: &Value| {
        let files = manifest["files"].as_array().unwrap();
        files.iter().find(|f| f["name"] == "model.safetensors").unwrap()["digest"].clone()
    };
    assert_eq!(digest(&report), digest(&manifest));
    assert!(report["adapter"]["parameters"].as_u64().unwrap() > 0);
    let other = dir.path().join("other");
    let paths = [("model", &*model), ("other", &*other)];
    let error = fail("merge {model} --adapter {model} --out {other}", &paths);
    assert!(error.contains("adapter_config.json"), "{error}");
}

#[test]
fn a_training_that_is_killed_goes_on_with_the_same_losses() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let data = model.join("calibration.txt");
    let (right, out) = (dir.path().join("right"), dir.path().join("out"));
    let line = format!("{LINE} --max-steps 30");
    let paths = |out| [("model", model.as_path()), ("data", data.as_path()), ("out", out)];
    succeed(&line, &paths(right.as_path()));
    let expected = kept(&log(&right.join("training.jsonl")));
    assert_eq!(expected.len(), 30);

    let work = dir.path().join("out.work");
    let mut killed = 0;
    for steps in [3, 8] {
        let child = command(words(&line, &paths(out.as_path())))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let start = Instant::now();
        while log(&work.join("log.jsonl")).len() < steps && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "no step was made");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
    }
    assert!(killed > 0, "it was over before it was killed");
    // What a kill may leave of a state that was being written.
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let half = work.join(format!(".state.safetensors.{}-3.partial", gone.id()));
    std::fs::write(half, "half").unwrap();
    for other in ["--seed 7", "--matmul-precision high"] {
        let other = fail_warned(&format!("{line} {other}"), &paths(out.as_path()));
        assert!(other.contains("made with another "), "{other}");
    }
    succeed(&line, &paths(out.as_path()));
    assert_eq!(kept(&log(&out.join("training.jsonl"))), expected);
    let adapter = "adapter/adapter_model.safetensors";
    assert_eq!(
        std::fs::read(out.join(adapter)).unwrap(),
        std::fs::read(right.join(adapter)).unwrap()
    );
    assert!(!work.exists());
}

#[test]
fn an_interrupt_saves_the_state() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let data = model.join("calibration.txt");
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("data", data.as_path()), ("out", out.as_path())];
    let line = format!("{LINE} --max-steps 100000").replace("every 2", "every 100000");
    let child = command(words(&line, &paths)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let work = dir.path().join("out.work");
    let start = Instant::now();
    while log(&work.join("log.jsonl")).len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "no step was made");
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(work.join("state.safetensors").is_file());
    assert!(!out.exists());
}

#[test]
fn a_teacher_and_all_parameters() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let data = dir.path().join("data.jsonl");
    let turns = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"word {i}\"}}, {{\"role\": \
             \"assistant\", \"content\": \"answer {i}\"}}]}}\n"
        )
    };
    std::fs::write(&data, (0..20).map(turns).collect::<String>()).unwrap();
    let (small, out) = (dir.path().join("small"), dir.path().join("out"));
    let paths = [
        ("model", model.as_path()),
        ("data", data.as_path()),
        ("small", small.as_path()),
        ("out", out.as_path()),
    ];
    succeed("prune {model} {bare} --ratio 0.2 --importance magnitude_l2 --out {small}", &paths);
    let line = "recover {small} --method full --data {data} --teacher {model} --out {out} \
                --learning-rate 1e-3 --batch-tokens 128 --max-steps 6 --warmup 1 --top-logits 8 \
                --temperature 2 --checkpointing --keep-work";
    let report = json(line, &paths);
    assert!(report["recovery"]["teacher"]["digest"].is_string());
    let entries = log(&out.join("training.jsonl"));
    assert!(entries.iter().all(|e| e["teacher_loss"].as_f64().unwrap() > 0.0));
    assert!(dir.path().join("out.work/teacher.bin").is_file());
    let outcome = &report["recovery"]["outcome"];
    assert!(outcome["best"]["loss"].as_f64() < outcome["validation_before"].as_f64());
    let inspected = json("inspect {out}", &paths);
    assert_eq!(inspected["parameters"], report["recovery"]["learned_parameters"]);
}

#[test]
fn blocks_are_matched_where_attention_is_gone_too() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (data, small) = (model.join("calibration.txt"), dir.path().join("small"));
    let (out, other) = (dir.path().join("out"), dir.path().join("other"));
    let (biases, none) = (model.with_file_name("biases"), dir.path().join("none"));
    let paths = [
        ("model", model.as_path()),
        ("data", data.as_path()),
        ("small", small.as_path()),
        ("out", out.as_path()),
        ("other", other.as_path()),
        ("biases", biases.as_path()),
        ("none", none.as_path()),
    ];
    let line = "prune {model} {bare} --ratio 0.15 --importance magnitude_l2 --drop-attention 1 \
                --out {small}";
    succeed(line, &paths);
    let line = LINE.replace("{model}", "{small}") + " --max-steps 12 --teacher {model}";
    let said = succeed(&format!("{line} --match-hidden 2"), &paths);
    assert!(said.contains("ran in every step, block outputs matched with weight 2"), "{said}");
    let entries = log(&out.join("training.jsonl"));
    let hidden = |at: usize| entries[at]["hidden_loss"].as_f64().unwrap();
    assert!(hidden(11) < hidden(1), "{} → {}", hidden(1), hidden(11));
    // A teacher that runs along is in the estimate.
    let line = line.replace("{out}", "{other}");
    let alone = json(&line, &paths);
    std::fs::remove_dir_all(&other).unwrap();
    let beside = json(&format!("{line} --match-hidden 2"), &paths);
    let estimate = |report: &Value, what: &str| report["memory_estimate"][what].as_u64().unwrap();
    assert_eq!(estimate(&alone, "teacher"), 0);
    assert!(estimate(&beside, "teacher") > 4 * estimate(&beside, "weights") / 5);
    let line = line.replace("{model}", "{biases}").replace("{other}", "{none}");
    let error = fail(&format!("{line} --match-hidden 2"), &paths);
    for part in ["layers of hidden size", "biases: ", "small has", "before pruning"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_cannot_be_trained_is_said_before_any_work() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (data, bad) = (model.join("calibration.txt"), dir.path().join("bad.jsonl"));
    std::fs::write(&bad, "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"output\": 3}\n").unwrap();
    let out = dir.path().join("out");
    let paths = [
        ("model", model.as_path()),
        ("data", data.as_path()),
        ("bad", bad.as_path()),
        ("out", out.as_path()),
    ];
    for (line, parts) in [
        ("recover {model} --out {out}", vec!["data: missing", "--data FILE"]),
        ("recover {model} --data {data}", vec!["out: missing"]),
        ("recover {model} --data {bad} --out {out}", vec!["bad.jsonl: line 2", "\"output\""]),
        ("recover {model} --data {data} --out {out} --rank 0", vec!["rank: 1 to"]),
        ("recover {model} --data {data} --out {out} --dropout 1", vec!["dropout"]),
        ("recover {model} --data {data} --out {out} --batch-size 0", vec!["batch-size"]),
        ("recover {model} --data {data} --out {out} --learning-rate nan", vec!["learning-rate"]),
        ("recover {model} --data {data} --out {out} --mix 0.5", vec!["teacher: missing"]),
        (
            "recover {model} --data {data} --out {out} --match-hidden 1",
            vec!["teacher: missing", "--match-hidden", "--teacher MODEL"],
        ),
        (
            "recover {model} --data {data} --out {out} --teacher {model} --match-hidden 0",
            vec!["match-hidden: above 0"],
        ),
        ("recover {model} --data {data} --out {out} --cutoff 4000", vec!["cutoff", "256"]),
        (
            "recover {model} --data {data} --out {out} --memory 0.0001 --cutoff 32",
            vec!["memory: the training needs about", "activations", "--checkpointing"],
        ),
    ] {
        let error = fail(line, &paths);
        for part in parts {
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(!out.exists(), "{line}");
    }
}

#[test]
fn data_that_hold_a_test_text_are_refused() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let text = model.join("text.txt");
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("data", text.as_path()), ("out", out.as_path())];
    let error = fail(&format!("{LINE} --max-steps 1 --test {{data}}"), &paths);
    assert!(error.contains("share passages with the training data text.txt"), "{error}");
    assert!(error.contains("--allow-overlap"), "{error}");
    assert!(!out.exists() && !dir.path().join("out.work").exists());
    succeed(&format!("{LINE} --max-steps 1 --test {{data}} --allow-overlap"), &paths);

    // `apply` holds the text that it fits on against it in the same way.
    let plan = dir.path().join("plan.json");
    let dense =
        json("prune {model} {bare} --ratio 0.2 --importance magnitude_l2 --dry-run", &paths);
    std::fs::write(&plan, dense["full_plan"].to_string()).unwrap();
    let again = dir.path().join("again");
    let paths = [&paths[..], &[("plan", plan.as_path()), ("again", again.as_path())]].concat();
    let line = "apply {model} --plan {plan} --out {again} --compensate --compensate-text {data} \
                --compensate-samples 24 --compensate-tokens 64 --test {data}";
    let error = fail(line, &paths);
    assert!(error.contains("share passages with the text that is fitted on,"), "{error}");
    assert!(!again.exists());
    succeed(&format!("{line} --allow-overlap"), &paths);
}

#[test]
fn a_model_that_did_not_change_is_said() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let data = model.join("calibration.txt");
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("data", data.as_path()), ("out", out.as_path())];
    let line = LINE.replace("--learning-rate 5e-3 --warmup 1", "--warmup 10");
    let warning = |manifest: &Value| manifest["manifest"]["warnings"].to_string();
    // A single step: the warm-up gives way, and something is learned.
    let report = json(&format!("{line} --max-steps 1 --validation 0"), &paths);
    assert!(!warning(&report).contains("nothing was learned"), "{report}");
    let steps = log(&out.join("training.jsonl"));
    assert_eq!(steps[0]["learning_rate"].as_f64(), Some(1e-4));
    // Time for one step, after all that comes before it.
    let again = format!("{line} --max-minutes 1e-9 --validation 0 --force");
    let output = command(words(&format!("{again} --json"), &paths)).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["recovery"]["outcome"]["step"], 0, "{report}");
    assert!(warning(&report).contains("nothing was learned"), "{report}");
    assert!(stderr(&output).contains("nothing was learned"), "{}", stderr(&output));
}

#[test]
fn turns_that_a_template_cuts_are_counted() {
    let dir = tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] }}\
                    {% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    let data = dir.path().join("data.jsonl");
    let record = r#"{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<think>so</think>Because of it."}]}"#;
    std::fs::write(&data, format!("{record}\n").repeat(8)).unwrap();
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("data", data.as_path()), ("out", out.as_path())];
    let said = succeed(&format!("{LINE} --max-steps 2 --format hf"), &paths);
    assert!(said.contains("a part of 8 learned turns"), "{said}");
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["recovery"]["data"]["counts"]["partial_turns"], 8);
    assert!(manifest["warnings"].to_string().contains("a part of 8 learned turns"));
    // The template goes along into the folder.
    let written = std::fs::read_to_string(out.join("chat_template.jinja")).unwrap();
    assert_eq!(written, template);
}
