//! Learned masks as people ask for them.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{command, entries, fail, fail_warned, json, stderr, succeed, tiny, words};

/// Pruned and learned on a text of the fixture's.
const LINE: &str = "prune {model} --ratio 0.3 --calibration {text} --out {out} --protect 0,0 \
                    --samples 10 --sample-tokens 64 --learn-masks 6 --mask-samples 40 \
                    --mask-tokens 24 --mask-every 2 --mask-spread 0.3";

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// Everything of a report that does not depend on when it was made.
fn learned(report: &Value) -> [&Value; 2] {
    [&report["manifest"]["plan"]["layers"], &report["masks"]]
}

#[test]
fn units_are_exchanged_within_the_widths_of_the_plan() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, measured) = (model.join("calibration.txt"), model.join("text.txt"));
    let [plain, out, again] = ["plain", "out", "again"].map(|name| dir.path().join(name));
    let plan = out.join("manifest.json");
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("measured", measured.as_path()),
        ("plain", plain.as_path()),
        ("out", out.as_path()),
        ("again", again.as_path()),
        ("plan", plan.as_path()),
    ];
    let without = json(
        "prune {model} {bare} --samples 10 --sample-tokens 64 --ratio 0.3 --calibration {text} --out {plain}",
        &paths,
    );
    let report = json(&format!("{LINE} --text {{measured}}"), &paths);
    let manifest = &report["manifest"];
    let (masks, outcome) = (&manifest["masks"], &manifest["masks"]["outcome"]);
    assert_eq!(masks, &report["masks"]);
    assert_eq!((&outcome["ended"], &outcome["steps"]), (&"finished".into(), &6.into()));
    assert_eq!(number(masks, "/train/windows"), 32.0);
    assert_eq!(number(masks, "/held_out/windows"), 8.0);
    assert_ne!(masks["train"]["tokens_digest"], masks["held_out"]["tokens_digest"]);
    for (key, value) in [("rate", 0.05), ("rate_end", 0.005), ("seed", 42.0), ("batch", 8.0)] {
        assert_eq!(number(masks, &format!("/options/{key}")), value, "{key}");
    }
    let measured = outcome["measured"].as_array().unwrap();
    let steps: Vec<&Value> = measured.iter().map(|m| &m["step"]).collect();
    assert_eq!(steps, [0, 2, 4, 6]);
    let (before, after) = (number(outcome, "/held_out_before"), number(outcome, "/held_out_after"));
    assert!(after <= before, "{before} {after}");
    assert!(
        number(outcome, "/kept_step") > 0.0 && number(outcome, "/exchanged") > 0.0,
        "{outcome}"
    );
    // As many units of every layer as in the plan it began with, but others.
    let layers = |report: &Value| report["manifest"]["plan"]["layers"].as_array().unwrap().clone();
    let (planned, found) = (layers(&without), layers(&report));
    let width = |layer: &Value| layer["ffn"].as_array().unwrap().len();
    assert!(planned.iter().map(width).eq(found.iter().map(width)));
    assert_ne!(planned, found);
    assert_eq!(manifest["plan"]["reached_ratio"], without["manifest"]["plan"]["reached_ratio"]);
    // It is a plan as any other.
    json("apply {model} --plan {plan} --out {again}", &paths);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights(&out), weights(&again));
    let shown = succeed(&format!("{LINE} --force"), &paths);
    assert!(shown.contains("learned masks") && shown.contains("held-out samples"), "{shown}");
    // A dry run learns as well, and writes nothing.
    let dry = json(&format!("{LINE} --dry-run").replace("--out {out}", ""), &paths);
    assert_eq!(dry["full_plan"]["layers"], manifest["plan"]["layers"]);
    assert_eq!(&dry["masks"], masks);
}

