//! Granite 3, the dense models: Llama with four factors.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HuggingFace, LayerNorms, NormWeight,
        RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Granite,
    title: "Granite 3 (dense)",
    norms: LayerNorms::BEFORE,
    norm_weight: NormWeight::Plain,
    head_norm: None,
    attention_bias: AttentionBiasRule::Key("attention_bias"),
    mlp_bias: Some("mlp_bias"),
    activation: ("hidden_act", Activation::Silu),
    scores: ScoreRule::Key { hf: "attention_multiplier", default: 1.0, gguf: "attention.scale" },
    embedding_scale: Factor::Key { hf: "embedding_multiplier", gguf: "embedding_scale" },
    residual_scale: Factor::Key { hf: "residual_multiplier", gguf: "residual_scale" },
    logit_divisor: Factor::Key { hf: "logits_scaling", gguf: "logit_scale" },
    windows: WindowRule::None,
    unrotated: None,
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "granite",
        prefix: "Granite",
        stem: "Granite",
        module: "granite",
        context: 2048,
        theta: 10_000.0,
        eps: 1e-6,
        head_dim: None,
        tied: false,
        bos: Some(1),
        eos: Some(2),
        pad: None,
    },
    gguf: Gguf {
        architecture: "granite",
        per_layer: None,
        rows: RowOrder::Interleaved,
        biases: GgufBiases::All,
    },
};
