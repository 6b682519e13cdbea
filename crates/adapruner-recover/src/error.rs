//! Errors of recovering a pruned model.

use std::path::PathBuf;

/// The result of an operation on data, adapters or a training.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be trained, or an adapter not be read or merged.
///
/// Advice stands apart in [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing files failed.
    #[error(transparent)]
    Checkpoint(#[from] adapruner_checkpoint::Error),
    /// Running the model failed.
    #[error(transparent)]
    Model(#[from] adapruner_model::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A record of the training data that is malformed.
    #[error("{path}: {place}: {message}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line or record in it.
        place: String,
        /// The field, what was expected and what was found.
        message: String,
    },
    /// Training data that cannot be used.
    #[error("{path}: {message}", path = path.display())]
    Data {
        /// The file or named set.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// An option that is out of range or contradicts another.
    #[error("{option}: {message}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Expected and found.
        message: String,
    },
    /// An adapter, state or cache whose content breaks its format.
    #[error("{path}: {message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// A tensor of such a file that is missing or has the wrong shape.
    #[error("{path}: tensor {tensor}: {message}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name there.
        tensor: String,
        /// Expected and found.
        message: String,
    },
    /// A file of another training.
    #[error("{path}: made with another {what}: {expected} expected, {found} found", path = path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// Of the present run.
        expected: String,
        /// In the file.
        found: String,
    },
    /// A loss or gradient that is not finite or has exploded.
    #[error("step {step}: the {what} is {value}: {message}")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// What was computed.
        value: f64,
        /// What was expected.
        message: String,
    },
    /// More memory than is allowed or there.
    #[error("memory: the training needs about {needed} bytes ({parts}), {limit} may be used")]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
        /// What takes them.
        parts: String,
    },
    /// Another error, with its own hint.
    #[error("{error}")]
    Advised {
        /// What went wrong.
        error: Box<Error>,
        /// What the user can do about it.
        hint: &'static str,
    },
}

impl Error {
    /// An [`Error::Option`].
    pub fn option(option: &'static str, message: impl Into<String>) -> Self {
        Self::Option { option, message: message.into() }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }

    /// An [`Error::Data`] for `path`.
    pub fn data(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Data { path: path.into(), message: message.into() }
    }

    /// An [`Error::Tensor`] for `tensor` in `path`.
    pub fn tensor(
        path: impl Into<PathBuf>,
        tensor: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), message: message.into() }
    }

    /// The same error with advice for its [`hint`](Self::hint).
    #[must_use]
    pub fn advise(self, hint: &'static str) -> Self {
        Self::Advised { error: Box::new(self), hint }
    }

    /// What the user can do about it, on a line of its own; `None` where the
    /// message says it all.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Checkpoint(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Advised { hint, .. } => Some(hint),
            Self::Other { .. } => {
                Some("give the settings of that run again, or another --work folder")
            }
            Self::Diverged { .. } => Some(
                "try a lower --learning-rate or a longer --warmup; the last saved state is kept",
            ),
            Self::Memory { .. } => {
                Some("try --checkpointing, a smaller --micro-tokens, or --method lora")
            }
            Self::Candle(_)
            | Self::Record { .. }
            | Self::Data { .. }
            | Self::Option { .. }
            | Self::Format { .. }
            | Self::Tensor { .. } => None,
        }
    }
}