#[test]
fn threads_batches_and_memory_do_not_change_what_is_learned() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, out) = (model.join("calibration.txt"), dir.path().join("out"));
    let paths = [("model", model.as_path()), ("text", text.as_path()), ("out", out.as_path())];
    let line = format!(
        "{LINE} --force --importance magnitude_l2 --mask-loss logits --mask-budget free \
         --multiple-of 4"
    );
    let first = json(&format!("{line} --threads 1"), &paths);
    assert!(number(&first, "/masks/outcome/kept_step") > 0.0, "{}", first["masks"]);
    for layer in first["manifest"]["plan"]["layers"].as_array().unwrap() {
        assert_eq!(layer["ffn"].as_array().unwrap().len() % 4, 0);
    }
    let estimate = |report: &Value| number(report, "/masks/memory_estimate/activations");
    let mut least = estimate(&first);
    // What the program itself holds differs between machines, so that one of these is too
    // little for a whole step and enough for a part of it.
    let memory = (10..90).step_by(4).map(|of| format!("--memory 0.0{of}"));
    for options in ["--threads 2".to_owned()].into_iter().chain(memory) {
        let output = command(words(&format!("{line} {options} --json"), &paths)).output().unwrap();
        if output.status.code() != Some(0) {
            assert!(stderr(&output).contains("needs at least"), "{options}: {}", stderr(&output));
            continue;
        }
        let mut again: Value = serde_json::from_slice(&output.stdout).unwrap();
        least = least.min(estimate(&again));
        // What it takes depends on it.
        again["masks"]["memory_estimate"] = first["masks"]["memory_estimate"].clone();
        assert_eq!(learned(&again), learned(&first), "{options}");
    }
    assert!(least < estimate(&first));
}

#[test]
fn a_learning_that_is_killed_goes_on_to_the_same_masks() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let text = model.join("calibration.txt");
    let [right, out, state] = ["right", "out", "state"].map(|name| dir.path().join(name));
    let line = LINE.replace("--learn-masks 6", "--learn-masks 40").replace("every 2", "every 1")
        + " --mask-patience 50";
    let paths = |out| {
        [
            ("model", model.as_path()),
            ("text", text.as_path()),
            ("out", out),
            ("state", state.as_path()),
        ]
    };
    let expected = json(&line, &paths(right.as_path()));
    let line = format!("{line} --masks-state {{state}}");
    let (file, mut killed) = (state.join("masks.safetensors"), 0);
    let content = || std::fs::read(&file).unwrap_or_default();
    for _ in 0..2 {
        let before = content();
        let child = command(words(&line, &paths(out.as_path())))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let (mut child, start) = (child.unwrap(), Instant::now());
        while content() == before && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "no step was made");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
    }
    assert!(killed > 0, "it was over before it was killed");
    let other = fail_warned(&format!("{line} --mask-rate 0.04"), &paths(out.as_path()));
    for part in ["masks.safetensors", "another mask-rate: 0.04 expected, 0.05 found", "hint: "] {
        assert!(other.contains(part), "{other}");
    }
    let found = json(&line, &paths(out.as_path()));
    assert_eq!(learned(&found), learned(&expected));
    // Done is done: the same again, at once.
    let again = json(&format!("{line} --force"), &paths(out.as_path()));
    assert_eq!(learned(&again), learned(&expected));
    let whole = content();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    std::fs::write(&file, damaged).unwrap();
    let error = fail_warned(&format!("{line} --force"), &paths(out.as_path()));
    assert!(error.contains("masks.safetensors") && error.contains("damaged"), "{error}");
}

