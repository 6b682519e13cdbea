//! Tokenizers written as folders and as metadata, and read again.

use std::{fs, path::Path};

use adapruner_checkpoint::{
    gguf::{Metadata, Value},
    tokenizer::TextTokenizer,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{FAMILIES, check, from_folder, from_gguf, metadata, texts};
use crate::readers::fixture;

fn folder_of(files: &[(String, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn files_of_a_folder_stay_as_they_are() {
    for family in FAMILIES {
        let place = fixture("tokenizers").join(family);
        let files = from_folder(family).hf_files().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let all = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        assert_eq!(names[..3], all);
        assert_eq!(names[3..], ["chat_template.jinja"]);
        for (name, bytes) in files {
            assert_eq!(bytes, fs::read(place.join(name)).unwrap());
        }
    }
}

#[test]
fn files_made_of_metadata_encode_alike() {
    for family in FAMILIES {
        let tokenizer = from_gguf(&metadata(family));
        let files = tokenizer.hf_files().unwrap();
        let folder = folder_of(&files);
        let again = TextTokenizer::from_hf_folder(folder.path()).unwrap();
        check(&again, family);
        assert_eq!(again.bos_id(), tokenizer.bos_id());
        assert_eq!(again.eos_id(), tokenizer.eos_id());
        assert_eq!(again.pad_id(), tokenizer.pad_id());
        assert_eq!(again.special_ids(), tokenizer.special_ids());
        assert_eq!(again.adds_bos(), tokenizer.adds_bos());
        assert_eq!(again.chat_template(), tokenizer.chat_template());
        let config = fs::read(folder.path().join("tokenizer_config.json")).unwrap();
        let config: Json = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["model_max_length"], 256);
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!(config["add_bos_token"], tokenizer.adds_bos());
    }
}

fn own_keys(metadata: &Metadata) -> Metadata {
    let own = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn tokens(metadata: &Metadata) -> &[Value] {
    metadata["tokenizer.ggml.tokens"].as_array().unwrap()
}

#[test]
fn metadata_stays_as_it_is_and_is_filled_up() {
    for family in FAMILIES {
        let metadata = metadata(family);
        let tokenizer = from_gguf(&metadata);
        let size = tokens(&metadata).len();
        assert_eq!(tokenizer.gguf_metadata(size).unwrap(), own_keys(&metadata), "{family}");

        // The two unused ones are not needed; more can be had.
        for other in [size - 2, size - 1, size + 7] {
            let filled = tokenizer.gguf_metadata(other).unwrap();
            assert_eq!(tokens(&filled).len(), other);
            assert_eq!(filled["tokenizer.ggml.token_type"].as_array().unwrap().len(), other);
            check(&from_gguf(&filled), family);
        }
        let filled = tokenizer.gguf_metadata(size + 7).unwrap();
        let last = format!("[PAD{}]", size + 6);
        assert_eq!(tokens(&filled).last(), Some(&Value::String(last)));
        let kinds = filled["tokenizer.ggml.token_type"].as_array().unwrap();
        assert_eq!(kinds.last(), Some(&Value::I32(5)));
        let text = tokenizer.gguf_metadata(size - 3).unwrap_err().to_string();
        let expected = format!("{} tokens do not fit into a vocabulary of {}", size - 2, size - 3);
        assert!(text.ends_with(&expected), "{text}");
    }
}

/// Against what llama.cpp's converter would write, made by the generator.
#[test]
fn metadata_made_of_a_folder_is_what_the_converter_writes() {
    for family in FAMILIES {
        let expected = own_keys(&metadata(family));
        let made = from_folder(family).gguf_metadata(tokens(&expected).len()).unwrap();
        check(&from_gguf(&made), family);
        for (key, value) in &expected {
            // Scores matter by their order alone.
            if key != "tokenizer.ggml.scores" {
                assert_eq!(made.get(key), Some(value), "{family}: {key}");
            }
        }
        let more = |key: &&str| !expected.contains_key(*key);
        let surplus: Vec<&str> = made.keys().map(String::as_str).filter(more).collect();
        let known = ["add_bos_token", "add_eos_token", "add_space_prefix"];
        let known = known.map(|key| format!("tokenizer.ggml.{key}"));
        assert!(surplus.iter().all(|key| known.iter().any(|k| k == key)), "{surplus:?}");
    }
}

#[test]
fn scores_made_of_merges_have_the_order_of_sentencepiece() {
    let expected = metadata("llama-spm");
    let made = from_folder("llama-spm").gguf_metadata(tokens(&expected).len()).unwrap();
    let pieces = |metadata: &Metadata| {
        let scores = metadata["tokenizer.ggml.scores"].as_array().unwrap();
        let kinds = metadata["tokenizer.ggml.token_type"].as_array().unwrap();
        let mut pieces: Vec<(f64, usize)> = (0..scores.len())
            .filter(|at| kinds[*at] == Value::I32(1))
            .map(|at| (-scores[at].as_f64().unwrap(), at))
            .collect();
        pieces.sort_by(|a, b| a.0.total_cmp(&b.0));
        pieces.into_iter().map(|(_, at)| at).collect::<Vec<_>>()
    };
    assert_eq!(pieces(&made), pieces(&expected));
    assert!(!made.contains_key("tokenizer.ggml.merges"));
}

/// A family's folder with its `tokenizer.json` changed.
fn changed(family: &str, change: impl FnOnce(&mut Json)) -> (TempDir, TextTokenizer) {
    let mut files = from_folder(family).hf_files().unwrap();
    let mut json = serde_json::from_slice(&files[0].1).unwrap();
    change(&mut json);
    files[0].1 = serde_json::to_vec(&json).unwrap();
    // The flags of added tokens there would win.
    let (_, config) = files.iter_mut().find(|(name, _)| name == "tokenizer_config.json").unwrap();
    let mut beside: Json = serde_json::from_slice(config).unwrap();
    beside.as_object_mut().unwrap().remove("added_tokens_decoder");
    *config = serde_json::to_vec(&beside).unwrap();
    let folder = folder_of(&files);
    let tokenizer = TextTokenizer::from_hf_folder(folder.path()).unwrap();
    (folder, tokenizer)
}

#[test]
fn llama_as_newer_transformers_write_it_has_a_name_too() {
    let (_folder, tokenizer) = changed("llama-spm", |json| {
        json["normalizer"] = Json::Null;
        json["pre_tokenizer"] = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false,
        });
    });
    let again = from_gguf(&tokenizer.gguf_metadata(tokenizer.vocab_size()).unwrap());
    // Behind control tokens GGUF has a space more.
    for text in texts().iter().filter(|text| !text.contains('<') && !text.starts_with(' ')) {
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn merges_in_another_order_are_written_beside_the_scores() {
    let (_folder, tokenizer) = changed("llama-spm", |json| {
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        let joined = |merge: &Json| format!("{}{}", merge[0], merge[1]).replace('"', "");
        let same = |at: &usize| joined(&merges[*at]) == joined(&merges[at + 1]);
        let at = (0..merges.len() - 1).find(same).expect("two ways to one piece");
        merges.swap(at, at + 1);
    });
    let made = tokenizer.gguf_metadata(tokenizer.vocab_size()).unwrap();
    assert!(made.contains_key("tokenizer.ggml.merges"));
    let again = from_gguf(&made);
    for text in texts() {
        assert_eq!(again.encode(&text).unwrap(), tokenizer.encode(&text).unwrap());
    }
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    type Change = fn(&mut Json);
    let cases: [(&str, Change, &str); 7] = [
        (
            "qwen2",
            |json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+"),
            r#"pre-tokenizer [Split("\\w+")], NFC, ignore_merges false: none of the pre-tokenizers that GGUF has names for (gpt-2, phi-2, smollm,"#,
        ),
        (
            "gpt-2",
            |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}),
            "pre-tokenizer with the step {\"type\":\"Whitespace\"}: none of",
        ),
        (
            "gpt-2",
            |json| json["normalizer"] = json!({"type": "Lowercase"}),
            "normalizer {\\\"type\\\":\\\"Lowercase\\\"}: none of",
        ),
        (
            "gpt-2",
            |json| json["added_tokens"][1]["lstrip"] = json!(true),
            "token \"<|im_start|>\" depends on the spaces or words around it, which GGUF cannot say",
        ),
        (
            "llama-bpe",
            |json| json["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = json!([7, 8]),
            "it adds the tokens [7, 8] to a text, GGUF only BOS and EOS",
        ),
        (
            "llama-spm",
            |json| drop(json["model"]["merges"].as_array_mut().unwrap().remove(3)),
            "would not be joined alike",
        ),
        (
            "llama-spm",
            |json| json["normalizer"] = json!({"type": "NFKC"}),
            "has no equal in GGUF for BPE with byte fallback",
        ),
    ];
    for (family, change, expected) in cases {
        let (folder, tokenizer) = changed(family, change);
        let error = tokenizer.gguf_metadata(tokenizer.vocab_size()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        let path = folder.path().join("tokenizer.json");
        assert!(text.starts_with(&format!("{}: tokenizer: ", path.display())), "{text}");
        assert_eq!(error.hint(), Some("write a Hugging Face folder instead of a GGUF file"));
    }
}

#[test]
fn a_word_model_is_no_gguf_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "decoder": null, "truncation": null, "padding": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 5}, "unk_token": "a"},
    });
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = TextTokenizer::from_hf_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 6, "one past the largest id");
    assert_eq!(tokenizer.encode("a b c").unwrap(), [0, 5, 0]);
    assert_eq!(tokenizer.bos_id(), None);
    let text = tokenizer.gguf_metadata(6).unwrap_err().to_string();
    assert!(text.ends_with("a WordLevel model is not supported in GGUF, only BPE"), "{text}");
}

#[test]
fn the_kind_of_class_decides_on_bos() {
    let mut files = from_folder("llama-spm").hf_files().unwrap();
    for (says, adds) in [(json!(false), false), (json!(true), true), (Json::Null, true)] {
        let mut config: Json = serde_json::from_slice(&files[1].1).unwrap();
        config["add_bos_token"] = says;
        files[1].1 = config.to_string().into_bytes();
        let folder = folder_of(&files);
        let tokenizer = TextTokenizer::from_hf_folder(Path::new(folder.path())).unwrap();
        assert_eq!(tokenizer.adds_bos(), adds);
    }
}
