//! Errors for people: one line, and a hint on its own line.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use adapruner::error::in_full;
use anyhow::Error;

use crate::terminal::say;

/// An error `message` with a hint.
pub fn advised(message: impl Into<String>, hint: &'static str) -> Error {
    adapruner::advice::advised(message, hint).into()
}

/// Prints an error (with `--json` also on stdout, as JSON) and returns the exit code. A closed
/// stdout is no error.
pub fn report(error: &Error, json: bool) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        let of_pipeline = cause.downcast_ref::<adapruner::Error>().and_then(adapruner::Error::io);
        let io = cause.downcast_ref::<io::Error>().or(of_pipeline);
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let (message, hint) = (in_full(error.chain()), hint(error));
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

/// The hint of the outermost error that has one.
fn hint(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(of_pipeline) = cause.downcast_ref::<adapruner::Error>() {
            let hint = of_pipeline.hint().map(Cow::into_owned);
            return hint.or_else(|| neighbour(of_pipeline.missing()?));
        }
        if let Some(of_checkpoint) = cause.downcast_ref::<adapruner_checkpoint::Error>() {
            let hint = of_checkpoint.hint().map(str::to_owned);
            return hint.or_else(|| neighbour(of_checkpoint.missing()?));
        }
        if let Some(of_model) = cause.downcast_ref::<adapruner_model::Error>() {
            return of_model.hint().map(str::to_owned);
        }
        if let Some(of_evaluation) = cause.downcast_ref::<adapruner_eval::Error>() {
            return of_evaluation.hint().map(str::to_owned);
        }
        if let Some(of_training) = cause.downcast_ref::<adapruner_recover::Error>() {
            return of_training.hint().map(str::to_owned);
        }
        cause.downcast_ref::<adapruner_prune::Error>()?.hint().map(Cow::into_owned)
    })
}

/// Maximum entries of a folder to compare with a missing name.
const LOOKED_AT: usize = 10_000;

/// The existing file or folder whose name is closest to a missing one's.
fn neighbour(missing: &Path) -> Option<String> {
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
    use super::*;

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
