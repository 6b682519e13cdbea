//! Importance measures, and their names on the command line and in files.

use std::{fmt, str::FromStr};

use adapruner_choice::Unknown;
use serde::{Deserialize, Serialize};

use super::{activation::ActivationMetric, blend::Blend};
use crate::{
    bank::Terms,
    error::{Error, Result},
};

/// How the importance of a unit is measured.
///
/// Notation as in [`crate::bank`]; `R` is the [`Reduction`] over the vectors of a
/// unit. Names are LLM-Pruner's where it has the measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Importance {
    /// `R Σ |w·ḡ|`: element-wise first order of the whole set (`param_first`).
    ParamFirst,
    /// `R |Σ w·ḡ|`: vector-wise first order (`vectorize`).
    Vectorize,
    /// `R Σ |w²·F̄|`: element-wise second order (`param_second`).
    ParamSecond,
    /// `R Σ |w·ḡ − ½·w²·F̄|`: element-wise, both orders (`param_mix`).
    ParamMix,
    /// `R mean_s Σ |w·g_s|`: element-wise first order, sample by sample
    /// (`sample_first`).
    SampleFirst,
    /// AdaPruner's blend (`adapruner`).
    AdaPruner(Blend),
    /// The inputs of a unit's columns, with the size of their weights (`wanda`, `flap`): no
    /// gradient. `R` is over the columns alone; for a channel it is the value of its down
    /// column.
    Activation(ActivationMetric),
    /// `R Σ |w|` (`magnitude_l1`).
    MagnitudeL1,
    /// `R Σ w²` (`magnitude_l2`).
    MagnitudeL2,
    /// Uniform random numbers (`random`): the control.
    Random,
}

/// How the vectors of a coupled group become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// Their product.
    Prod,
}

impl Reduction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sum, Self::Mean, Self::Max, Self::Prod];

    /// Reduces the values of a group's vectors (at least one).
    pub fn of(self, values: impl ExactSizeIterator<Item = f64>) -> f64 {
        match self {
            Self::Sum => values.sum(),
            Self::Mean => {
                let count = values.len() as f64;
                values.sum::<f64>() / count
            }
            // Not `f64::max`, which would drop a NaN.
            Self::Max => {
                values.reduce(|a, b| if b > a || b.is_nan() { b } else { a }).unwrap_or(0.0)
            }
            Self::Prod => values.product(),
        }
    }
}

adapruner_choice::choice!(Reduction, "reduction", {
    Sum => "sum",
    Mean => "mean",
    Max => "max",
    Prod => "prod",
});

impl Importance {
    /// The names that stand alone, as [`FromStr`] takes them.
    pub const NAMES: [&str; 11] = [
        "param_first",
        "vectorize",
        "param_second",
        "param_mix",
        "sample_first",
        "adapruner",
        "wanda",
        "flap",
        "magnitude_l1",
        "magnitude_l2",
        "random",
    ];

    /// The terms of statistics that it needs; none if it needs no statistics.
    pub fn terms(self) -> Option<Terms> {
        match self {
            Self::Activation(_) => Some(Terms::Activations),
            Self::Vectorize => Some(Terms::Coarse),
            Self::ParamFirst | Self::ParamSecond | Self::ParamMix | Self::SampleFirst => {
                Some(Terms::Full)
            }
            Self::AdaPruner(blend) => Some(blend.terms()),
            Self::MagnitudeL1 | Self::MagnitudeL2 | Self::Random => None,
        }
    }

    /// Whether it needs terms that do not separate by sample.
    pub fn needs_batch_terms(self) -> bool {
        match self {
            Self::ParamFirst | Self::ParamMix => true,
            Self::AdaPruner(blend) => blend.needs_batch_terms(),
            Self::Vectorize
            | Self::ParamSecond
            | Self::SampleFirst
            | Self::Activation(_)
            | Self::MagnitudeL1
            | Self::MagnitudeL2
            | Self::Random => false,
        }
    }
}

impl fmt::Display for Importance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ParamFirst => f.write_str("param_first"),
            Self::Vectorize => f.write_str("vectorize"),
            Self::ParamSecond => f.write_str("param_second"),
            Self::ParamMix => f.write_str("param_mix"),
            Self::SampleFirst => f.write_str("sample_first"),
            Self::AdaPruner(blend) => write!(f, "adapruner:{blend}"),
            Self::Activation(metric) => metric.fmt(f),
            Self::MagnitudeL1 => f.write_str("magnitude_l1"),
            Self::MagnitudeL2 => f.write_str("magnitude_l2"),
            Self::Random => f.write_str("random"),
        }
    }
}

impl FromStr for Importance {
    type Err = Error;

    /// Parses a name of [`Importance::NAMES`] (also `l1` and `l2`);
    /// `adapruner` may be followed by `:key=value,…`, what is not named keeping
    /// its default.
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "param_first" => Self::ParamFirst,
            "vectorize" => Self::Vectorize,
            "param_second" => Self::ParamSecond,
            "param_mix" => Self::ParamMix,
            "sample_first" => Self::SampleFirst,
            "adapruner" => Self::AdaPruner(Blend::default()),
            "wanda" => Self::Activation(ActivationMetric::Wanda),
            "flap" => Self::Activation(ActivationMetric::Flap),
            "magnitude_l1" | "l1" => Self::MagnitudeL1,
            "magnitude_l2" | "l2" => Self::MagnitudeL2,
            "random" => Self::Random,
            _ => match text.strip_prefix("adapruner:") {
                Some(settings) => Self::AdaPruner(Blend::parse(text, settings)?),
                None => return Err(Unknown::new("importance", text, &Self::NAMES).into()),
            },
        })
    }
}

