//! OPT: learned positions, layer norms, a feed-forward of two maps with ReLU, biases everywhere.

use super::llama;
use crate::{
    config::{Activation, Architecture},
    family::{
        AttentionBiasRule, Family, Fixed, HeadWidthRule, HuggingFace, KvHeadRule, LayerNorms, Maps,
        MlpBiasRule, NormKind, OuterModules, Positions, TensorName,
    },
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::Opt,
    title: "OPT",
    maps: Maps {
        o: TensorName { hf: "self_attn.out_proj", gguf: "attn_output" },
        gate: None,
        up: TensorName { hf: "fc1", gguf: "ffn_up" },
        down: TensorName { hf: "fc2", gguf: "ffn_down" },
        ..Maps::LLAMA
    },
    norms: LayerNorms {
        before_attention: Some(TensorName { hf: "self_attn_layer_norm", gguf: "attn_norm" }),
        before_ffn: Some(TensorName { hf: "final_layer_norm", gguf: "ffn_norm" }),
        ..LayerNorms::BEFORE
    },
    norm_kind: NormKind::Layer,
    positions: Positions::Learned { module: "model.decoder.embed_positions", offset: 2 },
    attention_bias: AttentionBiasRule::Key { hf: "enable_bias", default: true },
    mlp_bias: MlpBiasRule::Key { hf: "enable_bias", default: true },
    activation: ("activation_function", Activation::Relu),
    hf: HuggingFace {
        model_type: "opt",
        prefix: "OPT",
        stem: "OPT",
        module: "opt",
        eps: (None, 1e-5),
        head_width: HeadWidthRule::ByHidden,
        kv_heads: KvHeadRule::All,
        ffn: ("ffn_dim", None),
        fixed: &[
            Fixed {
                key: "do_layer_norm_before",
                default: true,
                value: true,
                otherwise: "norms behind sublayers, as in OPT-350m",
            },
            Fixed {
                key: "_remove_final_layer_norm",
                default: false,
                value: false,
                otherwise: "no final norm",
            },
            Fixed {
                key: "layer_norm_elementwise_affine",
                default: true,
                value: true,
                otherwise: "norms without weights",
            },
        ],
        outer: OuterModules {
            embedding: "model.decoder.embed_tokens",
            layers: "model.decoder.layers",
            final_norm: "model.decoder.final_layer_norm",
            head: "lm_head",
        },
        tied: true,
        bos: Some(2),
        eos: Some(2),
        pad: Some(1),
        ..llama::FAMILY.hf
    },
    gguf: None,
    ..llama::FAMILY
};
