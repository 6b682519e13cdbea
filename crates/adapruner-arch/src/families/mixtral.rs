//! Mixtral: Mistral with experts.

use super::{mistral, qwen3_moe};
use crate::{
    config::Architecture,
    family::{
        ExpertsRule, Family, Gguf, GgufBiases, HuggingFace, Maps, NormalisedRule, TensorName,
        WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Mixtral,
    title: "Mixtral",
    maps: Maps {
        gate: Some(TensorName { hf: "block_sparse_moe.experts.*.w1", gguf: "ffn_gate_exps" }),
        up: TensorName { hf: "block_sparse_moe.experts.*.w3", gguf: "ffn_up_exps" },
        down: TensorName { hf: "block_sparse_moe.experts.*.w2", gguf: "ffn_down_exps" },
        ..Maps::LLAMA
    },
    experts: Some(ExpertsRule {
        router: TensorName { hf: "block_sparse_moe.gate", gguf: "ffn_gate_inp" },
        count: "num_local_experts",
        normalised: NormalisedRule::Always,
        dense_layers: None,
        gguf_width: "feed_forward_length",
        ..qwen3_moe::EXPERTS
    }),
    windows: WindowRule::All { default: None },
    hf: HuggingFace {
        model_type: "mixtral",
        prefix: "Mixtral",
        stem: "Mixtral",
        module: "mixtral",
        theta: ("rope_theta", 1_000_000.0),
        eps: (Some("rms_norm_eps"), 1e-5),
        ..mistral::FAMILY.hf
    },
    gguf: Some(Gguf { biases: GgufBiases::None, ..Gguf::LLAMA }),
    ..mistral::FAMILY
};
