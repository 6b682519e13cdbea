//! Arguments of a plan, also a table of the configuration file.

use std::{fmt, str::FromStr};

use adapruner_checkpoint::ModelConfig;
use adapruner_prune::{Allocation, KvMode, Layout, PlanOptions};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    combine::combine,
    failure::advised,
    typed::{Count, Named, Real, Shares, Size},
};

/// `A,B`: the first A and last B layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends(pub usize, pub usize);

impl FromStr for Ends {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected A,B (first A and last B layers), found {text:?}");
        let (first, last) = text.split_once(',').ok_or_else(refused)?;
        let number = |part: &str| part.trim().parse().map_err(|_| refused());
        Ok(Self(number(first)?, number(last)?))
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0, self.1)
    }
}

/// What is removed.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Plan")]
pub struct PlanArgs {
    /// Share of all parameters to remove, embedding included: 0.2, or 20%, removes a fifth; with
    /// search --objectives a range, 0.1..0.5
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true)]
    pub ratio: Option<Shares>,
    /// Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000 [prune]
    #[arg(long, value_name = "PARAMETERS", conflicts_with = "ratio")]
    pub target_params: Option<Count>,
    /// Maximum bytes of the written model, instead of --ratio: 80MB, 1.5GiB or a number; of
    /// model.gguf if --format includes gguf, otherwise of all files of the folder [prune]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["ratio", "target_params"])]
    pub target_size: Option<Size>,
    /// per-layer (widths differ between layers) or uniform (one width for all layers: an
    /// ordinary model of its architecture) [default: per-layer]
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Option<Named<Layout>>,
    /// Do not cut the first A and last B layers [default: 0,0; prune: an eighth and a sixteenth
    /// of the layers, if the others are enough to reach the ratio]
    #[arg(long, value_name = "A,B")]
    pub protect: Option<Named<Ends>>,
    /// Share of the removed parameters that comes from attention, 0 to 1, or "free" to cut
    /// heads and channels by the same ratio [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub attention_share: Option<Named<Share>>,
    /// Round feed-forward widths to multiples of N: 32 for quantised GGUF rows, 256 for
    /// K-quants [default: 1; prune: what a quantised --gguf-type needs]
    #[arg(long, value_name = "N")]
    pub multiple_of: Option<usize>,
    /// Attention units to remove: groups (whole key-value groups) or query-heads (one query
    /// head of every group) [default: groups]
    #[arg(long, value_name = "MODE")]
    pub kv_mode: Option<Named<KvMode>>,
    /// Remove the whole attention sublayer of these layers
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pub drop_attention: Option<Vec<usize>>,
    /// How to spread the cut over layers: local (the same ratio in every layer),
    /// curve:linear=X,quadratic=Y (ratios follow a curve over depth), global (one ranking over
    /// all layers) or global:NORMALISATION (none, mean, max, sum, rank, or standard, as in
    /// FLAP); prune also: measured (step by step, the part with the smallest loss increase on
    /// calibration samples per parameter: channels of a layer, its attention, or the whole
    /// layer) [default: local]
    #[arg(long, value_name = "HOW")]
    pub allocation: Option<Named<Spread>>,
    /// Most calibration samples that --allocation measured measures on: the fewer, the more it
    /// fits them alone [default: 32]
    #[arg(long, value_name = "N")]
    pub allocation_samples: Option<usize>,
    /// Shares sensitive layers less: cut each layer alone, measure the loss on calibration
    /// samples, and cut in proportion to the loss increase to the power of -P [P: 1 if no
    /// number is given]
    #[arg(
        long,
        value_name = "P",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1"
    )]
    pub sensitivity: Option<Real>,
}

combine!(PlanArgs {
    ratio,
    target_params,
    target_size,
    layout,
    protect,
    attention_share,
    multiple_of,
    kv_mode,
    drop_attention,
    allocation,
    allocation_samples,
    sensitivity,
});

/// A share of what is removed, or none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub Option<f64>);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "free" {
            return Ok(Self(None));
        }
        let refused = |_| format!("expected a number from 0 to 1 or \"free\", found {text:?}");
        Ok(Self(Some(text.parse().map_err(refused)?)))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(share) => share.fmt(f),
            None => f.write_str("free"),
        }
    }
}

/// Samples that a cut is spread by.
const MEASURED: usize = 32;

/// How a cut is spread over the layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    /// By scores alone.
    Planned(Allocation),
    /// By measured losses.
    Measured,
}

impl Spread {
    /// What scores alone decide.
    pub fn planned(self) -> Allocation {
        match self {
            Self::Planned(allocation) => allocation,
            Self::Measured => Allocation::default(),
        }
    }
}

impl FromStr for Spread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "measured" {
            return Ok(Self::Measured);
        }
        let planned = text.parse().map(Self::Planned);
        planned.map_err(|error: adapruner_prune::Error| format!("{error}, or measured"))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned(allocation) => allocation.fmt(f),
            Self::Measured => f.write_str("measured"),
        }
    }
}

