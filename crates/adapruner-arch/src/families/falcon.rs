//! Falcon 7B and 11B: sublayers side by side that read one layer norm, queries, keys and values
//! fused by groups, of which 7B has one.

use super::{gpt_neox, llama};
use crate::{
    config::Architecture,
    family::{
        AttentionBiasRule, Family, Fixed, FormRule, Fused, FusedRows, Gguf, GgufBiases,
        HuggingFace, KvHeadRule, LayerNorms, Maps, MlpBiasRule, OrderRule, OuterModules, RowOrder,
        TensorName,
    },
    names::Projection,
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Falcon,
    title: "Falcon (one norm: 7B, 11B)",
    maps: Maps {
        q: TensorName { hf: "self_attention.query", gguf: "attn_q" },
        k: TensorName { hf: "self_attention.key", gguf: "attn_k" },
        v: TensorName { hf: "self_attention.value", gguf: "attn_v" },
        o: TensorName { hf: "self_attention.dense", gguf: "attn_output" },
        ..gpt_neox::FAMILY.maps
    },
    norms: LayerNorms {
        before_attention: None,
        // Stays where attention goes.
        before_ffn: Some(TensorName { hf: "input_layernorm", gguf: "attn_norm" }),
        shared: true,
        ..LayerNorms::BEFORE
    },
    order: OrderRule::Parallel,
    attention_bias: AttentionBiasRule::Key { hf: "bias", default: false },
    mlp_bias: MlpBiasRule::Key { hf: "bias", default: false },
    activation: ("activation", gpt_neox::FAMILY.activation.1),
    rotated_share: None,
    fused: &[Fused {
        name: TensorName { hf: "self_attention.query_key_value", gguf: "attn_qkv" },
        of: &[Projection::Q, Projection::K, Projection::V],
        rows: FusedRows::ByGroup,
    }],
    hf: HuggingFace {
        model_type: "falcon",
        prefix: "Falcon",
        stem: "Falcon",
        module: "falcon",
        theta: llama::FAMILY.hf.theta,
        eps: (Some("layer_norm_epsilon"), 1e-5),
        kv_heads: KvHeadRule::Falcon,
        ffn: ("ffn_hidden_size", Some(4)),
        fixed: &[
            Fixed { key: "alibi", default: false, value: false, otherwise: "ALiBi positions" },
            Fixed {
                key: "parallel_attn",
                default: true,
                value: true,
                otherwise: "sublayers one after the other",
            },
        ],
        form: FormRule::FalconNorms(1),
        outer: OuterModules {
            embedding: "transformer.word_embeddings",
            layers: "transformer.h",
            final_norm: "transformer.ln_f",
            head: "lm_head",
        },
        layer_class: "DecoderLayer",
        attention: "self_attention",
        tied: true,
        bos: Some(11),
        eos: Some(11),
        buffers: &[],
        ..gpt_neox::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "falcon",
        any_heads: false,
        grouped: true,
        needs_head: false,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::None,
    }),
    ..gpt_neox::FAMILY
};
