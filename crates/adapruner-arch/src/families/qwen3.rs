//! Qwen 3: every head of queries and keys is normed.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HeadNorm, HuggingFace, LayerNorms,
        NormWeight, RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen3,
    title: "Qwen 3",
    norms: LayerNorms::BEFORE,
    norm_weight: NormWeight::Plain,
    head_norm: Some(HeadNorm::Each),
    attention_bias: AttentionBiasRule::Key("attention_bias"),
    mlp_bias: None,
    activation: ("hidden_act", Activation::Silu),
    scores: ScoreRule::HeadWidth,
    embedding_scale: Factor::One,
    residual_scale: Factor::One,
    logit_divisor: Factor::One,
    windows: WindowRule::Switched,
    unrotated: None,
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "qwen3",
        prefix: "Qwen3",
        stem: "Qwen3",
        module: "qwen3",
        context: 32_768,
        theta: 10_000.0,
        eps: 1e-6,
        head_dim: Some(128),
        tied: false,
        bos: None,
        eos: None,
        pad: None,
    },
    gguf: Gguf {
        architecture: "qwen3",
        per_layer: None,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
    },
};
