//! AdaPruner's importance, with an activation metric beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Grouping, Scores,
    activation::ActivationMetric,
    importance::{Importance, refusal},
    normalisation::Normalisation,
    set::{batch_first, batch_mix},
};
use crate::{
    bank::{StatsBank, Term, Terms},
    error::Result,
};

/// AdaPruner's importance (arXiv 2503.06184) and an activation metric:
/// `(1 − γ)·(α₁·coarse + (1 − α₁)·fine) + γ·activation`, where
///
/// - `coarse = R |Σ w·ḡ − β_c·Σ ½·w²·F̄|`, over vectors;
/// - `fine`, over elements, is as [`Fine`] says;
/// - `activation` is Wanda's or FLAP's value of the unit's columns ([`ActivationMetric`]),
///
/// and each is normalised within its layer and kind before they are added. With
/// [`Fine::PerSample`], which is the default, all of it is exact for any subset of the
/// samples. With γ = 0, the default, it is the paper's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Weight of the coarse side, in `[0, 1]`.
    pub alpha1: f64,
    /// Second order in the coarse side, finite, ≥ 0.
    pub beta_coarse: f64,
    /// Second order in the fine side, finite, ≥ 0; 1 with [`Fine::Mixed`].
    pub beta_fine: f64,
    /// Which fine side.
    pub fine: Fine,
    /// Normalisation of each side.
    pub normalisation: Normalisation,
    /// γ, weight of the activation metric, in `[0, 1]`.
    pub activation: f64,
    /// Which activation metric.
    pub metric: ActivationMetric,
}

impl Default for Blend {
    /// Both sides of the paper alike, first and second order as Taylor's series has them.
    fn default() -> Self {
        Self {
            alpha1: 0.5,
            beta_coarse: 1.0,
            beta_fine: 1.0,
            fine: Fine::default(),
            normalisation: Normalisation::Mean,
            activation: 0.0,
            metric: ActivationMetric::default(),
        }
    }
}

/// The fine side of a [`Blend`]: where absolute values are taken.
///
/// `ḡ` and `F̄` are means over the set of samples. Sums of `|w·ḡ|` do not follow from sums
/// of single samples, so the forms of the set are exact where the statistics hold the terms
/// of the whole set, for that set alone, and are refused for others. (Of one sample
/// [`Fine::Set`] is [`Fine::PerSample`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fine {
    /// `R (mean_s Σ |w·g_s| + β_f·Σ ½·w²·F̄)`: of each sample's gradient, so at least
    /// `Σ |w·ḡ|`; elements whose gradients cancel between samples keep their importance.
    /// Any set of samples.
    #[default]
    PerSample,
    /// `R (Σ |w·ḡ| + β_f·Σ ½·w²·F̄)`: of the mean gradient, as LLM-Pruner's first order.
    Set,
    /// `R Σ |w·ḡ − ½·w²·F̄|`: of both orders of each element, LLM-Pruner's mixed form.
    Mixed,
}

impl Fine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PerSample, Self::Set, Self::Mixed];

    /// Whether it is made of terms of the whole set.
    fn of_set(self) -> bool {
        match self {
            Self::PerSample => false,
            Self::Set | Self::Mixed => true,
        }
    }
}

adapruner_choice::choice!(Fine, "fine side", {
    PerSample => "per-sample",
    Set => "set",
    Mixed => "mixed",
});

impl Blend {
    /// Weights of the coarse side, the fine side and the activation metric; they add up
    /// to 1.
    fn weights(&self) -> [f64; 3] {
        let taylor = 1.0 - self.activation;
        [taylor * self.alpha1, taylor * (1.0 - self.alpha1), self.activation]
    }

    /// The least terms that it is computed from.
    pub(super) fn terms(&self) -> Terms {
        let [coarse, fine, _] = self.weights();
        if fine > 0.0 || (coarse > 0.0 && self.beta_coarse > 0.0) {
            Terms::Full
        } else if coarse > 0.0 {
            Terms::Coarse
        } else {
            Terms::Activations
        }
    }

    /// Whether it needs terms that do not separate by sample.
    pub(super) fn needs_batch_terms(&self) -> bool {
        let [_, fine, _] = self.weights();
        fine > 0.0 && self.fine.of_set()
    }

