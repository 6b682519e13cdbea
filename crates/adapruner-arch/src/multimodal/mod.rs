//! Models that hold a language model beside other parts, an encoder of images for one.
//!
//! The language model is one of the architectures: it is run, pruned and trained as if it were
//! alone. A [`Composite`] declares where a folder keeps it: under which key of `config.json` its
//! settings are, what its tensors are called, and which tensors are those of the other parts,
//! which pass through every command untouched.

mod gemma3;
mod mistral3;

use serde::{Deserialize, Serialize};

use crate::config::Architecture;

/// The classes of models around a language model that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Multimodal {
    /// Gemma 3 from 4B on: texts and images.
    Gemma3,
    /// Mistral Small 3.1 and 3.2: texts and images.
    Mistral3,
}

impl Multimodal {
    /// All of them, in the order in which they are listed for users.
    pub const ALL: [Self; 2] = [Self::Gemma3, Self::Mistral3];

    /// What it declares.
    pub fn composite(self) -> &'static Composite {
        match self {
            Self::Gemma3 => &gemma3::COMPOSITE,
            Self::Mistral3 => &mistral3::COMPOSITE,
        }
    }
}

/// A class of models around a language model.
#[derive(Debug)]
pub struct Composite {
    /// Which one it is.
    pub multimodal: Multimodal,
    /// The models it stands for, in words.
    pub title: &'static str,
    /// `model_type`.
    pub model_type: &'static str,
    /// What its classes in transformers begin with; behind it stand `Config` and
    /// `ForConditionalGeneration`.
    pub prefix: &'static str,
    /// Key of `config.json` with the settings of the language model.
    pub text: &'static str,
    /// The language models that it can hold, the first where `model_type` of these settings is
    /// missing.
    pub languages: &'static [Language],
    /// What folders call the tensors.
    pub namings: &'static [Naming],
    /// What transformers calls the modules once a folder is opened; PEFT's adapters name these.
    pub modules: Naming,
    /// The parts beside the language model.
    pub parts: &'static [OtherPart],
    /// The tokens that stand for what these parts give.
    pub tokens: &'static [TokenKey],
}

impl Composite {
    /// Its class in transformers, as `architectures` of `config.json` names it.
    pub fn class(&self) -> String {
        format!("{}ForConditionalGeneration", self.prefix)
    }
}

/// A language model as part of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language {
    /// `model_type` of its settings.
    pub model_type: &'static str,
    /// What it is.
    pub architecture: Architecture,
    /// What transformers takes for sizes that the settings leave out, by key. Folders of a
    /// language model alone always say them; nested settings leave out what is the default.
    pub sizes: &'static [(&'static str, u64)],
}

/// What the tensors of a model with other parts are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    /// Beginnings of names: as the language model alone has them, and as they are here.
    pub language: &'static [(&'static str, &'static str)],
    /// What stands before the modules of the other parts.
    pub parts: &'static str,
}

impl Naming {
    /// As transformers has the modules of most classes from 4.52 on, and as some versions save
    /// them.
    pub const MODULES: Self = Self {
        language: &[("model.", "model.language_model."), ("lm_head.", "lm_head.")],
        parts: "model.",
    };
    /// As released folders have most classes, and as transformers 4.57 and 5.24 save them.
    pub const RELEASED: Self = Self {
        language: &[("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")],
        parts: "",
    };

    /// What a tensor or a module of the language model is called here.
    pub fn here(&self, own: &str) -> String {
        let here =
            |(alone, here): &(&str, &str)| Some(format!("{here}{}", own.strip_prefix(alone)?));
        self.language.iter().find_map(here).unwrap_or_else(|| own.to_owned())
    }

    /// What a tensor that has this name here is called in the language model alone; `None` of
    /// one that belongs to another part.
    pub fn alone(&self, name: &str) -> Option<String> {
        let alone =
            |(alone, here): &(&str, &str)| Some(format!("{alone}{}", name.strip_prefix(here)?));
        self.language.iter().find_map(alone)
    }

    /// The part that a tensor belongs to, of those beside the language model.
    pub fn part<'a>(&self, parts: &'a [OtherPart], name: &str) -> Option<&'a OtherPart> {
        let rest = name.strip_prefix(self.parts)?;
        let inside = |part: &&OtherPart| {
            rest.strip_prefix(part.module).is_some_and(|inner| inner.starts_with('.'))
        };
        parts.iter().find(inside)
    }
}

/// A part beside the language model. Its tensors are not known one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherPart {
    /// Its module.
    pub module: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// Its layers, where it has some: of each, as many tensors are expected.
    pub layers: Option<OtherLayers>,
}

/// A token that `config.json` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKey {
    /// Its keys, the first as it is written.
    pub keys: &'static [&'static str],
    /// Its id where none of them is there.
    pub default: u32,
}

/// The layers of a part beside the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherLayers {
    /// What stands before the number of a layer, anywhere in the part.
    pub module: &'static str,
    /// Keys of `config.json` for their number: of the part's settings, and in these.
    pub count: (&'static str, &'static str),
    /// Their number where the key is missing.
    pub default: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for composite in Multimodal::ALL.map(Multimodal::composite) {
            assert_eq!(composite.multimodal.composite().model_type, composite.model_type);
            for naming in composite.namings.iter().chain([&composite.modules]) {
                for own in
                    ["model.layers.3.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
                {
                    let here = naming.here(own);
                    assert_eq!(naming.alone(&here).as_deref(), Some(own));
                    assert_eq!(naming.part(composite.parts, &here), None);
                }
                for part in composite.parts {
                    let name = format!("{}{}.x.weight", naming.parts, part.module);
                    assert_eq!(naming.alone(&name), None, "{name}");
                    assert_eq!(naming.part(composite.parts, &name), Some(part));
                }
            }
        }
        let released = &Multimodal::Gemma3.composite().namings[0];
        assert_eq!(released.here("model.norm.weight"), "language_model.model.norm.weight");
        assert_eq!(released.part(Multimodal::Gemma3.composite().parts, "vision_towers.a"), None);
    }
}
