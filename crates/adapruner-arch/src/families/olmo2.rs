//! OLMo 2: norms after each sublayer, and of all queries and all keys together.

use super::llama;
use crate::{
    config::Architecture,
    family::{Family, Gguf, GgufBiases, HeadNorm, HuggingFace, LayerNorms, NormName, RowOrder},
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
    head_norm: Some(HeadNorm::All),
    mlp_bias: None,
    hf: HuggingFace {
        model_type: "olmo2",
        prefix: "Olmo2",
        stem: "Olmo2",
        module: "olmo2",
        eps: 1e-5,
        bos: None,
        eos: Some(50_279),
        pad: Some(1),
        ..llama::FAMILY.hf
    },
    gguf: Gguf { architecture: "olmo2", rows: RowOrder::HalfSplit, biases: GgufBiases::None },
    ..llama::FAMILY
};
