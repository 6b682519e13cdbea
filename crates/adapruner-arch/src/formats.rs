//! How the file formats name what an architecture declares: keys, modules, defaults, forms.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width, `F` feed-forward width.

/// How transformers names an architecture, and what it takes for missing keys.
#[derive(Debug, Clone, Copy)]
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
    /// The base of the rotation: its key and its default.
    pub theta: (&'static str, f64),
    /// Added to the mean square or variance in norms: its key, and its default, which it always
    /// is where there is no key.
    pub eps: (Option<&'static str>, f64),
    /// `D`.
    pub head_width: HeadWidthRule,
    /// Whether transformers from 5.6 on refuses an `H` that is no multiple of N, whatever `D` is.
    pub whole_heads: bool,
    /// `K`.
    pub kv_heads: KvHeadRule,
    /// `F`: its key, and the multiple of `H` that it is where the key is missing.
    pub ffn: (&'static str, Option<usize>),
    /// Settings with one value that is run.
    pub fixed: &'static [Fixed],
    /// Keys that must be null, with what they would do otherwise, in words.
    pub null: &'static [(&'static str, &'static str)],
    /// What says that a folder of the class is of this architecture, where others have the same
    /// class.
    pub form: FormRule,
    /// Modules of the tensors outside of layers.
    pub outer: OuterModules,
    /// The class of a layer, without the prefix.
    pub layer_class: &'static str,
    /// The module of attention in a layer.
    pub attention: &'static str,
    /// Whether layers read their widths from their configuration also when they run.
    pub widths_from_config: bool,
    /// Ends of the names of tensors that files carry and nothing reads.
    pub buffers: &'static [&'static str],
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `pad_token_id`.
    pub pad: Option<u32>,
}

/// `D` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWidthRule {
    /// `head_dim`, and this, or H/N, where it is missing.
    Key(Option<usize>),
    /// H/N, so that the class has no room for other numbers of heads.
    ByHidden,
}

/// `K` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvHeadRule {
    /// `num_key_value_heads`, N where it is missing.
    Key,
    /// N.
    All,
    /// Falcon's keys: `num_kv_heads` (N where it is missing) where `new_decoder_architecture` is
    /// true, else 1 where `multi_query` is, else N.
    Falcon,
}

/// A setting with one value that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Key of `config.json`.
    pub key: &'static str,
    /// What it is where it is missing.
    pub default: bool,
    /// What it must be.
    pub value: bool,
    /// What it would be otherwise, in words.
    pub otherwise: &'static str,
}

/// What says that a folder of a class is of one architecture of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormRule {
    /// No other has the class.
    Only,
    /// Falcon's number of norms before the sublayers: `num_ln_in_parallel_attn`, where it is
    /// missing 2 where `new_decoder_architecture` is true, else 1.
    FalconNorms(u64),
}

/// Modules of the tensors outside of layers, and what is before the number of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterModules {
    /// The token embedding.
    pub embedding: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The final norm.
    pub final_norm: &'static str,
    /// The output projection.
    pub head: &'static str,
}

/// How llama.cpp names an architecture and lays out its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`, which also begins its keys.
    pub architecture: &'static str,
    /// Whether it has layers whose heads' outputs are not as wide as the stream.
    pub any_heads: bool,
    /// Whether it has layers with fewer key-value heads than query heads.
    pub grouped: bool,
    /// Whether a tied model has a tensor for its output projection.
    pub needs_head: bool,
    /// The order of the rows of queries and keys.
    pub rows: RowOrder,
    /// The biases that llama.cpp reads.
    pub biases: GgufBiases,
}

impl Gguf {
    /// Llama's.
    pub const LLAMA: Self = Self {
        architecture: "llama",
        any_heads: true,
        grouped: true,
        needs_head: false,
        rows: RowOrder::Interleaved,
        biases: GgufBiases::All,
    };
}

/// The biases that llama.cpp reads of an architecture, and takes for none where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufBiases {
    /// None.
    None,
    /// Of queries, keys and values, which must be there.
    Qkv,
    /// Of all projections.
    All,
    /// Of all projections, which must be there.
    AllRequired,
}

/// The order of a head's rows, which is how rotation pairs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// Row `i` with row `i + D/2`, as Hugging Face has them.
    HalfSplit,
    /// Row `2i` with row `2i + 1`.
    Interleaved,
}
