//! A configuration for tests of this crate.

use adapruner_checkpoint::{Activation, Architecture, LayerWidths, ModelConfig, Rope, RopeScaling};

/// Layers of these widths, `H` 100, `D` 10, 1000 tokens.
pub(crate) fn config(layers: &[LayerWidths]) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 100,
        head_dim: 10,
        vocab_size: 1000,
        layers: layers.to_vec(),
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
