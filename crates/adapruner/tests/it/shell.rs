//! Exit codes, streams, completions.

use std::process::Stdio;

use crate::program::{command, stderr, stdout, succeed, tiny, words};

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
