//! [`PrunePlan`]: which units of a model stay.
//!
//! A plan decides everything; applying it only slices. It is data: JSON, with
//! original indices, bound to its model by digest.
//!
//! Axes: `N` query heads, `K` key-value heads, `F` feed-forward width, all per
//! layer. Ratios are shares of all parameters (the embedding included, a tied
//! head counted once).

mod allocate;
mod build;
mod check;
mod experts;
mod ladder;
mod options;
mod table;
mod unmet;

use adapruner_checkpoint::{Digest, LayerWidths, ModelConfig};
use serde::{Deserialize, Serialize};

pub use self::{
    build::{plan, plan_dropped},
    ladder::channel_order,
    options::{Allocation, Curve, KvMode, Layout, PlanOptions},
    table::{PlanRow, PlanTable},
    unmet::Unmet,
};
use crate::{
    error::{Error, Result},
    vocabulary::VocabularyPlan,
};

/// Version of the plan's form; a reader refuses any other.
pub const PLAN_VERSION: u32 = 1;

/// Longest plan that is read, in bytes.
pub const PLAN_LIMIT: usize = 256 << 20;

/// What one layer keeps: original indices, ascending; nothing at all where the layer is
/// removed whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPlan {
    /// Query heads; none where the attention sublayer is dropped.
    pub query_heads: Vec<usize>,
    /// Key-value heads; none where the attention sublayer is dropped.
    pub kv_heads: Vec<usize>,
    /// Feed-forward channels, at least one unless the layer is removed whole; of a mixture those of
    /// the experts that stay, one expert after the other (`e · F + j` for channel `j` of expert
    /// `e`), of each as many; an expert without any is removed.
    pub ffn: Vec<usize>,
}

impl LayerPlan {
    /// Nothing of a layer: it is removed whole.
    pub const NOTHING: Self =
        Self { query_heads: Vec::new(), kv_heads: Vec::new(), ffn: Vec::new() };

    /// All of a layer.
    pub fn whole(widths: &LayerWidths) -> Self {
        Self {
            query_heads: (0..widths.query_heads).collect(),
            kv_heads: (0..widths.kv_heads).collect(),
            ffn: (0..widths.ffn).collect(),
        }
    }

    /// The layer's widths once pruned.
    pub fn widths(&self) -> LayerWidths {
        LayerWidths {
            query_heads: self.query_heads.len(),
            kv_heads: self.kv_heads.len(),
            ffn: self.ffn.len(),
        }
    }
}

/// Which units of a model stay, and what that amounts to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunePlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Digest of the model that the indices belong to.
    pub model_digest: Digest,
    /// The ratio that was asked for, in `(0, 1)`.
    pub requested_ratio: f64,
    /// The ratio that the plan removes.
    pub reached_ratio: f64,
    /// Share of what is removed that was to come from attention, where one was asked
    /// for; plans of early versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_attention_share: Option<f64>,
    /// Share of what is removed that comes from attention; plans of early versions do
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_attention_share: Option<f64>,
    /// Parameters of the model.
    pub parameters_before: u64,
    /// Parameters of the pruned model.
    pub parameters_after: u64,
    /// Whether all layers keep the same widths.
    pub layout: Layout,
    /// What changed feed-forward widths are multiples of.
    pub multiple_of: usize,
    /// First layer first.
    pub layers: Vec<LayerPlan>,
    /// Which tokens stay, where not all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyPlan>,
}

impl PrunePlan {
    /// A plan that keeps these units of a model of this configuration and all its tokens,
    /// whatever ratio that makes.
    pub fn keeping(config: &ModelConfig, model_digest: Digest, layers: Vec<LayerPlan>) -> Self {
        Self::keeping_tokens(config, model_digest, layers, None)
    }

    /// A plan that keeps these units and tokens (all of them where none are named),
    /// whatever ratio that makes.
    pub fn keeping_tokens(
        config: &ModelConfig,
        model_digest: Digest,
        layers: Vec<LayerPlan>,
        vocabulary: Option<VocabularyPlan>,
    ) -> Self {
        let before = config.parameters();
        let plan = Self {
            version: PLAN_VERSION,
            model_digest,
            requested_ratio: 0.0,
            reached_ratio: 0.0,
            requested_attention_share: None,
            reached_attention_share: None,
            parameters_before: before,
            parameters_after: before,
            layout: Layout::PerLayer,
            multiple_of: 1,
            layers,
            vocabulary,
        };
        let after = plan.pruned_config(config).parameters();
        let ratio = before.saturating_sub(after) as f64 / before as f64;
        Self {
            requested_ratio: ratio,
            reached_ratio: ratio,
            reached_attention_share: Some(plan.attention_share(config)),
            parameters_after: after,
            ..plan
        }
    }

    /// A plan that keeps whole layers and these tokens.
    pub fn of_vocabulary(
        config: &ModelConfig,
        model_digest: Digest,
        vocabulary: VocabularyPlan,
    ) -> Self {
        let layers = config.layers.iter().map(LayerPlan::whole).collect();
        Self::keeping_tokens(config, model_digest, layers, Some(vocabulary))
    }

