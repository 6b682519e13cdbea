//! TPE over inclusion: which items good trials have.
//!
//! The share of trials of one side that have item i, weighted by age and shrunk towards chance,
//!
//! ```text
//! p(i) = (n · Σ w·1[i ∈ S]/|S| + κ·n/P) / (Σ w + κ)
//! ```
//!
//! is p_good or p_bad. (Where all sets have n items, n/|S| is 1. The size is a
//! number that TPE models by itself, so sets of other sizes count as chances
//! per place.) Candidates are drawn without replacement by the odds of p_good
//! (Gumbel-top-n of logit p_good); the best one has the largest
//! Σ logit p_good − logit p_bad over its items.

use super::top;
use crate::sampler::stream::Stream;
use crate::sampler::tpe::{first_largest, weights};

/// Weight of chance, in trials.
const SHRINKAGE: f64 = 5.0;
/// Share of the finished trials that is good.
const GOOD_SHARE: f64 = 0.2;
/// Shares are kept this far from 0 and 1.
const MARGIN: f64 = 1e-6;

/// How many of `n` finished trials are good: a fifth.
pub fn good_count(n: usize) -> usize {
    (GOOD_SHARE * n as f64).ceil() as usize
}

/// Inclusion of the items of one pool, in good and in bad trials.
#[derive(Debug, Clone)]
pub struct Odds {
    good: Inclusion,
    bad: Inclusion,
}

/// Chance per place of each item.
#[derive(Debug, Clone)]
struct Inclusion(Vec<f64>);

impl Inclusion {
    fn new(pool: usize, sets: &[&[usize]]) -> Self {
        let weights = weights(sets.len());
        let total = weights.iter().sum::<f64>() + SHRINKAGE;
        let mut chances = vec![SHRINKAGE / pool as f64; pool];
        for (set, weight) in sets.iter().zip(weights) {
            for &item in *set {
                chances[item] += weight / set.len() as f64;
            }
        }
        chances.iter_mut().for_each(|chance| *chance /= total);
        Self(chances)
    }

    fn logits(&self, n: usize) -> Vec<f64> {
        let logit = |chance: &f64| {
            let p = (chance * n as f64).clamp(MARGIN, 1.0 - MARGIN);
            (p / (1.0 - p)).ln()
        };
        self.0.iter().map(logit).collect()
    }
}

impl Odds {
    /// Counts the items of good and of bad sets, each the oldest first.
    ///
    /// # Panics
    ///
    /// If a set has an item that is not in the pool.
    pub fn new(pool: usize, good: &[&[usize]], bad: &[&[usize]]) -> Self {
        Self { good: Inclusion::new(pool, good), bad: Inclusion::new(pool, bad) }
    }

    /// Logits of p_good and of p_bad for sets of `n` items.
    pub fn logits(&self, n: usize) -> (Vec<f64>, Vec<f64>) {
        (self.good.logits(n), self.bad.logits(n))
    }

    pub(crate) fn choose(&self, n: usize, candidates: usize, stream: &mut Stream) -> Vec<usize> {
        let (good, bad) = self.logits(n);
        let draw = |_| top(&good.iter().map(|g| g + stream.gumbel()).collect::<Vec<f64>>(), n);
        let mut sets: Vec<Vec<usize>> = (0..candidates).map(draw).collect();
        let score = |set: &Vec<usize>| set.iter().map(|&i| good[i] - bad[i]).sum();
        let best = first_largest(sets.iter().map(score)).unwrap_or(0);
        sets.swap_remove(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few numbers near 1.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn shares_are_those_of_the_formula() {
        let odds = Odds::new(4, &[&[0, 1], &[0, 2]], &[&[2, 3]]);
        let (good, bad) = odds.logits(2);
        let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        // (Σ w·1[i ∈ S] + 5 · 2/4) / (Σ w + 5)
        for (i, (g, b)) in [(4.5, 2.5), (3.5, 2.5), (3.5, 3.5), (2.5, 3.5)].into_iter().enumerate()
        {
            assert!((share(good[i]) - g / 7.0).abs() < TOLERANCE);
            assert!((share(bad[i]) - b / 6.0).abs() < TOLERANCE);
        }
    }

    #[test]
    fn sets_of_other_sizes_count_per_place() {
        let (of_four, _) = Odds::new(8, &[&[0, 1, 2, 3]], &[]).logits(2);
        let (of_two, _) = Odds::new(8, &[&[0, 1]], &[]).logits(2);
        let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        let sum = |logits: &[f64]| logits.iter().map(|&l| share(l)).sum::<f64>();
        assert!((sum(&of_four) - 2.0).abs() < TOLERANCE);
        assert!((sum(&of_two) - 2.0).abs() < TOLERANCE);
        assert!(of_four[0] < of_two[0] && of_four[3] > of_two[3]);
    }

    #[test]
    fn items_of_good_sets_are_chosen() {
        let good: Vec<&[usize]> = vec![&[1, 5, 9]; 10];
        let bad: Vec<&[usize]> = vec![&[0, 2, 3]; 10];
        let odds = Odds::new(50, &good, &bad);
        let mut stream = Stream::new(0, 0, "odds");
        let all = odds.choose(50, 3, &mut stream);
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        let hits = (0..20).flat_map(|_| odds.choose(3, 24, &mut stream));
        let hits = hits.filter(|item| [1, 5, 9].contains(item)).count();
        assert!(hits > 50, "{hits} of 60");
    }
}
