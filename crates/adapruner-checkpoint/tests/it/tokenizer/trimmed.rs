//! Trimmed tokenizers encode as transformers does with the same tokens
//! (fixtures/generate/vocabulary.py).

use std::fs;

use adapruner_checkpoint::tokenizer::TextTokenizer;

use super::{from_folder, from_gguf, metadata, texts};
use crate::readers::fixture;

/// What stays, and transformers' ids of the texts then.
#[derive(serde::Deserialize)]
struct Expected {
    kept: Vec<u32>,
    plain: Vec<Vec<u32>>,
}

fn expected(name: &str) -> Expected {
    let file = fs::read(fixture("vocabulary").join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&file).unwrap()
}

fn check(name: &str, whole: &TextTokenizer) {
    let Expected { kept, plain } = expected(name);
    assert!(kept.len() < whole.vocab_size() - 20, "{name}");
    let trimmed = whole.trimmed(&kept, kept.len()).unwrap();
    for (text, expected) in texts().iter().zip(&plain) {
        assert_eq!(&trimmed.encode_plain(text).unwrap(), expected, "{name}: {text:?}");
    }
    // Written as a folder and read again.
    let folder = tempfile::tempdir().unwrap();
    for (file, bytes) in trimmed.hf_files().unwrap() {
        fs::write(folder.path().join(file), bytes).unwrap();
    }
    let again = TextTokenizer::from_hf_folder(folder.path()).unwrap();
    for (text, expected) in texts().iter().zip(&plain) {
        assert_eq!(&again.encode_plain(text).unwrap(), expected, "{name}: {text:?}");
    }
}

#[test]
fn trimmed_tokenizers_encode_as_transformers() {
    for family in ["smollm", "qwen2", "llama-bpe", "tekken", "llama-spm", "llama-spm-no-prefix"] {
        check(family, &from_folder(family));
        check(family, &from_gguf(&metadata(family)));
    }
}

#[test]
fn a_trimmed_unigram_encodes_as_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let json = fixture("vocabulary").join("unigram_tokenizer.json");
    fs::copy(json, folder.path().join("tokenizer.json")).unwrap();
    check("unigram", &TextTokenizer::from_hf_folder(folder.path()).unwrap());
}
