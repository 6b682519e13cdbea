//! What values a parameter can take, and values themselves.

use serde::{Deserialize, Serialize};

/// One choice of a categorical parameter: what JSON has as a scalar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Choice {
    /// `null`.
    None,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

/// What values a parameter can take.
#[derive(Debug, Clone, PartialEq)]
pub enum Distribution {
    /// Numbers from `low` to `high`, both included.
    Float {
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
        /// Distance of values from each other, counted from `low`; any value
        /// where `None`. Not with `log`.
        step: Option<f64>,
        /// Whether the logarithm is what is uniform; `low` > 0 then.
        log: bool,
    },
    /// Integers from `low` to `high`, both included.
    Int {
        /// Smallest value.
        low: i64,
        /// Largest value.
        high: i64,
        /// Distance of values from each other, counted from `low`, ≥ 1. 1 with
        /// `log`.
        step: i64,
        /// Whether the logarithm is what is uniform; `low` ≥ 1 then.
        log: bool,
    },
    /// One of some choices.
    Categorical {
        /// The choices, at least one, all different.
        choices: Vec<Choice>,
    },
    /// `n` of the items `0..pool`, `n` from `least` to `most`.
    Subset {
        /// Number of items to choose from, ≥ 1.
        pool: usize,
        /// Fewest chosen, ≥ 1.
        least: usize,
        /// Most chosen, ≤ `pool`.
        most: usize,
    },
}

/// The value of a parameter in a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// Of a float parameter.
    Float(f64),
    /// Of an integer parameter.
    Int(i64),
    /// Index of the choice of a categorical parameter.
    Category(usize),
    /// Chosen items of a subset parameter, ascending.
    Subset(Vec<usize>),
}
