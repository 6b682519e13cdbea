//! The dimensions of the search space: meaning, values, the value when it is not searched, and
//! the reasons.

use std::{fmt, str::FromStr};

use adapruner_prune::{ActivationMetric, Normalisation, Reduction};
use serde::{Deserialize, Serialize};

/// One thing that a search varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Number of calibration samples; which ones is searched with it.
    Samples,
    /// Weight of the coarse side of the importance.
    Alpha1,
    /// Coefficient of the second order in the coarse side, in units that give both orders equal
    /// weight.
    BetaCoarse,
    /// The same in the fine side.
    BetaFine,
    /// Weight of the activation metric beside both sides.
    Activation,
    /// Which activation metric.
    ActivationMetric,
    /// What each side is divided by before they are added.
    Normalisation,
    /// How the vectors of a unit become one number.
    Grouping,
    /// Number of first layers to protect.
    ProtectFirst,
    /// Number of last layers to protect.
    ProtectLast,
    /// Share of what is removed that comes from attention.
    AttentionShare,
    /// Attention sublayers that are removed whole, the cheapest first.
    DropAttention,
    /// How the cut is spread over the layers.
    Allocation,
    /// Slope of the cut over depth.
    CurveLinear,
    /// Bend of the cut over depth.
    CurveQuadratic,
}

/// What a dimension is about: `--search` chooses by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Which text importance is measured on.
    Data,
    /// How importance is measured.
    Metric,
    /// Where the model is cut.
    Where,
}

/// What a dimension's values are.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Integers from the first to the second.
    Integer(u64, u64),
    /// Numbers from the first to the second.
    Number(f64, f64),
    /// Numbers from the first to the second, their logarithm uniform.
    Log(f64, f64),
    /// One of some names.
    Name(Vec<String>),
}

