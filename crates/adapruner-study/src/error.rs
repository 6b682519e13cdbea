//! Errors of studies.

use std::path::PathBuf;

/// The result of an operation on a study.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a study.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid distribution or space.
    #[error("parameter {name}: {message}")]
    Space {
        /// Name of the parameter.
        name: String,
        /// Expected and found.
        message: String,
    },
    /// A trial that does not exist, or whose state does not allow the operation.
    #[error("trial {number}: {message}")]
    Trial {
        /// Number of the trial.
        number: u64,
        /// Expected and found.
        message: String,
    },
    /// An objective that ended with an error.
    #[error("trial {number}: the objective failed: {source}")]
    Objective {
        /// Number of the trial.
        number: u64,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused an operation on a path.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The path concerned.
        path: PathBuf,
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A journal that breaks its format.
    #[error("{place}: {message}")]
    Journal {
        /// File and line, or key, of the record.
        place: String,
        /// Expected and found.
        message: String,
    },
    /// A study that does not exist, or differs from the request.
    #[error("study {name}: {message}")]
    Study {
        /// Name of the study.
        name: String,
        /// Expected and found.
        message: String,
    },
    /// A server refused an operation or could not be reached.
    #[error("{server}: cannot {action}: {message}")]
    Server {
        /// The server concerned.
        server: String,
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The cause.
        message: String,
    },
}
