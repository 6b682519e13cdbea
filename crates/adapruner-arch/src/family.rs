//! What an architecture declares: its tensors, what its layers compute, and the keys of both
//! file formats that say so.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width.

use crate::{
    config::{Activation, Architecture},
    names::Projection,
};

/// A decoder architecture.
///
/// Every architecture has an embedding, layers of causal attention and a gated feed-forward
/// (each with linear maps `q`, `k`, `v`, `o` and `gate`, `up`, `down`), root mean square norms,
/// a final norm and an output projection; what differs is declared here.
#[derive(Debug)]
pub struct Family {
    /// Which one it is.
    pub architecture: Architecture,
    /// The models it stands for, in words.
    pub title: &'static str,
    /// The norms of a layer's stream, which are also where they stand.
    pub norms: LayerNorms,
    /// What the norms multiply by.
    pub norm_weight: NormWeight,
    /// Norms of queries and keys, before they are rotated.
    pub head_norm: Option<HeadNorm>,
    /// Biases of the attention's maps.
    pub attention_bias: AttentionBiasRule,
    /// Key of `config.json` that says whether the feed-forward's maps have biases; none has
    /// where there is no key.
    pub mlp_bias: Option<&'static str>,
    /// Key of `config.json` for the gate's activation, and what it is where the key is missing.
    pub activation: (&'static str, Activation),
    /// Factor of the products of queries and keys.
    pub scores: ScoreRule,
    /// Factor of the embedding.
    pub embedding_scale: Factor,
    /// Factor of what a sublayer adds to the stream.
    pub residual_scale: Factor,
    /// Divisor of the logits.
    pub logit_divisor: Factor,
    /// Caps on scores and logits.
    pub caps: Option<Caps>,
    /// Which layers see a window of tokens only.
    pub windows: WindowRule,
    /// Layers that do not rotate queries and keys.
    pub unrotated: Option<UnrotatedRule>,
    /// Base of the rotation in layers with a window, where they have one of their own: the key
    /// of `config.json` and its default.
    pub local_theta: Option<(&'static str, f64)>,
    /// Key of `config.json` for the share of each head that is rotated; all of it is where there
    /// is no key.
    pub rotated_share: Option<&'static str>,
    /// Whether its models were never run without BOS, so that every window of a text begins with
    /// it.
    pub opens_with_bos: bool,
    /// Matrices that files of both formats hold as one.
    pub fused: &'static [Fused],
    /// How transformers names it.
    pub hf: HuggingFace,
    /// How llama.cpp names it.
    pub gguf: Gguf,
}

impl Family {
    /// Its class in transformers, as `architectures` of `config.json` names it.
    pub fn class(&self) -> String {
        format!("{}ForCausalLM", self.hf.prefix)
    }
}

/// Matrices that files hold as one, the rows of the first before those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    /// The whole's module in a Hugging Face folder.
    pub hf: &'static str,
    /// Its name in a GGUF file.
    pub gguf: &'static str,
    /// What it is made of.
    pub of: &'static [Projection],
}

/// A norm's tensor inside its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormName {
    /// Its module in a Hugging Face folder.
    pub hf: &'static str,
    /// Its name in a GGUF file.
    pub gguf: &'static str,
}

/// The norms that stand on a layer's stream: of what a sublayer reads, or of what it adds.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerNorms {
    /// Of what attention reads.
    pub before_attention: Option<NormName>,
    /// Of what attention adds.
    pub after_attention: Option<NormName>,
    /// Of what the feed-forward reads.
    pub before_ffn: Option<NormName>,
    /// Of what the feed-forward adds.
    pub after_ffn: Option<NormName>,
}

impl LayerNorms {
    /// One before each sublayer, as most families have them.
    pub const BEFORE: Self = Self {
        before_attention: Some(NormName { hf: "input_layernorm", gguf: "attn_norm" }),
        after_attention: None,
        before_ffn: Some(NormName { hf: "post_attention_layernorm", gguf: "ffn_norm" }),
        after_ffn: None,
    };
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// Its weight.
    Plain,
    /// One more than its weight in a Hugging Face folder; GGUF files hold the sum.
    OnePlus,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// Of each head by itself, one weight `[D]` for all heads.
    Each,
    /// Of all heads together, `[N·D]` and `[K·D]`.
    All,
}

