//! Hyperband (Li et al., JMLR 18, 2018): successive halving in several
//! brackets, which prune earlier or later.

use crate::pruner::{Pruner, PrunerView, SuccessiveHalvingPruner, Verdict, last_step};
use crate::trial::{Trial, TrialState};

/// Assigns each trial to a bracket by its number and the study's name, and
/// lets it compete by successive halving with those of its bracket.
#[derive(Debug, Clone, Copy)]
pub struct HyperbandPruner {
    /// Steps to the first rung of the first bracket; at least 1.
    pub min_resource: u64,
    /// Steps of a whole trial. Where `None`, one more than the last step of the
    /// first complete trial that reported; nothing is pruned before.
    pub max_resource: Option<u64>,
    /// Of how many trials one goes on to the next rung; at least 2.
    pub reduction_factor: u64,
    /// Trials that are pruned at a rung before any goes on.
    pub bootstrap_count: usize,
}

impl Default for HyperbandPruner {
    fn default() -> Self {
        Self { min_resource: 1, max_resource: None, reduction_factor: 3, bootstrap_count: 0 }
    }
}

impl HyperbandPruner {
    /// Number of trials that brackets get in relation to each other.
    fn budgets(&self, max_resource: u64) -> Vec<u64> {
        let (least, factor) = (self.min_resource.max(1), self.reduction_factor.max(2));
        let ratio = max_resource as f64 / least as f64;
        let brackets = (ratio.ln() / (factor as f64).ln()).floor() as i64 + 1;
        // At most 64: the ratio is below 2⁶⁴ and the factor at least 2.
        let brackets = u32::try_from(brackets).unwrap_or(0);
        let budget = |bracket| {
            let s = brackets - 1 - bracket;
            let power = factor.saturating_pow(s) as f64;
            (f64::from(brackets) * power / f64::from(s + 1)).ceil() as u64
        };
        (0..brackets).map(budget).collect()
    }
}

impl Pruner for HyperbandPruner {
    fn judge(&self, view: &PrunerView<'_>) -> Verdict {
        let max_resource = self.max_resource.or_else(|| {
            let complete = view.trials.iter().filter(|t| t.state == TrialState::Complete);
            complete.filter_map(|trial| last_step(trial)).next().map(|last| last.saturating_add(1))
        });
        let budgets = max_resource.map(|most| self.budgets(most)).unwrap_or_default();
        let total = budgets.iter().fold(0, |sum: u64, budget| sum.saturating_add(*budget));
        if total == 0 {
            return Verdict::default();
        }
        let bracket = |trial: &Trial| {
            let name = format!("{}_{}", view.study, trial.number);
            let mut left = u64::from(crc32(name.as_bytes())) % total;
            budgets.iter().position(|&budget| {
                let found = left < budget;
                left = left.saturating_sub(budget);
                found
            })
        };
        let own = bracket(view.trial);
        let Some(rate) = own.and_then(|bracket| u32::try_from(bracket).ok()) else {
            return Verdict::default();
        };
        let halving = SuccessiveHalvingPruner {
            min_resource: Some(self.min_resource.max(1)),
            reduction_factor: self.reduction_factor,
            min_early_stopping_rate: rate,
            bootstrap_count: self.bootstrap_count,
        };
        halving.judge_among(view, |trial| bracket(trial) == own)
    }
}

/// The CRC-32 of zip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