#[test]
fn an_interrupt_saves_the_state_of_a_learning() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let text = model.join("calibration.txt");
    let [out, state] = ["out", "state"].map(|name| dir.path().join(name));
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("out", out.as_path()),
        ("state", state.as_path()),
    ];
    let line =
        LINE.replace("--learn-masks 6", "--learn-masks 100000").replace("every 2", "every 20")
            + " --mask-patience 100000 --masks-state {state}";
    let child = command(words(&line, &paths)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let (mut child, start) = (child.unwrap(), Instant::now());
    let file = state.join("masks.safetensors");
    while !file.is_file() {
        assert!(start.elapsed() < Duration::from_secs(120), "no state was saved");
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(file.is_file() && !out.exists());
    assert!(entries(dir.path()).iter().all(|path| path.starts_with(&state)));
}

#[test]
fn compensation_after_learned_masks_is_kept_where_it_helps() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, out) = (model.join("calibration.txt"), dir.path().join("out"));
    let paths = [("model", model.as_path()), ("text", text.as_path()), ("out", out.as_path())];
    let line = format!("{LINE} --force --compensate --compensate-tokens 24");
    let mut seen = Vec::new();
    // Many samples help; two with next to no ridge fit noise.
    for (options, kept) in [
        ("--compensate-samples 32", true),
        ("--compensate-samples 2 --compensate-ridge 1e-9", false),
    ] {
        let report = json(&format!("{line} {options}"), &paths);
        let loss = |key: &str| number(&report, &format!("/manifest/compensation/loss/{key}"));
        assert_eq!(loss("with") < loss("without"), kept, "{report}");
        let said = report["manifest"]["warnings"].to_string();
        assert_eq!(said.contains("compensation was left out"), !kept, "{said}");
        seen.push(std::fs::read(out.join("model.safetensors")).unwrap());
    }
    // Left out is left out.
    succeed(&format!("{LINE} --force"), &paths);
    let plain = std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(seen[1] == plain && seen[0] != plain);
}

#[test]
fn plans_and_trials_that_were_made_before_are_learned_on() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, measured) = (model.join("calibration.txt"), model.join("text.txt"));
    let [first, out, study] = ["first", "out", "study"].map(|name| dir.path().join(name));
    let plan = first.join("manifest.json");
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("measured", measured.as_path()),
        ("first", first.as_path()),
        ("out", out.as_path()),
        ("study", study.as_path()),
        ("plan", plan.as_path()),
    ];
    let learn = "--mask-text {text} --learn-masks 6 --mask-samples 40 --mask-tokens 24 \
                 --mask-every 2 --mask-spread 0.3 --out {out} --force";
    json(
        "prune {model} {bare} --ratio 0.3 --importance magnitude_l2 --drop-attention 1 --out {first}",
        &paths,
    );
    let units = "--learn-units ffn,sublayers";
    let manifest = json(&format!("apply {{model}} --plan {{plan}} {learn} {units}"), &paths);
    let outcome = &manifest["masks"]["outcome"];
    assert!(number(outcome, "/held_out_after") < number(outcome, "/held_out_before"), "{outcome}");
    let without = |manifest: &Value| {
        let layers = manifest["plan"]["layers"].as_array().unwrap();
        layers.iter().filter(|kept| kept["kv_heads"].as_array().unwrap().is_empty()).count()
    };
    assert_eq!(without(&manifest), 1);
    // A text that it will be measured on.
    let refused = fail(&format!("apply {{model}} --plan {{plan}} {learn} --test {{text}}"), &paths);
    assert!(
        refused.contains("masks are learned on") && refused.contains("--allow-overlap"),
        "{refused}"
    );

    succeed(
        "search {model} --ratio 0.2 --calibration {text} --samples 16 --sample-tokens 16 --text \
         {measured} --window 32 --limit 4 --trials 3 --allow-overlap --study {study}",
        &paths,
    );
    let searched = json("apply {model} --study {study} --out {out} --force", &paths);
    let manifest = json(&format!("apply {{model}} --study {{study}} {learn}"), &paths);
    assert_eq!(manifest["study"]["trial"], searched["study"]["trial"]);
    let widths = |manifest: &Value| -> Vec<usize> {
        let layers = manifest["plan"]["layers"].as_array().unwrap();
        layers.iter().map(|kept| kept["ffn"].as_array().unwrap().len()).collect()
    };
    assert_eq!(widths(&manifest), widths(&searched));
    let outcome = &manifest["masks"]["outcome"];
    assert!(number(outcome, "/held_out_after") <= number(outcome, "/held_out_before"), "{outcome}");

    // For several trials: ranked again by what learning came to, and the best one applied.
    assert!(manifest["learned_trials"].is_null());
    let line = format!("apply {{model}} --study {{study}} {learn}");
    let best = json(&format!("{line} --learn-top 3"), &paths);
    let tried = best["learned_trials"].as_array().unwrap();
    let searched: Vec<f64> = tried.iter().map(|of| number(of, "/loss")).collect();
    assert!(tried.len() > 1 && searched.is_sorted(), "{tried:?}");
    assert_eq!(tried[0]["trial"], manifest["study"]["trial"]);
    assert_eq!(tried[0]["held_out_after"], outcome["held_out_after"]);
    let after = |of: &&Value| number(of, "/held_out_after");
    let least = tried.iter().min_by(|a, b| after(a).total_cmp(&after(b))).unwrap();
    assert_eq!(best["study"]["trial"], least["trial"]);
    let alone = json(&format!("{line} --trial {}", least["trial"]), &paths);
    assert_eq!(alone["plan"], best["plan"]);
    for (options, message) in [
        ("--learn-top 0", "at least 1 trial"),
        ("--learn-top 2 --masks-state {first}", "is that of one trial"),
        ("--learn-top 2 --learn-masks 0", "no masks are learned"),
    ] {
        let line = line.replace("--learn-masks 6", "");
        let steps = if options.contains("learn-masks") { "" } else { "--learn-masks 6" };
        let error = fail(&format!("{line} {steps} {options}"), &paths);
        assert!(error.contains(message), "{options}: {error}");
    }
    let error = fail(&format!("apply {{model}} --plan {{plan}} {learn} --learn-top 2"), &paths);
    assert!(error.contains("no trials of a study"), "{error}");
}

