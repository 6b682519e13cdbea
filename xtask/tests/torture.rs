//! Torture finds what is wrong with a program: held to programs that are.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::tempdir;

/// A script in place of the program; `$out` is what follows `--out` or `--stats`.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("program");
    let head = "#!/bin/bash\ntrap 'exit 130' INT TERM\nfor word; do\n  case $last in --out|--stats|--study) out=$word;; esac\n  \
                last=$word\ndone\n";
    std::fs::write(&path, format!("{head}{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn torture(program: &Path, only: &str) -> Output {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["torture", "--json", "--minutes", "0", "--parts", "kills", "--only", only]);
    command.arg("--program").arg(program);
    command.arg("--model").arg(root.join("fixtures/models/tiny"));
    command.output().unwrap()
}

fn failures(output: &Output) -> Vec<String> {
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(i32::from(found["failed"] != 0)));
    let rows = found["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["tried"]), (1, &1.into()));
    let failures = rows[0]["failures"].as_array().unwrap();
    failures.iter().map(|failure| failure.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_program_that_does_well_passes() {
    let folder = tempdir().unwrap();
    let good = "echo sample >$out.tmp.$$; mv $out.tmp.$$ $out";
    // Done before any signal.
    let program = program(folder.path(), &format!("[ -e $out ] || {{ {good}; }}; exit 0"));
    assert_eq!(failures(&torture(&program, "sample")), Vec::<String>::new());
}

#[test]
fn panics_lost_inputs_and_leftovers_are_found() {
    // Well the first time, undisturbed; then as bad as it gets.
    let once = "count=${0%/*}/count; echo >>$count; [ $(wc -l <$count) = 1 ] && bad= || bad=1";
    for (script, expected) in [
        ("[ $bad ] && exit 101; echo sample >$out", "Code(101)"),
        ("[ $bad ] && kill -ABRT $$; echo sample >$out", "Signal(6)"),
        ("echo sample$bad >$out", "is not the right one"),
        (
            "echo sample >$out; [ $bad ] && echo more >>${2}/config.json; exit 0",
            "config.json was changed",
        ),
    ] {
        let folder = tempdir().unwrap();
        let program = program(folder.path(), &format!("{once}\n{script}"));
        let found = failures(&torture(&program, "sample"));
        assert!(found.iter().any(|failure| failure.contains(expected)), "{script}: {found:?}");
    }
}
