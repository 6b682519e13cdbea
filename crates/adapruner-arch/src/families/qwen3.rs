//! Qwen 3: every head of queries and keys is normed.

use super::llama;
use crate::{
    config::Architecture,
    family::{Family, Gguf, GgufBiases, HeadNorm, HuggingFace, RowOrder, WindowRule},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen3,
    title: "Qwen 3",
    head_norm: Some(HeadNorm::Each),
    mlp_bias: None,
    windows: WindowRule::Switched,
    hf: HuggingFace {
        model_type: "qwen3",
        prefix: "Qwen3",
        stem: "Qwen3",
        module: "qwen3",
        context: 32_768,
        head_dim: Some(128),
        bos: None,
        eos: None,
        ..llama::FAMILY.hf
    },
    gguf: Gguf { architecture: "qwen3", rows: RowOrder::HalfSplit, biases: GgufBiases::None },
    ..llama::FAMILY
};
