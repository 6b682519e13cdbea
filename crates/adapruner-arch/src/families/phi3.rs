//! Phi 3 and 4: Mistral whose matrices are fused; some rotate a part of each head, and long
//! texts otherwise than short ones.

use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Factor, Family, Fused, Gguf, GgufBiases, HuggingFace, LayerNorms,
        NormWeight, RowOrder, ScoreRule, WindowRule,
    },
    names::Projection,
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Phi3,
    title: "Phi 3 and 4",
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
    windows: WindowRule::All { default: None },
    unrotated: None,
    local_theta: None,
    rotated_share: Some("partial_rotary_factor"),
    opens_with_bos: false,
    fused: &[
        Fused {
            hf: "self_attn.qkv_proj",
            gguf: "attn_qkv",
            of: &[Projection::Q, Projection::K, Projection::V],
        },
        Fused { hf: "mlp.gate_up_proj", gguf: "ffn_up", of: &[Projection::Gate, Projection::Up] },
    ],
    hf: HuggingFace {
        model_type: "phi3",
        prefix: "Phi3",
        stem: "Phi3",
        module: "phi3",
        context: 4096,
        theta: 10_000.0,
        eps: 1e-5,
        head_dim: None,
        tied: false,
        bos: Some(1),
        eos: Some(32_000),
        pad: Some(32_000),
    },
    gguf: Gguf {
        architecture: "phi3",
        per_layer: None,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
    },
};
