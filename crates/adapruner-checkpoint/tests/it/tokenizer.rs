//! Tokenizers of every family, from folders and GGUF files, and written again.

mod beside;
mod chat;
mod families;
mod hostile;
mod trimmed;
mod writing;

use std::{fs, path::Path};

use adapruner_checkpoint::{
    gguf::{Header, Metadata},
    tokenizer::TextTokenizer,
};

use crate::readers::fixture;

/// Folders of `fixtures/tokenizers`.
pub const FAMILIES: [&str; 13] = [
    "gpt-2",
    "smollm",
    "command-r",
    "llama-bpe",
    "smaug-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "tekken",
    "deepseek-v3",
    "deepseek-coder",
    "default",
    "llama-spm",
    "llama-spm-no-prefix",
];

pub fn metadata(family: &str) -> Metadata {
    let file = fs::read(fixture("tokenizers").join(family).join("tokenizer.gguf")).unwrap();
    Header::parse(&file).unwrap().metadata
}

pub fn from_gguf(metadata: &Metadata) -> TextTokenizer {
    TextTokenizer::from_gguf(Path::new("model.gguf"), metadata).unwrap()
}

pub fn from_folder(family: &str) -> TextTokenizer {
    TextTokenizer::from_hf_folder(&fixture("tokenizers").join(family)).unwrap()
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture("tokenizers").join(name)).unwrap()).unwrap()
}

pub fn texts() -> Vec<String> {
    json("texts.json")
}

/// What transformers makes of the texts, each in its place.
#[derive(serde::Deserialize)]
pub struct Expected {
    pub plain: Vec<Vec<u32>>,
    /// What is added before and after.
    pub ends: [Vec<u32>; 2],
    pub decoded: Vec<String>,
    pub skipped: Vec<String>,
}

pub fn expected(family: &str) -> Expected {
    json(&format!("{family}/expected.json"))
}

/// Holds a tokenizer against what transformers makes of the texts.
pub fn check(tokenizer: &TextTokenizer, family: &str) {
    let expected = expected(family);
    let texts = texts();
    assert!(texts.len() == expected.plain.len() && texts.len() > 20);
    for (at, text) in texts.iter().enumerate() {
        let plain = tokenizer.encode_plain(text).unwrap();
        assert_eq!(plain, expected.plain[at], "{family}: {text:?}");
        let ids = tokenizer.encode(text).unwrap();
        let [before, after] = &expected.ends;
        assert_eq!(ids, [&before[..], &plain, after].concat(), "{family}: {text:?}");
        let decode = |skip| tokenizer.decode(&ids, skip).unwrap();
        assert_eq!(decode(false), expected.decoded[at], "{family}");
        assert_eq!(decode(true), expected.skipped[at], "{family}");
    }
}
