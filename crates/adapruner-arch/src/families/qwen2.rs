//! Qwen 2 and 2.5: Llama with biases of queries, keys and values.

use super::llama;
use crate::{
    config::Architecture,
    family::{
        AttentionBiasRule, Family, Gguf, GgufBiases, HuggingFace, MlpBiasRule, RowOrder, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen2,
    title: "Qwen 2 and 2.5",
    attention_bias: AttentionBiasRule::Qkv,
    mlp_bias: MlpBiasRule::Never,
    windows: WindowRule::Switched,
    hf: HuggingFace {
        model_type: "qwen2",
        prefix: "Qwen2",
        stem: "Qwen2",
        module: "qwen2",
        context: 32_768,
        bos: None,
        eos: None,
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "qwen2",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::Qkv,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
