//! SmolLM3: Llama, every fourth layer without rotation.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HuggingFace, LayerNorms, NormWeight,
        RowOrder, ScoreRule, UnrotatedRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::SmolLm3,
    title: "SmolLM3",
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
    windows: WindowRule::Switched,
    unrotated: Some(UnrotatedRule {
        list: "no_rope_layers",
        interval: "no_rope_layer_interval",
        every: 4,
    }),
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "smollm3",
        prefix: "SmolLM3",
        stem: "SmolLM3",
        module: "smollm3",
        context: 32_768,
        theta: 2_000_000.0,
        eps: 1e-6,
        head_dim: None,
        tied: true,
        bos: Some(128_000),
        eos: Some(128_001),
        pad: Some(128_004),
    },
    gguf: Gguf {
        architecture: "smollm3",
        per_layer: None,
        rows: RowOrder::Interleaved,
        biases: GgufBiases::None,
    },
};
