//! The configuration of a trial: samples, metric, and where to cut the model.

use std::collections::BTreeMap;

use adapruner_prune::{
    ActivationMetric, Allocation, Blend, Curve, Fine, Importance, Normalisation, PlanOptions,
    Reduction, StatsBank,
};
use serde::{Deserialize, Serialize};

use super::{
    dimension::{Dimension, Value},
    space::FREE,
};

use crate::error::{Context, Result, bail};

/// One point of the search space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Indices of the calibration samples in the pool, ascending.
    pub samples: Vec<usize>,
    /// LLM-Pruner's first order over the whole set instead of the blend.
    pub baseline: bool,
    /// Weight of the coarse side.
    pub alpha1: f64,
    /// Coefficient of the second order in the coarse side, in units of the bank's
    /// [`OrderScales`].
    pub beta_coarse: f64,
    /// The same in the fine side.
    pub beta_fine: f64,
    /// Weight of the activation metric; absent in earlier versions.
    #[serde(default)]
    pub activation: f64,
    /// Which activation metric.
    #[serde(default)]
    pub activation_metric: ActivationMetric,
    /// What each side is divided by.
    pub normalisation: Normalisation,
    /// How the vectors of a unit become one number.
    pub grouping: Reduction,
    /// Numbers of first and last layers to protect.
    pub protect: (usize, usize),
    /// Share of what is removed that comes from attention; `None`: heads and
    /// channels alike.
    pub attention_share: Option<f64>,
    /// Attention sublayers that are removed whole.
    pub drop_attention: usize,
    /// How the cut is spread over the layers.
    pub allocation: Allocation,
    /// Share of all parameters to remove, where that is searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// Ratio of the first order to the second: the coefficient that gives both equal weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OrderScales {
    /// `Σ |Σ w·g| / Σ Σ ½·w²·g²`, means over the pool, sums over vectors.
    pub coarse: f64,
    /// `Σ Σ |w·g| / Σ Σ ½·w²·g²`, likewise.
    pub fine: f64,
}

impl OrderScales {
    /// The scales of a bank.
    ///
    /// # Errors
    /// A bank without the element and Fisher sums.
    pub fn of(bank: &StatsBank) -> Result<Self> {
        use adapruner_prune::bank::Term;
        let all = bank.all_samples();
        let sum = |term| -> Result<f64> {
            Ok(bank.mean(term, &all)?.iter().map(|value| value.abs()).sum())
        };
        let fisher = sum(Term::Fisher)?;
        let over = |first: f64| if fisher > 0.0 { first / fisher } else { 1.0 };
        Ok(Self { coarse: over(sum(Term::Signed)?), fine: over(sum(Term::Element)?) })
    }
}

impl Configuration {
    /// From the values of all dimensions but the samples.
    pub(super) fn new(
        samples: Vec<usize>,
        values: &BTreeMap<Dimension, Value>,
        baseline: bool,
    ) -> Result<Self> {
        let value = |dimension| values.get(&dimension).context("a dimension has no value");
        let number = |dimension| match value(dimension)? {
            Value::Number(number) => Ok(*number),
            Value::Name(name) => bail!("{dimension}: expected a number, found {name:?}"),
        };
        let name = |dimension| match value(dimension)? {
            Value::Name(name) => Ok(name.as_str()),
            Value::Number(number) => bail!("{dimension}: expected a name, found {number}"),
        };
        let attention_share = match value(Dimension::AttentionShare)? {
            Value::Number(share) => Some(*share),
            Value::Name(name) if name == FREE => None,
            Value::Name(name) => bail!("attention-share: expected a number, found {name:?}"),
        };
        Ok(Self {
            samples,
            baseline,
            alpha1: number(Dimension::Alpha1)?,
            beta_coarse: number(Dimension::BetaCoarse)?,
            beta_fine: number(Dimension::BetaFine)?,
            activation: number(Dimension::Activation)?,
            activation_metric: name(Dimension::ActivationMetric)?.parse()?,
            normalisation: name(Dimension::Normalisation)?.parse()?,
            grouping: name(Dimension::Grouping)?.parse()?,
            protect: (
                number(Dimension::ProtectFirst)? as usize,
                number(Dimension::ProtectLast)? as usize,
            ),
            attention_share,
            drop_attention: number(Dimension::DropAttention)? as usize,
            allocation: match name(Dimension::Allocation)? {
                "curve" => Allocation::Curve(Curve {
                    linear: number(Dimension::CurveLinear)?,
                    quadratic: number(Dimension::CurveQuadratic)?,
                }),
                other => other.parse()?,
            },
            ratio: None,
        })
    }

    /// The importance that it scores by.
    pub fn importance(&self, scales: &OrderScales) -> Importance {
        if self.baseline {
            return Importance::ParamFirst;
        }
        Importance::AdaPruner(Blend {
            alpha1: self.alpha1,
            beta_coarse: self.beta_coarse * scales.coarse,
            beta_fine: self.beta_fine * scales.fine,
            // Exact for every choice of samples.
            fine: Fine::PerSample,
            normalisation: self.normalisation,
            activation: self.activation,
            metric: self.activation_metric,
        })
    }

    /// Its plan options: `fixed` with its own choices. `cheapest` lists all layers with
    /// attention, the cheapest to remove first; protected ones are skipped.
    pub fn plan_options(
        &self,
        fixed: &PlanOptions,
        cheapest: &[usize],
        layers: usize,
    ) -> PlanOptions {
        let mut options = PlanOptions {
            ratio: self.ratio.unwrap_or(fixed.ratio),
            protect: self.protect,
            attention_share: self.attention_share,
            allocation: self.allocation,
            drop_attention: Vec::new(),
            ..fixed.clone()
        };
        let free = cheapest.iter().copied().filter(|&layer| !options.protects(layer, layers));
        let mut dropped: Vec<usize> = free.take(self.drop_attention).collect();
        dropped.sort_unstable();
        options.drop_attention = dropped;
        options
    }

    /// Its values by name, for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let share =
            |share: Option<f64>| share.map_or_else(|| FREE.to_owned(), |s| format!("{s:.4}"));
        let ratio = self.ratio.map(|ratio| ("ratio", format!("{ratio:.4}")));
        let mut rows = vec![
            ("samples", self.samples.len().to_string()),
            ("alpha1", format!("{:.4}", self.alpha1)),
            ("beta-coarse", format!("{:.4}", self.beta_coarse)),
            ("beta-fine", format!("{:.4}", self.beta_fine)),
            ("activation", format!("{:.4}", self.activation)),
            ("activation-metric", self.activation_metric.to_string()),
            ("normalisation", self.normalisation.to_string()),
            ("grouping", self.grouping.to_string()),
            ("protect", format!("{},{}", self.protect.0, self.protect.1)),
            ("attention-share", share(self.attention_share)),
            ("drop-attention", self.drop_attention.to_string()),
            (
                "allocation",
                match self.allocation {
                    Allocation::Curve(Curve { linear, quadratic }) => {
                        format!("curve:linear={linear:.4},quadratic={quadratic:.4}")
                    }
                    Allocation::Local | Allocation::Global(_) => self.allocation.to_string(),
                },
            ),
        ];
        rows.extend(ratio);
        rows
    }
}
