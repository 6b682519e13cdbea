//! What the surrogate is to predict of trials: their badness, brought within fences.

use std::collections::BTreeMap;

use crate::sampler::stream::Stream;
use crate::sampler::tpe::{badness, rank_values};
use crate::trial::{Direction, Trial, TrialState};

/// Bad outliers are brought to this many interquartile ranges beyond the
/// third quartile: a line bends to them otherwise.
const FENCE: f64 = 3.0;

/// What is to be small: one objective, or several, of which one is worth so much of another.
#[derive(Debug, Clone)]
pub(crate) struct Trade<'a> {
    pub(crate) directions: &'a [Direction],
    /// What a deviation of each objective counts; their sum is 1.
    pub(crate) weights: Vec<f64>,
}

impl<'a> Trade<'a> {
    /// A point of the simplex, all as likely (as ParEGO, Knowles, IEEE TEC 10(1), 2006): so
    /// each draw looks at another part of the front.
    pub(crate) fn draw(directions: &'a [Direction], stream: &mut Stream) -> Self {
        if let [direction] = directions {
            return Self::one(direction);
        }
        let mut weights: Vec<f64> = directions.iter().map(|_| stream.exponential()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Self { directions, weights }
    }

    /// Of one objective.
    pub(crate) fn one(direction: &'a Direction) -> Self {
        Self { directions: std::slice::from_ref(direction), weights: vec![1.0] }
    }
}

/// The modelled badness of each trial: of several objectives the weighted sum, each in its
/// deviations.
pub(super) fn traded(trade: &Trade<'_>, trials: &[&Trial]) -> Vec<Option<f64>> {
    let objective = |(at, direction): (usize, &Direction)| {
        let targets = Targets::new(at, *direction, trials.iter().copied());
        trials.iter().map(|trial| targets.of(trial)).collect::<Vec<Option<f64>>>()
    };
    let mut columns = trade.directions.iter().enumerate().map(objective);
    if trade.directions.len() == 1 {
        return columns.next().unwrap_or_default();
    }
    let mut sums = vec![Some(0.0); trials.len()];
    for (column, weight) in columns.zip(&trade.weights) {
        let (standard, _) = standard(column.iter().copied().flatten().collect());
        let mut standard = standard.into_iter();
        for (sum, target) in sums.iter_mut().zip(column) {
            let added = target.and_then(|_| standard.next());
            *sum = sum.zip(added).map(|(sum, added)| sum + weight * added);
        }
    }
    sums
}

/// The modelled badness of a trial in one objective.
struct Targets {
    /// Which one.
    objective: usize,
    direction: Direction,
    /// Of the complete trials, in order.
    values: Vec<f64>,
    /// Median report of the complete trials, by step.
    reports: BTreeMap<u64, f64>,
}

impl Targets {
    fn new<'a>(
        objective: usize,
        direction: Direction,
        trials: impl Iterator<Item = &'a Trial>,
    ) -> Self {
        let mut values = Vec::new();
        let mut reports: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        let complete =
            |trial: &&Trial| trial.state == TrialState::Complete && !trial.is_infeasible();
        for trial in trials.filter(complete) {
            values.push(badness(trial.values.get(objective).copied(), direction));
            for (step, report) in &trial.intermediate {
                reports.entry(*step).or_default().push(badness(Some(*report), direction));
            }
        }
        values.retain(|value| !value.is_nan());
        values.sort_by(|a, b| rank_values(*a, *b));
        let median_of = |mut reports: Vec<f64>| {
            reports.sort_by(|a, b| rank_values(*a, *b));
            quantile(&reports, 0.5)
        };
        let reports = reports.into_iter().filter_map(|(step, of)| Some((step, median_of(of)?)));
        Self { objective, direction, values, reports: reports.collect() }
    }

    /// The badness of a complete trial within the fences. Of a pruned one an
    /// estimate, at least the median: its own if it has one, else the median of
    /// complete trials, and by how much its reports were worse than theirs at
    /// the same steps, on average. An infeasible one is as bad as any can be.
    fn of(&self, trial: &Trial) -> Option<f64> {
        let value = match trial.state {
            TrialState::Complete | TrialState::Pruned if trial.is_infeasible() => f64::INFINITY,
            TrialState::Complete => {
                badness(trial.values.get(self.objective).copied(), self.direction)
            }
            TrialState::Pruned => {
                let median = quantile(&self.values, 0.5)?;
                if let Some(value) = own_estimate(trial, self.objective) {
                    return self.fenced(badness(Some(value), self.direction).max(median));
                }
                let excess = trial.intermediate.iter().filter_map(|(step, report)| {
                    Some(badness(Some(*report), self.direction) - self.reports.get(step)?)
                });
                let excess: Vec<f64> = excess.filter(|excess| !excess.is_nan()).collect();
                let mean = excess.iter().sum::<f64>() / excess.len() as f64;
                // No report to compare, or infinite ones.
                if mean.is_finite() { median + mean.max(0.0) } else { f64::INFINITY }
            }
            TrialState::Failed | TrialState::Running | TrialState::Waiting => return None,
        };
        self.fenced(value)
    }

    fn fenced(&self, value: f64) -> Option<f64> {
        let (low, high) = self.fences()?;
        (!value.is_nan()).then(|| value.clamp(low, high))
    }