/// Which maps of attention have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBiasRule {
    /// None.
    Never,
    /// Those of queries, keys and values, always.
    Qkv,
    /// All four, or none, as this key of `config.json` says.
    Key(&'static str),
}

/// A factor, or a divisor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Factor {
    /// 1.
    One,
    /// √H.
    RootHidden,
    /// As a key says, 1 where it is missing.
    Key {
        /// Of `config.json`.
        hf: &'static str,
        /// Of GGUF's metadata, without the architecture.
        gguf: &'static str,
    },
}

/// Numbers `x` that are bent to `c · tanh(x/c)`, where the cap `c` is not null.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caps {
    /// Of the scores of attention.
    pub scores: Cap,
    /// Of the logits.
    pub logits: Cap,
}

impl Caps {
    /// Both.
    pub fn each(&self) -> [&Cap; 2] {
        [&self.scores, &self.logits]
    }
}

/// A cap, as both formats say it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// Key of `config.json`, and of GGUF's metadata without the architecture.
    pub key: &'static str,
    /// What it is where the key is missing.
    pub default: f64,
}

/// The factor of the products of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScoreRule {
    /// `1/√D`.
    HeadWidth,
    /// `1/√s` with `s` the value of a key of `config.json`. GGUF has no key for it: there it is
    /// `1/√D`, and `1/√(H/N)` in models of `by_hidden` layers.
    InverseRoot {
        /// The key.
        hf: &'static str,
        /// Its default.
        default: f64,
        /// Number of layers.
        by_hidden: usize,
    },
    /// The value of a key itself.
    Key {
        /// Of `config.json`.
        hf: &'static str,
        /// Its default.
        default: f64,
        /// Of GGUF's metadata, without the architecture; `1/√D` where it is missing.
        gguf: &'static str,
    },
}

/// Which layers see a window of tokens only; `sliding_window` is how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// None. A folder with a window shorter than its context is refused.
    None,
    /// All of them, where `sliding_window` is not null; `default` where the key is missing.
    /// llama.cpp runs such models without a window.
    All {
        /// Tokens.
        default: Option<usize>,
    },
    /// Those that `layer_types` says, where `use_sliding_window` is true; without the list those
    /// from `max_window_layers` on. llama.cpp runs such models without a window.
    Switched,
    /// Those that `layer_types` says; without the list all but every `every`-th, which
    /// `sliding_window_pattern` may say otherwise.
    AllBut {
        /// Layers from one without a window to the next.
        every: usize,
        /// Tokens, where `sliding_window` is missing.
        default: usize,
    },
}

/// Layers that do not rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnrotatedRule {
    /// Key of `config.json` with a number for each layer, 0 where it does not rotate.
    pub list: &'static str,
    /// Key of `config.json` for which layers these are without the list: every fourth, say.
    pub interval: &'static str,
    /// Where both are missing, and in GGUF files, which have no key for it.
    pub every: usize,
}

/// How transformers names an architecture, and what it takes for missing keys.
#[derive(Debug)]
pub struct HuggingFace {
    /// `model_type`.
    pub model_type: &'static str,
    /// What its classes' names begin with.
    pub prefix: &'static str,
    /// What those of its configuration and of its model without a head begin with.
    pub stem: &'static str,
    /// Its package in `transformers.models`.
    pub module: &'static str,
    /// `max_position_embeddings`, in tokens.
    pub context: usize,
    /// `rope_theta`.
    pub theta: f64,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// `head_dim`; H/N where there is no default.
    pub head_dim: Option<usize>,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `pad_token_id`.
    pub pad: Option<u32>,
}

/// How llama.cpp names an architecture and lays out its tensors.
#[derive(Debug)]
pub struct Gguf {
    /// `general.architecture`, which also begins its keys.
    pub architecture: &'static str,
    /// The order of the rows of queries and keys.
    pub rows: RowOrder,
    /// The biases that llama.cpp reads.
    pub biases: GgufBiases,
}

/// The biases that llama.cpp reads of an architecture, and takes for none where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufBiases {
    /// None.
    None,
    /// Of queries, keys and values, which must be there.
    Qkv,
    /// Of all seven projections.
    All,
}

/// The order of a head's rows, which is how rotation pairs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// Row `i` with row `i + D/2`, as Hugging Face has them.
    HalfSplit,
    /// Row `2i` with row `2i + 1`.
    Interleaved,
}
