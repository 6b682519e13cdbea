//! How many tokens run together.
//!
//! Axes: `H` hidden, `F` feed-forward width, `N` query heads, `K` key-value
//! heads, `D` head width.

use adapruner_checkpoint::ModelConfig;

/// Tokens beyond which a larger batch makes the products no faster.
const ENOUGH: usize = 2048;

/// Bytes that the activations of one token take at the widest point of a
/// forward pass.
///
/// Alive at once are at most the residual stream, its sum and its norm (3·H),
/// and either queries, keys, values, their rotated copies and the attention's
/// output, or gate, up and their product (3·F) with the output (H).
fn token_bytes(config: &ModelConfig, element: usize) -> usize {
    let widest = config.layers.iter().map(|w| {
        let attention = (3 * w.query_heads + 3 * w.kv_heads) * config.head_dim;
        attention.max(3 * w.ffn)
    });
    (widest.max().unwrap_or(0) + 4 * config.hidden_size) * element
}

/// Tokens of a batch of windows of `window` tokens whose activations fit in
/// `memory` bytes: a multiple of the window, at least one window, and no more
/// than makes the products faster.
pub fn batch_tokens(config: &ModelConfig, window: usize, memory: u64) -> usize {
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let fitting = memory / token_bytes(config, size_of::<f32>()).max(1);
    let tokens = fitting.min(ENOUGH.max(window));
    (tokens / window.max(1)).max(1) * window
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Activation, Architecture, LayerWidths, Rope, RopeScaling};

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            hidden_size: 100,
            head_dim: 10,
            vocab_size: 1000,
            layers: vec![LayerWidths { query_heads: 10, kv_heads: 5, ffn: 200 }; 2],
            activation: Activation::Silu,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            max_position_embeddings: 64,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        }
    }

    #[test]
    fn batches_are_whole_windows_that_fit() {
        // 600 of the feed-forward and 400 of the residual stream, 4 bytes each.
        assert_eq!(batch_tokens(&config(), 128, 4000 * 128 * 3), 128 * 3);
        assert_eq!(batch_tokens(&config(), 128, 4000 * 128 * 3 - 1), 128 * 2);
        assert_eq!(batch_tokens(&config(), 128, 0), 128);
        assert_eq!(batch_tokens(&config(), 128, u64::MAX), ENOUGH);
        assert_eq!(batch_tokens(&config(), 5000, u64::MAX), 5000);
    }
}
