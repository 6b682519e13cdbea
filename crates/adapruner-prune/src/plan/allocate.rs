//! How many steps each ladder takes so that a number of parameters goes.
//!
//! All three ways are deterministic: ties fall to the less important unit, then
//! to the earlier layer.

use super::ladder::Ladder;
use crate::scores::Normalisation;

/// A number of parameters to remove.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// What is aimed at; the nearest sum of steps is taken.
    pub target: i64,
    /// What strict ladders may never exceed.
    pub limit: i64,
}

/// Running state: what is taken and how much of the budget is left.
struct Taking<'a> {
    ladders: &'a [Ladder],
    steps: Vec<usize>,
    budget: Budget,
}

impl<'a> Taking<'a> {
    fn new(ladders: &'a [Ladder], budget: Budget, steps: Vec<usize>) -> Self {
        let taken: u64 = ladders.iter().zip(&steps).map(|(l, &s)| l.cost(s)).sum();
        let taken = taken as i64;
        let budget = Budget { target: budget.target - taken, limit: budget.limit - taken };
        Self { ladders, steps, budget }
    }

    /// Parameters of a ladder's next step.
    fn next_cost(&self, at: usize) -> Option<i64> {
        let (ladder, steps) = (&self.ladders[at], self.steps[at]);
        (steps < ladder.steps()).then(|| (ladder.cost(steps + 1) - ladder.cost(steps)) as i64)
    }

    /// Takes a ladder's next step if that comes closer to the target.
    fn take(&mut self, at: usize) -> bool {
        let Some(cost) = self.next_cost(at) else { return false };
        let closer = cost < 2 * self.budget.target;
        if !closer || self.ladders[at].strict && cost > self.budget.limit {
            return false;
        }
        self.steps[at] += 1;
        self.budget.target -= cost;
        self.budget.limit -= cost;
        true
    }
}

/// Ratios in proportion to each ladder's weight (≥ 0), the same in all that can give where
/// weights are equal: each is rounded down, and what remains goes to those that fell short
/// the most. Where those with a weight cannot give enough, the others make up for it.
pub(super) fn weighted(ladders: &[Ladder], budget: Budget, weights: &[f64]) -> Vec<usize> {
    let ideals = shares(ladders, budget.target.max(0) as f64, weights);
    let steps = ladders
        .iter()
        .zip(&ideals)
        // A relative 1e-9 absorbs the rounding of the shares.
        .map(|(ladder, ideal)| {
            let most = ideal * (1.0 + 1e-9);
            ladder.bounds.partition_point(|&gone| gone as f64 * ladder.unit_cost as f64 <= most) - 1
        })
        .collect();
    let mut taking = Taking::new(ladders, budget, steps);
    let mut order: Vec<(i64, f64, usize)> = ladders
        .iter()
        .enumerate()
        .filter_map(|(at, ladder)| {
            let step = taking.next_cost(at)? as f64;
            let short = (ideals[at] - ladder.cost(taking.steps[at]) as f64) / step;
            // Rounded, so that equal layers tie whatever the last bits say.
            Some(((short * -1e9).round() as i64, next_relative_score(ladder, taking.steps[at]), at))
        })
        .collect();
    order.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    while order.iter().fold(false, |taken, &(_, _, at)| taking.take(at) || taken) {}
    taking.steps
}

/// Mean score of a ladder's next step against the mean size of those of its layer.
fn next_relative_score(ladder: &Ladder, steps: usize) -> f64 {
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let all =
        ladder.scores.iter().map(|score| score.abs()).sum::<f64>() / ladder.scores.len() as f64;
    let next = mean(&ladder.scores[ladder.bounds[steps]..ladder.bounds[steps + 1]]);
    if all > 0.0 { next / all } else { 0.0 }
}

