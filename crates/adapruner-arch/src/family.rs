//! What an architecture declares: its tensors, what its layers compute, and the keys of both
//! file formats that say so.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width.

use serde::{Deserialize, Serialize};

pub use crate::formats::{
    Fixed, FormRule, Gguf, GgufBiases, HeadWidthRule, HuggingFace, KvHeadRule, OuterModules,
    RowOrder,
};
use crate::{
    config::{Activation, Architecture},
    names::Projection,
};

/// A decoder architecture.
///
/// Every architecture has an embedding, layers of causal attention and a feed-forward, a final
/// norm and an output projection; what differs is declared here.
#[derive(Debug)]
pub struct Family {
    /// Which one it is.
    pub architecture: Architecture,
    /// The models it stands for, in words.
    pub title: &'static str,
    /// The linear maps of a layer.
    pub maps: Maps,
    /// How its feed-forwards are mixtures of experts, where they are.
    pub experts: Option<ExpertsRule>,
    /// The norms of a layer's stream, which are also where they stand.
    pub norms: LayerNorms,
    /// What norms of the stream compute.
    pub norm_kind: NormKind,
    /// What the norms multiply by.
    pub norm_weight: NormWeight,
    /// Norms of queries and keys, before they are rotated.
    pub head_norm: Option<HeadNorm>,
    /// How a layer's sublayers follow each other.
    pub order: OrderRule,
    /// How the model knows where tokens are.
    pub positions: Positions,
    /// Biases of the attention's maps.
    pub attention_bias: AttentionBiasRule,
    /// Biases of the feed-forward's maps.
    pub mlp_bias: MlpBiasRule,
    /// Key of `config.json` for the activation, and what it is where the key is missing.
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
    /// Key of `config.json` for the share of each head that is rotated, and what it is where the
    /// key is missing; all of it is where there is no such key.
    pub rotated_share: Option<(&'static str, f64)>,
    /// Whether its models were never run without BOS, so that every window of a text begins with
    /// it.
    pub opens_with_bos: bool,
    /// Matrices that files of both formats hold as one.
    pub fused: &'static [Fused],
    /// How transformers names it.
    pub hf: HuggingFace,
    /// How llama.cpp names it, where it runs it.
    pub gguf: Option<Gguf>,
}

impl Family {
    /// Its class in transformers, as `architectures` of `config.json` names it.
    pub fn class(&self) -> String {
        format!("{}ForCausalLM", self.hf.prefix)
    }

    /// Whether its layers have a map.
    pub fn has(&self, projection: Projection) -> bool {
        self.maps.of(projection).is_some()
    }

    /// The maps of its feed-forward, as statistics are laid out by.
    pub fn feed_forward(&self) -> FeedForwardKind {
        match self.maps.gate {
            Some(_) => FeedForwardKind::Gated,
            None => FeedForwardKind::Plain,
        }
    }
}

/// What a feed-forward is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardKind {
    /// `down(a(gate(x)) · up(x))`.
    #[default]
    Gated,
    /// `down(a(up(x)))`.
    Plain,
}

impl FeedForwardKind {
    /// Whether it has a map of a layer; it says nothing of those of attention.
    pub fn has(self, projection: Projection) -> bool {
        match self {
            Self::Gated => true,
            Self::Plain => projection != Projection::Gate,
        }
    }
}

/// What stands for the number of an expert in the names of its maps in a Hugging Face folder.
pub const EXPERT: &str = "*";

/// How a feed-forward is a mixture of experts: `E` feed-forwards of the same width, of which each
/// token takes the `k` that its router gives the largest probabilities.
///
/// The probabilities are the softmax over all experts of the router's logits; what the chosen
/// experts give is added, weighted by them. The names of the experts' maps in
/// [`Family::maps`] have [`EXPERT`] where the number of the expert stands in a folder; GGUF files
/// hold each map of all experts as one tensor, `[E, F, H]` or `[E, H, F]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsRule {
    /// The map that gives the logits of the experts, `[E, H]`.
    pub router: TensorName,
    /// Key of `config.json` for `E`.
    pub count: &'static str,
    /// Key of `config.json` for `k`.
    pub chosen: &'static str,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalised: NormalisedRule,
    /// Keys of `config.json` that make some layers dense: every how many layers one has experts,
    /// and a list of layers without. Only models whose layers all have experts are run.
    pub dense_layers: Option<(&'static str, &'static str)>,
    /// Key of GGUF's metadata, without the architecture, for the width of an expert.
    pub gguf_width: &'static str,
}

/// Whether the weights of the chosen experts are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormalisedRule {
    /// They are.
    Always,
    /// As a key of `config.json` says, false where it is missing.
    Key {
        /// The key.
        hf: &'static str,
        /// What llama.cpp does, whatever the model.
        gguf: bool,
    },
}

