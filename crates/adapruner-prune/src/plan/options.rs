//! What a plan is asked to achieve.

use std::{borrow::Cow, fmt, str::FromStr};

use adapruner_checkpoint::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    scores::Normalisation,
};

/// Whether layers may come to differ in width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// They may.
    #[default]
    PerLayer,
    /// Every layer keeps the same widths, so that any program opens the model.
    Uniform,
}

/// How heads are removed so that `N / K` stays an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvMode {
    /// Whole key-value groups, with all their query heads.
    #[default]
    Groups,
    /// One query head of every group of a layer, the least important of each.
    QueryHeads,
}

/// How a cut is spread over the layers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The same ratio in every unprotected layer.
    #[default]
    Local,
    /// Ratios that follow a smooth curve over depth.
    Curve(Curve),
    /// One ranking of the units of all layers by score per parameter, each
    /// layer's and kind's normalised first.
    Global(Normalisation),
}

/// Ratios over depth: a layer loses in proportion to
/// `max(0, 1 + linear·x + quadratic·(3x² − 1)/2)`, where `x` runs from −1 in the
/// first layer to 1 in the last (Legendre's polynomials: neither term changes
/// the mean).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Above 0, later layers lose more; finite.
    pub linear: f64,
    /// Above 0, the ends lose more than the middle; finite.
    pub quadratic: f64,
}

impl Curve {
    /// What layer `layer` of `layers` loses, against the mean, at least 0.
    pub(super) fn weight(self, layer: usize, layers: usize) -> f64 {
        let x = 2.0 * layer as f64 / (layers.max(2) - 1) as f64 - 1.0;
        (1.0 + self.linear * x + self.quadratic * (3.0 * x * x - 1.0) / 2.0).max(0.0)
    }
}

/// What of a layer goes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    Nothing,
    Attention,
    Layer,
}

/// What to remove, from where, and what to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanOptions {
    /// Share of all parameters to remove (embedding included, a tied head counted
    /// once), in `(0, 1)`.
    pub ratio: f64,
    /// Whether layers may differ in width.
    pub layout: Layout,
    /// Number of first and of last layers that are spared.
    pub protect: (usize, usize),
    /// Share of what is removed that comes from attention, in `[0, 1]`; dropped
    /// sublayers count towards it, and the feed-forward sublayers make up for
    /// what heads cannot give. `None`: heads and channels at the same ratio
    /// (local) or in one ranking (global).
    pub attention_share: Option<f64>,
    /// Feed-forward widths that are changed become multiples of this.
    pub multiple_of: usize,
    /// How heads are removed.
    pub kv_mode: KvMode,
    /// Layers whose attention sublayer is removed whole.
    pub drop_attention: Vec<usize>,
    /// Layers that are removed whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_layers: Vec<usize>,
    /// Key-value groups that each layer loses at least, the least important first; first layer
    /// first. No entries where none has to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_groups: Vec<usize>,
    /// How the cut is spread over the layers.
    pub allocation: Allocation,
    /// Multiplies what the allocation takes from each layer, first layer first; finite,
    /// at least 0, not 0 everywhere. None for equal weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_weights: Option<Vec<f64>>,
}

impl PlanOptions {
    /// The defaults: per-layer widths, feed-forward channels alone, the same
    /// ratio in every layer.
    pub fn new(ratio: f64) -> Self {
        Self {
            ratio,
            layout: Layout::default(),
            protect: (0, 0),
            attention_share: Some(0.0),
            multiple_of: 1,
            kv_mode: KvMode::default(),
            drop_attention: Vec::new(),
            drop_layers: Vec::new(),
            drop_groups: Vec::new(),
            allocation: Allocation::default(),
            layer_weights: None,
        }
    }

    /// What a layer of a model with `layers` layers loses against the mean, where that
    /// is decided by allocation and weights alone.
    pub(super) fn weight(&self, layer: usize, layers: usize) -> f64 {
        let curve = match self.allocation {
            Allocation::Curve(curve) => curve.weight(layer, layers),
            Allocation::Local | Allocation::Global(_) => 1.0,
        };
        curve * self.layer_weights.as_ref().map_or(1.0, |weights| weights[layer])
    }

    /// Whether a layer of a model with `layers` layers is spared.
    pub fn protects(&self, layer: usize, layers: usize) -> bool {
        let (first, last) = self.protect;
        layer < first || layers - layer <= last
    }

