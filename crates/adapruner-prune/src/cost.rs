//! Parameters that each unit takes, biases included.
//!
//! Axes: `H` hidden, `D` head width.

use adapruner_checkpoint::{LayerWidths, ModelConfig};

/// Parameter counts of the parts of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    /// One feed-forward channel: gate row, up row, down column.
    pub ffn_channel: u64,
    /// One query head: query rows, output columns.
    pub query_head: u64,
    /// One key-value head: key rows, value rows.
    pub kv_head: u64,
    /// What remains of an attention sublayer without heads: its norm and the
    /// bias of its output.
    pub attention: u64,
    /// What every layer has: the feed-forward norm and the bias of its output.
    pub layer: u64,
}

impl Costs {
    pub fn new(config: &ModelConfig) -> Self {
        let (h, d) = (config.hidden_size as u64, config.head_dim as u64);
        let (attention_bias, mlp_bias) =
            (u64::from(config.attention_bias), u64::from(config.mlp_bias));
        Self {
            ffn_channel: 3 * h + 2 * mlp_bias,
            query_head: 2 * d * h + attention_bias * d,
            kv_head: 2 * d * h + 2 * attention_bias * d,
            attention: h + attention_bias * h,
            layer: h + mlp_bias * h,
        }
    }

    /// The attention sublayer of a layer; 0 where it has none.
    pub fn attention_sublayer(&self, widths: &LayerWidths) -> u64 {
        if !widths.has_attention() {
            return 0;
        }
        self.attention
            + widths.query_heads as u64 * self.query_head
            + widths.kv_heads as u64 * self.kv_head
    }

    /// A whole layer.
    pub fn layer(&self, widths: &LayerWidths) -> u64 {
        self.layer + self.attention_sublayer(widths) + widths.ffn as u64 * self.ffn_channel
    }
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Activation, Architecture, Rope, RopeScaling};

    use super::*;

    #[test]
    fn layers_and_ends_add_up_to_the_model() {
        for (attention_bias, mlp_bias, tie_word_embeddings) in
            [(false, false, true), (true, false, false), (false, true, true), (true, true, false)]
        {
            let config = ModelConfig {
                architecture: Architecture::Llama,
                hidden_size: 10,
                head_dim: 6,
                vocab_size: 17,
                layers: vec![
                    LayerWidths { query_heads: 6, kv_heads: 2, ffn: 7 },
                    LayerWidths { query_heads: 0, kv_heads: 0, ffn: 5 },
                    LayerWidths { query_heads: 3, kv_heads: 3, ffn: 1 },
                ],
                activation: Activation::Silu,
                rms_norm_eps: 1e-5,
                rope: Rope { theta: 1e4, scaling: RopeScaling::None },
                attention_bias,
                mlp_bias,
                tie_word_embeddings,
                max_position_embeddings: 64,
                bos_token_id: None,
                eos_token_ids: Vec::new(),
                pad_token_id: None,
            };
            let costs = Costs::new(&config);
            let layers: u64 = config.layers.iter().map(|w| costs.layer(w)).sum();
            let ends = 10 + 170 * if tie_word_embeddings { 1 } else { 2 };
            assert_eq!(layers + ends, config.parameters());
        }
    }
}
