//! Exit codes, streams, completions.

use std::process::Stdio;

use crate::program::{command, fail, stderr, stdout, succeed, tiny, words};

#[test]
fn wrong_usage_is_exit_code_2() {
    for line in [
        "",
        "walk",
        "eval",
        "prune x --ratio much",
        "prune x --layout round",
        "eval x --window -1",
        "export x --out y --save-dtype f8",
        "export x --out y --gguf-type q9",
    ] {
        let output = command(words(line, &[])).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}\n{}", stderr(&output));
    }
}

#[test]
fn help_teaches_with_an_example() {
    for name in ["inspect", "eval", "sample", "stats", "prune", "apply", "export", "completions"] {
        let help = succeed(&format!("{name} --help"), &[]);
        assert!(help.contains(&format!("Example: adapruner {name} ")), "{help}");
    }
    assert!(succeed("--help", &[]).contains("adapruner prune MODEL --ratio 0.2"));
}

#[test]
fn every_command_has_a_manual_page() {
    let page = |name: &str| succeed(&format!("man {name}"), &[]);
    assert!(page("").contains(".TH adapruner 1"));
    let prune = page("prune");
    for part in [".TH adapruner-prune 1", "\\-\\-ratio", "Example: adapruner prune", "\\-\\-json"] {
        assert!(prune.contains(part), "{part}: {prune}");
    }
    assert!(fail("man prun", &[]).contains("did you mean prune?"));
}

#[test]
fn completions_are_printed_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(succeed(&format!("completions {shell}"), &[]).contains("adapruner"), "{shell}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let mut child = command(words("inspect {model}", &[("model", &tiny())]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn no_bars_where_there_is_no_terminal() {
    let text = tiny().join("text.txt");
    let line = "eval {model} --text {text}";
    let output = command(words(line, &[("model", &tiny()), ("text", &text)])).output().unwrap();
    assert_eq!(stderr(&output), "");
    assert!(stdout(&output).contains("perplexity"));
}

/// Where nobody can be told anything, the exit code still tells.
#[cfg(target_os = "linux")]
#[test]
fn streams_that_are_full_are_no_panic() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let tiny = tiny();
    for (line, code) in [
        ("inspect {model}", 1),
        ("inspect {model} --json", 1),
        ("inspect /no/such/model", 1),
        ("inspect", 2),
        ("eval {model} --text {model}/text.txt --window 32 --limit 1 -vv", 1),
    ] {
        let mut command = command(words(line, &[("model", &tiny)]));
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{line}");
    }
}

#[test]
fn errors_are_json_where_results_are() {
    let output = command(["inspect", "/nowhere/model", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let message = said["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("/nowhere/model: "), "{message}");
    assert_eq!(stderr(&output).lines().next().unwrap(), format!("error: {message}"));
}

#[test]
fn a_misspelt_file_or_value_is_answered_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(tiny().join("text.txt"), folder.path().join("training.txt")).unwrap();
    let text = folder.path().join("trianing.txt");
    let line = "eval {model} --text {text}";
    let output = command(words(line, &[("model", &tiny()), ("text", &text)])).output().unwrap();
    let right = folder.path().join("training.txt");
    let hint = format!("hint: did you mean {}?", right.display());
    assert_eq!(stderr(&output).lines().nth(1), Some(hint.as_str()), "{}", stderr(&output));
    let line = "prune {model} --ratio 0.2 --layout unifrom --dry-run";
    let output = command(words(line, &[("model", &tiny())])).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean uniform?"), "{}", stderr(&output));
}

#[test]
fn ratios_are_taken_as_they_are_usually_written() {
    let line = |ratio: &str| {
        let line = format!(
            "prune {{model}} --ratio {ratio} {{bare}} --importance magnitude_l1 --dry-run --json"
        );
        command(words(&line, &[("model", &tiny())])).output().unwrap()
    };
    let plan = |ratio: &str| -> serde_json::Value {
        let output = line(ratio);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()["full_plan"].clone()
    };
    assert_eq!(plan("20%"), plan("0.2"));
    let output = line("-0.2");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("above 0 and below 1, found -0.2"), "{}", stderr(&output));
}

#[test]
fn progress_is_told_as_events_where_it_is_asked_for() {
    let text = tiny().join("text.txt");
    let line = "eval {model} --text {text} --progress json --json";
    let output = command(words(line, &[("model", &tiny()), ("text", &text)])).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!(last["stage"], "perplexity");
    assert_eq!(last["done"], last["all"]);
}

#[test]
fn a_budget_may_be_said_in_parameters() {
    let line = |budget: &str| {
        let line =
            format!("prune {{model}} {budget} {{bare}} --importance magnitude_l1 --dry-run --json");
        command(words(&line, &[("model", &tiny())])).output().unwrap()
    };
    let output = line("--target-params 160k");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let after = report["full_plan"]["parameters_after"].as_u64().unwrap();
    // A channel of `tiny` has 192 parameters.
    assert!(after.abs_diff(160_000) <= 96, "{after}");
    let output = line("--target-params 1B");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("target-params: expected"), "{}", stderr(&output));
    assert_eq!(line("--target-params 160k --ratio 0.1").status.code(), Some(2));
}

#[test]
fn options_are_refused_before_a_model_is_fetched() {
    let output = command(["prune", "owner/model", "--calibration", "c4", "--dry-run"]).output();
    let said = stderr(&output.unwrap());
    assert!(said.starts_with("error: ratio: missing"), "{said}");
}
