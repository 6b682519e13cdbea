//! The ways to measure importance, and their names on the command line and in
//! files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    /// `R Σ |w|` (`magnitude_l1`).
    MagnitudeL1,
    /// `R Σ w²` (`magnitude_l2`).
    MagnitudeL2,
    /// Uniform random numbers (`random`): the control.
    Random,
}

/// AdaPruner's importance (arXiv 2503.06184): `α₁·coarse + (1 − α₁)·fine`, where
///
/// - `coarse = R |Σ w·ḡ − β_c·Σ ½·w²·F̄|`, over vectors;
/// - `fine = R (mean_s Σ |w·g_s| + β_f·Σ ½·w²·F̄)`, over elements;
///
/// and each side is normalised within its layer and kind before they are added.
/// All of it is exact for any subset of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Weight of the coarse side, in `[0, 1]`.
    pub alpha1: f64,
    /// Second order in the coarse side, finite, ≥ 0.
    pub beta_coarse: f64,
    /// Second order in the fine side, finite, ≥ 0.
    pub beta_fine: f64,
    /// Normalisation of each side.
    pub normalisation: Normalisation,
}

impl Default for Blend {
    /// Both sides alike, first and second order as Taylor's series has them.
    fn default() -> Self {
        Self { alpha1: 0.5, beta_coarse: 1.0, beta_fine: 1.0, normalisation: Normalisation::Mean }
    }
}

/// What the scores of one layer and kind are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Nothing.
    #[default]
    None,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// Their sum.
    Sum,
    /// Each score becomes its rank over their number, in `(0, 1]`; equal scores
    /// share the mean of their ranks.
    Rank,
}

impl Normalisation {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Mean, Self::Max, Self::Sum, Self::Rank];

    /// Normalises scores in place; those that are all 0 stay so.
    pub fn apply(self, scores: &mut [f64]) {
        let divisor = match self {
            Self::None => return,
            Self::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Self::Sum => scores.iter().sum(),
            Self::Max => scores.iter().copied().fold(0.0, f64::max),
            Self::Rank => return rank(scores),
        };
        if divisor > 0.0 {
            scores.iter_mut().for_each(|score| *score /= divisor);
        }
    }
}

/// Replaces scores by their ranks (1 the least) over their number.
fn rank(scores: &mut [f64]) {
    let count = scores.len() as f64;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut ranks = vec![0.0; scores.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let mean = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        run.iter().for_each(|&at| ranks[at] = mean / count);
        start += run.len();
    }
    scores.copy_from_slice(&ranks);
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

macro_rules! names {
    ($type:ty, $what:literal, $all:expr, { $($variant:path => $name:literal),+ $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($variant => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($name => Ok($variant),)+
                    _ => {
                        let known: Vec<_> = $all.iter().map(ToString::to_string).collect();
                        Err(Error::Importance {
                            importance: text.to_owned(),
                            message: format!(
                                concat!("unknown ", $what, ", expected one of {}"),
                                known.join(", ")
                            ),
                        })
                    }
                }
            }
        }
    };
}

names!(Normalisation, "normalisation", Self::ALL, {
    Self::None => "none",
    Self::Mean => "mean",
    Self::Max => "max",
    Self::Sum => "sum",
    Self::Rank => "rank",
});

names!(Reduction, "reduction", Self::ALL, {
    Self::Sum => "sum",
    Self::Mean => "mean",
    Self::Max => "max",
    Self::Prod => "prod",
});

impl Importance {
    /// The names that stand alone, as [`FromStr`] takes them.
    pub const NAMES: [&str; 9] = [
        "param_first",
        "vectorize",
        "param_second",
        "param_mix",
        "sample_first",
        "adapruner",
        "magnitude_l1",
        "magnitude_l2",
        "random",
    ];

    /// Whether it is computed from statistics.
    pub fn needs_statistics(self) -> bool {
        match self {
            Self::ParamFirst
            | Self::Vectorize
            | Self::ParamSecond
            | Self::ParamMix
            | Self::SampleFirst
            | Self::AdaPruner(_) => true,
            Self::MagnitudeL1 | Self::MagnitudeL2 | Self::Random => false,
        }
    }

    /// Whether it needs terms that do not separate by sample.
    pub fn needs_batch_terms(self) -> bool {
        match self {
            Self::ParamFirst | Self::ParamMix => true,
            Self::Vectorize
            | Self::ParamSecond
            | Self::SampleFirst
            | Self::AdaPruner(_)
            | Self::MagnitudeL1
            | Self::MagnitudeL2
            | Self::Random => false,
        }
    }

