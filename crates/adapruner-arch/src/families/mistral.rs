//! Mistral: Llama without biases, with windows in the first models.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HuggingFace, LayerNorms, NormWeight,
        RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Mistral,
    title: "Mistral",
    norms: LayerNorms::BEFORE,
    norm_weight: NormWeight::Plain,
    head_norm: None,
    attention_bias: AttentionBiasRule::Never,
    mlp_bias: None,
    activation: ("hidden_act", Activation::Silu),
    scores: ScoreRule::HeadWidth,
    embedding_scale: Factor::One,
    residual_scale: Factor::One,
    logit_divisor: Factor::One,
    windows: WindowRule::All { default: Some(4096) },
    unrotated: None,
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "mistral",
        prefix: "Mistral",
        stem: "Mistral",
        module: "mistral",
        context: 131_072,
        theta: 10_000.0,
        eps: 1e-6,
        head_dim: None,
        tied: false,
        bos: Some(1),
        eos: Some(2),
        pad: None,
    },
    gguf: Gguf {
        architecture: "llama",
        per_layer: Some("deci"),
        rows: RowOrder::Interleaved,
        biases: GgufBiases::All,
    },
};
