//! Qwen 2 and 2.5: Llama with biases of queries, keys and values.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HuggingFace, LayerNorms, NormWeight,
        RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen2,
    title: "Qwen 2 and 2.5",
    norms: LayerNorms::BEFORE,
    norm_weight: NormWeight::Plain,
    head_norm: None,
    attention_bias: AttentionBiasRule::Qkv,
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
        model_type: "qwen2",
        prefix: "Qwen2",
        stem: "Qwen2",
        module: "qwen2",
        context: 32_768,
        theta: 10_000.0,
        eps: 1e-6,
        head_dim: None,
        tied: false,
        bos: None,
        eos: None,
        pad: None,
    },
    gguf: Gguf {
        architecture: "qwen2",
        per_layer: None,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::Qkv,
    },
};
