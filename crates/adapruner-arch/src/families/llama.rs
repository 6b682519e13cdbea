//! Llama 1 to 3 and what is built alike: TinyLlama, Vicuna, SmolLM2.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HuggingFace, LayerNorms, NormWeight,
        RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Llama,
    title: "Llama",
    norms: LayerNorms::BEFORE,
    norm_weight: NormWeight::Plain,
    head_norm: None,
    attention_bias: AttentionBiasRule::Key("attention_bias"),
    mlp_bias: Some("mlp_bias"),
    activation: ("hidden_act", Activation::Silu),
    scores: ScoreRule::HeadWidth,
    embedding_scale: Factor::One,
    residual_scale: Factor::One,
    logit_divisor: Factor::One,
    caps: None,
    windows: WindowRule::None,
    unrotated: None,
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "llama",
        prefix: "Llama",
        stem: "Llama",
        module: "llama",
        context: 2048,
        theta: 10_000.0,
        eps: 1e-6,
        head_dim: None,
        tied: false,
        bos: Some(1),
        eos: Some(2),
        pad: None,
    },
    gguf: Gguf { architecture: "llama", rows: RowOrder::Interleaved, biases: GgufBiases::All },
};
