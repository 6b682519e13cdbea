//! Qwen 3: every head of queries and keys is normed.

use super::llama;
use crate::{
    config::Architecture,
    family::{
        Family, Gguf, GgufBiases, HeadNorm, HeadWidthRule, HuggingFace, MlpBiasRule, RowOrder,
        WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen3,
    title: "Qwen 3",
    head_norm: Some(HeadNorm::Each),
    mlp_bias: MlpBiasRule::Never,
    windows: WindowRule::Switched,
    hf: HuggingFace {
        model_type: "qwen3",
        prefix: "Qwen3",
        stem: "Qwen3",
        module: "qwen3",
        context: 32_768,
        head_width: HeadWidthRule::Key(Some(128)),
        bos: None,
        eos: None,
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "qwen3",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
