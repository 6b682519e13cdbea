//! Errors as people see them: one line, and advice on a line of its own.

use std::{io, process::ExitCode};

use crate::terminal::say;
use adapruner::advice::Advised;
pub use adapruner::advice::advised;
use anyhow::Error;

/// Prints an error and says how the program ends; a reader that went away is no
/// error.
pub fn report(error: &Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    say(&format!("error: {}", one_line(error)));
    if let Some(hint) = hint(error) {
        say(&format!("hint: {hint}"));
    }
    ExitCode::from(1)
}

/// The chain of causes on one line, each said once.
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

/// The advice of the outermost error that has some.
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
            return e.hint().map(str::to_owned);
        }
        cause.downcast_ref::<Advised>().map(|e| e.hint().to_owned())
    })
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
    fn advice_is_found_behind_context() {
        let error = advised("no", "yes").context("while trying");
        assert_eq!(hint(&error).as_deref(), Some("yes"));
    }
}
