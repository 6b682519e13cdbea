//! Metadata and files that contradict themselves are refused by name.

use std::{fs, path::Path};

use adapruner_checkpoint::{
    Error,
    gguf::{Metadata, Value},
    tokenizer::TextTokenizer,
};
use proptest::prelude::*;
use serde_json::json;

use super::{from_folder, metadata};

fn refusal(metadata: &Metadata) -> Error {
    TextTokenizer::from_gguf(Path::new("model.gguf"), metadata).expect_err("a refusal")
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn array<'a>(metadata: &'a mut Metadata, key: &str) -> &'a mut Vec<Value> {
    match metadata.get_mut(&format!("tokenizer.ggml.{key}")) {
        Some(Value::Array(values)) => values,
        other => panic!("{key}: an array expected, {other:?} found"),
    }
}

#[test]
fn contradictions_are_named() {
    type Change = Box<dyn Fn(&mut Metadata)>;
    let set = |key: &'static str, value: Value| -> Change {
        let key = format!("tokenizer.ggml.{key}");
        Box::new(move |m| drop(m.insert(key.clone(), value.clone())))
    };
    let without = |key: &'static str| -> Change {
        let key = format!("tokenizer.ggml.{key}");
        Box::new(move |m| drop(m.remove(&key)))
    };
    let edit = |key: &'static str, change: fn(&mut Vec<Value>)| -> Change {
        Box::new(move |m| change(array(m, key)))
    };
    let cases: Vec<(&str, Change, &str)> = vec![
        ("smollm", without("model"), "tokenizer.ggml.model: missing"),
        ("smollm", set("model", text("bert")), "tokenizer model bert is not supported, only gpt2"),
        ("smollm", set("model", Value::U32(1)), "tokenizer.ggml.model: a string expected"),
        (
            "smollm",
            set("pre", text("x\ny")),
            "pre-tokenizer x\\ny is not supported, only gpt-2, phi-2, smollm",
        ),
        ("smollm", without("tokens"), "tokenizer.ggml.tokens: missing"),
        ("smollm", set("tokens", Value::Array(vec![])), "tokenizer.ggml.tokens: 0 tokens"),
        ("smollm", edit("tokens", |t| t[3] = Value::U8(3)), "tokens: element 3: a string expected"),
        ("smollm", edit("tokens", |t| t[9] = t[8].clone()), "comes twice"),
        (
            "smollm",
            edit("tokens", |t| t[9] = Value::String("x".repeat(5000))),
            "token 9 has 5000 bytes, at most 4096 expected",
        ),
        (
            "smollm",
            edit("token_type", |t| drop(t.pop())),
            "token_type: 407 elements expected, one a token, 406 found",
        ),
        (
            "smollm",
            edit("token_type", |t| t[3] = Value::I32(7)),
            "token_type: element 3: a type from 0 to 6 expected",
        ),
        (
            "smollm",
            edit("token_type", |t| t[3] = Value::I32(-1)),
            "token_type: element 3: a type from 0 to 6",
        ),
        ("smollm", without("merges"), "tokenizer.ggml.merges: missing"),
        (
            "smollm",
            edit("merges", |t| t[2] = Value::String("ab".into())),
            "merge 2 (\"ab\"): two tokens expected",
        ),
        (
            "smollm",
            edit("merges", |t| t[2] = Value::String("a quux".into())),
            "merge 2 (\"a quux\"): \"quux\" is no token",
        ),
        (
            "smollm",
            edit("merges", |t| t[2] = Value::String("Q Q".into())),
            "merge 2 (\"Q Q\"): \"QQ\" is no token",
        ),
        (
            "smollm",
            edit("merges", |t| t[2] = Value::String(" ".into())),
            "merge 2 (\" \"): two tokens expected",
        ),
        (
            "smollm",
            edit("merges", |t| t[2] = Value::String(String::new())),
            "merge 2 (\"\"): two tokens expected",
        ),
        (
            "smollm",
            set("bos_token_id", Value::U32(407)),
            "bos_token_id: id 407 is outside the vocabulary of 407",
        ),
        (
            "smollm",
            set("eos_token_id", Value::U64(1 << 40)),
            "eos_token_id: id 1099511627776 is outside",
        ),
        (
            "smollm",
            set("padding_token_id", Value::I32(-1)),
            "padding_token_id: a non-negative integer expected",
        ),
        ("smollm", set("add_bos_token", Value::U8(1)), "add_bos_token: a boolean expected"),
        ("llama-spm", without("scores"), "tokenizer.ggml.scores: missing"),
        ("llama-spm", edit("scores", |t| drop(t.pop())), "elements expected, one a token"),
        (
            "llama-spm",
            edit("scores", |t| t[300] = Value::F32(f32::NAN)),
            "scores: element 300: a finite number",
        ),
        (
            "llama-spm",
            edit("tokens", |t| t[400] = Value::String("x".repeat(600))),
            "token 400 has 600 bytes, at most 512",
        ),
        ("llama-spm", set("add_space_prefix", text("no")), "add_space_prefix: a boolean expected"),
    ];
    for (family, change, expected) in cases {
        let mut metadata = metadata(family);
        change(&mut metadata);
        let text = refusal(&metadata).to_string();
        assert!(text.starts_with("model.gguf: tokenizer: metadata key tokenizer.ggml."), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let mut metadata = metadata("smollm");
    metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(true));
    metadata.remove("tokenizer.ggml.bos_token_id");
    let text = refusal(&metadata).to_string();
    assert!(text.ends_with("add_bos_token: true, but tokenizer.ggml.bos_token_id is missing"));
    metadata.insert("tokenizer.ggml.pre".into(), Value::String("viking".into()));
    metadata.insert("tokenizer.ggml.model".into(), Value::String("gpt2".into()));
    assert!(refusal(&metadata).hint().unwrap().contains("Hugging Face folder"));
}