    /// The least and the most that is believed; always finite.
    fn fences(&self) -> Option<(f64, f64)> {
        let finite: Vec<f64> = self.values.iter().copied().filter(|v| v.is_finite()).collect();
        let (low, most) = (*finite.first()?, *finite.last()?);
        let (first, third) = (quantile(&finite, 0.25)?, quantile(&finite, 0.75)?);
        let fence = third + FENCE * (third - first);
        Some((low, fence.clamp(third, most)))
    }
}

/// What the objective itself took the value of a pruned trial for: a value that
/// is not merely the last report.
fn own_estimate(trial: &Trial, objective: usize) -> Option<f64> {
    let value = trial.values.get(objective).copied().filter(|value| !value.is_nan())?;
    let last = trial.intermediate.last_key_value().map(|(_, report)| *report);
    (last != Some(value)).then_some(value)
}

/// The value at a share `q` of an ordered list.
fn quantile(ordered: &[f64], q: f64) -> Option<f64> {
    ordered.get((q * ordered.len().saturating_sub(1) as f64).round() as usize).copied()
}

/// Mean 0 and deviation 1, all 0 where there is no deviation; and the deviation
/// that they had.
pub(super) fn standard(mut values: Vec<f64>) -> (Vec<f64>, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter_mut().for_each(|value| *value -= mean);
    let deviation = (values.iter().map(|value| value * value).sum::<f64>() / n).sqrt();
    let scale = if deviation > 0.0 && deviation.is_finite() { 1.0 / deviation } else { 0.0 };
    values.iter_mut().for_each(|value| *value *= scale);
    (values, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(number: u64, state: TrialState, value: Option<f64>, reports: &[f64]) -> Trial {
        Trial {
            number,
            state,
            values: value.into_iter().collect(),
            params: BTreeMap::new(),
            intermediate: (0..).zip(reports.iter().copied()).collect(),
            user_attrs: BTreeMap::new(),
            system_attrs: BTreeMap::new(),
            started_ms: None,
            ended_ms: None,
        }
    }

    #[test]
    fn pruned_trials_are_no_better_than_the_median() {
        let mut trials: Vec<Trial> = (0..5)
            .map(|i| {
                let value = i as f64;
                trial(i, TrialState::Complete, Some(value), &[value + 10.0, value + 20.0])
            })
            .collect();
        trials.push(trial(5, TrialState::Complete, Some(f64::INFINITY), &[]));
        let targets = Targets::new(0, Direction::Minimize, trials.iter());
        let pruned = |reports: &[f64]| targets.of(&trial(9, TrialState::Pruned, None, reports));
        // Reports 1.5 worse than the medians, 12 and 22; values have median 3.
        assert_eq!(pruned(&[13.0, 24.0]), Some(4.0));
        assert_eq!(pruned(&[2.0, 3.0]), Some(3.0));
        assert_eq!(pruned(&[]), Some(4.0));
        // A value that is the last report is no estimate, any other is.
        let valued = |value, reports: &[f64]| {
            targets.of(&trial(9, TrialState::Pruned, Some(value), reports))
        };
        assert_eq!(valued(24.0, &[2.0, 24.0]), Some(3.0));
        assert_eq!(valued(3.5, &[2.0, 24.0]), Some(3.5));
        assert_eq!(valued(3.5, &[]), Some(3.5));
        assert_eq!(valued(0.5, &[90.0]), Some(3.0));
        assert_eq!(valued(f64::INFINITY, &[2.0]), Some(4.0));
        assert_eq!(targets.of(&trials[5]), Some(4.0));
        // An infeasible one is at the fence, however good its value and reports are.
        let mut infeasible = trial(9, TrialState::Pruned, Some(0.5), &[2.0]);
        infeasible.system_attrs.insert("constraints".into(), serde_json::json!([-1.0, 0.25]));
        assert_eq!(targets.of(&infeasible), Some(4.0));
        infeasible.state = TrialState::Complete;
        assert_eq!(targets.of(&infeasible), Some(4.0));
        assert_eq!(targets.of(&trial(9, TrialState::Failed, None, &[])), None);
    }

    /// A trade-off of two objectives is the weighted sum of both, each in its deviations.
    #[test]
    fn objectives_are_traded_in_deviations() {
        let mut trials: Vec<Trial> =
            (0..4).map(|number| trial(number, TrialState::Complete, None, &[])).collect();
        for (trial, values) in trials.iter_mut().zip([[0.0, 90.0], [1.0, 70.0], [1.0, 70.0]]) {
            trial.values = values.to_vec();
        }
        let all: Vec<&Trial> = trials.iter().collect();
        let directions = [Direction::Minimize, Direction::Maximize];
        let of = |weights: [f64; 2]| {
            let weights = weights.to_vec();
            traded(&Trade { directions: &directions, weights }, &all[..3])
        };
        let [loss, size] = [of([1.0, 0.0]), of([0.0, 1.0])];
        assert!(loss[0] < Some(-1.4) && loss[1] > Some(0.7) && loss[1] == loss[2], "{loss:?}");
        // The second objective is the first, but for scale and direction.
        for other in [size, of([0.5, 0.5])] {
            let apart =
                other.iter().flatten().zip(loss.iter().flatten()).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-12, "{loss:?} and {other:?}");
        }
        // One without values tells nothing.
        let last = traded(&Trade { directions: &directions, weights: vec![0.5; 2] }, &all)[3];
        assert!(last.is_none(), "{last:?}");
        let mut stream = Stream::new(0, 0, "trade");
        let weights = Trade::draw(&directions, &mut stream).weights;
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12 && weights[0] > 0.0);
    }
}