    /// Refuses options that are out of range or contradict each other or the
    /// model.
    ///
    /// # Errors
    /// The option, what was expected and what was found.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        if !(self.ratio > 0.0 && self.ratio < 1.0) {
            return refuse(
                "ratio",
                format!("expected a number above 0 and below 1, found {}", self.ratio),
                "the ratio is the share of all parameters to remove: 0.2 removes a fifth",
            );
        }
        self.check_units(config)
    }

    /// Checks everything but the ratio.
    pub(super) fn check_units(&self, config: &ModelConfig) -> Result<()> {
        let layers = config.layers.len();
        if let Some(share) = self.attention_share
            && !(0.0..=1.0).contains(&share)
        {
            return refuse(
                "attention-share",
                format!("expected a number from 0 to 1, found {share}"),
                "0 removes feed-forward channels alone",
            );
        }
        if self.multiple_of == 0 {
            return refuse(
                "multiple-of",
                "expected at least 1, found 0".into(),
                "use 1, 32 or 256",
            );
        }
        match self.layout {
            Layout::PerLayer => {}
            Layout::Uniform => self.check_uniform(config)?,
        }
        if let Allocation::Curve(Curve { linear, quadratic }) = self.allocation
            && !(linear.is_finite() && quadratic.is_finite())
        {
            return refuse(
                "allocation",
                format!("expected finite numbers, found {}", self.allocation),
                "use curve:linear=0.5,quadratic=0",
            );
        }
        self.check_weights(layers)?;
        let (first, last) = self.protect;
        if first.saturating_add(last) >= layers {
            return refuse(
                "protect",
                format!("spares all {layers} layers: {first} first and {last} last"),
                "protect fewer layers",
            );
        }
        let attention = self.drop_attention.iter().map(|&layer| ("drop-attention", layer));
        let whole = self.drop_layers.iter().map(|&layer| ("drop-layers", layer));
        for (option, layer) in attention.chain(whole) {
            let Some(widths) = config.layers.get(layer) else {
                return refuse(
                    option,
                    format!("no layer {layer}: the model has layers 0 to {}", layers - 1),
                    "name layers that the model has",
                );
            };
            if option == "drop-attention" && !widths.has_attention() {
                return refuse(
                    option,
                    format!("layer {layer} has no attention sublayer"),
                    "name layers that have one",
                );
            }
            if self.protects(layer, layers) {
                return refuse(
                    option,
                    format!("layer {layer} is protected: {first} first and {last} last are"),
                    "protect fewer layers or name another",
                );
            }
        }
        if (0..layers).all(|layer| self.drop_layers.contains(&layer)) {
            return refuse(
                "drop-layers",
                format!("all {layers} layers go"),
                "at least one layer must stay",
            );
        }
        self.check_groups(config)
    }

    fn check_groups(&self, config: &ModelConfig) -> Result<()> {
        let (asked, layers) = (&self.drop_groups, config.layers.len());
        if asked.is_empty() {
            return Ok(());
        }
        if asked.len() != layers {
            let message = format!("expected {layers} numbers, one a layer, found {}", asked.len());
            return refuse("drop-groups", message, "leave them out, or give one for every layer");
        }
        if self.kv_mode == KvMode::QueryHeads {
            return refuse(
                "drop-groups",
                "whole groups go, but the kv-mode is query-heads".into(),
                "use the kv-mode groups",
            );
        }
        for (layer, (&groups, widths)) in asked.iter().zip(&config.layers).enumerate() {
            if groups > 0 && self.protects(layer, layers) {
                let message = format!("layer {layer} is protected");
                return refuse("drop-groups", message, "protect fewer layers");
            }
            if groups > 0 && groups >= widths.kv_heads {
                let found = widths.kv_heads;
                let message =
                    format!("{groups} of layer {layer}, which has {found}: one must stay");
                return refuse("drop-groups", message, "drop its attention sublayer instead");
            }
        }
        match self.layout {
            Layout::Uniform if asked.iter().any(|groups| *groups != asked[0]) => refuse(
                "drop-groups",
                "makes layers differ, but the layout is uniform".into(),
                "use the per-layer layout, or the same number in every layer",
            ),
            Layout::Uniform | Layout::PerLayer => Ok(()),
        }
    }

    /// What of a layer goes whole.
    pub(super) fn dropped(&self, layer: usize) -> Dropped {
        if self.drop_layers.contains(&layer) {
            Dropped::Layer
        } else if self.drop_attention.contains(&layer) {
            Dropped::Attention
        } else {
            Dropped::Nothing
        }
    }

    /// Groups that a layer loses at least.
    pub(super) fn groups_dropped(&self, layer: usize) -> usize {
        match self.dropped(layer) {
            Dropped::Nothing => self.drop_groups.get(layer).copied().unwrap_or(0),
            Dropped::Attention | Dropped::Layer => 0,
        }
    }

    fn check_weights(&self, layers: usize) -> Result<()> {
        const HINT: &str = "give a number of at least 0 for every layer, or leave them out";
        let Some(weights) = &self.layer_weights else { return Ok(()) };
        if weights.len() != layers {
            let message = format!("expected {layers}, one a layer, found {}", weights.len());
            return refuse("layer-weights", message, HINT);
        }
        if let Some(wrong) = weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite()))
        {
            let message = format!("expected finite numbers of at least 0, found {wrong}");
            return refuse("layer-weights", message, HINT);
        }
        if weights.iter().all(|&weight| weight == 0.0) {
            return refuse("layer-weights", "all of them are 0".into(), HINT);
        }
        match (self.layout, self.allocation) {
            (Layout::PerLayer, Allocation::Local | Allocation::Curve(_)) => Ok(()),
            (Layout::Uniform, _) => refuse(
                "layer-weights",
                "make layers differ, but the layout is uniform".into(),
                "use the per-layer layout, or leave them out",
            ),
            (Layout::PerLayer, Allocation::Global(_)) => refuse(
                "layer-weights",
                format!("do not go with the allocation {}", self.allocation),
                "use the allocation local or a curve, or leave them out",
            ),
        }
    }

    fn check_uniform(&self, config: &ModelConfig) -> Result<()> {
        const HINT: &str = "use the per-layer layout, or leave this option out";
        if self.protect != (0, 0) {
            return refuse(
                "protect",
                "makes layers differ, but the layout is uniform".into(),
                HINT,
            );
        }
        if !self.drop_attention.is_empty() {
            return refuse(
                "drop-attention",
                "makes layers differ, but the layout is uniform".into(),
                HINT,
            );
        }
        match self.allocation {
            Allocation::Local => {}
            Allocation::Curve(_) | Allocation::Global(_) => {
                return refuse(
                    "allocation",
                    format!("{} makes layers differ, but the layout is uniform", self.allocation),
                    HINT,
                );
            }
        }
        if config.uniform_widths().is_none() {
            return refuse(
                "layout",
                "the layers of this model already differ in width, so they cannot stay uniform"
                    .into(),
                "use the per-layer layout",
            );
        }
        Ok(())
    }
}