/// The linear maps of a layer, by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps {
    /// Queries, `[N·D, H]`.
    pub q: TensorName,
    /// Keys, `[K·D, H]`.
    pub k: TensorName,
    /// Values, `[K·D, H]`.
    pub v: TensorName,
    /// What reads the heads' outputs, `[H, N·D]`.
    pub o: TensorName,
    /// What the activation is of, where another map gives what it multiplies, `[F, H]`; of a
    /// mixture those of every expert, like the next two.
    pub gate: Option<TensorName>,
    /// The channels, or what the gate multiplies, `[F, H]`.
    pub up: TensorName,
    /// What reads the channels, `[H, F]`.
    pub down: TensorName,
}

impl Maps {
    /// Llama's.
    pub const LLAMA: Self = Self {
        q: TensorName { hf: "self_attn.q_proj", gguf: "attn_q" },
        k: TensorName { hf: "self_attn.k_proj", gguf: "attn_k" },
        v: TensorName { hf: "self_attn.v_proj", gguf: "attn_v" },
        o: TensorName { hf: "self_attn.o_proj", gguf: "attn_output" },
        gate: Some(TensorName { hf: "mlp.gate_proj", gguf: "ffn_gate" }),
        up: TensorName { hf: "mlp.up_proj", gguf: "ffn_up" },
        down: TensorName { hf: "mlp.down_proj", gguf: "ffn_down" },
    };

    /// The name of one of them, if it is there.
    pub fn of(&self, projection: Projection) -> Option<TensorName> {
        match projection {
            Projection::Q => Some(self.q),
            Projection::K => Some(self.k),
            Projection::V => Some(self.v),
            Projection::O => Some(self.o),
            Projection::Gate => self.gate,
            Projection::Up => Some(self.up),
            Projection::Down => Some(self.down),
        }
    }
}

/// What the norms of the stream compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x · w / √(mean(x²) + eps)`.
    RootMeanSquare,
    /// `(x − mean(x)) / √(var(x) + eps) · w + b`.
    Layer,
}

/// How a layer's sublayers follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderRule {
    /// The feed-forward reads the stream behind attention.
    Sequential,
    /// Both read what enters the layer, and are added to it.
    Parallel,
    /// As a key says: `true` for both at once.
    Key {
        /// Of `config.json`.
        hf: &'static str,
        /// Of GGUF's metadata, without the architecture.
        gguf: &'static str,
        /// Where it is missing.
        default: bool,
    },
}

/// How a model knows where tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary,
    /// A learned vector for each position is added to the embedding.
    Learned {
        /// Its module in a Hugging Face folder.
        module: &'static str,
        /// The row of position 0.
        offset: usize,
    },
}

/// Matrices that files hold as one, and their biases; in GGUF files the rows of the first stand
/// before those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    /// The whole's names.
    pub name: TensorName,
    /// What it is made of.
    pub of: &'static [Projection],
    /// The order of its rows in a Hugging Face folder.
    pub rows: FusedRows,
}

/// The order of the rows of matrices that are held as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedRows {
    /// Those of the first before those of the next.
    Whole,
    /// For each key-value head its share of each: its query heads, the key, the value.
    ByGroup,
}

/// The names of a tensor inside its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorName {
    /// Its module in a Hugging Face folder.
    pub hf: &'static str,
    /// Its name in a GGUF file.
    pub gguf: &'static str,
}

/// The norms that stand on a layer's stream: of what a sublayer reads, or of what it adds.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerNorms {
    /// Of what attention reads.
    pub before_attention: Option<TensorName>,
    /// Of what attention adds.
    pub after_attention: Option<TensorName>,
    /// Of what the feed-forward reads.
    pub before_ffn: Option<TensorName>,
    /// Of what the feed-forward adds.
    pub after_ffn: Option<TensorName>,
    /// Whether attention reads what the norm before the feed-forward gives.
    pub shared: bool,
}

impl LayerNorms {
    /// One before each sublayer, as most families have them.
    pub const BEFORE: Self = Self {
        before_attention: Some(TensorName { hf: "input_layernorm", gguf: "attn_norm" }),
        after_attention: None,
        before_ffn: Some(TensorName { hf: "post_attention_layernorm", gguf: "ffn_norm" }),
        after_ffn: None,
        shared: false,
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
    /// All four, or none, as a key of `config.json` says.
    Key {
        /// The key.
        hf: &'static str,
        /// Where it is missing.
        default: bool,
    },
}

/// Whether the feed-forward's maps have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpBiasRule {
    /// None has.
    Never,
    /// All have.
    Always,
    /// All have, or none, as a key of `config.json` says.
    Key {
        /// The key.
        hf: &'static str,
        /// Where it is missing.
        default: bool,
    },
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
