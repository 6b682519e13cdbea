//! Mistral: Llama without biases, with windows in the first models.

use super::llama;
use crate::{
    config::Architecture,
    family::{AttentionBiasRule, Family, HuggingFace, MlpBiasRule, WindowRule},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Mistral,
    title: "Mistral",
    attention_bias: AttentionBiasRule::Never,
    mlp_bias: MlpBiasRule::Never,
    windows: WindowRule::All { default: Some(4096) },
    hf: HuggingFace {
        model_type: "mistral",
        prefix: "Mistral",
        stem: "Mistral",
        module: "mistral",
        context: 131_072,
        ..llama::FAMILY.hf
    },
    ..llama::FAMILY
};
