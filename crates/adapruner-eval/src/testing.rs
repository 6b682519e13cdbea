//! A configuration for tests of this crate.

use adapruner_checkpoint::{Architecture, LayerWidths, ModelConfig};

/// Layers of these widths, `H` 100, `D` 10, 1000 tokens.
pub(crate) fn config(layers: &[LayerWidths]) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-5,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        ..ModelConfig::new(Architecture::Llama, 100, 10, 1000, layers.to_vec())
    }
}
