//! Mistral Small 3.1 and 3.2: Mistral, a Pixtral encoder of images, and what projects one on the
//! other.

use super::{Composite, Language, Multimodal, Naming, OtherLayers, OtherPart, TokenKey};
use crate::config::Architecture;

pub(super) const COMPOSITE: Composite = Composite {
    multimodal: Multimodal::Mistral3,
    title: "Mistral 3 (text and images)",
    model_type: "mistral3",
    prefix: "Mistral3",
    text: "text_config",
    languages: &[Language {
        model_type: "mistral",
        architecture: Architecture::Mistral,
        sizes: &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 14_336),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
        ],
    }],
    namings: &[Naming::RELEASED, Naming::MODULES],
    modules: Naming::MODULES,
    parts: &[
        OtherPart {
            module: "vision_tower",
            title: "vision tower",
            layers: Some(OtherLayers {
                module: "transformer.layers",
                count: ("vision_config", "num_hidden_layers"),
                default: 24,
            }),
        },
        OtherPart { module: "multi_modal_projector", title: "projector", layers: None },
    ],
    tokens: &[TokenKey { keys: &["image_token_index", "image_token_id"], default: 10 }],
};