fn refuse(option: &'static str, message: String, hint: &'static str) -> Result<()> {
    Err(Error::Option { option, message, hint: Some(Cow::Borrowed(hint)) })
}

fn unknown(option: &'static str, expected: &str, found: &str) -> Error {
    Error::Option { option, message: format!("expected {expected}, found {found:?}"), hint: None }
}

adapruner_choice::choice!(Layout, "layout", {
    PerLayer => "per-layer",
    Uniform => "uniform",
});

adapruner_choice::choice!(KvMode, "kv-mode", {
    Groups => "groups",
    QueryHeads => "query-heads",
});

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Curve(Curve { linear, quadratic }) => {
                write!(f, "curve:linear={linear},quadratic={quadratic}")
            }
            Self::Global(normalisation) => write!(f, "global:{normalisation}"),
        }
    }
}

impl FromStr for Allocation {
    type Err = Error;

    /// `local`, `curve:linear=NUMBER,quadratic=NUMBER` (either may be left out),
    /// `global` (each layer's scores divided by their mean) or
    /// `global:NORMALISATION` (`global:none` is LLM-Pruner's).
    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            const FORMS: &str =
                "local, curve:linear=NUMBER,quadratic=NUMBER, global or global:NORMALISATION";
            unknown("allocation", FORMS, text)
        };
        let (name, settings) = match text.split_once(':') {
            Some((name, settings)) => (name, Some(settings)),
            None => (text, None),
        };
        match (name, settings) {
            ("local", None) => Ok(Self::Local),
            ("global", None) => Ok(Self::Global(Normalisation::Mean)),
            ("global", Some(normalisation)) => Ok(Self::Global(normalisation.parse()?)),
            ("curve", Some(settings)) => {
                let mut curve = Curve { linear: 0.0, quadratic: 0.0 };
                for setting in settings.split(',') {
                    let (key, value) = setting.split_once('=').ok_or_else(refused)?;
                    let value = value.parse().map_err(|_| refused())?;
                    match key {
                        "linear" => curve.linear = value,
                        "quadratic" => curve.quadratic = value,
                        _ => return Err(refused()),
                    }
                }
                Ok(Self::Curve(curve))
            }
            _ => Err(refused()),
        }
    }
}
