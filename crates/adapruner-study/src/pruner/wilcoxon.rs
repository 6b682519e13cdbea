//! Stops a trial that is worse than the best trial, step by step.
//!
//! For objectives that are means over parts of an evaluation set: each part is a
//! step, its value the report. Parts differ far more than trials do, so the
//! trial and the best one are compared part by part: by the signed-rank test of
//! Wilcoxon, one-sided, with zero differences split (as SciPy's
//! `wilcoxon(zero_method="zsplit")`).
//!
//! Notation: d differences, n of them; T the sum of ranks of positive ones.

use crate::pruner::{Pruner, PrunerView, Verdict};
use crate::sampler::tpe::{badness, rank_values};
use crate::trial::{Trial, TrialState};

/// More differences than this: the normal approximation.
const MOST_EXACT: usize = 50;
/// With equal differences, all signs are tried up to this many.
const MOST_PERMUTED: usize = 13;

/// Prunes a trial that is worse than the best one at the steps both have, with
/// a p-value below a threshold.
///
/// A trial whose mean over its steps is better than that of the best one is
/// never pruned, nor is one with reports that are not finite. The test is made
/// after every report, so the share of wrong decisions is above the threshold.
#[derive(Debug, Clone, Copy)]
pub struct WilcoxonPruner {
    /// The threshold, 0 to 1; larger ones prune more.
    pub p_threshold: f64,
    /// Steps to compare before anything is pruned; at least 2.
    pub startup_steps: usize,
}

impl Default for WilcoxonPruner {
    fn default() -> Self {
        Self { p_threshold: 0.1, startup_steps: 2 }
    }
}

impl Pruner for WilcoxonPruner {
    fn judge(&self, view: &PrunerView<'_>) -> Verdict {
        let value = |trial: &Trial| badness(trial.value(), view.direction);
        let complete = view.trials.iter().filter(|t| t.state == TrialState::Complete);
        let best = complete.min_by(|a, b| rank_values(value(a), value(b)));
        let Some(best) = best else { return Verdict::plain(false) };
        let usable = |trial: &Trial| {
            !trial.intermediate.is_empty() && trial.intermediate.values().all(|v| v.is_finite())
        };
        if !usable(best) || !usable(view.trial) {
            return Verdict::plain(false);
        }
        let own = &view.trial.intermediate;
        let differences: Vec<f64> = own
            .iter()
            .filter_map(|(step, own)| Some(own - best.intermediate.get(step)?))
            .map(|difference| badness(Some(difference), view.direction))
            .collect();
        if differences.len() < self.startup_steps.max(2) {
            return Verdict::plain(false);
        }
        let mean = |trial: &Trial| {
            let sum: f64 = trial.intermediate.values().sum();
            badness(Some(sum / trial.intermediate.len() as f64), view.direction)
        };
        let worse = signed_rank_p(&differences) < self.p_threshold;
        Verdict::plain(worse && mean(best) < mean(view.trial))
    }
}

/// The p-value of the differences being positive.
pub fn signed_rank_p(differences: &[f64]) -> f64 {
    let n = differences.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| rank_values(differences[a].abs(), differences[b].abs()));
    let mut ranks = vec![0.0; n];
    let (mut first, mut ties, mut tie_term) = (0, false, 0.0);
    for equal in order.chunk_by(|&a, &b| differences[a].abs() == differences[b].abs()) {
        let t = equal.len() as f64;
        ties |= equal.len() > 1;
        tie_term += t * t * t - t;
        equal.iter().for_each(|&i| ranks[i] = first as f64 + (t + 1.0) / 2.0);
        first += equal.len();
    }
    let share = |d: f64| if d > 0.0 { 1.0 } else { f64::from(u8::from(d == 0.0)) / 2.0 };
    let sum: f64 = differences.iter().zip(&ranks).map(|(&d, rank)| share(d) * rank).sum();
    let plain = !ties && differences.iter().all(|d| *d != 0.0);
    if plain && n <= MOST_EXACT {
        exact(n, sum)
    } else if n <= MOST_PERMUTED {
        permuted(differences, &ranks, sum)
    } else {
        let n = n as f64;
        let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - tie_term / 2.0) / 24.0;
        let z = (sum - n * (n + 1.0) / 4.0) / variance.sqrt();
        0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
    }
}

/// P(T ≥ sum) where every sign is as likely and no ranks are equal.
fn exact(n: usize, sum: f64) -> f64 {
    let mut chances = vec![1.0];
    for rank in 1..=n {
        let mut next = vec![0.0; chances.len() + rank];
        for (t, chance) in chances.iter().enumerate() {
            next[t] += chance / 2.0;
            next[t + rank] += chance / 2.0;
        }
        chances = next;
    }
    chances.iter().skip(sum as usize).sum()
}

/// P(T ≥ sum) over all signs of these differences.
fn permuted(differences: &[f64], ranks: &[f64], sum: f64) -> f64 {
    let n = differences.len();
    let total = |signs: u32| -> f64 {
        let of = differences.iter().zip(ranks).enumerate();
        of.map(|(i, (&d, rank))| match (d == 0.0, signs >> i & 1) {
            (true, _) => rank / 2.0,
            (false, 0) => 0.0,
            (false, _) => *rank,
        })
        .sum()
    };
    // Sums of quarters are exact.
    let reached = (0..1_u32 << n).filter(|&signs| total(signs) >= sum).count();
    reached as f64 / f64::from(1_u32 << n)
}
