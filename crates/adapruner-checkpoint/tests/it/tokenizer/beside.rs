//! Added tokens that stand beside `tokenizer.json`, and files under a class that
//! does not fit them.

use std::fs;

use adapruner_checkpoint::tokenizer::TextTokenizer;
use serde_json::Value;

use crate::readers::fixture;

#[derive(serde::Deserialize)]
struct Expected {
    eos: u32,
    size: usize,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    plain: Vec<Vec<u32>>,
    skipped: Vec<String>,
}

fn open(name: &str) -> (TextTokenizer, Expected) {
    let folder = fixture("tokenizers_beside").join(name);
    let expected = fs::read(folder.join("expected.json")).unwrap();
    let tokenizer = TextTokenizer::from_hf_folder(&folder).unwrap();
    (tokenizer, serde_json::from_slice(&expected).unwrap())
}

fn check(name: &str, tokenizer: &TextTokenizer, expected: &Expected) {
    assert_eq!(tokenizer.eos_id(), Some(expected.eos), "{name}");
    assert_eq!(tokenizer.vocab_size(), expected.size, "{name}");
    for (at, text) in expected.texts.iter().enumerate() {
        assert_eq!(tokenizer.encode(text).unwrap(), expected.ids[at], "{name} {text:?}");
        assert_eq!(tokenizer.encode_plain(text).unwrap(), expected.plain[at], "{name} {text:?}");
        let text = tokenizer.decode(&expected.ids[at], true).unwrap();
        assert_eq!(text, expected.skipped[at], "{name}");
    }
}

#[test]
fn added_tokens_are_those_of_transformers_wherever_they_stand() {
    for name in ["decoder", "flags", "legacy", "role", "unlisted", "class"] {
        let (tokenizer, expected) = open(name);
        check(name, &tokenizer, &expected);
        // What is written is opened alike.
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in tokenizer.hf_files().unwrap() {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        check(name, &TextTokenizer::from_hf_folder(folder.path()).unwrap(), &expected);
    }
}

#[test]
fn added_tokens_go_into_gguf() {
    for name in ["decoder", "legacy"] {
        let (tokenizer, expected) = open(name);
        let metadata = tokenizer.gguf_metadata(expected.size + 3).unwrap();
        let again = TextTokenizer::from_gguf("m".as_ref(), &metadata).unwrap();
        check(name, &again, &expected);
    }
}

/// transformers 5 builds a SentencePiece tokenizer of its own under Llama's class
/// names, whatever tokenizer.json says; this class takes the file as it is.
#[test]
fn a_class_that_does_not_fit_the_file_is_replaced() {
    let (tokenizer, expected) = open("class");
    let files = tokenizer.hf_files().unwrap();
    let json = |name: &str| -> Value {
        let (_, bytes) = files.iter().find(|(file, _)| file == name).unwrap();
        serde_json::from_slice(bytes).unwrap()
    };
    let config = json("tokenizer_config.json");
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!((&config["add_bos_token"], &config["add_eos_token"]), (&true.into(), &false.into()));
    assert_eq!(json("tokenizer.json")["post_processor"]["type"], "TemplateProcessing");
    assert_eq!(expected.ids[0][0], tokenizer.bos_id().unwrap());
    // One that fits stays as it is, byte for byte.
    let folder = fixture("tokenizers/llama-spm");
    let files = TextTokenizer::from_hf_folder(&folder).unwrap().hf_files().unwrap();
    for (name, bytes) in files {
        assert!(fs::read(folder.join(&name)).unwrap() == bytes, "{name}");
    }
}

#[test]
fn entries_that_are_no_tokens_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixture("tokenizers_beside/decoder/tokenizer.json");
    fs::copy(from, folder.path().join("tokenizer.json")).unwrap();
    for (table, expected) in [
        (r#"{"x": {"content": "a"}}"#, r#"added_tokens_decoder["x"]: a token id expected"#),
        (r#"{"7": "a"}"#, r#"added_tokens_decoder["7"]: an object expected"#),
        (r#"{"7": {}}"#, r#"added_tokens_decoder["7"]: content expected"#),
    ] {
        let config = format!(r#"{{"added_tokens_decoder": {table}}}"#);
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let error = TextTokenizer::from_hf_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json") && error.contains(expected), "{error}");
    }
}
