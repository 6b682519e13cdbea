//! Floating-point operations of passes: two for every weight and token (a
//! multiplication and an addition), and those of the attention's products. What
//! is not a matrix product is left out.
//!
//! Axes: `T` tokens of a sequence, `H` hidden, `N` query heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use adapruner_checkpoint::{LayerWidths, ModelConfig};

/// Operations of one token in one layer's forward pass, in a sequence of `tokens`:
/// those of the projections, and those of the attention between them.
fn parts(config: &ModelConfig, widths: &LayerWidths, tokens: usize) -> (f64, f64) {
    let (h, d) = (config.hidden_size as f64, config.head_dim as f64);
    let (n, k) = (widths.query_heads as f64, widths.kv_heads as f64);
    let f = config.active_channels(widths) as f64;
    let router = config.experts.map_or(0.0, |experts| experts.count as f64);
    let weights = (2.0 * n + 2.0 * k) * d * h + 3.0 * f * h + router * h;
    // Scores and their sums, over half the sequence on average (causal).
    (2.0 * weights, 2.0 * n * d * (tokens as f64 + 1.0))
}

/// Operations of one token in one layer's forward pass, in a sequence of `tokens`.
fn layer(config: &ModelConfig, widths: &LayerWidths, tokens: usize) -> f64 {
    let (projections, attention) = parts(config, widths, tokens);
    projections + attention
}

/// Operations of the loss of every predicted token of `sequences` of `tokens`.
fn head(config: &ModelConfig, sequences: usize, tokens: usize) -> f64 {
    let predicted = sequences as f64 * (tokens as f64 - 1.0).max(0.0);
    predicted * 2.0 * config.hidden_size as f64 * config.vocab_size as f64
}

/// Operations of a forward pass over `sequences` of `tokens` tokens, from layer
/// `from` on, with the loss of every predicted token.
pub fn forward(config: &ModelConfig, sequences: usize, tokens: usize, from: usize) -> f64 {
    let layers = config.layers.iter().skip(from).map(|widths| layer(config, widths, tokens));
    sequences as f64 * tokens as f64 * layers.sum::<f64>() + head(config, sequences, tokens)
}

/// Operations of a forward and backward pass that keeps all activations and makes the
/// gradient of every weight: the backward pass is twice the forward pass.
pub fn backward(config: &ModelConfig, sequences: usize, tokens: usize) -> f64 {
    3.0 * forward(config, sequences, tokens, 0)
}

/// Operations of a pass that observes gradients (`observe_gradients` of
/// adapruner-model): forward, every block again, and the gradients of what enters
/// the projections, the attention and the head. `weights` adds the gradient of every
/// projection's weight, which is made from what is observed; that of the head is
/// never made.
pub fn observed(config: &ModelConfig, sequences: usize, tokens: usize, weights: bool) -> f64 {
    let layers = config.layers.iter().map(|widths| {
        let (projections, attention) = parts(config, widths, tokens);
        // A product of activations has two operands with a gradient.
        let inputs = projections + 2.0 * attention;
        2.0 * (projections + attention) + inputs + if weights { projections } else { 0.0 }
    });
    let layers = sequences as f64 * tokens as f64 * layers.sum::<f64>();
    layers + 2.0 * head(config, sequences, tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn every_weight_is_multiplied_once_a_token() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 5 };
        let config =
            ModelConfig { hidden_size: 6, head_dim: 2, vocab_size: 11, ..config(&[widths; 3]) };
        // q, o: 8 x 6; k, v: 4 x 6; gate, up, down: 5 x 6. Attention: 4 heads of 2
        // over (1 + 2 + 3) / 3 positions, twice two operations.
        let layer = 2.0 * (2.0 * 48.0 + 2.0 * 24.0 + 3.0 * 30.0) + 4.0 * 8.0 * 2.0;
        let head = 2.0 * 6.0 * 11.0;
        assert_eq!(forward(&config, 2, 3, 0), 2.0 * (3.0 * 3.0 * layer + 2.0 * head));
        assert_eq!(forward(&config, 2, 3, 2), 2.0 * (3.0 * layer + 2.0 * head));
        let all = forward(&config, 1, 3, 0);
        assert_eq!(backward(&config, 1, 3), 3.0 * all);
        // Four passes of a layer, less the one of its weights; a head without its weight.
        let projections = layer - 4.0 * 8.0 * 2.0;
        let with = 3.0 * 3.0 * 4.0 * layer + 2.0 * 2.0 * head;
        assert_eq!(observed(&config, 1, 3, true), with);
        assert_eq!(observed(&config, 1, 3, false), with - 3.0 * 3.0 * projections);
    }
}
