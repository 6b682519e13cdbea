//! Splits trials into good and bad, with weights.

use std::cmp::Ordering;

use crate::trial::{Direction, Trial, TrialState};

/// Most trials that are good.
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

/// How many of `n` finished trials are good: a tenth, at most 25.
pub fn good_count(n: usize) -> usize {
    // In floats, as Optuna computes it.
    ((0.1 * n as f64).ceil() as usize).min(MOST_GOOD)
}

/// Splits trials into the `good` best finished ones and the rest.
///
/// Complete trials come first, by value, then pruned ones: a later last report
/// is better, then the value there (NaN last); those without a report are last.
/// Behind them all come infeasible ones, by how much they violate. What is equal
/// stays in the order given. Running trials are bad; failed and waiting ones are
/// left out.
pub fn split<'a>(
    trials: impl IntoIterator<Item = &'a Trial>,
    direction: Direction,
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
    complete.sort_by(|a, b| rank_values(badness(a.value, direction), badness(b.value, direction)));
    pruned.sort_by(|a, b| {
        let (a_step, a_value) = last_report(a, direction);
        let (b_step, b_value) = last_report(b, direction);
        b_step.cmp(&a_step).then(rank_values(a_value, b_value))
    });
    infeasible.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    complete.append(&mut pruned);
    complete.extend(infeasible.into_iter().map(|(_, trial)| trial));
    bad.extend(complete.drain(good.min(complete.len())..));
    let mut split = Split { good: complete, bad };
    split.good.sort_by_key(|trial| trial.number);
    split.bad.sort_by_key(|trial| trial.number);
    split
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
    fn the_good_are_a_tenth_and_at_most_25() {
        let counts = [0, 1, 10, 11, 70, 250, 1000].map(good_count);
        assert_eq!(counts, [0, 1, 1, 2, 7, 25, 25]);
    }
}