    /// Reads `key=value,…`; what is not named keeps its default.
    pub(super) fn parse(text: &str, settings: &str) -> Result<Self> {
        const KEYS: &str =
            "alpha1, beta_coarse, beta_fine, fine, normalisation, activation or metric";
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
                "fine" => blend.fine = value.parse()?,
                "normalisation" => blend.normalisation = value.parse()?,
                "activation" => blend.activation = number()?,
                "metric" => blend.metric = value.parse()?,
                _ => {
                    let message = format!("unknown setting {key:?}, expected {KEYS}");
                    return Err(refusal(text, message));
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
        let refuse = |message| Err(refusal(&Importance::AdaPruner(*self).to_string(), message));
        for (name, share) in [("alpha1", self.alpha1), ("activation", self.activation)] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("{name}: expected a number from 0 to 1, found {share}"));
            }
        }
        for (name, beta) in [("beta_coarse", self.beta_coarse), ("beta_fine", self.beta_fine)] {
            if !beta.is_finite() || beta < 0.0 {
                return refuse(format!(
                    "{name}: expected a finite number, at least 0, found {beta}"
                ));
            }
        }
        if self.fine == Fine::Mixed && self.beta_fine != 1.0 {
            return refuse(format!(
                "beta_fine: expected 1 with fine=mixed, which has the second order inside, found {}",
                self.beta_fine
            ));
        }
        Ok(())
    }

    /// The scores of every unit.
    ///
    /// # Errors
    /// Coefficients out of range; terms that were not collected; a choice of samples for a
    /// fine side of the whole set.
    pub(super) fn scores(
        &self,
        bank: &StatsBank,
        samples: &[usize],
        grouping: &Grouping<'_>,
    ) -> Result<Scores> {
        self.check()?;
        let [coarse, fine, activation] = self.weights();
        let fisher = match self.terms() {
            Terms::Full => bank.mean(Term::Fisher, samples)?,
            Terms::Coarse | Terms::Activations => vec![0.0; bank.layout().len()],
        };
        let mut sides = Vec::new();
        if coarse > 0.0 {
            let mut values = bank.mean(Term::Signed, samples)?;
            for (value, fisher) in values.iter_mut().zip(&fisher) {
                *value = (*value - self.beta_coarse * fisher).abs();
            }
            sides.push((coarse, grouping.scores(&values)));
        }
        if fine > 0.0 {
            let values = self.fine_values(bank, samples, &fisher)?;
            sides.push((fine, grouping.scores(&values)));
        }
        if activation > 0.0 {
            let values = self.metric.of_columns(bank, samples)?;
            sides.push((activation, grouping.column_scores(&values)));
        }
        let mut all = grouping.zeros();
        for (weight, scores) in sides {
            all.add_scaled(&scores.normalised(self.normalisation), weight);
        }
        Ok(all)
    }

    /// The fine side's value of every vector, `[U]`.
    fn fine_values(&self, bank: &StatsBank, samples: &[usize], fisher: &[f64]) -> Result<Vec<f64>> {
        let importance = Importance::AdaPruner(*self);
        let mut values = match self.fine {
            Fine::PerSample => bank.mean(Term::Element, samples)?,
            Fine::Set => batch_first(bank, samples, importance)?,
            Fine::Mixed => return batch_mix(bank, samples, importance),
        };
        for (value, fisher) in values.iter_mut().zip(fisher) {
            *value += self.beta_fine * fisher;
        }
        Ok(values)
    }
}

impl fmt::Display for Blend {
    /// `key=value,…` as [`Blend::parse`] takes it. What is of no effect is left out, so that
    /// the paper's importances are written as they always were.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alpha1, beta_coarse, beta_fine, fine, normalisation, activation, metric } = self;
        write!(f, "alpha1={alpha1},beta_coarse={beta_coarse},beta_fine={beta_fine}")?;
        if *fine != Fine::default() {
            write!(f, ",fine={fine}")?;
        }
        write!(f, ",normalisation={normalisation}")?;
        if *activation != 0.0 || *metric != ActivationMetric::default() {
            write!(f, ",activation={activation},metric={metric}")?;
        }
        Ok(())
    }
}