    /// Whether the signed sums alone are enough.
    pub fn is_coarse(self) -> bool {
        match self {
            Self::Vectorize => true,
            Self::AdaPruner(blend) => blend.alpha1 == 1.0 && blend.beta_coarse == 0.0,
            Self::ParamFirst
            | Self::ParamSecond
            | Self::ParamMix
            | Self::SampleFirst
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
            Self::AdaPruner(Blend { alpha1, beta_coarse, beta_fine, normalisation }) => write!(
                f,
                "adapruner:alpha1={alpha1},beta_coarse={beta_coarse},beta_fine={beta_fine},\
                 normalisation={normalisation}"
            ),
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
            "magnitude_l1" | "l1" => Self::MagnitudeL1,
            "magnitude_l2" | "l2" => Self::MagnitudeL2,
            "random" => Self::Random,
            _ => match text.strip_prefix("adapruner:") {
                Some(settings) => Self::AdaPruner(Blend::parse(text, settings)?),
                None => {
                    return Err(refusal(
                        text,
                        format!("unknown, expected one of {}", Self::NAMES.join(", ")),
                    ));
                }
            },
        })
    }
}

impl Blend {
    fn parse(text: &str, settings: &str) -> Result<Self> {
        let mut blend = Self::default();
        for setting in settings.split(',') {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(refusal(text, format!("expected key=value, found {setting:?}")));
            };
            let number = || {
                value.parse::<f64>().map_err(|_| {
                    refusal(text, format!("{key}: expected a number, found {value:?}"))
                })
            };
            match key {
                "alpha1" => blend.alpha1 = number()?,
                "beta_coarse" => blend.beta_coarse = number()?,
                "beta_fine" => blend.beta_fine = number()?,
                "normalisation" => blend.normalisation = value.parse()?,
                _ => {
                    return Err(refusal(
                        text,
                        format!(
                            "unknown setting {key:?}, expected alpha1, beta_coarse, beta_fine or \
                             normalisation"
                        ),
                    ));
                }
            }
        }
        blend.check()?;
        Ok(blend)
    }

    /// Refuses coefficients out of range.
    ///
    /// # Errors
    /// The coefficient, its range and its value.
    pub fn check(&self) -> Result<()> {
        let text = Importance::AdaPruner(*self).to_string();
        if !(0.0..=1.0).contains(&self.alpha1) {
            return Err(refusal(
                &text,
                format!("alpha1: expected a number from 0 to 1, found {}", self.alpha1),
            ));
        }
        for (name, beta) in [("beta_coarse", self.beta_coarse), ("beta_fine", self.beta_fine)] {
            if !beta.is_finite() || beta < 0.0 {
                return Err(refusal(
                    &text,
                    format!("{name}: expected a finite number, at least 0, found {beta}"),
                ));
            }
        }
        Ok(())
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

fn refusal(importance: &str, message: String) -> Error {
    Error::Importance { importance: importance.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Importance::NAMES {
            let importance: Importance = name.parse().unwrap();
            assert_eq!(importance.to_string().parse::<Importance>().unwrap(), importance);
        }
        let blend = Blend {
            alpha1: 0.25,
            beta_coarse: 1e-3,
            beta_fine: 7.5,
            normalisation: Normalisation::Rank,
        };
        let importance = Importance::AdaPruner(blend);
        assert_eq!(importance.to_string().parse::<Importance>().unwrap(), importance);
        let json = serde_json::to_string(&importance).unwrap();
        assert_eq!(serde_json::from_str::<Importance>(&json).unwrap(), importance);
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
            "adapruner:",
        ] {
            assert!(text.parse::<Importance>().is_err(), "{text}");
        }
        let message = "taylor".parse::<Importance>().unwrap_err().to_string();
        assert!(message.contains("taylor") && message.contains("param_first"), "{message}");
    }

    #[test]
    fn normalisations_divide_as_they_say() {
        let scores = [1.0, 4.0, 1.0, 2.0];
        let of = |normalisation: Normalisation| {
            let mut scores = scores;
            normalisation.apply(&mut scores);
            scores
        };
        assert_eq!(of(Normalisation::None), scores);
        assert_eq!(of(Normalisation::Mean), [0.5, 2.0, 0.5, 1.0]);
        assert_eq!(of(Normalisation::Max), [0.25, 1.0, 0.25, 0.5]);
        assert_eq!(of(Normalisation::Sum), [0.125, 0.5, 0.125, 0.25]);
        assert_eq!(of(Normalisation::Rank), [0.375, 1.0, 0.375, 0.75]);
        let mut zeros = [0.0; 3];
        Normalisation::Mean.apply(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
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
