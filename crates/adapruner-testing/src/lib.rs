//! What a test does where something beyond the repository is missing: a server,
//! a browser, an instruction of the processor.
//!
//! | what is missing | with `CI=true` | elsewhere |
//! |---|---|---|
//! | a program that can be installed ([`require`]) | the test fails | the test is skipped |
//! | what the machine cannot have ([`unsupported`]) | the test is skipped | the test is skipped |
//!
//! Every skip writes one line to stderr and appends it to the file that
//! `ADAPRUNER_SKIPPED` names; `./test` prints that file when it ends. No test
//! returns early in any other way.
//!
//! Beside that, [`mutations`]: damaged inputs for readers of foreign bytes.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests read what they wrote"))]

mod mutate;

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
};

pub use self::mutate::mutations;

/// Environment variable that names the file of skips.
pub const SKIPPED: &str = "ADAPRUNER_SKIPPED";

/// Names of browsers that take Chromium's options.
pub const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// The first of `programs` that is on the `PATH`. Where there is none, the
/// calling test must return at once: it has been recorded as skipped.
///
/// # Panics
/// Where there is none and `CI` is `true`.
#[must_use = "a test without the program must return"]
#[track_caller]
pub fn require(programs: &[&str]) -> Option<PathBuf> {
    let found = search(&env::var_os("PATH").unwrap_or_default(), programs);
    if found.is_none() {
        missing(&format!("{} is not installed", programs.join(" or ")));
    }
    found
}

/// `redis-server`, as [`require`] finds it.
///
/// # Panics
/// Where it is missing and `CI` is `true`.
#[must_use = "a test without the server must return"]
#[track_caller]
pub fn require_redis() -> Option<PathBuf> {
    require(&["redis-server"])
}

/// A browser of [`BROWSERS`], as [`require`] finds it.
///
/// # Panics
/// Where there is none and `CI` is `true`.
#[must_use = "a test without the browser must return"]
#[track_caller]
pub fn require_browser() -> Option<PathBuf> {
    require(&BROWSERS)
}

/// Records that the running test is skipped because something that could be
/// installed is not there; `why` says what.
///
/// # Panics
/// Where `CI` is `true`.
#[track_caller]
pub fn missing(why: &str) {
    let line = line(why);
    assert!(!in_ci(), "with CI=true no test may be skipped: {line}");
    record(&line);
}

/// Records that the running test, or a part of it, is skipped because this
/// machine cannot do what it needs; `why` says what.
///
/// # Panics
/// Where the file of skips cannot be written.
#[track_caller]
pub fn unsupported(why: &str) {
    record(&line(why));
}

/// Whether skips are failures.
fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

/// `PROGRAM::TEST: WHY`, the test by the name of its thread.
#[track_caller]
fn line(why: &str) -> String {
    let thread = std::thread::current();
    let place = std::panic::Location::caller();
    match thread.name().filter(|name| *name != "main") {
        Some(test) => format!("{test} ({}): {why}", place.file()),
        None => format!("{}:{}: {why}", place.file(), place.line()),
    }
}

fn record(line: &str) {
    // Through the handle: the test harness captures what the macros print.
    let _ = writeln!(std::io::stderr(), "skipped: {line}");
    let Some(path) = env::var_os(SKIPPED).filter(|path| !path.is_empty()) else { return };
    append(Path::new(&path), line);
}

/// Appends a line in one write, so that tests that run at once do not mix.
fn append(path: &Path, line: &str) {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        panic!("{}: cannot record a skipped test: {error}", path.display());
    }
}

fn search(path: &std::ffi::OsStr, programs: &[&str]) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = env::split_paths(path).collect();
    programs
        .iter()
        .flat_map(|program| folders.iter().map(move |folder| folder.join(program)))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_order_of_their_names() {
        let path = env::join_paths(["/nonexistent", "/bin"]).unwrap();
        assert_eq!(search(&path, &["no-such-program", "sh"]), Some("/bin/sh".into()));
        assert_eq!(search(&path, &["no-such-program"]), None);
    }

    /// This very test is the process that skips; see below.
    #[test]
    fn a_test_that_needs_a_program() {
        if env::var_os("ADAPRUNER_TESTING_INNER").is_some() {
            assert_eq!(require(&["no-such-program", "nor-this"]), None);
        }
    }

    fn inner(ci: &str, skips: &Path) -> std::process::Output {
        let mut command = std::process::Command::new(env::current_exe().unwrap());
        command.args(["--exact", "tests::a_test_that_needs_a_program", "--nocapture"]);
        command.env("ADAPRUNER_TESTING_INNER", "1").env("CI", ci).env(SKIPPED, skips);
        command.output().unwrap()
    }

    #[test]
    fn a_skip_is_a_line_and_in_ci_a_failure() {
        let skips = env::temp_dir().join(format!("adapruner-skips-{}", std::process::id()));
        assert!(inner("false", &skips).status.success());
        let passed = inner("", &skips);
        assert!(passed.status.success());
        let expected = "skipped: tests::a_test_that_needs_a_program";
        assert!(String::from_utf8_lossy(&passed.stderr).contains(expected));
        let text = fs::read_to_string(&skips).unwrap();
        fs::remove_file(&skips).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("no-such-program or nor-this is not installed"), "{text}");
        let failed = inner("true", &skips);
        assert!(!failed.status.success());
        let out = String::from_utf8_lossy(&failed.stderr).into_owned()
            + &String::from_utf8_lossy(&failed.stdout);
        assert!(out.contains("with CI=true no test may be skipped"), "{out}");
        assert!(!skips.exists(), "a failure is no skip");
    }
}
