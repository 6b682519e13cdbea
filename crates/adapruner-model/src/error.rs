//! Errors of running a model.

/// The result of running a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the weights failed.
    #[error(transparent)]
    Checkpoint(#[from] adapruner_checkpoint::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The device was not compiled in or cannot be opened.
    #[error("device {device}: {message}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why it cannot be had.
        message: String,
    },
    /// Token ids that the model cannot run.
    #[error("tokens: {0}")]
    Tokens(String),
    /// A parameter that should have a gradient has none.
    #[error("parameter {0} has no gradient: an operation on its path cut the graph")]
    NoGradient(String),
    /// A change that does not fit the model's parameters.
    #[error("parameter {name}: {message}")]
    Unfit {
        /// Canonical name of the parameter.
        name: String,
        /// What was expected and found.
        message: String,
    },
    /// A training pass whose targets do not fit its sequences.
    #[error("batch: {0}")]
    Batch(String),
    /// A matching of hidden states that is not a number.
    #[error("the matching of hidden states is {0} (expected a finite number)")]
    Matching(f64),
    /// A loss that is not a number.
    #[error("sample {sample}: the loss is {loss} (expected a finite number of nats)")]
    Loss {
        /// Index of the sample.
        sample: usize,
        /// What was computed.
        loss: f64,
    },
}

impl Error {
    /// Advice on a line of its own, where there is some.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Checkpoint(e) => e.hint(),
            Self::Device { .. } => {
                Some("use --device cpu, or build with --features cuda or --features metal")
            }
            Self::Loss { .. } | Self::Matching(_) => {
                Some("weights or text may be damaged; try --dtype f32")
            }
            Self::Candle(_)
            | Self::Tokens(_)
            | Self::NoGradient(_)
            | Self::Unfit { .. }
            | Self::Batch(_) => None,
        }
    }
}
