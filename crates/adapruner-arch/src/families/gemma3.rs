//! Gemma 3, the language model: norms around each sublayer, windows in five of six layers,
//! which rotate by a base of their own.

use super::llama;
use crate::{
    config::{Activation, Architecture},
    family::{
        Factor, Family, Gguf, GgufBiases, HeadNorm, HeadWidthRule, HuggingFace, LayerNorms,
        MlpBiasRule, NormWeight, RowOrder, ScoreRule, TensorName, WindowRule,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Gemma3,
    title: "Gemma 3 (text)",
    norms: LayerNorms {
        before_attention: Some(TensorName { hf: "input_layernorm", gguf: "attn_norm" }),
        after_attention: Some(TensorName {
            hf: "post_attention_layernorm",
            gguf: "post_attention_norm",
        }),
        before_ffn: Some(TensorName { hf: "pre_feedforward_layernorm", gguf: "ffn_norm" }),
        after_ffn: Some(TensorName { hf: "post_feedforward_layernorm", gguf: "post_ffw_norm" }),
        shared: false,
    },
    norm_weight: NormWeight::OnePlus,
    head_norm: Some(HeadNorm::Each),
    mlp_bias: MlpBiasRule::Never,
    activation: ("hidden_activation", Activation::GeluTanh),
    scores: ScoreRule::InverseRoot { hf: "query_pre_attn_scalar", default: 256.0, by_hidden: 62 },
    embedding_scale: Factor::RootHidden,
    windows: WindowRule::AllBut { every: 6, default: 4096 },
    local_theta: Some(("rope_local_base_freq", 10_000.0)),
    opens_with_bos: true,
    hf: HuggingFace {
        model_type: "gemma3_text",
        prefix: "Gemma3",
        stem: "Gemma3Text",
        module: "gemma3",
        context: 131_072,
        theta: ("rope_theta", 1_000_000.0),
        head_width: HeadWidthRule::Key(Some(256)),
        whole_heads: true,
        tied: true,
        bos: Some(2),
        eos: Some(1),
        pad: Some(0),
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "gemma3",
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
        ..Gguf::LLAMA
    }),
    ..llama::FAMILY
};
