//! Phi 3 and 4: Mistral whose matrices are fused; some rotate a part of each head, and long
//! texts otherwise than short ones.

use super::llama;
use crate::{
    config::Architecture,
    family::{
        AttentionBiasRule, Family, Fused, FusedRows, Gguf, GgufBiases, HuggingFace, MlpBiasRule,
        RowOrder, TensorName, WindowRule,
    },
    names::Projection,
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Phi3,
    title: "Phi 3 and 4",
    attention_bias: AttentionBiasRule::Never,
    mlp_bias: MlpBiasRule::Never,
    windows: WindowRule::All { default: None },
    rotated_share: Some(("partial_rotary_factor", 1.0)),
    fused: &[
        Fused {
            name: TensorName { hf: "self_attn.qkv_proj", gguf: "attn_qkv" },
            of: &[Projection::Q, Projection::K, Projection::V],
            rows: FusedRows::Whole,
        },
        Fused {
            name: TensorName { hf: "mlp.gate_up_proj", gguf: "ffn_up" },
            of: &[Projection::Gate, Projection::Up],
            rows: FusedRows::Whole,
        },
    ],
    hf: HuggingFace {
        model_type: "phi3",
        prefix: "Phi3",
        stem: "Phi3",
        module: "phi3",
        context: 4096,
        eps: (Some("rms_norm_eps"), 1e-5),
        eos: Some(32_000),
        pad: Some(32_000),
        widths_from_config: true,
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "phi3",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
