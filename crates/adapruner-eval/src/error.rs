//! Errors of evaluation.

use std::path::PathBuf;

/// The result of an evaluation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Running the model failed.
    #[error(transparent)]
    Model(#[from] adapruner_model::Error),
    /// A file could not be read.
    #[error(transparent)]
    Checkpoint(#[from] adapruner_checkpoint::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Windows that cannot be measured.
    #[error("windows: {0}")]
    Windows(String),
    /// A task that does not exist, or whose data does not.
    #[error("task {task}: {message}")]
    Task {
        /// Name of the task.
        task: String,
        /// Expected and found.
        message: String,
    },
    /// A definition or data set that cannot be used.
    #[error("{path}: {message}", path = path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// A record that is not a question.
    #[error("{path}: line {line}: {message}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Line of the record, from 1.
        line: usize,
        /// Field, expected and found.
        message: String,
    },
    /// A row of a parquet file that is not a question.
    #[error("{path}: row {row}: {message}", path = path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// Field, expected and found.
        message: String,
    },
    /// A question that cannot be asked, or an answer that is none.
    #[error("task {task}: question {question}, choice {choice}: {message}")]
    Question {
        /// Name of the task.
        task: String,
        /// Place of the question in the data set.
        question: usize,
        /// Place of the choice.
        choice: usize,
        /// Expected and found.
        message: String,
    },
    /// A loss that is not a number.
    #[error("window {window}: the loss is {loss} (expected a finite number of nats)")]
    Loss {
        /// Index of the window.
        window: usize,
        /// What was computed.
        loss: f64,
    },
}

impl Error {
    /// A hint for its own line, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Model(e) => e.hint(),
            Self::Loss { .. } => Some("weights or text may be damaged; try --dtype f32"),
            Self::Checkpoint(e) => e.hint(),
            Self::Task { message, .. } if message.starts_with("no data") => {
                Some(if message.contains("the hub") {
                    "name the folder of the data sets: --data-dir DIR, or connect to the hub"
                } else {
                    "name the folder of the data sets: --data-dir DIR"
                })
            }
            Self::Candle(_)
            | Self::Windows(_)
            | Self::Task { .. }
            | Self::Data { .. }
            | Self::Record { .. }
            | Self::Row { .. }
            | Self::Question { .. } => None,
        }
    }
}
