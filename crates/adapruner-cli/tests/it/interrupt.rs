//! Ctrl-C half way, and disks that are full.

#![cfg(unix)]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::tempdir;

use crate::program::{command, entries, stderr, tiny, words};

#[test]
fn an_interrupt_leaves_the_disk_as_it_was() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    // Long enough that the interrupt comes while it is measured.
    let text = dir.path().join("long.txt");
    let once = std::fs::read_to_string(model.join("text.txt")).unwrap();
    std::fs::write(&text, once.repeat(100)).unwrap();
    let out = dir.path().join("out");
    let before = entries(dir.path());
    let line = "prune {model} {bare} --ratio 0.2 --importance random --text {text} --out {out}";
    let paths = [("model", model.as_path()), ("text", text.as_path()), ("out", out.as_path())];
    let child = command(words(line, &paths)).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while entries(dir.path()) == before {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(entries(dir.path()), before);
}

/// Runs the program where no file may grow beyond some kilobytes, which fails
/// as a full disk does: a write is refused half way.
fn with_file_limit(kilobytes: usize, line: &str, paths: &[(&str, &Path)]) -> std::process::Output {
    let mut shell = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$@\"");
    shell.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_adapruner")]);
    shell.args(words(line, paths)).output().unwrap()
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let calibration = model.join("calibration.txt");
    let (out, bank) = (dir.path().join("out"), dir.path().join("bank.safetensors"));
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("out", out.as_path()),
        ("bank", bank.as_path()),
    ];
    for line in [
        "prune {model} {bare} --ratio 0.2 --importance magnitude_l2 --out {out}",
        "export {model} --format gguf --out {out}",
        "stats {model} --calibration {calibration} --stats {bank}",
    ] {
        let output = with_file_limit(20, line, &paths);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", stderr(&output));
        let error = stderr(&output);
        assert!(error.contains("write"), "{line}: {error}");
        // The path that was asked for, not the hidden one.
        let inside = error.split_once(dir.path().to_str().unwrap()).unwrap().1;
        assert!(inside.starts_with("/out/model") || inside.starts_with("/bank"), "{error}");
        assert!(entries(dir.path()).is_empty(), "{line}: {:?}", entries(dir.path()));
    }
}
