//! Phi 3 and 4: Mistral whose matrices are fused; some rotate a part of each head, and long
//! texts otherwise than short ones.

use super::llama;
use crate::{
    config::Architecture,
    family::{
        AttentionBiasRule, Family, Fused, Gguf, GgufBiases, HuggingFace, RowOrder, WindowRule,
    },
    names::Projection,
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Phi3,
    title: "Phi 3 and 4",
    attention_bias: AttentionBiasRule::Never,
    mlp_bias: None,
    windows: WindowRule::All { default: None },
    rotated_share: Some("partial_rotary_factor"),
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
        eps: 1e-5,
        eos: Some(32_000),
        pad: Some(32_000),
        ..llama::FAMILY.hf
    },
    gguf: Gguf { architecture: "phi3", rows: RowOrder::HalfSplit, biases: GgufBiases::None },
    ..llama::FAMILY
};
