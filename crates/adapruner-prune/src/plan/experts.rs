//! Whole experts in plans: one of which no channel stays is removed.
//!
//! Axes: `E` experts before, `F` width of an expert.

use adapruner_checkpoint::{Digest, LayerWidths, ModelConfig};

use super::{LayerPlan, PrunePlan};

impl LayerPlan {
    /// The experts that stay of a layer whose experts are so wide, ascending.
    pub(super) fn experts(&self, width: usize) -> Vec<usize> {
        let mut experts: Vec<usize> =
            self.ffn.iter().map(|channel| channel / width.max(1)).collect();
        experts.dedup();
        experts
    }

    /// The channels of `kept` experts, numbered among these, as channels of all experts.
    fn among(self, kept: &[usize], width: usize) -> Self {
        let channel = |of: usize| {
            let (place, channel) = (of / width.max(1), of % width.max(1));
            kept.get(place).map(|expert| expert * width + channel)
        };
        Self { ffn: self.ffn.into_iter().filter_map(channel).collect(), ..self }
    }
}

impl PrunePlan {
    /// The experts that stay in each layer, ascending, of a layer that is removed whole as many,
    /// the first ones; `None` where the model has no experts or all of them stay.
    pub fn kept_experts(&self, config: &ModelConfig) -> Option<Vec<Vec<usize>>> {
        let experts = config.experts?;
        let stay = counted(config, &self.layers).expert_count();
        let of = |(kept, widths): (&LayerPlan, &LayerWidths)| match *kept == LayerPlan::NOTHING {
            true => (0..stay).collect(),
            false => kept.experts(config.expert_width(widths)),
        };
        let kept = self.layers.iter().zip(&config.layers).map(of);
        (stay < experts.count).then(|| kept.collect())
    }

    /// What each layer keeps, its channels numbered among those of the experts `kept`.
    pub(crate) fn within_experts(
        &self,
        config: &ModelConfig,
        kept: &[Vec<usize>],
    ) -> Vec<LayerPlan> {
        let layers = self.layers.iter().zip(&config.layers).zip(kept);
        let within = layers.map(|((plan, widths), kept)| {
            let width = config.expert_width(widths).max(1);
            let channel = |of: &usize| {
                let place = kept.binary_search(&(of / width)).ok()?;
                Some(place * width + of % width)
            };
            LayerPlan { ffn: plan.ffn.iter().filter_map(channel).collect(), ..plan.clone() }
        });
        within.collect()
    }

    /// This plan, made for a model of the experts `kept` alone, layer by layer, as the plan for
    /// the model before that, whose other experts it removes; the ratio that was asked for is of
    /// that model, what is reached where none was.
    #[must_use]
    pub fn after_experts(
        mut self,
        config: &ModelConfig,
        model_digest: Digest,
        kept: &[Vec<usize>],
        requested_ratio: Option<f64>,
    ) -> Self {
        let own = std::mem::take(&mut self.layers);
        let layers = own.into_iter().zip(&config.layers).zip(kept);
        let layers = layers
            .map(|((plan, widths), kept)| plan.among(kept, config.expert_width(widths)))
            .collect();
        self.completed(config, model_digest, layers, requested_ratio)
    }

    /// A plan that keeps the experts `kept` of each layer whole, and removes all others.
    pub fn of_experts(config: &ModelConfig, model_digest: Digest, kept: &[Vec<usize>]) -> Self {
        let layers = config.layers.iter().zip(kept).map(|(widths, kept)| {
            let width = config.expert_width(widths);
            let ffn = kept.iter().flat_map(|expert| expert * width..(expert + 1) * width);
            LayerPlan { ffn: ffn.collect(), ..LayerPlan::whole(widths) }
        });
        Self::keeping(config, model_digest, layers.collect())
    }
}

/// A model with as many experts in each layer as these plans keep: those of the first layer that
/// stays.
pub(super) fn counted(config: &ModelConfig, layers: &[LayerPlan]) -> ModelConfig {
    let mut pairs = layers.iter().zip(&config.layers);
    match pairs.find(|(kept, _)| **kept != LayerPlan::NOTHING) {
        Some((kept, widths)) if config.experts.is_some() => {
            config.of_experts(kept.experts(config.expert_width(widths)).len().max(1))
        }
        Some(_) | None => config.clone(),
    }
}
