//! GPT-NeoX and Pythia: sublayers side by side, each with its layer norm, a quarter of each head
//! rotated, queries, keys and values fused head by head, biases everywhere.

use super::llama;
use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Family, Fused, FusedRows, Gguf, GgufBiases, HeadWidthRule, HuggingFace,
        KvHeadRule, Maps, MlpBiasRule, NormKind, OrderRule, OuterModules, RowOrder, TensorName,
    },
    names::Projection,
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::GptNeoX,
    title: "GPT-NeoX and Pythia",
    maps: Maps {
        q: TensorName { hf: "attention.query", gguf: "attn_q" },
        k: TensorName { hf: "attention.key", gguf: "attn_k" },
        v: TensorName { hf: "attention.value", gguf: "attn_v" },
        o: TensorName { hf: "attention.dense", gguf: "attn_output" },
        gate: None,
        up: TensorName { hf: "mlp.dense_h_to_4h", gguf: "ffn_up" },
        down: TensorName { hf: "mlp.dense_4h_to_h", gguf: "ffn_down" },
    },
    norm_kind: NormKind::Layer,
    order: OrderRule::Key {
        hf: "use_parallel_residual",
        gguf: "use_parallel_residual",
        default: true,
    },
    attention_bias: AttentionBiasRule::Key { hf: "attention_bias", default: true },
    mlp_bias: MlpBiasRule::Always,
    activation: ("hidden_act", Activation::Gelu),
    rotated_share: Some(("rotary_pct", 0.25)),
    fused: &[Fused {
        name: TensorName { hf: "attention.query_key_value", gguf: "attn_qkv" },
        of: &[Projection::Q, Projection::K, Projection::V],
        rows: FusedRows::ByGroup,
    }],
    hf: HuggingFace {
        model_type: "gpt_neox",
        prefix: "GPTNeoX",
        stem: "GPTNeoX",
        module: "gpt_neox",
        theta: ("rotary_emb_base", 10_000.0),
        eps: (Some("layer_norm_eps"), 1e-5),
        head_width: HeadWidthRule::ByHidden,
        kv_heads: KvHeadRule::All,
        outer: OuterModules {
            embedding: "gpt_neox.embed_in",
            layers: "gpt_neox.layers",
            final_norm: "gpt_neox.final_layer_norm",
            head: "embed_out",
        },
        layer_class: "Layer",
        attention: "attention",
        bos: Some(0),
        eos: Some(2),
        // Masks and frequencies in files of older versions.
        buffers: &[".attention.bias", ".attention.masked_bias"],
        ..llama::FAMILY.hf
    },
    gguf: Some(Gguf {
        architecture: "gptneox",
        any_heads: false,
        grouped: true,
        needs_head: true,
        rows: RowOrder::HalfSplit,
        biases: GgufBiases::AllRequired,
    }),
    ..llama::FAMILY
};
