//! Pruners: when to stop a trial that will not be among the best.
//!
//! A trial reports values at steps; a pruner judges it by the reports of others. As with
//! samplers, all state is in the study. Decisions equal those of Optuna's class of the same
//! name.
//!
//! | module | content |
//! |---|---|
//! | [`percentile`] | [`PercentilePruner`], including the median rule |
//! | [`halving`] | [`SuccessiveHalvingPruner`] (asynchronous) |
//! | [`hyperband`] | [`HyperbandPruner`] |
//! | [`wilcoxon`] | [`WilcoxonPruner`]: paired with the best trial, step by step |

pub mod halving;
pub mod hyperband;
pub mod percentile;
pub mod wilcoxon;

use std::sync::Arc;

use serde_json::Value;

use crate::trial::{Direction, Trial};

pub use halving::SuccessiveHalvingPruner;
pub use hyperband::HyperbandPruner;
pub use percentile::PercentilePruner;
pub use wilcoxon::WilcoxonPruner;

/// What a pruner sees of a study.
#[derive(Debug, Clone, Copy)]
pub struct PrunerView<'a> {
    /// Name of the study.
    pub study: &'a str,
    /// Whether small or large values are good.
    pub direction: Direction,
    /// All trials, by number.
    pub trials: &'a [Arc<Trial>],
    /// The trial to judge, which is among them.
    pub trial: &'a Trial,
}

/// A judgement, and what the pruner wants to find in the trial next time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// Whether to stop the trial.
    pub prune: bool,
    /// System attributes to set on the trial.
    pub attrs: Vec<(String, Value)>,
}

impl Verdict {
    fn plain(prune: bool) -> Self {
        Self { prune, attrs: Vec::new() }
    }
}

/// Judges running trials.
///
/// Implementations are deterministic, never prune a trial that has not
/// reported, and stand any report, NaN and infinities among them.
/// `testing::pruner` (feature `testing`) checks it.
pub trait Pruner: Send + Sync {
    /// Judges `view.trial` after its last report.
    fn judge(&self, view: &PrunerView<'_>) -> Verdict;
}

/// Never prunes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NopPruner;

impl Pruner for NopPruner {
    fn judge(&self, _view: &PrunerView<'_>) -> Verdict {
        Verdict::default()
    }
}

/// The last step a trial reported.
fn last_step(trial: &Trial) -> Option<u64> {
    trial.intermediate.last_key_value().map(|(step, _)| *step)
}
