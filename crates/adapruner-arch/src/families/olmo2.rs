//! OLMo 2: norms after each sublayer, and of all queries and all keys together.

use super::llama;
use crate::{
    config::Architecture,
    family::{
        Family, Gguf, GgufBiases, HeadNorm, HuggingFace, LayerNorms, MlpBiasRule, RowOrder,
        TensorName,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Olmo2,
    title: "OLMo 2",
    norms: LayerNorms {
        before_attention: None,
        after_attention: Some(TensorName {
            hf: "post_attention_layernorm",
            gguf: "post_attention_norm",
        }),
        before_ffn: None,
        after_ffn: Some(TensorName { hf: "post_feedforward_layernorm", gguf: "post_ffw_norm" }),
        shared: false,
    },
    head_norm: Some(HeadNorm::All),
    mlp_bias: MlpBiasRule::Never,
    hf: HuggingFace {
        model_type: "olmo2",
        prefix: "Olmo2",
        stem: "Olmo2",
        module: "olmo2",
        eps: (Some("rms_norm_eps"), 1e-5),
        bos: None,
        eos: Some(50_279),
        pad: Some(1),
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "olmo2",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