impl TryFrom<String> for Importance {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Importance> for String {
    fn from(importance: Importance) -> Self {
        importance.to_string()
    }
}

/// An importance that is refused.
pub(super) fn refusal(importance: &str, message: String) -> Error {
    Error::Importance { importance: importance.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{blend::Fine, normalisation::Normalisation},
        *,
    };

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Importance::NAMES {
            let importance: Importance = name.parse().unwrap();
            assert_eq!(importance.to_string().parse::<Importance>().unwrap(), importance);
        }
        let paper = Blend {
            alpha1: 0.25,
            beta_coarse: 1e-3,
            beta_fine: 7.5,
            normalisation: Normalisation::Rank,
            ..Blend::default()
        };
        let flap = ActivationMetric::Flap;
        for blend in [
            paper,
            Blend { activation: 0.375, ..paper },
            Blend { activation: 1.0, metric: flap, ..paper },
            Blend { metric: flap, ..paper },
            Blend { fine: Fine::Set, normalisation: Normalisation::Standard, ..paper },
            Blend { fine: Fine::Mixed, beta_fine: 1.0, ..paper },
        ] {
            let importance = Importance::AdaPruner(blend);
            assert_eq!(importance.to_string().parse::<Importance>().unwrap(), importance);
            let json = serde_json::to_string(&importance).unwrap();
            assert_eq!(serde_json::from_str::<Importance>(&json).unwrap(), importance);
        }
        // As earlier versions wrote it.
        assert_eq!(
            Importance::AdaPruner(paper).to_string(),
            "adapruner:alpha1=0.25,beta_coarse=0.001,beta_fine=7.5,normalisation=rank"
        );
    }

    #[test]
    fn an_importance_names_the_least_terms() {
        for (text, terms, batch) in [
            ("param_first", Some(Terms::Full), true),
            ("param_mix", Some(Terms::Full), true),
            ("param_second", Some(Terms::Full), false),
            ("sample_first", Some(Terms::Full), false),
            ("vectorize", Some(Terms::Coarse), false),
            ("wanda", Some(Terms::Activations), false),
            ("flap", Some(Terms::Activations), false),
            ("random", None, false),
            ("magnitude_l2", None, false),
            ("adapruner", Some(Terms::Full), false),
            ("adapruner:alpha1=1", Some(Terms::Full), false),
            ("adapruner:alpha1=1,beta_coarse=0", Some(Terms::Coarse), false),
            ("adapruner:alpha1=1,beta_coarse=0,activation=0.5", Some(Terms::Coarse), false),
            ("adapruner:activation=0.5", Some(Terms::Full), false),
            ("adapruner:activation=1", Some(Terms::Activations), false),
            ("adapruner:activation=1,fine=set", Some(Terms::Activations), false),
            ("adapruner:fine=set", Some(Terms::Full), true),
            ("adapruner:fine=mixed", Some(Terms::Full), true),
            ("adapruner:alpha1=1,fine=mixed", Some(Terms::Full), false),
        ] {
            let importance: Importance = text.parse().unwrap();
            assert_eq!(
                (importance.terms(), importance.needs_batch_terms()),
                (terms, batch),
                "{text}"
            );
        }
    }

    #[test]
    fn a_partial_blend_keeps_the_other_defaults() {
        let importance: Importance = "adapruner:alpha1=1".parse().unwrap();
        assert_eq!(importance, Importance::AdaPruner(Blend { alpha1: 1.0, ..Blend::default() }));
    }

    #[test]
    fn bad_names_and_coefficients_are_refused() {
        for text in [
            "taylor",
            "adapruner:alpha1=2",
            "adapruner:alpha1=NaN",
            "adapruner:beta_fine=-1",
            "adapruner:beta_coarse=inf",
            "adapruner:gamma=1",
            "adapruner:alpha1",
            "adapruner:normalisation=median",
            "adapruner:activation=1.5",
            "adapruner:activation=NaN",
            "adapruner:metric=sparsegpt",
            "adapruner:fine=element",
            "adapruner:fine=mixed,beta_fine=2",
            "wanda:activation=1",
            "adapruner:",
        ] {
            assert!(text.parse::<Importance>().is_err(), "{text}");
        }
        let message = "taylor".parse::<Importance>().unwrap_err().to_string();
        assert!(message.contains("taylor") && message.contains("param_first"), "{message}");
    }

    #[test]
    fn reductions_keep_a_nan() {
        for reduction in Reduction::ALL {
            assert!(reduction.of([1.0, f64::NAN, 2.0].into_iter()).is_nan(), "{reduction}");
            assert!(reduction.of([f64::NAN, 2.0].into_iter()).is_nan(), "{reduction}");
        }
        assert_eq!(Reduction::Sum.of([1.0, 2.0, 4.0].into_iter()), 7.0);
        assert_eq!(Reduction::Mean.of([1.0, 2.0, 6.0].into_iter()), 3.0);
        assert_eq!(Reduction::Max.of([1.0, 4.0, 2.0].into_iter()), 4.0);
        assert_eq!(Reduction::Prod.of([2.0, 4.0, 3.0].into_iter()), 24.0);
    }
}
