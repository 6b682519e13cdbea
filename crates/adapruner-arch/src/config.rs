//! What a model is made of, independent of the file it came from.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use serde::{Deserialize, Serialize};

use crate::{
    experts::Experts,
    family::{
        AttentionBiasRule, Factor, Family, HeadWidthRule, MlpBiasRule, NormKind, NormWeight,
        NormalisedRule, OrderRule, Positions, ScoreRule, WindowRule,
    },
    multimodal::Multimodal,
    names::{Part, Projection, Sublayer},
};

/// The decoder architectures that are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Llama 1, 2, 3, Vicuna, TinyLlama, SmolLM2.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, the language model.
    Gemma3,
    /// SmolLM3.
    #[serde(rename = "smollm3")]
    SmolLm3,
    /// OLMo 2.
    Olmo2,
    /// Granite 3, the dense models.
    Granite,
    /// Phi 3 and 4.
    Phi3,
    /// OPT, with norms before its sublayers.
    Opt,
    /// GPT-NeoX and Pythia.
    #[serde(rename = "gpt_neox")]
    GptNeoX,
    /// Falcon with one norm before both sublayers: 7B, 11B.
    Falcon,
    /// Falcon with a norm before each sublayer: 40B, 180B.
    #[serde(rename = "falcon_two_norms")]
    FalconTwoNorms,
    /// Qwen 3, the mixtures of experts.
    Qwen3Moe,
    /// OLMoE.
    Olmoe,
    /// Mixtral.
    Mixtral,
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
    /// `F`, at least 1; of a mixture the channels of all experts, those of one after those of the
    /// other, of each as many. 0 only in plans, of a layer that is removed whole.
    pub ffn: usize,
}

impl LayerWidths {
    /// Whether the layer has an attention sublayer.
    pub fn has_attention(&self) -> bool {
        self.query_heads > 0
    }

    /// Whether nothing of the layer is left, so that the stream passes it unchanged.
    pub fn is_empty(&self) -> bool {
        self.query_heads == 0 && self.ffn == 0
    }

    /// Query heads that share a key-value head (`N / K`); 0 without attention.
    pub fn group_size(&self) -> usize {
        self.query_heads.checked_div(self.kv_heads).unwrap_or(0)
    }
}

/// The activation function of the feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// GELU, approximated with tanh.
    GeluTanh,
    /// GELU, x · Φ(x).
    Gelu,
    /// max(x, 0).
    Relu,
}