/// A value of a dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Of an integer or number.
    Number(f64),
    /// Of a choice.
    Name(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Layers out of 32 that the literature protects: the first 4 and the last 2.
fn spared(layers: usize) -> (u64, u64) {
    let share = |part: f64| (layers as f64 * part / 32.0).round() as u64;
    (share(4.0), share(2.0))
}

/// Default maximum of dropped attention sublayers in a search.
pub(crate) fn most_dropped(layers: usize) -> usize {
    (layers as f64 / 3.0).round() as usize
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Samples,
        Self::Alpha1,
        Self::BetaCoarse,
        Self::BetaFine,
        Self::Activation,
        Self::ActivationMetric,
        Self::Normalisation,
        Self::Grouping,
        Self::ProtectFirst,
        Self::ProtectLast,
        Self::AttentionShare,
        Self::DropAttention,
        Self::Allocation,
        Self::CurveLinear,
        Self::CurveQuadratic,
    ];

    /// Its name in configuration files and studies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Alpha1 => "alpha1",
            Self::BetaCoarse => "beta-coarse",
            Self::BetaFine => "beta-fine",
            Self::Activation => "activation",
            Self::ActivationMetric => "activation-metric",
            Self::Normalisation => "normalisation",
            Self::Grouping => "grouping",
            Self::ProtectFirst => "protect-first",
            Self::ProtectLast => "protect-last",
            Self::AttentionShare => "attention-share",
            Self::DropAttention => "drop-attention",
            Self::Allocation => "allocation",
            Self::CurveLinear => "curve-linear",
            Self::CurveQuadratic => "curve-quadratic",
        }
    }

    /// What it is about.
    pub fn part(self) -> Part {
        match self {
            Self::Samples => Part::Data,
            Self::Alpha1
            | Self::BetaCoarse
            | Self::BetaFine
            | Self::Activation
            | Self::ActivationMetric
            | Self::Normalisation
            | Self::Grouping => Part::Metric,
            Self::ProtectFirst
            | Self::ProtectLast
            | Self::AttentionShare
            | Self::DropAttention
            | Self::Allocation
            | Self::CurveLinear
            | Self::CurveQuadratic => Part::Where,
        }
    }

    /// Its value in spaces older than the dimension; none for original dimensions.
    pub fn before(self) -> Option<Value> {
        match self {
            Self::Activation => Some(Value::Number(0.0)),
            Self::ActivationMetric => Some(Value::Name(ActivationMetric::default().to_string())),
            Self::Samples
            | Self::Alpha1
            | Self::BetaCoarse
            | Self::BetaFine
            | Self::Normalisation
            | Self::Grouping
            | Self::ProtectFirst
            | Self::ProtectLast
            | Self::AttentionShare
            | Self::DropAttention
            | Self::Allocation
            | Self::CurveLinear
            | Self::CurveQuadratic => None,
        }
    }

    /// The values that it can take at all, in a model of `layers` layers and a
    /// pool of `pool` samples.
    pub fn kind(self, layers: usize, pool: usize) -> Kind {
        let last = layers.saturating_sub(1) as u64;
        let names = |names: &[&str]| Kind::Name(names.iter().map(ToString::to_string).collect());
        match self {
            Self::Samples => Kind::Integer(1, pool as u64),
            Self::Alpha1 | Self::Activation | Self::AttentionShare => Kind::Number(0.0, 1.0),
            Self::ActivationMetric => {
                Kind::Name(ActivationMetric::ALL.iter().map(ToString::to_string).collect())
            }
            Self::BetaCoarse | Self::BetaFine => Kind::Log(0.0, 1e9),
            Self::Normalisation => {
                Kind::Name(Normalisation::ALL.iter().map(ToString::to_string).collect())
            }
            Self::Grouping => Kind::Name(Reduction::ALL.iter().map(ToString::to_string).collect()),
            Self::ProtectFirst | Self::ProtectLast => Kind::Integer(0, last),
            Self::DropAttention => Kind::Integer(0, layers as u64),
            Self::Allocation => names(&["local", "curve", "global"]),
            Self::CurveLinear | Self::CurveQuadratic => Kind::Number(-8.0, 8.0),
        }
    }

    /// The values that the full space searches.
    pub(super) fn searched(self, layers: usize, pool: usize) -> Kind {
        let share = |part: f64| (layers as f64 * part).round() as u64;
        let names = |names: &[&str]| Kind::Name(names.iter().map(ToString::to_string).collect());
        match self {
            Self::Samples => {
                let most = (pool as u64 / 2).max(1);
                Kind::Integer(8.min(most), 64.min(most))
            }
            Self::Alpha1 | Self::Activation => Kind::Number(0.0, 1.0),
            Self::BetaCoarse | Self::BetaFine => Kind::Log(1e-2, 1e3),
            Self::ActivationMetric => names(&["wanda", "flap"]),
            Self::Normalisation => names(&["mean", "max", "rank"]),
            Self::Grouping => names(&["sum", "max", "prod"]),
            Self::ProtectFirst => Kind::Integer(0, share(0.3)),
            Self::ProtectLast => Kind::Integer(0, share(0.2)),
            Self::AttentionShare => Kind::Number(0.0, 0.0),
            Self::DropAttention => Kind::Integer(0, most_dropped(layers) as u64),
            Self::Allocation => names(&["curve"]),
            Self::CurveLinear | Self::CurveQuadratic => Kind::Number(-2.0, 2.0),
        }
    }

    /// Its value when it is not searched: LLM-Pruner's element-wise first order, the layers
    /// that the literature protects, feed-forward channels alone.
    pub fn neutral(self, layers: usize, pool: usize) -> Value {
        let name = |name: &str| Value::Name(name.to_owned());
        match self {
            Self::Samples => Value::Number(32.min(pool) as f64),
            Self::Alpha1
            | Self::BetaCoarse
            | Self::BetaFine
            | Self::Activation
            | Self::AttentionShare
            | Self::DropAttention
            | Self::CurveLinear
            | Self::CurveQuadratic => Value::Number(0.0),
            Self::ActivationMetric => name("wanda"),
            Self::Normalisation => name("mean"),
            Self::Grouping => name("sum"),
            Self::ProtectFirst => Value::Number(spared(layers).0 as f64),
            Self::ProtectLast => Value::Number(spared(layers).1 as f64),
            Self::Allocation => name("local"),
        }
    }

    /// Its value in the first trial: the neutral one, but structured Wanda instead of the first
    /// order, because it is better on held-out text (docs/measurements/quality.md).
    pub(super) fn start(self, layers: usize, pool: usize) -> Value {
        match self {
            Self::Activation => Value::Number(1.0),
            Self::ActivationMetric => Value::Name(ActivationMetric::Wanda.to_string()),
            Self::Samples
            | Self::Alpha1
            | Self::BetaCoarse
            | Self::BetaFine
            | Self::Normalisation
            | Self::Grouping
            | Self::ProtectFirst
            | Self::ProtectLast
            | Self::AttentionShare
            | Self::DropAttention
            | Self::Allocation
            | Self::CurveLinear
            | Self::CurveQuadratic => self.neutral(layers, pool),
        }
    }

    /// What it does, and the reason for its default.
    pub fn about(self) -> &'static str {
        match self {
            Self::Samples => {
                "which calibration samples, and how many: fewer than 8 are noise, more than half \
                 the pool leaves little to choose"
            }
            Self::Alpha1 => {
                "weight of the vector-wise (coarse) importance against the element-wise (fine) \
                 one, which has 1 - alpha1: the paper's equilibrium coefficients, of which only \
                 the ratio matters"
            }
            Self::BetaCoarse => {
                "coefficient of the second order (Fisher) in the coarse side, in units of the one \
                 that makes both orders weigh alike in the bank, from first order alone to second \
                 alone: the best trials lean to the second"
            }
            Self::BetaFine => "the same in the fine side",
            Self::Activation => {
                "weight of an activation metric, which needs no gradient, against the Taylor sides, \
                 which have 1 - activation together; not in the paper"
            }
            Self::ActivationMetric => {
                "wanda (the size of a column's weights times the norm of what it reads) or flap \
                 (their squares times the variance of what it reads)"
            }
            Self::Normalisation => {
                "what each side is divided by within a layer; sum would be mean over again, none \
                 makes alpha1 meaningless, standard moves the sides too"
            }
            Self::Grouping => {
                "how the row and column importances of a unit become one; mean ranks as sum does"
            }
            Self::ProtectFirst => {
                "first layers that are spared: up to three tenths (the literature spares an eighth)"
            }
            Self::ProtectLast => {
                "last layers that are spared: up to a fifth (the literature spares a sixteenth)"
            }
            Self::AttentionShare => {
                "share of the removed parameters that comes from attention, dropped sublayers \
                 included: beyond those, heads cost more than channels in 500 trials, so it is not \
                 searched unless asked for"
            }
            Self::DropAttention => {
                "attention sublayers removed whole, in the order of what each was measured to cost \
                 on the pool once those before it were gone: the first are nearly free, a third of \
                 all is the most"
            }
            Self::Allocation => {
                "local (one ratio), curve (a smooth curve over depth; local is its middle) or \
                 global (one ranking): global was worse wherever it was tried"
            }
            Self::CurveLinear => {
                "above 0, later layers lose more, below 0 earlier ones; 1 doubles the last"
            }
            Self::CurveQuadratic => "above 0, the first and last layers lose more than the middle",
        }
    }
}

impl FromStr for Dimension {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|dimension| dimension.name()).collect();
            format!("unknown dimension {name:?}, expected one of {}", known.join(", "))
        })
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
