//! Gemma 2: norms around each sublayer, windows in every other layer, caps on scores and logits.

use super::{gemma3, llama};
use crate::{
    config::Architecture,
    family::{Cap, Caps, Family, Gguf, GgufBiases, HuggingFace, RowOrder, ScoreRule, WindowRule},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Gemma2,
    title: "Gemma 2",
    head_norm: None,
    scores: ScoreRule::InverseRoot { hf: "query_pre_attn_scalar", default: 256.0, by_hidden: 46 },
    caps: Some(Caps {
        scores: Cap { key: "attn_logit_softcapping", default: 50.0 },
        logits: Cap { key: "final_logit_softcapping", default: 30.0 },
    }),
    windows: WindowRule::AllBut { every: 2, default: 4096 },
    local_theta: None,
    hf: HuggingFace {
        model_type: "gemma2",
        prefix: "Gemma2",
        stem: "Gemma2",
        module: "gemma2",
        context: 8192,
        theta: llama::FAMILY.hf.theta,
        ..gemma3::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "gemma2",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..gemma3::FAMILY
};
