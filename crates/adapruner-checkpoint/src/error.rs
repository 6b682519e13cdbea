//! Errors of reading and writing models and text.

use std::path::{Path, PathBuf};

use crate::atomic::Relation;

/// The result of an operation on model or text files.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a file, a tensor or a tokenizer.
///
/// Messages name the file, the tensor, what was expected and what was found;
/// advice stands apart in [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a path.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The path concerned.
        path: PathBuf,
        /// What was attempted, as a verb phrase (`read`, `create`, `rename`).
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A file's content breaks its format.
    #[error("{path}: {message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// A tensor is missing, has the wrong shape or holds bad values.
    #[error("{path}: tensor {tensor}: {message}", path = path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The canonical tensor name.
        tensor: String,
        /// Expected and found.
        message: String,
    },
    /// The model is well formed but not of a kind this program runs.
    #[error("{path}: {message}", path = path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What is not supported, by name.
        message: String,
    },
    /// A tokenizer could not be built or used.
    #[error("{path}: tokenizer: {message}", path = path.display())]
    Tokenizer {
        /// Where the tokenizer came from.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// A text holds nothing or too little.
    #[error("{path}: {message}", path = path.display())]
    Text {
        /// The text's path or name.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// An output exists already and `--force` was not given.
    #[error("{path}: already exists", path = path.display())]
    Exists {
        /// The output path.
        path: PathBuf,
    },
    /// An output is, contains or lies in what the command reads or writes besides.
    #[error(transparent)]
    Overlap(Box<Overlap>),
    /// A named model or text could not be found or fetched.
    #[error("{name}: {message}")]
    NotFound {
        /// The request.
        name: String,
        /// Where it was looked for and why that failed.
        message: String,
    },
    /// Another error, with advice of its own.
    #[error("{error}")]
    Advised {
        /// What went wrong.
        error: Box<Error>,
        /// What the user can do about it.
        hint: &'static str,
    },
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// An output that touches what it must not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path}: {role} {relation} {other}, which is {other_role}",
    path = path.display(), other = other.display()
)]
pub struct Overlap {
    /// What the output is called on the command line.
    pub role: String,
    /// The output path.
    pub path: PathBuf,
    /// How the two lie to each other.
    pub relation: Relation,
    /// The other one's part, as "read as MODEL".
    pub other_role: String,
    /// The other path.
    pub other: PathBuf,
}

impl Error {
    /// An [`Error::Io`] for `path`, ready for `map_err`.
    pub fn io(
        path: impl Into<PathBuf>,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }

    /// An [`Error::Tensor`] for `tensor` in `path`.
    pub fn tensor(
        path: impl Into<PathBuf>,
        tensor: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), message: message.into() }
    }

    /// An [`Error::Unsupported`] for `path`.
    pub fn unsupported(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), message: message.into() }
    }

    /// The same error with advice for its [`hint`](Self::hint).
    #[must_use]
    pub fn advise(self, hint: &'static str) -> Self {
        Self::Advised { error: Box::new(self), hint }
    }

    /// The same error with another path, for what was done to a path that the
    /// user does not know.
    #[must_use]
    pub fn relocate(mut self, to: impl Fn(&Path) -> PathBuf) -> Self {
        match &mut self {
            Self::Io { path, .. }
            | Self::Format { path, .. }
            | Self::Tensor { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Tokenizer { path, .. }
            | Self::Text { path, .. }
            | Self::Exists { path } => *path = to(path),
            Self::Overlap(overlap) => overlap.path = to(&overlap.path),
            Self::NotFound { .. } | Self::Candle(_) => {}
            Self::Advised { error, .. } => {
                let inner = std::mem::replace(&mut **error, Self::Exists { path: PathBuf::new() });
                **error = inner.relocate(to);
            }
        }
        self
    }

    /// The same error about a tensor by another name.
    #[must_use]
    pub fn rename(mut self, to: impl Fn(&str) -> String) -> Self {
        if let Self::Tensor { tensor, .. } = &mut self {
            *tensor = to(tensor);
        }
        self
    }

    /// Whether the file to open does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// The given path that does not exist.
    pub fn missing(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } if self.is_absent() => Some(path),
            Self::NotFound { name, .. } => Some(Path::new(name)),
            Self::Advised { error, .. } => error.missing(),
            Self::Io { .. }
            | Self::Format { .. }
            | Self::Tensor { .. }
            | Self::Unsupported { .. }
            | Self::Tokenizer { .. }
            | Self::Text { .. }
            | Self::Exists { .. }
            | Self::Overlap(_)
            | Self::Candle(_) => None,
        }
    }

    /// What the user can do about it, on a line of its own; `None` where the
    /// message says it all.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Advised { hint, .. } => Some(hint),
            Self::Exists { .. } => Some("give another --out, or --force to replace it"),
            Self::Overlap(_) => {
                Some("write to a place apart from everything else; nothing was changed")
            }
            #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum")]
            Self::Io { source, action, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied
                    if matches!(*action, "open" | "read" | "map") =>
                {
                    Some("the file must be readable by this user")
                }
                std::io::ErrorKind::StorageFull => Some("free some space; nothing was changed"),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    Some("the place must be writable by this user; nothing was changed")
                }
                _ => None,
            },
            Self::Format { .. }
            | Self::Tensor { .. }
            | Self::Unsupported { .. }
            | Self::Tokenizer { .. }
            | Self::Text { .. }
            | Self::NotFound { .. }
            | Self::Candle(_) => None,
        }
    }
}
