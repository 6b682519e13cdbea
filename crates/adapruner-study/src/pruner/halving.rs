//! Asynchronous successive halving (Li et al., arXiv 1810.05934).

use serde_json::Value;

use crate::pruner::{Pruner, PrunerView, Verdict, last_step};
use crate::sampler::tpe::{badness, rank_values};
use crate::trial::{Trial, TrialState};

/// Trials compete at rungs, `min_resource · factor^(rate + rung)` steps; one
/// that is not in the top 1/factor of those that reached a rung is pruned there.
///
/// What a trial had at a rung is kept in its system attributes
/// `completed_rung_0`, `completed_rung_1`, …
#[derive(Debug, Clone, Copy)]
pub struct SuccessiveHalvingPruner {
    /// Steps to the first rung. Where `None`, a hundredth of the last step of the
    /// first complete trial that reported (by number, which is also what it is
    /// after a restart), at least 1; nothing is pruned before.
    pub min_resource: Option<u64>,
    /// Of how many trials one goes on to the next rung; at least 2.
    pub reduction_factor: u64,
    /// How many rungs are left out at the start.
    pub min_early_stopping_rate: u32,
    /// Trials that are pruned at a rung before any goes on.
    pub bootstrap_count: usize,
}

impl Default for SuccessiveHalvingPruner {
    fn default() -> Self {
        Self {
            min_resource: None,
            reduction_factor: 4,
            min_early_stopping_rate: 0,
            bootstrap_count: 0,
        }
    }
}

impl SuccessiveHalvingPruner {
    /// Judges among those trials for which `competes` is true.
    pub(super) fn judge_among(
        &self,
        view: &PrunerView<'_>,
        competes: impl Fn(&Trial) -> bool,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let Some((&step, &value)) = view.trial.intermediate.last_key_value() else {
            return verdict;
        };
        let others = || view.trials.iter().filter(|t| t.number != view.trial.number && competes(t));
        let known = self.min_resource.or_else(|| {
            let complete = others().filter(|t| t.state == TrialState::Complete);
            complete.filter_map(|trial| last_step(trial)).next().map(|last| last / 100)
        });
        let Some(min_resource) = known.map(|resource| resource.max(1)) else { return verdict };
        let factor = self.reduction_factor.max(2);
        let mut rung = 0;
        while view.trial.system_attrs.contains_key(&key(rung)) {
            rung += 1;
        }
        loop {
            let steps = self
                .min_early_stopping_rate
                .checked_add(rung)
                .and_then(|exponent| factor.checked_pow(exponent))
                .and_then(|power| power.checked_mul(min_resource));
            // A rung beyond all numbers is beyond this step.
            if steps.is_none_or(|steps| step < steps) {
                return verdict;
            }
            if value.is_nan() {
                verdict.prune = true;
                return verdict;
            }
            verdict.attrs.push((key(rung), rung_attr(value)));
            let mut competing: Vec<f64> = others()
                .filter_map(|t| rung_value(t.system_attrs.get(&key(rung))?))
                .chain([value])
                .map(|value| badness(Some(value), view.direction))
                .collect();
            let too_few = competing.len() <= self.bootstrap_count;
            competing.sort_by(|a, b| rank_values(*a, *b));
            // The best of all goes on where 1/factor of them is less than one.
            let last = (competing.len() / factor as usize).max(1) - 1;
            if too_few || badness(Some(value), view.direction) > competing[last] {
                verdict.prune = true;
                return verdict;
            }
            rung += 1;
        }
    }
}

impl Pruner for SuccessiveHalvingPruner {
    fn judge(&self, view: &PrunerView<'_>) -> Verdict {
        self.judge_among(view, |_| true)
    }
}

fn key(rung: u32) -> String {
    format!("completed_rung_{rung}")
}

/// JSON has no infinities: texts, then.
fn rung_attr(value: f64) -> Value {
    if value.is_finite() { Value::from(value) } else { Value::from(value.to_string()) }
}

fn rung_value(attr: &Value) -> Option<f64> {
    attr.as_f64().or_else(|| attr.as_str()?.parse().ok())
}
