//! Distributions of parameters, and their values.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Integers beyond this are not all exact as numbers of 64-bit floats, which
/// samplers and journals compute in.
const EXACT: i64 = 1 << 53;
/// More items to choose from than any pool holds: what a damaged record would
/// have samplers allocate.
const MAX_POOL: usize = 1 << 22;
/// How far the largest value may be from the grid of steps, in steps.
const OFF_GRID: f64 = 1e-8;

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

impl ParamValue {
    /// The number of a float parameter.
    pub fn as_float(&self) -> Option<f64> {
        if let Self::Float(value) = self { Some(*value) } else { None }
    }

    /// The number of an integer parameter.
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// The index of a choice.
    pub fn as_category(&self) -> Option<usize> {
        if let Self::Category(index) = self { Some(*index) } else { None }
    }

    /// The chosen items of a subset.
    pub fn as_subset(&self) -> Option<&[usize]> {
        if let Self::Subset(items) = self { Some(items) } else { None }
    }
}

impl From<bool> for Choice {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Choice {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Choice {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Choice {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Choice {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl Distribution {
    /// Numbers from `low` to `high`.
    pub fn float(low: f64, high: f64) -> Self {
        Self::Float { low, high, step: None, log: false }
    }

    /// Numbers from `low` to `high`, uniform in their logarithm.
    pub fn float_log(low: f64, high: f64) -> Self {
        Self::Float { low, high, step: None, log: true }
    }

    /// The numbers `low`, `low + step`, … `high`.
    pub fn float_step(low: f64, high: f64, step: f64) -> Self {
        Self::Float { low, high, step: Some(step), log: false }
    }

    /// Integers from `low` to `high`.
    pub fn int(low: i64, high: i64) -> Self {
        Self::Int { low, high, step: 1, log: false }
    }

    /// Integers from `low` to `high`, uniform in their logarithm.
    pub fn int_log(low: i64, high: i64) -> Self {
        Self::Int { low, high, step: 1, log: true }
    }

    /// The integers `low`, `low + step`, … `high`.
    pub fn int_step(low: i64, high: i64, step: i64) -> Self {
        Self::Int { low, high, step, log: false }
    }

    /// One of `choices`.
    pub fn categorical<C: Into<Choice>>(choices: impl IntoIterator<Item = C>) -> Self {
        Self::Categorical { choices: choices.into_iter().map(Into::into).collect() }
    }

    /// `n` of the items `0..pool`.
    pub fn subset(pool: usize, n: usize) -> Self {
        Self::Subset { pool, least: n, most: n }
    }

    /// Refuses an invalid distribution; `name` is that of the parameter, for the message.
    ///
    /// # Errors
    ///
    /// [`Error::Space`] if bounds are not finite or the wrong way round, the
    /// largest value is not on the grid of steps, a logarithm is not defined,
    /// there are no choices or two equal ones, or a subset cannot be drawn.
    pub fn validate(&self, name: &str) -> Result<()> {
        let found = match self {
            Self::Float { low, high, step, log } => float_fault(*low, *high, *step, *log),
            Self::Int { low, high, step, log } => int_fault(*low, *high, *step, *log),
            Self::Categorical { choices } => choices_fault(choices),
            Self::Subset { pool, least, most } => subset_fault(*pool, *least, *most),
        };
        match found {
            None => Ok(()),
            Some(message) => Err(Error::Space { name: name.into(), message }),
        }
    }

    /// Whether a parameter of this distribution can have this value.
    pub fn contains(&self, value: &ParamValue) -> bool {
        match (self, value) {
            (Self::Float { low, high, step, .. }, ParamValue::Float(v)) => {
                // NaN fails the comparison.
                let within = *low <= *v && *v <= *high;
                let on_grid = step.is_none_or(|step| {
                    let steps = (v - low) / step;
                    (steps - steps.round()).abs() <= OFF_GRID * steps.abs().max(1.0)
                });
                within && on_grid
            }
            (Self::Int { low, high, step, .. }, ParamValue::Int(v)) => {
                // Within bounds and the step positive: no overflow of i128.
                (low..=high).contains(&v)
                    && *step >= 1
                    && (i128::from(*v) - i128::from(*low)) % i128::from(*step) == 0
            }
            (Self::Categorical { choices }, ParamValue::Category(index)) => *index < choices.len(),
            (Self::Subset { pool, least, most }, ParamValue::Subset(items)) => {
                (least..=most).contains(&&items.len())
                    && items.is_sorted_by(|a, b| a < b)
                    && items.last().is_none_or(|last| last < pool)
            }
            (
                Self::Float { .. }
                | Self::Int { .. }
                | Self::Categorical { .. }
                | Self::Subset { .. },
                ParamValue::Float(_)
                | ParamValue::Int(_)
                | ParamValue::Category(_)
                | ParamValue::Subset(_),
            ) => false,
        }
    }

