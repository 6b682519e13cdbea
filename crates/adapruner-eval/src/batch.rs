//! How many tokens run together.
//!
//! Axes: `H` hidden, `F` feed-forward width, `N` query heads, `K` key-value
//! heads, `D` head width.

use adapruner_checkpoint::ModelConfig;

/// Tokens beyond which a larger batch makes the products no faster.
const ENOUGH: usize = 2048;

/// Bytes that the activations of one token take at the widest point of a
/// forward pass, in f32.
///
/// Alive at once are at most the residual stream, its sum and its norm (3·H),
/// and either queries, keys, values, their rotated copies and the attention's
/// output, or gate, up and their product (3·F) with the output (H).
pub fn token_bytes(config: &ModelConfig) -> usize {
    let widest = config.layers.iter().map(|w| {
        let attention = (3 * w.query_heads + 3 * w.kv_heads) * config.head_dim;
        // What the experts of a token read and give, too.
        let routed = config.experts.map_or(0, |e| 4 * e.chosen * config.hidden_size + 3 * e.count);
        attention.max(3 * config.active_channels(w) + routed)
    });
    (widest.max().unwrap_or(0) + 4 * config.hidden_size) * size_of::<f32>()
}

/// Tokens of a batch of windows of `window` tokens whose activations fit in
/// `memory` bytes: a multiple of the window, at least one window, and no more
/// than makes the products faster.
pub fn batch_tokens(config: &ModelConfig, window: usize, memory: u64) -> usize {
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let fitting = memory / token_bytes(config).max(1);
    let tokens = fitting.min(ENOUGH.max(window));
    (tokens / window.max(1)).max(1) * window
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::LayerWidths;

    use super::*;
    use crate::testing::config;

    #[test]
    fn batches_are_whole_windows_that_fit() {
        let config = config(&[LayerWidths { query_heads: 10, kv_heads: 5, ffn: 200 }; 2]);
        // 600 of the feed-forward and 400 of the residual stream, 4 bytes each.
        assert_eq!(batch_tokens(&config, 128, 4000 * 128 * 3), 128 * 3);
        assert_eq!(batch_tokens(&config, 128, 4000 * 128 * 3 - 1), 128 * 2);
        assert_eq!(batch_tokens(&config, 128, 0), 128);
        assert_eq!(batch_tokens(&config, 128, u64::MAX), ENOUGH);
        assert_eq!(batch_tokens(&config, 5000, u64::MAX), 5000);
    }
}
