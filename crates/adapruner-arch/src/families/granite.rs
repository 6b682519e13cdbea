//! Granite 3, the dense models: Llama with four factors.

use super::llama;
use crate::{
    config::Architecture,
    family::{Factor, Family, Gguf, GgufBiases, HuggingFace, RowOrder, ScoreRule},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Granite,
    title: "Granite 3 (dense)",
    scores: ScoreRule::Key { hf: "attention_multiplier", default: 1.0, gguf: "attention.scale" },
    embedding_scale: Factor::Key { hf: "embedding_multiplier", gguf: "embedding_scale" },
    residual_scale: Factor::Key { hf: "residual_multiplier", gguf: "residual_scale" },
    logit_divisor: Factor::Key { hf: "logits_scaling", gguf: "logit_scale" },
    hf: HuggingFace {
        model_type: "granite",
        prefix: "Granite",
        stem: "Granite",
        module: "granite",
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "granite",
        rows: RowOrder::Interleaved,
        biases: GgufBiases::All,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
