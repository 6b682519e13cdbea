//! Gemma 3 from 4B on: the language model, a SigLIP encoder of images, and what projects one on
//! the other.

use super::{Composite, Language, Multimodal, Naming, OtherLayers, OtherPart, TokenKey};
use crate::config::Architecture;

/// As transformers has the modules from 4.52 on, and as some versions save them.
const MODULES: Naming = Naming {
    language: &[("model.", "model.language_model."), ("lm_head.", "lm_head.")],
    parts: "model.",
};

/// As released folders have them, and as transformers 4.57 saves them.
const RELEASED: Naming = Naming {
    language: &[("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")],
    parts: "",
};

pub(super) const COMPOSITE: Composite = Composite {
    multimodal: Multimodal::Gemma3,
    title: "Gemma 3 (text and images)",
    model_type: "gemma3",
    prefix: "Gemma3",
    module: "gemma3",
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
    namings: &[RELEASED, MODULES],
    modules: MODULES,
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
