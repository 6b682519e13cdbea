//! Canonical tensor names (those of Hugging Face's Llama) and the shapes that
//! a configuration demands of them.

use std::fmt;

use crate::config::ModelConfig;

/// The token embedding, `[V, H]`.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The final norm, `[H]`.
pub const FINAL_NORM: &str = "model.norm.weight";
/// The output projection of an untied model, `[V, H]`.
pub const HEAD: &str = "lm_head.weight";

/// The seven linear projections of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// Query, `[N·D, H]`.
    Q,
    /// Key, `[K·D, H]`.
    K,
    /// Value, `[K·D, H]`.
    V,
    /// Attention output, `[H, N·D]`.
    O,
    /// Feed-forward gate, `[F, H]`.
    Gate,
    /// Feed-forward up, `[F, H]`.
    Up,
    /// Feed-forward down, `[H, F]`.
    Down,
}

impl Projection {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Name of the module inside its block (`self_attn.q_proj`).
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Whether the projection belongs to the attention sublayer.
    pub fn is_attention(self) -> bool {
        match self {
            Self::Q | Self::K | Self::V | Self::O => true,
            Self::Gate | Self::Up | Self::Down => false,
        }
    }

    /// Whether pruned units are its columns (inputs) rather than its rows
    /// (outputs).
    pub fn prunes_columns(self) -> bool {
        match self {
            Self::O | Self::Down => true,
            Self::Q | Self::K | Self::V | Self::Gate | Self::Up => false,
        }
    }

    /// Weight name in layer `layer`.
    pub fn weight(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}.weight", self.module())
    }

    /// Bias name in layer `layer`.
    pub fn bias(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}.bias", self.module())
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

/// The norm before attention in layer `layer`, `[H]`.
pub fn input_norm(layer: usize) -> String {
    format!("model.layers.{layer}.input_layernorm.weight")
}

/// The norm before the feed-forward sublayer in layer `layer`, `[H]`.
pub fn ffn_norm(layer: usize) -> String {
    format!("model.layers.{layer}.post_attention_layernorm.weight")
}

/// A tensor that a configuration demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Canonical name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// `[out, in]` of a projection in a layer of `config`.
pub fn projection_shape(config: &ModelConfig, layer: usize, projection: Projection) -> [usize; 2] {
    let (h, d, w) = (config.hidden_size, config.head_dim, config.layers[layer]);
    match projection {
        Projection::Q => [w.query_heads * d, h],
        Projection::K | Projection::V => [w.kv_heads * d, h],
        Projection::O => [h, w.query_heads * d],
        Projection::Gate | Projection::Up => [w.ffn, h],
        Projection::Down => [h, w.ffn],
    }
}

/// Every tensor of a model with `config`, in the order of the forward pass: a
/// layer without attention has no attention tensors and no input norm.
pub fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let h = config.hidden_size;
    let mut out = Vec::new();
    let mut push = |name: String, shape: &[usize]| {
        out.push(ExpectedTensor { name, shape: shape.to_vec() });
    };
    push(EMBEDDING.to_owned(), &[config.vocab_size, h]);
    for (layer, widths) in config.layers.iter().enumerate() {
        if widths.has_attention() {
            push(input_norm(layer), &[h]);
        }
        for projection in Projection::ALL {
            if projection.is_attention() && !widths.has_attention() {
                continue;
            }
            if projection == Projection::Gate {
                push(ffn_norm(layer), &[h]);
            }
            let shape = projection_shape(config, layer, projection);
            push(projection.weight(layer), &shape);
            let biased =
                if projection.is_attention() { config.attention_bias } else { config.mlp_bias };
            if biased {
                push(projection.bias(layer), &shape[..1]);
            }
        }
    }
    push(FINAL_NORM.to_owned(), &[h]);
    if !config.tie_word_embeddings {
        push(HEAD.to_owned(), &[config.vocab_size, h]);
    }
    out
}
