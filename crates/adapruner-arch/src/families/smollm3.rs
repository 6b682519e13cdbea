//! SmolLM3: Llama, every fourth layer without rotation.

use super::llama;
use crate::{
    config::Architecture,
    family::{Family, Gguf, GgufBiases, HuggingFace, RowOrder, UnrotatedRule, WindowRule},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::SmolLm3,
    title: "SmolLM3",
    windows: WindowRule::Switched,
    unrotated: Some(UnrotatedRule {
        list: "no_rope_layers",
        interval: "no_rope_layer_interval",
        every: 4,
    }),
    hf: HuggingFace {
        model_type: "smollm3",
        prefix: "SmolLM3",
        stem: "SmolLM3",
        module: "smollm3",
        context: 32_768,
        theta: ("rope_theta", 2_000_000.0),
        tied: true,
        bos: Some(128_000),
        eos: Some(128_001),
        pad: Some(128_004),
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "smollm3",
        rows: RowOrder::Interleaved,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
