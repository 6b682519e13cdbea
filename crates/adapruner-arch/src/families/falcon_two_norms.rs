//! Falcon 40B and 180B: as 7B, with a norm before each sublayer.

use super::falcon;
use crate::{
    config::Architecture,
    family::{Family, FormRule, HuggingFace, LayerNorms, TensorName},
};

pub(super) const FAMILY: Family = Family {
    architecture: Architecture::FalconTwoNorms,
    title: "Falcon (two norms: 40B, 180B)",
    norms: LayerNorms {
        before_attention: Some(TensorName { hf: "ln_attn", gguf: "attn_norm_2" }),
        before_ffn: Some(TensorName { hf: "ln_mlp", gguf: "attn_norm" }),
        shared: false,
        ..falcon::FAMILY.norms
    },
    hf: HuggingFace { form: FormRule::FalconNorms(2), ..falcon::FAMILY.hf },
    ..falcon::FAMILY
};
