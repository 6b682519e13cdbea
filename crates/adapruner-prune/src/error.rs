//! Errors of statistics, scores, plans and their application.

use std::{borrow::Cow, fmt};

use adapruner_checkpoint::{Digest, ModelConfig};

use crate::{bank::memory::Footprint, masks::MaskFootprint};

/// Refuses what is not done to models with experts.
///
/// # Errors
/// A model that has some.
pub fn refuse_experts(config: &ModelConfig, option: &'static str, what: &str) -> Result<()> {
    if config.experts.is_none() {
        return Ok(());
    }
    Err(Error::Option {
        option,
        message: format!("{what} is not supported for {}", config.family().title),
        hint: Some(Cow::Borrowed("leave it out for models whose feed-forwards are of experts")),
    })
}

/// The result of an operation on statistics, scores or plans.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of unit that are scored and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnitKind {
    /// A key-value head together with its query heads.
    KvGroup,
    /// One query head.
    QueryHead,
    /// One feed-forward channel.
    FfnChannel,
}

impl fmt::Display for UnitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KvGroup => "key-value group",
            Self::QueryHead => "query head",
            Self::FfnChannel => "feed-forward channel",
        })
    }
}

/// Why a model could not be scored, planned for or pruned.
///
/// Advice stands apart in [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the weights failed.
    #[error(transparent)]
    Checkpoint(#[from] adapruner_checkpoint::Error),
    /// Running the model failed.
    #[error(transparent)]
    Model(#[from] adapruner_model::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Statistics that are malformed or do not hold what is asked of them.
    #[error("statistics: {0}")]
    Bank(String),
    /// Statistics that lack the terms which an importance needs.
    #[error("statistics: {importance} needs {needed}, which were not collected")]
    MissingTerms {
        /// The requested importance.
        importance: String,
        /// The terms it needs.
        needed: &'static str,
    },
    /// Statistics of another model, calibration set, seed or way of running.
    #[error("statistics: {what} differs: expected {expected}, found {found}")]
    OtherStatistics {
        /// What differs.
        what: &'static str,
        /// Of the present run.
        expected: String,
        /// In the statistics.
        found: String,
    },
    /// Statistics that do not fit into memory, however the pass is cut.
    #[error(
        "memory: the statistics of {samples} samples need at least {} bytes ({footprint}), \
         {limit} may be used", footprint.total()
    )]
    Memory {
        /// Number of samples.
        samples: usize,
        /// The least that they take.
        footprint: Footprint,
        /// Bytes that may be used.
        limit: u64,
    },
    /// An importance or reduction that cannot be parsed or used.
    #[error("importance {importance}: {message}")]
    Importance {
        /// As it was given.
        importance: String,
        /// Expected and found.
        message: String,
    },
    /// A name that stands for none of the choices.
    #[error(transparent)]
    Name(#[from] adapruner_choice::Unknown),
    /// A score that is not a number.
    #[error("layer {layer}, {kind} {unit}: the score is {value} (expected a finite number)")]
    Score {
        /// Layer index.
        layer: usize,
        /// Kind of unit.
        kind: UnitKind,
        /// Index of the unit in its layer.
        unit: usize,
        /// What was computed.
        value: f64,
    },
    /// A planning option that is out of range or contradicts another.
    #[error("{option}: {message}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Expected and found.
        message: String,
        /// What to do instead.
        hint: Option<Cow<'static, str>>,
    },
    /// A ratio that these options cannot reach.
    #[error(
        "ratio: cannot remove {ratio} of the parameters under these options; the largest \
         reachable ratio below that is {largest}"
    )]
    Unreachable {
        /// As requested.
        ratio: f64,
        /// Largest ratio below it that a plan under the same options reaches.
        largest: f64,
        /// Which options would reach more.
        hint: String,
    },
    /// A compensation that cannot be computed.
    #[error("compensation: {0}")]
    Compensation(String),
    /// Masks that cannot be learned within the memory, however their passes are run.
    #[error(
        "memory: learning masks needs at least {} bytes ({footprint}), {limit} may be used",
        footprint.total()
    )]
    MaskMemory {
        /// The least that it takes.
        footprint: MaskFootprint,
        /// Bytes that may be used.
        limit: u64,
    },
    /// A state of learned masks that is malformed or damaged.
    #[error("state of learned masks: {0}")]
    MaskState(String),
    /// A state of masks that were learned otherwise.
    #[error("state of learned masks: another {what}: {expected} expected, {found} found")]
    OtherMasks {
        /// What differs.
        what: String,
        /// Of the present run.
        expected: String,
        /// In the state.
        found: String,
    },
    /// A gradient of scores that is not a number.
    #[error("learned masks: the norm of the gradient is {0} (expected a finite number)")]
    MaskGradient(f64),
    /// A plan that is malformed or does not fit its model.
    #[error("plan: {0}")]
    Plan(String),
    /// A plan made for another model.
    #[error("plan: made for a model with digest {planned}, but this one has digest {found}")]
    OtherModel {
        /// Digest in the plan.
        planned: Digest,
        /// Digest of this model.
        found: Digest,
    },
}

impl Error {
    /// What the user can do about it, on a line of its own; `None` where the
    /// message says it all.
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Checkpoint(e) => e.hint().map(Cow::Borrowed),
            Self::Model(e) => e.hint().map(Cow::Borrowed),
            Self::MissingTerms { .. } => {
                Some("collect the statistics again with these terms".into())
            }
            Self::OtherStatistics { .. } => Some(
                "collect the statistics again for this model, calibration set and way of running"
                    .into(),
            ),
            Self::Memory { .. } => Some(
                "allow more memory, take fewer or shorter samples, or collect fewer terms or none of \
                 of the whole set"
                    .into(),
            ),
            Self::MaskMemory { .. } => {
                Some("allow more memory, or take fewer or shorter samples a step".into())
            }
            Self::MaskState(_) => {
                Some("take an undamaged copy, or remove it and learn the masks again".into())
            }
            Self::OtherMasks { .. } => {
                Some("give the settings of that run again, or another folder of state".into())
            }
            Self::Score { .. } => Some("weights or statistics may be damaged".into()),
            Self::Option { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Unreachable { hint, .. } => Some(Cow::Borrowed(hint)),
            Self::OtherModel { .. } => Some("make a new plan for this model".into()),
            Self::Candle(_)
            | Self::Bank(_)
            | Self::Importance { .. }
            | Self::Name(_)
            | Self::Compensation(_)
            | Self::MaskGradient(_)
            | Self::Plan(_) => None,
        }
    }
}
