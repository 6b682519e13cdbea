//! Two models on the same questions, or on the same windows of a text: the
//! difference with its standard error and a 95 % interval, and what is retained
//! above chance.
//!
//! Differences are the other model's figure minus the first's. `n` questions,
//! windows or articles are taken as independent draws; `z` is the normal quantile
//! 1.96.
//!
//! | figure | difference | standard error | 95 % interval |
//! |---|---|---|---|
//! | accuracy | mean of `d_i`, −1, 0 or 1 by question | `sd(d)/√n` | Agresti and Min (2005): `(c−b)/(n+2) ± z·√V`, `V = ((b+c) − (c−b)²/(n+2))/(n+2)²`, with half a question added to `b`, right by the first alone, and to `c`, right by the other alone |
//! | mean of `k` accuracies | their mean | `√Σ s²/k` | mean of the centres `± z·√ΣV/k` |
//! | loss, windows of equal length | mean of `d_i`, nats per predicted token | `sd(d)/√n` | normal, of at least [`FEWEST`] windows |
//! | loss by word, articles of `w_i` words | `D = Σd/Σw`, nats per word | `sd(d − D·w)/(√n · mean w)` | likewise |
//!
//! Agresti and Min's interval is not a point if two models answer alike. `sd` has Bessel's
//! correction.

use serde::{Deserialize, Serialize};

use crate::correlation::Z;

/// Windows or articles below which a difference of losses has no interval: the
/// normal distribution is that of many.
pub const FEWEST: usize = 30;

/// The other model's figure minus the first's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference.
    pub value: f64,
    /// Its standard error; none of a single pair.
    pub stderr: Option<f64>,
    /// Lower and upper end of its 95 % interval; none of too few pairs.
    pub interval: Option<(f64, f64)>,
}

impl Difference {
    /// Whether the interval leaves out 0, so that a difference is shown; `None`
    /// where there is no interval.
    pub fn is_shown(&self) -> Option<bool> {
        self.interval.map(|(low, high)| low > 0.0 || high < 0.0)
    }

    /// The difference in a unit of which `factor` (above 0) are one of this one's.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            stderr: self.stderr.map(|stderr| stderr * factor),
            interval: self.interval.map(|(low, high)| (low * factor, high * factor)),
        }
    }
}

/// Two models' answers to the same questions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedAnswers {
    difference: f64,
    stderr: Option<f64>,
    centre: f64,
    variance: f64,
}

impl PairedAnswers {
    /// From whether each question was answered right, by the first model and by
    /// the other, in the same order. `None` without questions, or of unequal
    /// numbers of them.
    pub fn of(first: &[bool], other: &[bool]) -> Option<Self> {
        let differences: Vec<f64> =
            first.iter().zip(other).map(|(&f, &o)| f64::from(o) - f64::from(f)).collect();
        let n = differences.len();
        if n == 0 || first.len() != other.len() {
            return None;
        }
        let alone = |sign: f64| differences.iter().filter(|&&d| d == sign).count() as f64;
        let (more, b, c) = (n as f64 + 2.0, alone(-1.0) + 0.5, alone(1.0) + 0.5);
        let (difference, stderr) = mean_and_stderr(&differences);
        Some(Self {
            difference,
            stderr,
            centre: (c - b) / more,
            variance: ((b + c) - (c - b).powi(2) / more) / more.powi(2),
        })
    }

    /// The difference of accuracies.
    pub fn difference(&self) -> Difference {
        Self::mean(std::slice::from_ref(self)).unwrap_or(Difference {
            value: self.difference,
            stderr: self.stderr,
            interval: None,
        })
    }

    /// The difference of the unweighted means over tasks; `None` of no tasks.
    pub fn mean(tasks: &[Self]) -> Option<Difference> {
        let k = tasks.len() as f64;
        let mean = |of: fn(&Self) -> f64| tasks.iter().map(of).sum::<f64>() / k;
        let stderrs: Option<Vec<f64>> = tasks.iter().map(|task| task.stderr).collect();
        let (centre, variance) = (mean(|task| task.centre), mean(|task| task.variance) / k);
        let reach = Z * variance.sqrt();
        (!tasks.is_empty()).then(|| Difference {
            value: mean(|task| task.difference),
            stderr: stderrs.and_then(|stderrs| stderr_of_mean(&stderrs)),
            interval: Some(((centre - reach).max(-1.0), (centre + reach).min(1.0))),
        })
    }
}

/// The standard error of a mean of independent figures; `None` of none.
pub fn stderr_of_mean(stderrs: &[f64]) -> Option<f64> {
    let squares = stderrs.iter().map(|stderr| stderr * stderr).sum::<f64>();
    (!stderrs.is_empty()).then(|| squares.sqrt() / stderrs.len() as f64)
}

/// The difference of losses on the same windows of `window` tokens, from the
/// summed loss of each, in nats; `None` without windows, or of unequal numbers.
pub fn windows(first: &[f64], other: &[f64], window: usize) -> Option<Difference> {
    let predicted = window.checked_sub(1).filter(|&predicted| predicted > 0)? as u64;
    parts(first, other, &vec![predicted; first.len()])
}

/// The difference of losses on the same parts of a text, in nats per unit, from
/// the summed loss of each and its number of units (words, predicted tokens);
/// `None` without parts, or of unequal numbers.
pub fn parts(first: &[f64], other: &[f64], units: &[u64]) -> Option<Difference> {
    if first.len() != other.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(other).map(|(f, o)| o - f).collect();
    let (value, stderr) = by_unit(&differences, units)?;
    let enough = stderr.filter(|_| first.len() >= FEWEST);
    let interval = enough.map(|stderr| (value - Z * stderr, value + Z * stderr));
    Some(Difference { value, stderr, interval })
}

