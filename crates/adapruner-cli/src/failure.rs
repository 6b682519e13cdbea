//! Errors for people: one line, and a hint on its own line.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use crate::terminal::say;
use adapruner::advice::Advised;
pub use adapruner::advice::advised;
use anyhow::Error;

/// Prints an error (with `--json` also on stdout, as JSON) and returns the exit code. A closed
/// stdout is no error.
pub fn report(error: &Error, json: bool) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let (message, hint) = (one_line(error), hint(error));
    say(&format!("error: {message}"));
    if let Some(hint) = &hint {
        say(&format!("hint: {hint}"));
    }
    if json {
        let failed = serde_json::json!({ "error": { "message": message, "hint": hint } });
        // stderr has the error, so a full stdout loses nothing.
        let _ = writeln!(io::stdout().lock(), "{failed:#}");
    }
    ExitCode::from(1)
}

/// The chain of causes on one line, without repetitions.
fn one_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>();
        let text = text.join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// The hint of the outermost error that has one.
fn hint(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(e) = cause.downcast_ref::<adapruner_prune::Error>() {
            return e.hint().map(|h| h.into_owned());
        }
        if let Some(e) = cause.downcast_ref::<adapruner_recover::Error>() {
            return e.hint().map(str::to_owned);
        }
        if let Some(e) = cause.downcast_ref::<adapruner_eval::Error>() {
            return e.hint().map(str::to_owned);
        }
        if let Some(e) = cause.downcast_ref::<adapruner_model::Error>() {
            return e.hint().map(str::to_owned);
        }
        if let Some(e) = cause.downcast_ref::<adapruner_checkpoint::Error>() {
            return e.hint().map(str::to_owned).or_else(|| neighbour(e));
        }
        cause.downcast_ref::<Advised>().map(|e| e.hint().to_owned())
    })
}

/// Maximum entries of a folder to compare with a missing name.
const LOOKED_AT: usize = 10_000;

/// The existing file or folder whose name is closest to a missing one's.
fn neighbour(error: &adapruner_checkpoint::Error) -> Option<String> {
    let missing = error.missing()?;
    let name = missing.file_name()?.to_str()?;
    let parent = missing.parent()?;
    let folder = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let entries = std::fs::read_dir(folder).ok()?.take(LOOKED_AT).flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let nearest = adapruner_choice::nearest(name, names)?;
    Some(format!("did you mean {}?", parent.join(nearest).display()))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_are_said_once() {
        let cause = io::Error::other("disk\n  full");
        let error = Err::<(), _>(cause).context("x.bin: cannot write").unwrap_err();
        assert_eq!(one_line(&error), "x.bin: cannot write: disk full");
        let said = Err::<(), _>(io::Error::other("full")).context("no: full").unwrap_err();
        assert_eq!(one_line(&said), "no: full");
    }

    #[test]
    fn the_neighbour_of_a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("calibration.jsonl"), "").unwrap();
        let of = |name: &str| {
            let path = folder.path().join(name);
            let error = adapruner_checkpoint::input::open(&path).unwrap_err();
            hint(&Error::new(error))
        };
        let right = folder.path().join("calibration.jsonl");
        assert_eq!(of("calibation.jsonl"), Some(format!("did you mean {}?", right.display())));
        assert_eq!(of("model.gguf"), None);
        assert_eq!(of("nowhere/calibration.jsonl"), None);
    }

    #[test]
    fn advice_is_found_behind_context() {
        let error = advised("no", "yes").context("while trying");
        assert_eq!(hint(&error).as_deref(), Some("yes"));
    }
}