/// Which maps of the attention sublayers have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// None.
    None,
    /// Query, key and value.
    Qkv,
    /// All four.
    All,
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
    /// Each frequency divided by its own number, one for short texts and another for long ones
    /// (LongRoPE, Ding et al., arXiv 2402.13753), and cosines and sines scaled.
    Long {
        /// `[R/2]` divisors for texts of up to `original` tokens, each > 0.
        short: Vec<f32>,
        /// Those for longer ones.
        long: Vec<f32>,
        /// Factor of cosines and sines, > 0.
        attention_factor: f64,
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

/// The factor of cosines and sines that LongRoPE takes where none is said, for a model of
/// `context` tokens that was first trained on `original` (arXiv 2402.13753, equation 7):
/// `√(1 + ln(context/original) / ln(original))`, and 1 where the context did not grow.
pub fn long_attention_factor(context: f64, original: f64) -> f64 {
    let factor = context / original;
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

/// The rotary position embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

impl From<bool> for AttentionBias {
    /// Of all four, or of none.
    fn from(all: bool) -> Self {
        if all { Self::All } else { Self::None }
    }
}

/// Everything needed to run a model beside its weights: its architecture's declaration
/// ([`ModelConfig::family`]) and the numbers that are its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Which architecture it is.
    pub architecture: Architecture,
    /// What it is the language model of, where it is part of a larger model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multimodal: Option<Multimodal>,
    /// `H`.
    pub hidden_size: usize,
    /// `D`; `N · D` need not equal `H`.
    pub head_dim: usize,
    /// `V`, the rows of the embedding.
    pub vocab_size: usize,
    /// `N`, `K` and `F` of every layer, first layer first.
    pub layers: Vec<LayerWidths>,
    /// What its feed-forwards are mixtures of, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Added to the mean square or variance in norms.
    pub norm_eps: f64,
    /// Whether both sublayers read what enters the layer.
    pub parallel: bool,
    /// Rotary embedding, in layers with a window unless they have their own.
    pub rope: Rope,
    /// Rotary embedding of the layers with a window, where it is another.
    pub local_rope: Option<Rope>,
    /// `R`, how much of each head is rotated, an even number; all of it where there is none.
    pub rotated_dim: Option<usize>,
    /// Layers whose queries and keys are not rotated, in ascending order.
    pub unrotated: Vec<usize>,
    /// Tokens that a layer's queries see, their own the last of them; all where there is none.
    /// One entry for each layer, or no entries where no layer has a window.
    pub windows: Vec<Option<usize>>,
    /// Factor of the products of queries and keys; `1/√D` where there is none.
    pub score_scale: Option<f64>,
    /// Factor of the embedding.
    pub embedding_scale: f64,
    /// Factor of what a sublayer adds.
    pub residual_scale: f64,
    /// Divisor of the logits.
    pub logit_divisor: f64,
    /// Cap on scores, where there is one.
    pub score_cap: Option<f64>,
    /// Cap on logits, where there is one.
    pub logit_cap: Option<f64>,
    /// Biases of the attention's projections.
    pub attention_bias: AttentionBias,
    /// Biases on the maps of the feed-forward.
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
    /// A model of these sizes, untied and without special tokens, mixtures of one expert; all else
    /// is what its architecture takes for what is not said.
    pub fn new(
        architecture: Architecture,
        hidden_size: usize,
        head_dim: usize,
        vocab_size: usize,
        layers: Vec<LayerWidths>,
    ) -> Self {
        let family = architecture.family();
        let root = (hidden_size as f64).sqrt();
        let factor = |factor| if factor == Factor::RootHidden { root } else { 1.0 };
        let rope = |theta| Rope { theta, scaling: RopeScaling::None };
        Self {
            architecture,
            multimodal: None,
            hidden_size,
            head_dim,
            vocab_size,
            experts: family.experts.map(|rule| Experts {
                count: 1,
                chosen: 1,
                normalised: match rule.normalised {
                    NormalisedRule::Always => true,
                    NormalisedRule::Key { .. } => false,
                },
            }),
            activation: family.activation.1,
            norm_eps: family.hf.eps.1,
            parallel: match family.order {
                OrderRule::Sequential => false,
                OrderRule::Parallel => true,
                OrderRule::Key { default, .. } => default,
            },
            rope: rope(family.hf.theta.1),
            rotated_dim: family.rotated_share.and_then(|(_, share)| rotated(head_dim, share)),
            local_rope: family.local_theta.map(|(_, theta)| rope(theta)),
            unrotated: family.unrotated.map_or_else(Vec::new, |rule| {
                (0..layers.len()).filter(|layer| (layer + 1).is_multiple_of(rule.every)).collect()
            }),
            windows: match family.windows {
                WindowRule::AllBut { every, default } => {
                    all_but(layers.len(), every).map(|seen| seen.then_some(default)).collect()
                }
                WindowRule::None | WindowRule::All { .. } | WindowRule::Switched => Vec::new(),
            },
            score_scale: match family.scores {
                ScoreRule::HeadWidth | ScoreRule::InverseRoot { .. } => None,
                ScoreRule::Key { default, .. } => Some(default),
            },
            embedding_scale: factor(family.embedding_scale),
            residual_scale: factor(family.residual_scale),
            logit_divisor: factor(family.logit_divisor),
            score_cap: family.caps.map(|caps| caps.scores.default),
            logit_cap: family.caps.map(|caps| caps.logits.default),
            attention_bias: match family.attention_bias {
                AttentionBiasRule::Never => AttentionBias::None,
                AttentionBiasRule::Key { default, .. } => default.into(),
                AttentionBiasRule::Qkv => AttentionBias::Qkv,
            },
            mlp_bias: match family.mlp_bias {
                MlpBiasRule::Never => false,
                MlpBiasRule::Always => true,
                MlpBiasRule::Key { default, .. } => default,
            },
            tie_word_embeddings: false,
            max_position_embeddings: family.hf.context,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            layers,
        }
    }

    /// What its architecture declares.
    pub fn family(&self) -> &'static Family {
        self.architecture.family()
    }

    /// The widths shared by all layers, or `None` where they differ.
    pub fn uniform_widths(&self) -> Option<LayerWidths> {
        let first = *self.layers.first()?;
        self.layers.iter().all(|w| *w == first).then_some(first)
    }

    /// The same model with other widths, one entry for each of its layers. Layers of which
    /// nothing is left are gone, with all that the configuration says of them.
    pub fn with_layers(&self, layers: Vec<LayerWidths>) -> Self {
        let kept: Vec<usize> =
            (0..layers.len()).filter(|&layer| !layers[layer].is_empty()).collect();
        let model = Self { layers, ..self.clone() };
        if kept.len() == model.layers.len() { model } else { model.of_layers(&kept) }
    }

    /// The same model with the layers `kept` alone, ascending indices; layer `i` of it is
    /// layer `kept[i]` of this one, with its widths, its window and its rotation.
    pub fn of_layers(&self, kept: &[usize]) -> Self {
        let unrotated = |at: &usize| self.unrotated.contains(&kept[*at]);
        Self {
            layers: kept.iter().filter_map(|&layer| self.layers.get(layer).copied()).collect(),
            windows: kept.iter().filter_map(|&layer| self.windows.get(layer).copied()).collect(),
            unrotated: (0..kept.len()).filter(unrotated).collect(),
            ..self.clone()
        }
    }

    /// Whether layer `layer` has a projection.
    pub fn has(&self, layer: usize, projection: Projection) -> bool {
        let widths = self.layers.get(layer);
        self.family().has(projection)
            && widths.is_some_and(|w| match projection.sublayer() {
                Sublayer::Attention => w.has_attention(),
                Sublayer::FeedForward => true,
            })
    }

    /// The projections of layer `layer`, in the order of the forward pass.
    pub fn projections(&self, layer: usize) -> impl Iterator<Item = Projection> + '_ {
        Projection::ALL.into_iter().filter(move |&projection| self.has(layer, projection))
    }

    /// The name of a tensor in a Hugging Face folder; of one that the family does not have, what
    /// it is.
    pub fn name(&self, part: Part) -> String {
        part.name(self.family()).unwrap_or_else(|| format!("{part:?}"))
    }

    /// The module of a projection in layer `layer`, as the class that opens the model names it.
    pub fn module(&self, projection: Projection, layer: usize) -> String {
        let own = projection.path(self.family(), layer);
        match self.multimodal {
            None => own,
            Some(multimodal) => multimodal.composite().modules.here(&own),
        }
    }

    /// Whether a projection has a bias.
    pub fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Q | Projection::K | Projection::V => {
                self.attention_bias != AttentionBias::None
            }
            Projection::O => self.attention_bias == AttentionBias::All,
            Projection::Gate | Projection::Up | Projection::Down => self.mlp_bias,
        }
    }

    /// Gives a projection a bias, and those that have one together with it.
    pub fn add_bias(&mut self, projection: Projection) {
        match projection {
            Projection::O => self.attention_bias = AttentionBias::All,
            Projection::Q | Projection::K | Projection::V => {
                if self.attention_bias == AttentionBias::None {
                    self.attention_bias = match self.family().attention_bias {
                        AttentionBiasRule::Qkv => AttentionBias::Qkv,
                        AttentionBiasRule::Never | AttentionBiasRule::Key { .. } => {
                            AttentionBias::All
                        }
                    };
                }
            }
            Projection::Gate | Projection::Up | Projection::Down => {
                self.mlp_bias = true;
                // No class has these beside biases of queries, keys and values alone.
                if self.attention_bias == AttentionBias::Qkv {
                    self.attention_bias = AttentionBias::All;
                }
            }
        }
        // Where one key says it of all maps.
        if let (
            AttentionBiasRule::Key { hf: attention, .. },
            MlpBiasRule::Key { hf: feed_forward, .. },
        ) = (self.family().attention_bias, self.family().mlp_bias)
            && attention == feed_forward
        {
            self.attention_bias = AttentionBias::All;
            self.mlp_bias = true;
        }
    }

    /// Tokens that the queries of layer `layer` see, where not all before them.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows.get(layer).copied().flatten()
    }

    /// `R`: `D`, or the part of each head that is rotated.
    pub fn rotated(&self) -> usize {
        self.rotated_dim.unwrap_or(self.head_dim)
    }

    /// Longest text that is run, in tokens: what the model was made for, or as far as its
    /// rotation is that of short texts.
    pub fn longest(&self) -> usize {
        match self.rope.scaling {
            RopeScaling::Long { original_max_position_embeddings, .. } => {
                self.max_position_embeddings.min(original_max_position_embeddings)
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Factors { .. } => self.max_position_embeddings,
        }
    }

    /// The rotary embedding of layer `layer`, where it has one.
    pub fn rope_of(&self, layer: usize) -> Option<&Rope> {
        match self.family().positions {
            Positions::Rotary => {}
            Positions::Learned { .. } => return None,
        }
        if self.unrotated.contains(&layer) {
            return None;
        }
        match (&self.local_rope, self.window(layer)) {
            (Some(local), Some(_)) => Some(local),
            (Some(_) | None, _) => Some(&self.rope),
        }
    }

    /// Whether every layer is as Llama has them but for biases: what opens as Llama.
    pub fn is_llama_like(&self) -> bool {
        self.is_mistral_like() && self.windows.iter().all(Option::is_none)
    }

    /// Whether every layer is as Mistral has them but for biases: Llama's, all with the same
    /// window or none.
    pub fn is_mistral_like(&self) -> bool {
        let family = self.family();
        self.experts.is_none()
            && family.norms == Architecture::Llama.family().norms
            && family.maps == Architecture::Llama.family().maps
            && family.norm_kind == NormKind::RootMeanSquare
            && family.positions == Positions::Rotary
            && !self.parallel
            && family.norm_weight == NormWeight::Plain
            && family.head_norm.is_none()
            && self.activation == Activation::Silu
            && self.windows.iter().all(|window| *window == self.windows[0])
            && self.unrotated.is_empty()
            && self.rotated_dim.is_none()
            && !matches!(self.rope.scaling, RopeScaling::Long { .. })
            && self.score_scale.is_none()
            && [self.score_cap, self.logit_cap] == [None; 2]
            && [self.embedding_scale, self.residual_scale, self.logit_divisor] == [1.0; 3]
    }

    /// Whether the family's class has room for the widths of heads: where it takes `D` from `H`,
    /// all of a layer's heads must be as wide as the stream; where it asks for whole heads, `H`
    /// must be a multiple of their number.
    pub fn heads_fit_class(&self) -> bool {
        let hf = &self.family().hf;
        self.layers.iter().all(|w| {
            let width = match hf.head_width {
                HeadWidthRule::Key(_) => true,
                HeadWidthRule::ByHidden => w.query_heads * self.head_dim == self.hidden_size,
            };
            width && (!hf.whole_heads || self.hidden_size.is_multiple_of(w.query_heads.max(1)))
        })
    }

    /// Rows of the table of learned positions, where there is one.
    pub fn learned_positions(&self) -> Option<usize> {
        match self.family().positions {
            Positions::Rotary => None,
            Positions::Learned { offset, .. } => Some(self.max_position_embeddings + offset),
        }
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

/// How much of a head is rotated, `None` where it is all of it.
pub fn rotated(head_dim: usize, share: f64) -> Option<usize> {
    (share != 1.0).then_some((head_dim as f64 * share) as usize)
}

/// Which of so many layers are not every `every`-th.
pub fn all_but(layers: usize, every: usize) -> impl Iterator<Item = bool> {
    (1..=layers).map(move |at| !at.is_multiple_of(every.max(1)))
}
