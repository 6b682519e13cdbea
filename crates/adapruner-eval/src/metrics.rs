//! Accuracies of multiple-choice tasks, as the harness computes them.
//!
//! With `ll_c` the log-likelihood of choice `c` in nats and `n_c` its length,
//! the prediction is the first `c` with the largest
//!
//! | metric | of | `n_c` |
//! |---|---|---|
//! | `acc` | `ll_c` | |
//! | `acc_norm` | `ll_c / n_c` | characters |
//! | `acc_bytes` | `ll_c / n_c` | bytes |
//!
//! Standard errors are `s / √n` with Bessel's correction in `s`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is counted as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The choice with the highest log-likelihood is correct.
    Acc,
    /// The choice with the highest log-likelihood per character is correct.
    AccNorm,
    /// The choice with the highest log-likelihood per byte is correct.
    AccBytes,
}

impl Metric {
    /// Its name in the harness.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
        }
    }

    /// The choice that is predicted.
    pub fn prediction(self, log_likelihoods: &[f64], choices: &[String]) -> usize {
        let length = |choice: &String| match self {
            Self::Acc => 1.0,
            Self::AccNorm => choice.chars().count() as f64,
            Self::AccBytes => choice.len() as f64,
        };
        let values = log_likelihoods.iter().zip(choices).map(|(ll, choice)| ll / length(choice));
        let best =
            values.enumerate().fold(
                None,
                |best: Option<(usize, f64)>, (index, value)| match best {
                    Some((_, largest)) if largest >= value => best,
                    Some(_) | None => Some((index, value)),
                },
            );
        best.map_or(0, |(index, _)| index)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A share and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error; none for a single question.
    pub stderr: Option<f64>,
}

impl Estimate {
    /// The share of `right` among `all` questions.
    pub fn of(right: usize, all: usize) -> Self {
        let (k, n) = (right as f64, all as f64);
        let value = k / n;
        let squares = k * (1.0 - value).powi(2) + (n - k) * value.powi(2);
        let stderr = (all > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt());
        Self { value, stderr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_best_is_predicted() {
        let choices = ["ää".to_owned(), "abc".to_owned(), "abc".to_owned()];
        let lls = [-6.0, -7.5, -7.5];
        assert_eq!(Metric::Acc.prediction(&lls, &choices), 0);
        // By character −3 and −2.5; by byte −1.5 and −2.5.
        assert_eq!(Metric::AccNorm.prediction(&lls, &choices), 1);
        assert_eq!(Metric::AccBytes.prediction(&lls, &choices), 0);
    }

    // Expected values: `mean_stderr` of the harness.
    #[test]
    fn standard_errors_have_bessels_correction() {
        let estimate = Estimate::of(3, 4);
        assert_eq!(estimate.value, 0.75);
        assert!((estimate.stderr.unwrap() - 0.25).abs() < 1e-15);
        assert_eq!(Estimate::of(1, 1).stderr, None);
        assert_eq!(Estimate::of(0, 5).stderr, Some(0.0));
    }
}