#[test]
fn empty_tokens_are_not_encoded() {
    let mut metadata = metadata("smollm");
    array(&mut metadata, "tokens")[405] = text("");
    array(&mut metadata, "tokens")[406] = text("");
    let tokenizer = super::from_gguf(&metadata);
    super::check(&tokenizer, "smollm");
    assert_eq!(
        tokenizer.gguf_metadata(405).unwrap()["tokenizer.ggml.tokens"].as_array().unwrap().len(),
        405
    );
}

#[test]
fn ids_beyond_the_vocabulary_are_not_decoded() {
    let tokenizer = from_folder("gpt-2");
    let size = tokenizer.vocab_size() as u32;
    let text = tokenizer.decode(&[1, size], false).unwrap_err().to_string();
    assert!(text.ends_with(&format!("no token has id {size}, only those below {size}")), "{text}");
}

#[test]
fn broken_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = || TextTokenizer::from_hf_folder(folder.path());
    let error = open().unwrap_err();
    assert!(error.to_string().ends_with("tokenizer: no tokenizer.json"));
    assert!(error.hint().is_some());

    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let mut good = serde_json::to_value(json!({})).unwrap();
    for (name, bytes) in from_folder("gpt-2").hf_files().unwrap() {
        if name == "tokenizer.json" {
            good = serde_json::from_slice(&bytes).unwrap();
        }
    }
    let cases = [
        ("dropout", json!(0.1), "BPE with dropout encodes at random"),
        ("continuing_subword_prefix", json!("####"), "BPE with continuing_subword_prefix"),
        ("merges", json!([["a", "quux"]]), "quux"),
        ("vocab", json!({"a": -1}), "tokenizer"),
    ];
    for (key, value, expected) in cases {
        let mut bad = good.clone();
        bad["model"][key] = value;
        write("tokenizer.json", &bad.to_string());
        let text = open().unwrap_err().to_string();
        assert!(text.contains("tokenizer.json: tokenizer: ") && text.contains(expected), "{text}");
    }
    write("tokenizer.json", "{\"model\":");
    assert!(open().is_err());
    write("tokenizer.json", &good.to_string());
    write("tokenizer_config.json", "[");
    let text = open().unwrap_err().to_string();
    assert!(text.contains("tokenizer_config.json: not valid JSON"), "{text}");
    write("tokenizer_config.json", "[1]");
    assert_eq!(open().unwrap().bos_id(), None);
    fs::write(folder.path().join("chat_template.jinja"), [0xff]).unwrap();
    assert!(open().unwrap_err().to_string().contains("chat_template.jinja: not UTF-8"));
}

