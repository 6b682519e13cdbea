//! Gemma 3 from 4B on: the language model, a SigLIP encoder of images, and what projects one on
//! the other.

use super::{Composite, Language, Multimodal, Naming, OtherLayers, OtherPart, TokenKey};
use crate::config::Architecture;

pub(super) const COMPOSITE: Composite = Composite {
    multimodal: Multimodal::Gemma3,
    title: "Gemma 3 (text and images)",
    model_type: "gemma3",
    prefix: "Gemma3",
    text: "text_config",
    languages: &[Language {
        model_type: "gemma3_text",
        architecture: Architecture::Gemma3,
        sizes: &[
            ("vocab_size", 262_208),
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
        ],
    }],
    namings: &[Naming::RELEASED, Naming::MODULES],
    modules: Naming::MODULES,
    parts: &[
        OtherPart {
            module: "vision_tower",
            title: "vision tower",
            layers: Some(OtherLayers {
                module: "encoder.layers",
                count: ("vision_config", "num_hidden_layers"),
                default: 12,
            }),
        },
        OtherPart { module: "multi_modal_projector", title: "projector", layers: None },
    ],
    tokens: &[
        TokenKey { keys: &["boi_token_index", "boi_token_id"], default: 255_999 },
        TokenKey { keys: &["eoi_token_index", "eoi_token_id"], default: 256_000 },
        TokenKey { keys: &["image_token_index", "image_token_id"], default: 262_144 },
    ],
};
