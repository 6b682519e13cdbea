//! Qwen 3, the mixtures of experts: Qwen 3 with a router and experts in every layer.

use super::qwen3;
use crate::{
    config::Architecture,
    family::{
        ExpertsRule, Family, Fixed, Gguf, HeadWidthRule, HuggingFace, Maps, NormalisedRule,
        TensorName,
    },
};

/// The maps of experts whose names are as Llama's are.
pub(super) const EXPERT_MAPS: Maps = Maps {
    gate: Some(TensorName { hf: "mlp.experts.*.gate_proj", gguf: "ffn_gate_exps" }),
    up: TensorName { hf: "mlp.experts.*.up_proj", gguf: "ffn_up_exps" },
    down: TensorName { hf: "mlp.experts.*.down_proj", gguf: "ffn_down_exps" },
    ..Maps::LLAMA
};

pub(super) const EXPERTS: ExpertsRule = ExpertsRule {
    router: TensorName { hf: "mlp.gate", gguf: "ffn_gate_inp" },
    count: "num_experts",
    chosen: "num_experts_per_tok",
    normalised: NormalisedRule::Key { hf: "norm_topk_prob", gguf: true },
    dense_layers: Some(("decoder_sparse_step", "mlp_only_layers")),
    gguf_width: "expert_feed_forward_length",
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Qwen3Moe,
    title: "Qwen 3 MoE",
    maps: EXPERT_MAPS,
    experts: Some(EXPERTS),
    hf: HuggingFace {
        model_type: "qwen3_moe",
        prefix: "Qwen3Moe",
        stem: "Qwen3Moe",
        module: "qwen3_moe",
        head_width: HeadWidthRule::Key(None),
        ffn: ("moe_intermediate_size", None),
        // Its class has no kinds of layers: all would have the window.
        fixed: &[Fixed {
            key: "use_sliding_window",
            default: false,
            value: false,
            otherwise: "a window in every layer",
        }],
        ..qwen3::FAMILY.hf
    },
    gguf: match qwen3::FAMILY.gguf {
        Some(gguf) => Some(Gguf { architecture: "qwen3moe", ..gguf }),
        None => None,
    },
    ..qwen3::FAMILY
};
