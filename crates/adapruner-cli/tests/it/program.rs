//! Running the program and looking at what it did.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A fixture model.
pub fn model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

/// The trained fixture model.
pub fn tiny() -> PathBuf {
    model("tiny")
}

/// The program with these arguments and no settings from the environment.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapruner"));
    command.env_remove("ADAPRUNER_DATA").env_remove("ADAPRUNER_LOG").args(args);
    // No test may depend on the network.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HOME", "/nonexistent");
    command
}

/// `{bare}` of a command line: without what a recipe does beside the scores.
const BARE: &str = "--protect 0,0 --learn-masks 0";
/// `{taylor}` of a command line: LLM-Pruner's scores, layers and calibration.
const TAYLOR: &str = "--importance param_first --samples 10 --sample-tokens 64 --protect 0,0 \
                      --learn-masks 0";

/// Words of a command line; `{name}` stands for a path of `paths`.
pub fn words(line: &str, paths: &[(&str, &Path)]) -> Vec<String> {
    let fill = |word: &str| {
        paths.iter().fold(word.to_owned(), |word, (name, path)| {
            word.replace(&format!("{{{name}}}"), path.to_str().unwrap())
        })
    };
    let line = line.replace("{bare}", BARE).replace("{taylor}", TAYLOR);
    line.split_whitespace().map(fill).collect()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a line that must succeed; its stdout.
pub fn succeed(line: &str, paths: &[(&str, &Path)]) -> String {
    let output = command(words(line, paths)).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}\n{}", stderr(&output));
    stdout(&output)
}

/// Runs a line with `--json` that must succeed; its result.
pub fn json(line: &str, paths: &[(&str, &Path)]) -> Value {
    serde_json::from_str(&succeed(&format!("{line} --json"), paths)).unwrap()
}

/// Runs a line that must fail with exit code 1 and one line of error (and
/// perhaps one of advice); stderr.
pub fn fail(line: &str, paths: &[(&str, &Path)]) -> String {
    let output = command(words(line, paths)).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}\n{text}{}", stdout(&output));
    assert_eq!(stdout(&output), "", "{line}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("error: "), "{line}\n{text}");
    assert!(lines.len() <= 2, "{line}\n{text}");
    assert!(lines.get(1).is_none_or(|l| l.starts_with("hint: ")), "{line}\n{text}");
    text
}

/// Runs a line that must fail with exit code 1, after warnings; stderr.
pub fn fail_warned(line: &str, paths: &[(&str, &Path)]) -> String {
    let output = command(words(line, paths)).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}\n{text}{}", stdout(&output));
    assert!(text.lines().any(|line| line.starts_with("error: ")), "{line}\n{text}");
    text
}

/// Edits a JSON file that the program wrote as one of before files had digests.
pub fn edit_unsealed(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("sealed");
    json["adapruner"] = "0.1.0".into();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Everything below a folder, hidden entries included.
pub fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(entries(&path));
        }
        out.insert(path);
    }
    out
}