fn file(family: &str) -> serde_json::Value {
    let bytes = fs::read(crate::readers::fixture("tokenizers").join(family).join("tokenizer.json"));
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

/// Each of these panics or fills the memory in the library.
#[test]
fn parts_that_the_library_fails_on_are_refused_by_name() {
    let replace = |pattern: serde_json::Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let sequence =
        |steps: Vec<serde_json::Value>| json!({"type": "Sequence", "normalizers": steps});
    let mut nested = json!({"type": "NFC"});
    for _ in 0..30 {
        nested = sequence(vec![nested]);
    }
    let growing = (0..30).map(|_| replace(json!({"String": "e"}), "ee")).collect();
    let template = |single: Vec<serde_json::Value>, ids: Vec<u32>| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": vec!["<s>"; ids.len()]}},
        })
    };
    let (text, token) = (
        json!({"Sequence": {"id": "A", "type_id": 0}}),
        json!({"SpecialToken": {"id": "<s>", "type_id": 0}}),
    );
    let cases = [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "normalizer (Precompiled): precompiled_charsmap: it is empty",
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            "normalizer (Precompiled): precompiled_charsmap: a trie of 4294967295 bytes, but only 0 follow",
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "?"}),
            "normalizer (Precompiled): precompiled_charsmap: ",
        ),
        (
            "normalizer",
            replace(json!({"String": ""}), "x"),
            "normalizer (Replace): pattern: a text expected, an empty one found",
        ),
        (
            "normalizer",
            replace(json!({"Regex": ""}), "x"),
            "normalizer (Replace): pattern: a regular expression expected",
        ),
        (
            "normalizer",
            replace(json!({"Regex": "(".repeat(100)}), "x"),
            "at most 64 nested groups expected",
        ),
        (
            "normalizer",
            replace(json!({"Regex": "a|".repeat(10_000)}), "x"),
            "20000 bytes, at most 16384 expected",
        ),
        (
            "normalizer",
            sequence(growing),
            "normalizer.normalizers[6] (Replace): it can make 128 bytes of one",
        ),
        (
            "normalizer",
            replace(json!({"Regex": "x*"}), &"y".repeat(65)),
            "it can make 65 bytes of one",
        ),
        (
            "normalizer",
            json!({"type": "Prepend", "prepend": "x".repeat(5000)}),
            "normalizer (Prepend): prepend: 5000 bytes",
        ),
        ("normalizer", nested, "at most 8 nested sequences expected"),
        ("normalizer", sequence(vec![json!({"type": "NFC"}); 300]), "at most 256 steps expected"),
        (
            "pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
            "pre_tokenizer (FixedLength): length: at least 1 expected",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false}),
            "pre_tokenizer (Split): pattern: a text expected",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?:a|aa)+[^a]"}, "behavior": "Isolated", "invert": false}),
            "",
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": [replace(json!({"String": "a"}), &"x".repeat(99))]}),
            "decoder.decoders[0] (Replace): it can make 99 bytes",
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "Ġ", "start": 0, "stop": 9}),
            "decoder: it fails on a text: ",
        ),
        (
            "post_processor",
            template(vec![text.clone(), text.clone()], vec![0]),
            "post_processor (TemplateProcessing): single: the text once expected, 2 times found",
        ),
        (
            "post_processor",
            template(vec![token.clone()], vec![0]),
            "post_processor (TemplateProcessing): single: the text once expected, 0 times found",
        ),
        (
            "post_processor",
            template(vec![token.clone(); 99], vec![0]),
            "post_processor (TemplateProcessing): single: 99 parts, at most 64 expected",
        ),
        (
            "post_processor",
            template(vec![token.clone(), text.clone()], vec![0; 99]),
            "single: 100 parts, at most 64 expected",
        ),
        (
            "post_processor",
            template(vec![token, text], vec![999]),
            "post_processor: it adds the token 999, which is none of its own",
        ),
        (
            "added_tokens",
            json!([{"id": 400, "content": "x".repeat(5000), "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]),
            "added_tokens[0]: 5000 bytes",
        ),
    ];
    for (part, value, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut json = file("gpt-2");
        json[part] = value;
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        match TextTokenizer::from_hf_folder(folder.path()) {
            Ok(tokenizer) => {
                assert_eq!(expected, "", "{part}");
                // What is left fails behind the fence, as an error.
                let text = tokenizer.encode(&"a".repeat(40_000)).unwrap_err().to_string();
                assert!(text.contains("tokenizer.json: tokenizer: "), "{text}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!expected.is_empty() && text.contains(expected), "{expected}: {text}");
                assert!(text.contains("tokenizer.json: tokenizer: "), "{text}");
            }
        }
    }
}

/// Metadata of small arbitrary arrays: refused or usable, never a panic.
fn arbitrary() -> impl Strategy<Value = Metadata> {
    let token = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("ab".to_owned()),
        Just("aba".to_owned()),
        Just("<0x41>".to_owned()),
        Just("▁".to_owned()),
        Just("<s>".to_owned()),
        ".{0,3}",
    ];
    let tokens = proptest::collection::vec((token, 0..8i32, -9i8..3), 0..12);
    let merges = proptest::collection::vec("[ab] ?[ab]{0,2}", 0..4);
    let model = prop_oneof![Just("gpt2"), Just("llama")];
    let pre = proptest::sample::select(vec!["smollm", "llama-bpe", "qwen2", "default"]);
    (model, pre, tokens, merges, proptest::option::of(0..14u32), any::<[bool; 4]>()).prop_map(
        |(model, pre, tokens, merges, bos, [types, scores, listed, add])| {
            let mut out = Metadata::new();
            let mut put = |key: &str, value| out.insert(format!("tokenizer.ggml.{key}"), value);
            put("model", text(model));
            put("pre", text(pre));
            put("tokens", Value::Array(tokens.iter().map(|t| text(&t.0)).collect()));
            if types {
                put("token_type", Value::Array(tokens.iter().map(|t| Value::I32(t.1)).collect()));
            }
            if scores {
                let all = tokens.iter().map(|t| Value::F32(t.2.into()));
                put("scores", Value::Array(all.collect()));
            }
            if listed {
                put("merges", Value::Array(merges.iter().map(|m| text(m)).collect()));
            }
            if let Some(bos) = bos {
                put("bos_token_id", Value::U32(bos));
                put("add_bos_token", Value::Bool(add));
            }
            out
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_metadata_is_refused_or_survives_being_written(metadata in arbitrary()) {
        let open = |metadata: &_| TextTokenizer::from_gguf(Path::new("m"), metadata);
        if let Ok(tokenizer) = open(&metadata) {
            let ids = tokenizer.encode("ab aba<s> b").unwrap();
            tokenizer.decode(&ids, true).unwrap();
            let again = open(&tokenizer.gguf_metadata(16).unwrap()).unwrap();
            prop_assert_eq!(again.encode("ab aba<s> b").unwrap(), ids);
            prop_assert_eq!(tokenizer.hf_files().unwrap().len(), 2);
        }
    }
}