/// The loss per unit of parts of a text and its standard error, which is none of a
/// single part; `None` without parts or units, or of unequal numbers.
pub fn by_unit(losses: &[f64], units: &[u64]) -> Option<(f64, Option<f64>)> {
    let all = units.iter().sum::<u64>() as f64;
    if losses.is_empty() || losses.len() != units.len() || all == 0.0 {
        return None;
    }
    let value = losses.iter().sum::<f64>() / all;
    let rest = losses.iter().zip(units).map(|(loss, &units)| loss - value * units as f64);
    let (_, stderr) = mean_and_stderr(&rest.collect::<Vec<_>>());
    Some((value, stderr.map(|stderr| stderr / (all / units.len() as f64))))
}

/// The mean and its standard error, which is none of a single value.
fn mean_and_stderr(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

/// The share that is retained of what the first model's accuracy has above
/// `chance`, the accuracy of guessing; negative below it, `None` where the first
/// model is no better than guessing.
pub fn above_chance(first: f64, other: f64, chance: f64) -> Option<f64> {
    (first > chance).then(|| (other - chance) / (first - chance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What NumPy and SciPy make of some answers and losses
    /// (fixtures/generate/statistics.py).
    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../../fixtures/statistics/paired.json")).unwrap()
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(number).collect()
    }

    fn assert_is(found: Difference, right: &Value) {
        let interval = found.interval.unwrap();
        for (found, right) in [
            (found.value, &right["difference"]),
            (found.stderr.unwrap(), &right["difference_stderr"]),
            (interval.0, &right["interval"][0]),
            (interval.1, &right["interval"][1]),
        ] {
            assert!((found - number(right)).abs() < 1e-12, "{found} {right}");
        }
    }

    #[test]
    fn paired_answers_are_those_of_numpy() {
        let fixture = fixture();
        let tasks = fixture["tasks"].as_array().unwrap();
        let answers = |value: &Value| numbers(value).iter().map(|&v| v > 0.0).collect::<Vec<_>>();
        let paired = |task: &Value| {
            PairedAnswers::of(&answers(&task["first"]), &answers(&task["other"])).unwrap()
        };
        for task in tasks {
            assert_is(paired(task).difference(), task);
            let chance = 1.0 / number(&task["choices"]);
            let (first, other) = (number(&task["accuracy"][0]), number(&task["accuracy"][1]));
            let kept = above_chance(first, other, chance).unwrap();
            assert!((kept - number(&task["above_chance"])).abs() < 1e-12);
        }
        let all: Vec<PairedAnswers> = tasks.iter().map(paired).collect();
        let mean = &fixture["mean"];
        assert_is(PairedAnswers::mean(&all).unwrap(), mean);
        let stderrs: Vec<f64> = tasks.iter().map(|task| number(&task["stderr"][0])).collect();
        let stderr = stderr_of_mean(&stderrs).unwrap();
        assert!((stderr - number(&mean["stderr"][0])).abs() < 1e-12);
        let of = |key: &str, at: usize| number(&mean[key][at]);
        let kept = above_chance(of("accuracy", 0), of("accuracy", 1), number(&mean["chance"]));
        assert!((kept.unwrap() - number(&mean["above_chance"])).abs() < 1e-12);
    }

    #[test]
    fn paired_losses_are_those_of_numpy() {
        let fixture = fixture();
        let right = &fixture["windows"];
        let (first, other) = (numbers(&right["first"]), numbers(&right["other"]));
        assert_is(windows(&first, &other, 11).unwrap(), right);
        let right = &fixture["articles"];
        let (first, other) = (numbers(&right["first"]), numbers(&right["other"]));
        let words: Vec<u64> = numbers(&right["words"]).into_iter().map(|w| w as u64).collect();
        assert_is(parts(&first, &other, &words).unwrap(), right);
        for (at, losses) in [&first, &other].into_iter().enumerate() {
            let (loss, stderr) = by_unit(losses, &words).unwrap();
            assert!((loss - number(&right["loss"][at])).abs() < 1e-12);
            assert!((stderr.unwrap() - number(&right["stderr"][at])).abs() < 1e-12);
        }
    }

    #[test]
    fn models_that_answer_alike_differ_by_an_interval_and_not_by_a_point() {
        let alike = PairedAnswers::of(&[true; 40], &[true; 40]).unwrap().difference();
        assert_eq!((alike.value, alike.stderr), (0.0, Some(0.0)));
        let (low, high) = alike.interval.unwrap();
        assert!(low < -0.04 && high > 0.04 && alike.is_shown() == Some(false), "{low} {high}");
    }

    #[test]
    fn too_little_to_tell_has_no_interval() {
        let few = windows(&[10.0; 29], &[11.0; 29], 11).unwrap();
        assert_eq!((few.interval, few.is_shown()), (None, None));
        assert!(windows(&[10.0; 30], &[11.0; 30], 11).unwrap().interval.is_some());
        assert_eq!(windows(&[10.0], &[11.0], 11).unwrap().stderr, None);
        assert_eq!(windows(&[], &[], 11), None);
        assert_eq!(windows(&[1.0], &[1.0, 2.0], 11), None);
        assert_eq!(windows(&[1.0], &[1.0], 1), None);
        assert_eq!(PairedAnswers::of(&[], &[]), None);
        assert_eq!(PairedAnswers::of(&[true], &[]), None);
        assert_eq!(PairedAnswers::mean(&[]), None);
        assert_eq!(above_chance(0.5, 0.6, 0.5), None);
    }
}
