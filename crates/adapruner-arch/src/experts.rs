//! What a model's feed-forwards are mixtures of, and what a token meets of them.

use serde::{Deserialize, Serialize};

use crate::{
    config::{LayerWidths, ModelConfig},
    names::{Part, Projection, Sublayer, expected_tensors},
};

/// The experts that each feed-forward of a model is a mixture of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// `E`, how many there are.
    pub count: usize,
    /// `k`, how many of them each token takes, at most `E`.
    pub chosen: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalised: bool,
}

impl ModelConfig {
    /// How many experts a feed-forward has: `E`, 1 where it is none of experts.
    pub fn expert_count(&self) -> usize {
        self.experts.map_or(1, |experts| experts.count)
    }

    /// Channels of an expert in a layer of these widths; of a feed-forward that is none of
    /// experts, all of its channels.
    pub fn expert_width(&self, widths: &LayerWidths) -> usize {
        widths.ffn / self.expert_count().max(1)
    }

    /// The same model with `count` experts in each layer, each as wide as it was; one that has no
    /// experts stays as it is.
    #[must_use]
    pub fn of_experts(&self, count: usize) -> Self {
        let Some(experts) = self.experts else { return self.clone() };
        let sized = |widths: &LayerWidths| LayerWidths {
            ffn: count * self.expert_width(widths),
            ..*widths
        };
        Self {
            layers: self.layers.iter().map(sized).collect(),
            experts: Some(Experts { count, ..experts }),
            ..self.clone()
        }
    }

    /// Channels that a token goes through in a layer of these widths.
    pub fn active_channels(&self, widths: &LayerWidths) -> usize {
        match self.experts {
            None => widths.ffn,
            Some(experts) => experts.chosen * self.expert_width(widths),
        }
    }

    /// The weights of a projection in layer `layer`: one, or in the order of their channels those
    /// of all experts.
    pub fn weights(&self, layer: usize, projection: Projection) -> Vec<Part> {
        match self.experts.filter(|_| projection.sublayer() == Sublayer::FeedForward) {
            None => vec![Part::Weight(layer, projection)],
            Some(Experts { count, .. }) => {
                (0..count).map(|expert| Part::Expert(layer, expert, projection)).collect()
            }
        }
    }

    /// Number of parameters that a token meets: all of them, but those of the experts that it
    /// does not take.
    pub fn active_parameters(&self) -> u64 {
        let idle: u64 = match self.experts {
            None => 0,
            Some(experts) => {
                let of_expert = |part: Part| matches!(part, Part::Expert(..));
                let sizes = expected_tensors(self).into_iter();
                let all: u64 = sizes
                    .filter(|tensor| of_expert(tensor.part))
                    .map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>())
                    .sum();
                let count = experts.count.max(1) as u64;
                all / count * (count - experts.chosen as u64)
            }
        };
        self.parameters() - idle
    }
}
