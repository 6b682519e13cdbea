//! OLMoE: Llama with norms of all queries and all keys together, and experts.

use super::{llama, qwen3_moe};
use crate::{
    config::Architecture,
    family::{
        ExpertsRule, Family, Gguf, GgufBiases, HeadNorm, HeadWidthRule, HuggingFace, MlpBiasRule,
        NormalisedRule, RowOrder,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Olmoe,
    title: "OLMoE",
    maps: qwen3_moe::EXPERT_MAPS,
    experts: Some(ExpertsRule {
        normalised: NormalisedRule::Key { hf: "norm_topk_prob", gguf: false },
        dense_layers: None,
        gguf_width: "feed_forward_length",
        ..qwen3_moe::EXPERTS
    }),
    head_norm: Some(HeadNorm::All),
    mlp_bias: MlpBiasRule::Never,
    hf: HuggingFace {
        model_type: "olmoe",
        prefix: "Olmoe",
        stem: "Olmoe",
        module: "olmoe",
        context: 4096,
        eps: (Some("rms_norm_eps"), 1e-5),
        head_width: HeadWidthRule::ByHidden,
        null: &[("clip_qkv", "queries, keys and values are clipped")],
        bos: None,
        eos: Some(50_279),
        pad: Some(1),
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "olmoe",
        any_heads: false,
        grouped: false,
        needs_head: true,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
    }),
    ..llama::FAMILY
};
