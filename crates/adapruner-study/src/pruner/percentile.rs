//! Stops a trial that is worse than a share of the complete trials at the same step.

use crate::pruner::{Pruner, PrunerView, Verdict};
use crate::sampler::tpe::rank_values;
use crate::trial::{Direction, TrialState};

/// Prunes a trial whose best report is not within a percentile of what complete
/// trials reported at the step.
#[derive(Debug, Clone, Copy)]
pub struct PercentilePruner {
    /// Per cent of trials that are kept, 0 to 100.
    pub percentile: f64,
    /// Complete trials before anything is pruned.
    pub startup_trials: usize,
    /// First step at which a trial is judged.
    pub warmup_steps: u64,
    /// Trials are judged at their first report in every such number of steps;
    /// 0 counts as 1.
    pub interval_steps: u64,
    /// Complete trials that must have reported at the step.
    pub min_trials: usize,
}

impl PercentilePruner {
    /// Keeps this per cent of trials, with Optuna's other settings: 5 startup
    /// trials, no warm-up, every step.
    pub fn new(percentile: f64) -> Self {
        Self { percentile, startup_trials: 5, warmup_steps: 0, interval_steps: 1, min_trials: 1 }
    }

    /// The median rule.
    pub fn median() -> Self {
        Self::new(50.0)
    }

    /// Whether no earlier report was within the interval of `step`.
    fn is_due(&self, step: u64, steps: impl Iterator<Item = u64>) -> bool {
        let Some(after) = step.checked_sub(self.warmup_steps) else { return false };
        let interval = self.interval_steps.max(1);
        let start = after / interval * interval + self.warmup_steps;
        steps.filter(|other| *other != step).all(|other| other < start)
    }
}

impl Pruner for PercentilePruner {
    fn judge(&self, view: &PrunerView<'_>) -> Verdict {
        let complete = || view.trials.iter().filter(|t| t.state == TrialState::Complete);
        let count = complete().count();
        if count == 0 || count < self.startup_trials {
            return Verdict::plain(false);
        }
        let reports = &view.trial.intermediate;
        let Some((&step, _)) = reports.last_key_value() else { return Verdict::plain(false) };
        if !self.is_due(step, reports.keys().copied()) {
            return Verdict::plain(false);
        }
        let valid = reports.values().copied().filter(|value| !value.is_nan());
        let best = match view.direction {
            Direction::Minimize => valid.reduce(f64::min),
            Direction::Maximize => valid.reduce(f64::max),
        };
        // Nothing but NaN.
        let Some(best) = best else { return Verdict::plain(true) };
        let at_step: Vec<f64> =
            complete().filter_map(|t| t.intermediate.get(&step)).copied().collect();
        if at_step.len() < self.min_trials {
            return Verdict::plain(false);
        }
        // A comparison with NaN keeps the trial.
        Verdict::plain(match view.direction {
            Direction::Minimize => best > percentile(at_step, self.percentile),
            Direction::Maximize => best < percentile(at_step, 100.0 - self.percentile),
        })
    }
}

/// The percentile of what is a number, by linear interpolation as in NumPy; NaN
/// if nothing is.
fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.retain(|value| !value.is_nan());
    values.sort_by(|a, b| rank_values(*a, *b));
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let (a, b, share) = (values[below], values[(below + 1).min(last)], place - place.floor());
    if share == 0.0 {
        a
    } else if share < 0.5 {
        a + (b - a) * share
    } else {
        b - (b - a) * (1.0 - share)
    }
}
