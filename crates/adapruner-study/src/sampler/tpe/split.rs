//! Splits trials into good and bad, with weights.

use std::cmp::Ordering;

use crate::front::{greedy_subset, point, ranks, reference_point};
use crate::trial::{Direction, Trial, TrialState};

/// Most trials that are good, of one objective.
const MOST_GOOD: usize = 25;
/// Newest observations that count fully.
const NEWEST: usize = 25;

/// Trials by quality, both sides by number.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    /// The best finished ones.
    pub good: Vec<&'a Trial>,
    /// Other finished ones, and those that are running (the constant liar).
    pub bad: Vec<&'a Trial>,
}

/// How many of `n` finished trials of so many objectives are good: a tenth; of one
/// objective at most 25.
pub fn good_count(n: usize, objectives: usize) -> usize {
    // In floats, as Optuna computes it.
    let tenth = (0.1 * n as f64).ceil() as usize;
    if objectives > 1 { tenth } else { tenth.min(MOST_GOOD) }
}

/// Splits trials into the `good` best finished ones and the rest.
///
/// Complete trials come first, by value; of several objectives by nondominated rank, and of
/// the rank that does not fit those that dominate the largest hypervolume together
/// ([`greedy_subset`]). Then come pruned ones: a later last report
/// is better, then the value there (NaN last); those without a report are last.
/// Behind them all come infeasible ones, by how much they violate. What is equal
/// stays in the order given. Running trials are bad; failed and waiting ones are
/// left out.
pub fn split<'a>(
    trials: impl IntoIterator<Item = &'a Trial>,
    directions: &[Direction],
    good: usize,
) -> Split<'a> {
    let mut complete = Vec::new();
    let mut pruned = Vec::new();
    let mut infeasible = Vec::new();
    let mut bad = Vec::new();
    for trial in trials {
        match trial.state {
            TrialState::Complete | TrialState::Pruned if trial.is_infeasible() => {
                infeasible.push((trial.violation(), trial));
            }
            TrialState::Complete => complete.push(trial),
            TrialState::Pruned => pruned.push(trial),
            TrialState::Running => bad.push(trial),
            TrialState::Failed | TrialState::Waiting => {}
        }
    }
    match *directions {
        [direction] => {
            let value = |trial: &Trial| badness(trial.value(), direction);
            complete.sort_by(|a, b| rank_values(value(a), value(b)));
            pruned.sort_by(|a, b| {
                let (a_step, a_value) = last_report(a, direction);
                let (b_step, b_value) = last_report(b, direction);
                b_step.cmp(&a_step).then(rank_values(a_value, b_value))
            });
        }
        // Trials of several objectives have no reports.
        _ => complete = best_first(complete, directions, good),
    }
    infeasible.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    complete.append(&mut pruned);
    complete.extend(infeasible.into_iter().map(|(_, trial)| trial));
    bad.extend(complete.drain(good.min(complete.len())..));
    let mut split = Split { good: complete, bad };
    split.good.sort_by_key(|trial| trial.number);
    split.bad.sort_by_key(|trial| trial.number);
    split
}

/// The trials with the `good` best first, by number on both sides.
fn best_first<'a>(trials: Vec<&'a Trial>, directions: &[Direction], good: usize) -> Vec<&'a Trial> {
    if good == 0 || good >= trials.len() {
        return trials;
    }
    let points: Vec<Vec<f64>> = trials.iter().map(|trial| point(trial, directions)).collect();
    let ranks = ranks(&points, good);
    let up_to = |rank: usize| ranks.iter().filter(|of| **of <= rank).count();
    // The first rank that does not fit as a whole.
    let tied = (0..).find(|rank| up_to(*rank) > good).unwrap_or(usize::MAX);
    let mut is_good: Vec<bool> = ranks.iter().map(|rank| *rank < tied).collect();
    let missing = good - is_good.iter().filter(|good| **good).count();
    let tied: Vec<usize> = (0..trials.len()).filter(|at| ranks[*at] == tied).collect();
    let of_tied: Vec<Vec<f64>> = tied.iter().map(|at| points[*at].clone()).collect();
    for chosen in greedy_subset(&of_tied, missing, &reference_point(&of_tied)) {
        is_good[tied[chosen]] = true;
    }
    let side = |wanted: bool| trials.iter().zip(&is_good).filter(move |(_, good)| **good == wanted);
    side(true).chain(side(false)).map(|(trial, _)| *trial).collect()
}

/// The value with its sign such that small is good; a missing one is NaN.
pub(crate) fn badness(value: Option<f64>, direction: Direction) -> f64 {
    let value = value.unwrap_or(f64::NAN);
    match direction {
        Direction::Minimize => value,
        Direction::Maximize => -value,
    }
}

/// The last step that was reported, if any, and the badness there.
fn last_report(trial: &Trial, direction: Direction) -> (Option<u64>, f64) {
    match trial.intermediate.last_key_value() {
        Some((step, value)) => (Some(*step), badness(Some(*value), direction)),
        None => (None, 0.0),
    }
}

/// Small first, NaN last.
pub(crate) fn rank_values(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Weights of `n` observations, the oldest first: 1 for the newest 25; before
/// them a line from 1/n up to 1.
pub fn weights(n: usize) -> Vec<f64> {
    let mut weights = vec![1.0; n];
    if n > NEWEST {
        let (ramp, start) = (n - NEWEST, 1.0 / n as f64);
        weights[0] = start;
        for (i, weight) in weights.iter_mut().enumerate().take(ramp).skip(1) {
            *weight = if i + 1 == ramp {
                1.0
            } else {
                i as f64 * ((1.0 - start) / (ramp - 1) as f64) + start
            };
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_a_ramp_and_a_plateau() {
        assert!(weights(0).is_empty());
        assert_eq!(weights(25), [1.0; 25]);
        assert_eq!(weights(26)[..2], [1.0 / 26.0, 1.0]);
        let many = weights(100);
        assert_eq!(many[0], 0.01);
        assert_eq!(many[74..], [1.0; 26]);
        assert!(many.is_sorted());
    }

    #[test]
    fn the_good_are_a_tenth_and_of_one_objective_at_most_25() {
        let counts = |objectives| [0, 1, 11, 70, 250, 1000].map(|n| good_count(n, objectives));
        assert_eq!(counts(1), [0, 1, 2, 7, 25, 25]);
        assert_eq!(counts(2), [0, 1, 2, 7, 25, 100]);
    }
}