    /// The layers that stay, ascending: all but those that are removed whole.
    pub fn kept_layers(&self) -> Vec<usize> {
        let kept = self.layers.iter().enumerate().filter(|(_, kept)| **kept != LayerPlan::NOTHING);
        kept.map(|(layer, _)| layer).collect()
    }

    /// This plan, made for a model of the layers `kept` alone, as the plan for the model
    /// before that, whose other layers it removes whole; the ratio that was asked for is of
    /// that model, what is reached where none was.
    #[must_use]
    pub fn after_layers(
        mut self,
        config: &ModelConfig,
        model_digest: Digest,
        kept: &[usize],
        requested_ratio: Option<f64>,
    ) -> Self {
        let mut layers = vec![LayerPlan::NOTHING; config.layers.len()];
        for (&layer, plan) in kept.iter().zip(std::mem::take(&mut self.layers)) {
            layers[layer] = plan;
        }
        self.completed(config, model_digest, layers, requested_ratio)
    }

    /// This plan, made for a part of a model, as the plan for the whole that keeps `layers` of it;
    /// the ratio that was asked for is of the whole, what is reached where none was.
    fn completed(
        self,
        config: &ModelConfig,
        model_digest: Digest,
        layers: Vec<LayerPlan>,
        requested_ratio: Option<f64>,
    ) -> Self {
        let all = Self::keeping_tokens(config, model_digest, layers, self.vocabulary);
        Self {
            requested_ratio: requested_ratio.unwrap_or(all.reached_ratio),
            requested_attention_share: self.requested_attention_share,
            layout: self.layout,
            multiple_of: self.multiple_of,
            ..all
        }
    }

    /// A plan that keeps the layers `kept` whole and removes all others.
    pub fn of_layers(config: &ModelConfig, model_digest: Digest, kept: &[usize]) -> Self {
        let plan = |layer: usize| match kept.contains(&layer) {
            true => LayerPlan::whole(&config.layers[layer]),
            false => LayerPlan::NOTHING,
        };
        Self::keeping(config, model_digest, (0..config.layers.len()).map(plan).collect())
    }

    /// This plan, made for a model whose vocabulary was trimmed already, as the plan for
    /// the model before that: its vocabulary goes by `vocabulary`, and the ratio that was
    /// asked for is of that model, what is reached where none was.
    #[must_use]
    pub fn after_vocabulary(
        self,
        config: &ModelConfig,
        model_digest: Digest,
        vocabulary: VocabularyPlan,
        requested_ratio: Option<f64>,
    ) -> Self {
        let Self { requested_attention_share, layout, multiple_of, layers, .. } = self;
        let all = Self::keeping_tokens(config, model_digest, layers, Some(vocabulary));
        Self {
            requested_ratio: requested_ratio.unwrap_or(all.reached_ratio),
            requested_attention_share,
            layout,
            multiple_of,
            ..all
        }
    }

    /// A plan that removes the attention sublayers of some layers and nothing
    /// else.
    pub fn without_attention(config: &ModelConfig, model_digest: Digest, gone: &[usize]) -> Self {
        let mut layers: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
        for &layer in gone {
            if let Some(plan) = layers.get_mut(layer) {
                plan.query_heads.clear();
                plan.kv_heads.clear();
            }
        }
        Self::keeping(config, model_digest, layers)
    }

    /// Number of first layers that stay as they are.
    pub fn unchanged(&self, config: &ModelConfig) -> usize {
        let layers = self.layers.iter().zip(&config.layers);
        layers.take_while(|(plan, widths)| plan.widths() == **widths).count()
    }

    /// Reads a plan, bounded in size, and checks everything that can be told
    /// without its model.
    ///
    /// # Errors
    /// JSON that is malformed or not a plan, another version, indices out of
    /// order.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if json.len() > PLAN_LIMIT {
            return check::malformed(format!(
                "the file has {} bytes, expected at most {PLAN_LIMIT}",
                json.len()
            ));
        }
        let not_a_plan = |e: serde_json::Error| Error::Plan(format!("not a plan: {e}"));
        let Version { version } = serde_json::from_slice(json).map_err(not_a_plan)?;
        if version != PLAN_VERSION {
            return check::malformed(format!(
                "expected version {PLAN_VERSION}, found version {version}"
            ));
        }
        let plan: Self = serde_json::from_slice(json).map_err(not_a_plan)?;
        plan.check()?;
        Ok(plan)
    }

    /// The plan as JSON, which [`PrunePlan::from_json`] reads.
    ///
    /// # Errors
    /// Numbers that JSON does not have.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Plan(format!("cannot be written: {e}")))
    }

    /// Digest of the plan's content.
    ///
    /// # Errors
    /// As [`PrunePlan::to_json`].
    pub fn digest(&self) -> Result<Digest> {
        Ok(Digest::of_bytes(self.to_json()?.as_bytes()))
    }

    /// The configuration of the pruned model; of a smaller vocabulary the size, with the
    /// ids of its tokens still the original ones.
    pub fn pruned_config(&self, config: &ModelConfig) -> ModelConfig {
        let layers = self.layers.iter().map(LayerPlan::widths).collect();
        let model = experts::counted(config, &self.layers).with_layers(layers);
        self.vocabulary.as_ref().map_or_else(|| model.clone(), |of| of.sized(&model))
    }
}
