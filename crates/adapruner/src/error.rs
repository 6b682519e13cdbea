//! The errors of this crate.

use std::{borrow::Cow, error::Error as StdError, fmt::Display, io, iter, path::Path};

use adapruner_eval::Error as EvalError;
use adapruner_prune::Error as PruneError;

/// What went wrong, in the stage where it did.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model, text, tokenizer or output.
    #[error(transparent)]
    Checkpoint(#[from] adapruner_checkpoint::Error),
    /// Running a model.
    #[error(transparent)]
    Model(#[from] adapruner_model::Error),
    /// Statistics, scores, plans, masks and compensation.
    #[error(transparent)]
    Prune(#[from] adapruner_prune::Error),
    /// Losses and tasks.
    #[error(transparent)]
    Eval(#[from] adapruner_eval::Error),
    /// Training.
    #[error(transparent)]
    Recover(#[from] adapruner_recover::Error),
    /// A study and its journal.
    #[error(transparent)]
    Study(#[from] adapruner_study::Error),
    /// The operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record that is no JSON, or not of the expected form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Settings or inputs that do not fit each other.
    #[error("{message}")]
    Refused {
        /// What was expected and found.
        message: String,
        /// What can be done about it.
        hint: Option<&'static str>,
    },
    /// Another error, and what it concerns.
    #[error("{what}")]
    In {
        /// A file, a stage, a setting.
        what: String,
        /// The error.
        source: Box<Self>,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Settings or inputs that do not fit each other.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), hint: None }
    }

    /// The same error, concerning `what`.
    #[must_use]
    pub fn within(self, what: impl Display) -> Self {
        Self::In { what: what.to_string(), source: Box::new(self) }
    }

    /// The error behind all that says what it concerns.
    pub fn root(&self) -> &Self {
        let mut error = self;
        while let Self::In { source, .. } = error {
            error = source;
        }
        error
    }

    /// The error and its causes on one line, each said once.
    pub fn in_full(&self) -> String {
        let first: &(dyn StdError + 'static) = self;
        in_full(iter::successors(Some(first), |error| (*error).source()))
    }

    /// By how much a configuration is infeasible, if the error says something of it and not of the
    /// machine or the files: the share of parameters by which it misses the ratio, 1 where it
    /// cannot be scored or measured at all.
    pub fn violation(&self) -> Option<f64> {
        let root = self.root();
        if let Self::Prune(PruneError::Unreachable { ratio, largest, .. }) = root {
            return Some((ratio - largest).max(f64::EPSILON));
        }
        let unmeasured = matches!(
            root,
            Self::Prune(PruneError::Option { .. } | PruneError::Score { .. })
                | Self::Eval(EvalError::Loss { .. })
        );
        unmeasured.then_some(1.0)
    }

    /// The operating system's error, if it is one.
    pub fn io(&self) -> Option<&io::Error> {
        let Self::Io(error) = self.root() else { return None };
        Some(error)
    }

    /// The file or model that is not there, if that is the error.
    pub fn missing(&self) -> Option<&Path> {
        let Self::Checkpoint(error) = self.root() else { return None };
        error.missing()
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        match self.root() {
            Self::Checkpoint(error) => error.hint().map(Cow::Borrowed),
            Self::Model(error) => error.hint().map(Cow::Borrowed),
            Self::Prune(error) => error.hint(),
            Self::Eval(error) => error.hint().map(Cow::Borrowed),
            Self::Recover(error) => error.hint().map(Cow::Borrowed),
            Self::Refused { hint, .. } => hint.map(Cow::Borrowed),
            Self::Study(_) | Self::Io(_) | Self::Json(_) | Self::In { .. } => None,
        }
    }
}

/// A chain of errors on one line, without repetitions.
pub fn in_full<'a>(chain: impl Iterator<Item = &'a (dyn StdError + 'static)>) -> String {
    let mut line = String::new();
    for cause in chain {
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

impl From<adapruner_choice::Unknown> for Error {
    fn from(unknown: adapruner_choice::Unknown) -> Self {
        Self::refused(unknown.to_string())
    }
}

/// Says what an error concerns, or turns a missing value into one.
pub(crate) trait Context<T> {
    /// With a text that is there.
    fn context(self, what: impl Display) -> Result<T>;

    /// With a text that is only made for an error.
    fn with_context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| error.into().within(what))
    }

    fn with_context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().within(what()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl Display) -> Result<T> {
        self.ok_or_else(|| Error::refused(what.to_string()))
    }

    fn with_context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.ok_or_else(|| Error::refused(what().to_string()))
    }
}

/// Returns [`Error::Refused`] with a formatted message.
macro_rules! bail {
    ($($message:tt)+) => {
        return Err($crate::error::Error::refused(format!($($message)+)))
    };
}

/// Returns [`Error::Refused`] with a formatted message unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::error::bail!($($message)+)
        }
    };
}

pub(crate) use {bail, ensure};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::advised;

    #[test]
    fn what_an_error_concerns_hides_neither_root_nor_hint() {
        let refused: Result<()> = Err(advised("no", "yes"));
        let error = refused.context("file").context("stage").unwrap_err();
        assert_eq!(error.to_string(), "stage");
        assert_eq!(error.hint().as_deref(), Some("yes"));
        assert!(matches!(error.root(), Error::Refused { message, .. } if message == "no"));
        assert_eq!(error.in_full(), "stage: file: no");
    }

    #[test]
    fn causes_stand_on_one_line_and_are_said_once() {
        let cause = |text| Err::<(), _>(io::Error::other(text));
        let error = cause("disk\n  full").context("x.bin: cannot write").unwrap_err();
        assert_eq!(error.in_full(), "x.bin: cannot write: disk full");
        let error = cause("full").context("no: full").unwrap_err();
        assert_eq!(error.in_full(), "no: full");
    }

    #[test]
    fn a_missing_value_is_refused() {
        let error = None::<u8>.with_context(|| "trial 3 has no loss").unwrap_err();
        assert!(matches!(error, Error::Refused { hint: None, .. }));
    }
}
