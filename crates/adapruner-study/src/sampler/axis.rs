//! Parameters as samplers compute with them: one number each.

use crate::distribution::{Distribution, ParamValue};
use crate::sampler::stream::Stream;

/// What values a parameter other than a subset takes, as numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Axis {
    /// Numbers, `step` apart where there is one.
    Numeric { low: f64, high: f64, step: Option<f64>, log: bool, integer: bool },
    /// An index below the number of choices.
    Categorical { choices: usize },
}

impl Axis {
    /// None for subsets.
    pub(crate) fn new(distribution: &Distribution) -> Option<Self> {
        match *distribution {
            Distribution::Float { low, high, step, log } => {
                Some(Self::Numeric { low, high, step, log, integer: false })
            }
            Distribution::Int { low, high, step, log } => Some(Self::Numeric {
                low: low as f64,
                high: high as f64,
                step: Some(step as f64),
                log,
                integer: true,
            }),
            Distribution::Categorical { ref choices } => {
                Some(Self::Categorical { choices: choices.len() })
            }
            Distribution::Subset { .. } => None,
        }
    }

    /// The value as a number; subsets have none.
    pub(crate) fn number(value: &ParamValue) -> Option<f64> {
        match *value {
            ParamValue::Float(v) => Some(v),
            ParamValue::Int(v) => Some(v as f64),
            ParamValue::Category(v) => Some(v as f64),
            ParamValue::Subset(_) => None,
        }
    }

    /// The value that `number`, one of this axis, stands for.
    pub(crate) fn value(&self, number: f64) -> ParamValue {
        match self {
            Self::Numeric { integer: true, .. } => ParamValue::Int(number as i64),
            Self::Numeric { integer: false, .. } => ParamValue::Float(number),
            Self::Categorical { .. } => ParamValue::Category(number as usize),
        }
    }

    /// Brings a number to the nearest value, half a step to the even one.
    pub(crate) fn round(&self, number: f64) -> f64 {
        match *self {
            Self::Numeric { low, high, step: Some(step), .. } => {
                (low + ((number - low) / step).round_ties_even() * step).clamp(low, high)
            }
            Self::Numeric { low, high, step: None, .. } => number.clamp(low, high),
            Self::Categorical { choices } => number.clamp(0.0, (choices - 1) as f64),
        }
    }

    /// Bounds of the kernels, in logarithms where the axis has them: half a
    /// step outside of the values.
    pub(crate) fn range(low: f64, high: f64, step: Option<f64>, log: bool) -> (f64, f64) {
        let half = step.map_or(0.0, |step| 0.5 * step);
        let (low, high) = (low - half, high + half);
        if log { (low.ln(), high.ln()) } else { (low, high) }
    }

    /// A value drawn uniformly.
    pub(crate) fn draw(&self, stream: &mut Stream) -> f64 {
        match *self {
            Self::Numeric { low, high, step, log, .. } => {
                let (least, most) = Self::range(low, high, step, log);
                let at = least + stream.uniform() * (most - least);
                self.round(if log { at.exp() } else { at })
            }
            Self::Categorical { choices } => stream.below(choices as u64) as f64,
        }
    }
}
