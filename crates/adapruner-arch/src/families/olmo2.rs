//! OLMo 2: norms after each sublayer, and of all queries and all keys together.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Gguf, GgufBiases, HeadNorm, HuggingFace, LayerNorms,
        NormName, NormWeight, RowOrder, ScoreRule, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Olmo2,
    title: "OLMo 2",
    norms: LayerNorms {
        before_attention: None,
        after_attention: Some(NormName {
            hf: "post_attention_layernorm",
            gguf: "post_attention_norm",
        }),
        before_ffn: None,
        after_ffn: Some(NormName { hf: "post_feedforward_layernorm", gguf: "post_ffw_norm" }),
    },
    norm_weight: NormWeight::Plain,
    head_norm: Some(HeadNorm::All),
    attention_bias: AttentionBiasRule::Key("attention_bias"),
    mlp_bias: None,
    activation: ("hidden_act", Activation::Silu),
    scores: ScoreRule::HeadWidth,
    embedding_scale: Factor::One,
    residual_scale: Factor::One,
    logit_divisor: Factor::One,
    windows: WindowRule::None,
    unrotated: None,
    local_theta: None,
    rotated_share: None,
    opens_with_bos: false,
    fused: &[],
    hf: HuggingFace {
        model_type: "olmo2",
        prefix: "Olmo2",
        stem: "Olmo2",
        module: "olmo2",
        context: 2048,
        theta: 10_000.0,
        eps: 1e-5,
        head_dim: None,
        tied: false,
        bos: None,
        eos: Some(50_279),
        pad: Some(1),
    },
    gguf: Gguf {
        architecture: "olmo2",
        per_layer: None,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
    },
};