/// What each ladder would give at ratios in proportion to the weights, in
/// parameters: those that would have to give more than they can are full, and the
/// others make up for it.
fn shares(ladders: &[Ladder], target: f64, weights: &[f64]) -> Vec<f64> {
    let mut shares = vec![0.0; ladders.len()];
    let (mut open, mut spared): (Vec<usize>, Vec<usize>) =
        (0..ladders.len()).filter(|&at| ladders[at].steps() > 0).partition(|&at| weights[at] > 0.0);
    let mut flat = false;
    let mut left = target;
    loop {
        if open.is_empty() && !spared.is_empty() && left > 0.0 {
            open = std::mem::take(&mut spared);
            flat = true;
        }
        if open.is_empty() {
            return shares;
        }
        let weight = |at: usize| if flat { 1.0 } else { weights[at] };
        let weighed = |at: usize| weight(at) * ladders[at].parameters() as f64;
        let ratio = left / open.iter().map(|&at| weighed(at)).sum::<f64>();
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|&&at| ratio * weighed(at) > ladders[at].capacity() as f64);
        if full.is_empty() {
            for at in rest {
                shares[at] = ratio * weighed(at);
            }
            return shares;
        }
        for at in full {
            shares[at] = ladders[at].capacity() as f64;
            left -= shares[at];
        }
        open = rest;
    }
}

/// The steps of least score per parameter, over all ladders.
///
/// A step that does not fit closes its ladder, so that smaller units may still
/// fill what is left.
pub(super) fn global(
    ladders: &[Ladder],
    budget: Budget,
    normalisation: Normalisation,
) -> Vec<usize> {
    let mut ranking: Vec<(f64, usize, usize)> = Vec::new();
    for (at, ladder) in ladders.iter().enumerate() {
        let mut units: Vec<f64> =
            ladder.scores.iter().map(|s| s / ladder.unit_cost as f64).collect();
        normalisation.apply(&mut units);
        let mut key = f64::NEG_INFINITY;
        for (step, bounds) in ladder.bounds.windows(2).enumerate() {
            let units = &units[bounds[0]..bounds[1]];
            // Ascending already, but for the rounding of the means.
            key = key.max(units.iter().sum::<f64>() / units.len() as f64);
            ranking.push((key, at, step));
        }
    }
    ranking.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut taking = Taking::new(ladders, budget, vec![0; ladders.len()]);
    let mut closed = vec![false; ladders.len()];
    for (_, at, _) in ranking {
        if !closed[at] && !taking.take(at) {
            closed[at] = true;
        }
    }
    taking.steps
}

