//! What a model is made of, independent of the file it came from.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary. `N`, `K` and `F` belong to a layer,
//! so that a pruned model has the same type as a dense one.

use serde::{Deserialize, Serialize};

/// The decoder families this program runs; all share the Llama block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Llama 1, 2, 3, Vicuna, TinyLlama, SmolLM2.
    Llama,
    /// Mistral without a sliding window.
    Mistral,
}

/// The widths of one layer.
///
/// `query_heads == 0` (then also `kv_heads == 0`) is a layer without an
/// attention sublayer: it has no attention tensors and no input norm. Else
/// `query_heads` is a multiple of `kv_heads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerWidths {
    /// `N`.
    pub query_heads: usize,
    /// `K`.
    pub kv_heads: usize,
    /// `F`, at least 1.
    pub ffn: usize,
}

impl LayerWidths {
    /// Whether the layer has an attention sublayer.
    pub fn has_attention(&self) -> bool {
        self.query_heads > 0
    }

    /// Query heads that share a key-value head (`N / K`); 0 without attention.
    pub fn group_size(&self) -> usize {
        self.query_heads.checked_div(self.kv_heads).unwrap_or(0)
    }
}

/// The gate's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
}

/// Frequency scaling of the rotary embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Frequencies as `theta` gives them.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor of the positions, > 0.
        factor: f64,
    },
    /// Llama 3's piecewise scaling of low frequencies.
    Llama3 {
        /// Divisor of the low frequencies, > 0.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are fully scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: usize,
    },
    /// Each frequency divided by its own number: what a GGUF file's
    /// `rope_freqs.weight` says where no named scaling gives the same numbers.
    Factors {
        /// `[D/2]` divisors, each > 0.
        divisors: Vec<f32>,
    },
}

/// The rotary position embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

/// Everything needed to run a model beside its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Decoder family.
    pub architecture: Architecture,
    /// `H`.
    pub hidden_size: usize,
    /// `D`; `N · D` need not equal `H`.
    pub head_dim: usize,
    /// `V`, the rows of the embedding.
    pub vocab_size: usize,
    /// `N`, `K` and `F` of every layer, first layer first.
    pub layers: Vec<LayerWidths>,
    /// Gate activation.
    pub activation: Activation,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Biases on q, k, v and o projections.
    pub attention_bias: bool,
    /// Biases on gate, up and down projections.
    pub mlp_bias: bool,
    /// The output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Token that opens a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; the first is the principal one.
    pub eos_token_ids: Vec<u32>,
    /// Padding token, where the model has one.
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// The widths shared by all layers, or `None` where they differ.
    pub fn uniform_widths(&self) -> Option<LayerWidths> {
        let first = *self.layers.first()?;
        self.layers.iter().all(|w| *w == first).then_some(first)
    }

    /// The same model with other widths.
    pub fn with_layers(&self, layers: Vec<LayerWidths>) -> Self {
        Self { layers, ..self.clone() }
    }

    /// Number of parameters (elements of all tensors, a tied head not counted
    /// twice).
    pub fn parameters(&self) -> u64 {
        crate::names::expected_tensors(self)
            .iter()
            .map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>())
            .sum()
    }
}