#[test]
fn what_cannot_be_learned_is_said_before_any_work() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (text, out) = (model.join("calibration.txt"), dir.path().join("out"));
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "a few words of a text that is much too short ".repeat(20)).unwrap();
    let paths = [
        ("model", model.as_path()),
        ("text", text.as_path()),
        ("short", short.as_path()),
        ("out", out.as_path()),
    ];
    let before = entries(dir.path());
    for (options, parts) in [
        (
            "--mask-samples 12",
            vec!["a step takes 8 samples and 8 are held out", "at least 16 are needed, found 12"],
        ),
        ("--mask-held-out 40", vec!["40 are held out", "at least 48 are needed"]),
        ("--mask-held-out 0", vec!["mask-held-out: expected at least 1"]),
        ("--mask-batch 0", vec!["mask-batch"]),
        ("--mask-every 0", vec!["mask-every"]),
        ("--mask-rate nan", vec!["mask-rate: expected a number above 0"]),
        ("--mask-rate-end 1", vec!["mask-rate-end: expected at most the first rate"]),
        ("--mask-spread 0", vec!["mask-spread"]),
        (
            "--mask-text {short} --mask-samples 64",
            vec![
                "learn-masks: 64 samples, 8 held out",
                "short.txt",
                "64 samples of 24 tokens need 1536",
            ],
        ),
        (
            "--learn-units kv-groups",
            vec!["learn-units: kv-groups: the plan removes no key-value groups"],
        ),
        ("--learn-units sublayers", vec!["the plan drops no attention sublayer"]),
        ("--layout uniform --mask-budget free", vec!["mask-budget: free makes layers differ"]),
        (
            "--memory 0.0001 --importance magnitude_l2",
            vec!["learning masks needs at least", "--memory"],
        ),
        ("--text {text}", vec!["share passages", "--allow-overlap"]),
    ] {
        let given = ["--mask-samples 40", "--mask-every 2", "--mask-spread 0.3"];
        let line = given.iter().fold(LINE.to_owned(), |line, part| {
            match options.contains(part.split(' ').next().unwrap()) {
                true => line.replace(part, ""),
                false => line,
            }
        });
        let error = fail(&format!("{line} {options}"), &paths);
        for part in parts {
            assert!(error.contains(part), "{options}: {error}");
        }
        assert_eq!(entries(dir.path()), before, "{options}");
    }
    let line = LINE.replace("--calibration {text}", "--importance magnitude_l2");
    let error = fail(&line, &paths);
    assert!(error.contains("c4: ") && error.contains("--calibration FILE"), "{error}");
}
