//! Errors of evaluation.

/// The result of an evaluation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Running the model failed.
    #[error(transparent)]
    Model(#[from] adapruner_model::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Windows that cannot be measured.
    #[error("windows: {0}")]
    Windows(String),
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
    /// Advice on a line of its own, where there is some.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Model(e) => e.hint(),
            Self::Loss { .. } => Some("weights or text may be damaged; try --dtype f32"),
            Self::Candle(_) | Self::Windows(_) => None,
        }
    }
}