/// The same number of steps in every ladder that has units: those of layers that are dropped
/// have none.
pub(super) fn uniform(ladders: &[Ladder], budget: Budget) -> Vec<usize> {
    let all = || ladders.iter().filter(|ladder| !ladder.order.is_empty());
    let most = all().map(Ladder::steps).min().unwrap_or(0);
    let cost = |steps| all().map(|l| l.cost(steps)).sum::<u64>() as i64;
    let strict = ladders.iter().any(|l| l.strict);
    let steps = (0..=most)
        .filter(|&steps| steps == 0 || !strict || cost(steps) <= budget.limit)
        .min_by_key(|&steps| (cost(steps) - budget.target).abs())
        .unwrap_or(0);
    ladders.iter().map(|ladder| if ladder.order.is_empty() { 0 } else { steps }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units of ascending scores, all but the last removable one by one.
    fn ladder(scores: &[f64], unit_cost: u64, strict: bool) -> Ladder {
        Ladder {
            order: (0..scores.len()).collect(),
            scores: scores.to_vec(),
            bounds: (0..scores.len()).collect(),
            unit_cost,
            strict,
            dropped: Vec::new(),
        }
    }

    fn local(ladders: &[Ladder], budget: Budget) -> Vec<usize> {
        weighted(ladders, budget, &vec![1.0; ladders.len()])
    }

    fn even(units: usize, unit_cost: u64, strict: bool) -> Ladder {
        ladder(&vec![1.0; units], unit_cost, strict)
    }

    fn budget(target: i64) -> Budget {
        Budget { target, limit: target }
    }

    #[test]
    fn the_nearest_sum_is_taken() {
        let ladders = [even(9, 10, false), even(9, 10, false)];
        for (target, units) in [(0, 0), (4, 0), (6, 1), (14, 1), (16, 2), (34, 3), (36, 4)] {
            let none = Normalisation::None;
            assert_eq!(local(&ladders, budget(target)).iter().sum::<usize>(), units, "{target}");
            let ranked = global(&ladders, budget(target), none);
            assert_eq!(ranked.iter().sum::<usize>(), units, "{target}");
        }
        for (target, steps) in [(9, 0), (11, 1), (29, 1), (31, 2), (1000, 8), (-5, 0)] {
            assert_eq!(uniform(&ladders, budget(target)), [steps; 2], "{target}");
        }
    }

    #[test]
    fn strict_ladders_stay_within_the_limit() {
        let ladders = [even(3, 100, true)];
        for (limit, steps) in [(99, 0), (100, 1), (150, 1)] {
            let budget = Budget { target: limit.min(90), limit };
            assert_eq!(local(&ladders, budget), [steps]);
            assert_eq!(global(&ladders, budget, Normalisation::None), [steps]);
            assert_eq!(uniform(&ladders, budget), [steps]);
        }
    }

    #[test]
    fn remainders_go_where_most_is_missing_then_to_the_least_important() {
        // A ratio of 0.24: 2.4 and 3.6 units, so the last one is the second's.
        let ladders = [even(10, 1, false), even(15, 1, false)];
        assert_eq!(local(&ladders, budget(6)), [2, 4]);
        // Half a unit each; the third's next is the least against its layer.
        let ladders = [
            ladder(&[1.0, 1.5, 2.0, 2.5], 1, false),
            ladder(&[100.0, 100.0, 200.0, 250.0], 1, false),
            ladder(&[0.1, 2.0, 2.0, 2.5], 1, false),
            ladder(&[1.0, 1.0, 1.0, 1.0], 1, false),
        ];
        assert_eq!(local(&ladders, budget(1)), [0, 0, 1, 0]);
    }

    #[test]
    fn full_ladders_leave_the_rest_to_others() {
        let ladders = [even(2, 1, false), even(101, 1, false), Ladder::none()];
        // Half of all, but the first can give one of its two at most.
        assert_eq!(local(&ladders, budget(52)), [1, 51, 0]);
        assert_eq!(local(&ladders, budget(101)), [1, 100, 0]);
        assert_eq!(local(&ladders, budget(500)), [1, 100, 0]);
    }

    #[test]
    fn weights_divide_the_cut_until_ladders_are_full() {
        let ladders = [even(101, 1, false), even(101, 1, false), even(101, 1, false)];
        assert_eq!(weighted(&ladders, budget(60), &[0.0, 1.0, 2.0]), [0, 20, 40]);
        assert_eq!(weighted(&ladders, budget(180), &[0.0, 1.0, 2.0]), [0, 80, 100]);
        // What the two cannot give comes from the one that was to be spared.
        assert_eq!(weighted(&ladders, budget(230), &[0.0, 1.0, 2.0]), [30, 100, 100]);
        assert_eq!(weighted(&ladders, budget(30), &[0.0; 3]), [10, 10, 10]);
    }

    #[test]
    fn smaller_units_fill_what_a_large_one_leaves() {
        // The head is worth the least per parameter but does not fit.
        let ladders = [ladder(&[1.0, 2.0], 100, true), ladder(&[1.0; 50], 2, false)];
        assert_eq!(global(&ladders, budget(60), Normalisation::None), [0, 30]);
        assert_eq!(global(&ladders, budget(110), Normalisation::None), [1, 5]);
    }
}