/// The ratio that leaves `target` parameters of a model of `config`.
///
/// # Errors
/// A target that is 0 or not below the model's parameters.
pub fn ratio_leaving(target: u64, config: &ModelConfig) -> Result<f64> {
    let before = config.parameters();
    if target == 0 || target >= before {
        return Err(advised(
            format!(
                "target-params: expected from 1 to below the model's {before} parameters, found \
                 {target}"
            ),
            "inspect shows how many parameters a model has",
        ));
    }
    Ok((before - target) as f64 / before as f64)
}

impl PlanArgs {
    /// On how many samples losses are measured to spread the cut by, where it is; checked
    /// against the other options.
    ///
    /// # Errors
    /// Options that decide the same; no samples, or samples where nothing is measured.
    pub fn measured(&self) -> Result<Option<usize>> {
        let measured = self.allocation == Some(Named(Spread::Measured));
        let refused = match (measured, self.allocation_samples) {
            (false, Some(_)) => "given, but the cut is not spread by measured losses",
            (true, Some(0)) => "expected at least 1, found 0",
            (false, None) => return Ok(None),
            (true, _) => "",
        };
        if !refused.is_empty() {
            return Err(advised(
                format!("allocation-samples: {refused}"),
                "give --allocation measured --allocation-samples 32",
            ));
        }
        let others = [
            ("layout uniform", self.layout == Some(Named(Layout::Uniform))),
            ("sensitivity", self.sensitivity.is_some()),
            ("drop-attention", self.drop_attention.is_some()),
            ("target-size", self.target_size.is_some()),
        ];
        match others.into_iter().find(|(_, given)| *given) {
            None => Ok(Some(self.allocation_samples.unwrap_or(MEASURED))),
            Some((name, _)) => Err(advised(
                format!("allocation: measured losses do not go with {name}"),
                "leave one of the two out",
            )),
        }
    }

    /// The exponent of the layers' sensitivities, checked against the other options.
    pub fn sensitivity(&self, plan: &PlanOptions) -> Result<Option<f64>> {
        let Some(Real(power)) = self.sensitivity else { return Ok(None) };
        if !(power >= 0.0 && power.is_finite()) {
            return Err(advised(
                format!("sensitivity: expected a number of at least 0, found {power}"),
                "0 cuts all layers alike, 1 is the default",
            ));
        }
        let spreads = match (plan.layout, plan.allocation) {
            (Layout::PerLayer, Allocation::Local | Allocation::Curve(_)) => return Ok(Some(power)),
            (Layout::Uniform, _) => "the layout uniform".to_owned(),
            (Layout::PerLayer, Allocation::Global(_)) => {
                format!("the allocation {}", plan.allocation)
            }
        };
        Err(advised(
            format!("sensitivity: does not apply to {spreads}"),
            "leave one of the two out",
        ))
    }

    /// The same arguments with `--target-params` replaced by the ratio that leaves so many
    /// parameters of a model of `config`.
    ///
    /// # Errors
    /// Both are given, or the target is not below the model's parameters.
    pub fn settled(&self, config: &ModelConfig) -> Result<Self> {
        let Some(Count(target)) = self.target_params else { return Ok(self.clone()) };
        if self.ratio.is_some() {
            return Err(advised(
                "target-params: given together with a ratio",
                "give one of --ratio and --target-params",
            ));
        }
        let ratio = ratio_leaving(target, config)?;
        Ok(Self { ratio: Some(Shares::One(ratio)), target_params: None, ..self.clone() })
    }

    /// Whether what is removed depends on the model.
    pub fn has_target(&self) -> bool {
        self.target_params.is_some() || self.target_size.is_some()
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// No ratio.
    pub fn resolve(&self) -> Result<PlanOptions> {
        let ratio = match self.ratio {
            Some(Shares::One(ratio)) => ratio,
            Some(range @ Shares::Between(..)) => {
                return Err(advised(
                    format!("ratio: expected one share, found the range {range}"),
                    "give one, --ratio 0.2; a range is for search --objectives loss,params",
                ));
            }
            None => {
                return Err(advised(
                    "ratio: missing",
                    "give the share of all parameters to remove, --ratio 0.2 (prune: or what to \
                     keep, --target-params 100M, --target-size 80MB, --target-kv-cache 50%, or how \
                     fast it shall be, --target-speedup 1.3)",
                ));
            }
        };
        let default = PlanOptions::new(ratio);
        Ok(PlanOptions {
            ratio,
            layout: self.layout.map_or(default.layout, |l| l.0),
            protect: self.protect.map_or(default.protect, |p| (p.0.0, p.0.1)),
            attention_share: self.attention_share.map_or(default.attention_share, |s| s.0.0),
            multiple_of: self.multiple_of.unwrap_or(default.multiple_of),
            kv_mode: self.kv_mode.map_or(default.kv_mode, |m| m.0),
            drop_attention: self.drop_attention.clone().unwrap_or(default.drop_attention),
            allocation: self.allocation.map_or(default.allocation, |a| a.0.planned()),
            drop_layers: default.drop_layers,
            drop_groups: default.drop_groups,
            layer_weights: default.layer_weights,
        })
    }
}