    /// The value of a parameter that can have only one.
    pub fn only_value(&self) -> Option<ParamValue> {
        match self {
            Self::Float { low, high, .. } => (low == high).then_some(ParamValue::Float(*low)),
            Self::Int { low, high, .. } => (low == high).then_some(ParamValue::Int(*low)),
            Self::Categorical { choices } => {
                (choices.len() == 1).then_some(ParamValue::Category(0))
            }
            Self::Subset { pool, least, .. } => {
                (least == pool).then(|| ParamValue::Subset((0..*pool).collect()))
            }
        }
    }

    /// Whether a value that was drawn for `other` means the same here: the same
    /// choices or pool, or numbers of the same kind whatever their bounds.
    pub fn is_comparable(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float { .. }, Self::Float { .. }) | (Self::Int { .. }, Self::Int { .. }) => true,
            (Self::Categorical { choices: a }, Self::Categorical { choices: b }) => a == b,
            (Self::Subset { pool: a, .. }, Self::Subset { pool: b, .. }) => a == b,
            (
                Self::Float { .. }
                | Self::Int { .. }
                | Self::Categorical { .. }
                | Self::Subset { .. },
                Self::Float { .. }
                | Self::Int { .. }
                | Self::Categorical { .. }
                | Self::Subset { .. },
            ) => false,
        }
    }
}

fn float_fault(low: f64, high: f64, step: Option<f64>, log: bool) -> Option<String> {
    if !low.is_finite() || !high.is_finite() || !(high - low).is_finite() {
        return Some(format!("expected finite bounds, found {low} and {high}"));
    }
    if low > high {
        return Some(format!("expected low ≤ high, found {low} and {high}"));
    }
    if log && low <= 0.0 {
        return Some(format!("expected low > 0 for a logarithm, found {low}"));
    }
    let step = step?;
    if log {
        return Some(format!("expected no step with a logarithm, found {step}"));
    }
    if !(step.is_finite() && step > 0.0) {
        return Some(format!("expected a step > 0, found {step}"));
    }
    let steps = (high - low) / step;
    if (steps - steps.round()).abs() > OFF_GRID * steps.max(1.0) {
        let best = low + steps.floor() * step;
        return Some(format!("expected high on the grid of steps, as {best}, found {high}"));
    }
    None
}

fn int_fault(low: i64, high: i64, step: i64, log: bool) -> Option<String> {
    if low > high {
        return Some(format!("expected low ≤ high, found {low} and {high}"));
    }
    if low < -EXACT || high > EXACT {
        return Some(format!("expected integers within ±2^53, found {low} and {high}"));
    }
    if log && low < 1 {
        return Some(format!("expected low ≥ 1 for a logarithm, found {low}"));
    }
    if log && step != 1 {
        return Some(format!("expected a step of 1 with a logarithm, found {step}"));
    }
    if step < 1 {
        return Some(format!("expected a step ≥ 1, found {step}"));
    }
    if (high - low) % step != 0 {
        let best = high - (high - low) % step;
        return Some(format!("expected high on the grid of steps, as {best}, found {high}"));
    }
    None
}

fn choices_fault(choices: &[Choice]) -> Option<String> {
    if choices.is_empty() {
        return Some("expected at least one choice, found none".into());
    }
    for (i, choice) in choices.iter().enumerate() {
        if let Choice::Float(value) = choice
            && !value.is_finite()
        {
            return Some(format!("expected finite choices, found {value}"));
        }
        if choices[..i].contains(choice) {
            return Some(format!("expected different choices, found {choice:?} twice"));
        }
    }
    None
}

fn subset_fault(pool: usize, least: usize, most: usize) -> Option<String> {
    if pool > MAX_POOL {
        return Some(format!("expected a pool of at most {MAX_POOL}, found {pool}"));
    }
    if least < 1 || least > most || most > pool {
        return Some(format!(
            "expected 1 ≤ least ≤ most ≤ pool, found least {least}, most {most}, pool {pool}"
        ));
    }
    None
}
