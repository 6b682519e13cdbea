//! Every family with some of its tokens: texts go there and back, kept tokens are reached,
//! and what used no removed token keeps its ids.

use std::{path::PathBuf, sync::LazyLock};

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokenizers::Model;

use super::*;
use crate::{
    gguf::Header,
    tokenizer::vocabulary::{Role, Vocabulary},
};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn folder_of(family: &str) -> TextTokenizer {
    TextTokenizer::from_hf_folder(&fixtures().join(family)).unwrap()
}

fn gguf_of(family: &str) -> TextTokenizer {
    let bytes = std::fs::read(fixtures().join(family).join("tokenizer.gguf")).unwrap();
    let metadata = Header::parse(&bytes).unwrap().metadata;
    TextTokenizer::from_gguf(Path::new("model.gguf"), &metadata).unwrap()
}

fn edited(json: &Json) -> TextTokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    TextTokenizer::from_hf_folder(folder.path()).unwrap()
}

fn file(family: &str) -> Json {
    let bytes = std::fs::read(fixtures().join(family).join("tokenizer.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// A Unigram, with bytes to fall back on or without.
fn unigram(byte_fallback: bool) -> TextTokenizer {
    let mut pieces: Vec<(String, f64)> = vec![("<unk>".into(), 0.0)];
    if byte_fallback {
        pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), -20.0)));
    }
    let words = [
        "▁", "a", "b", "e", "h", "l", "o", "r", "t", "w", "d", "x", "人", "é", "th", "he", "lo",
        "ll", "the", "▁the", "▁th", "wor", "world", "▁world", "hello", "▁hello", "人人", "aa",
        "aaaa", "中文",
    ];
    let score = |(at, word): (usize, &&str)| (-2.0 - 0.31 * at as f64) / word.len() as f64 - 3.0;
    pieces.extend(words.iter().enumerate().map(|(at, w)| ((*w).to_owned(), score((at, w)))));
    // Segmented otherwise, so that no text becomes it.
    pieces.push(("ab".into(), -50.0));
    let mut json = file("llama-spm");
    json["added_tokens"] = json!([]);
    json["post_processor"] = Json::Null;
    json["normalizer"] = Json::Null;
    json["pre_tokenizer"] = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true,
    });
    json["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
    ]});
    json["model"] = json!({
        "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": byte_fallback,
    });
    edited(&json)
}

static TOKENIZERS: LazyLock<Vec<(String, TextTokenizer, Vocabulary)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let family = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            all.push((format!("{family} folder"), folder_of(&family)));
            all.push((format!("{family} gguf"), gguf_of(&family)));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(all.len(), 26);
    all.push(("unigram".into(), unigram(false)));
    all.push(("unigram with bytes".into(), unigram(true)));
    let with = |(name, tokenizer): (String, TextTokenizer)| {
        let vocabulary = tokenizer.vocabulary(tokenizer.vocab_size(), &[]).unwrap();
        (name, tokenizer, vocabulary)
    };
    all.into_iter().map(with).collect()
});

/// What must stay, those of the free tokens that `drawn` says, and what they need.
fn closed(vocabulary: &Vocabulary, drawn: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut kept: std::collections::BTreeSet<u32> = vocabulary.of_role(Role::Required).collect();
    let mut open: Vec<u32> = vocabulary.of_role(Role::Free).filter(|id| drawn(*id)).collect();
    while let Some(id) = open.pop() {
        if kept.insert(id) {
            open.extend_from_slice(vocabulary.needs(id));
        }
    }
    kept.into_iter().collect()
}

fn texts() -> Vec<String> {
    let bytes = std::fs::read(fixtures().join("texts.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The same pseudo-random choice of tokens for a seed.
fn drawn(seed: u64, share: u64) -> impl Fn(u32) -> bool {
    move |id| {
        let mixed = (u64::from(id) + 1).wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) % 100 < share
    }
}

fn check(name: &str, whole: &TextTokenizer, trimmed: &TextTokenizer, kept: &[u32], text: &str) {
    let before = whole.encode(text).unwrap();
    let after = trimmed.encode(text).unwrap();
    assert!(after.iter().all(|id| (*id as usize) < kept.len()), "{name}: {text:?}");
    // There and back, as far as the whole vocabulary brings a text back.
    let (was, is) = (whole.decode(&before, false), trimmed.decode(&after, false));
    assert_eq!(is.unwrap(), was.unwrap(), "{name}: {text:?}");
    // The new ids' tokens are those of the old ones, and where no token went, the same.
    let mapped: Vec<u32> = after.iter().map(|id| kept[*id as usize]).collect();
    if before.iter().all(|id| kept.binary_search(id).is_ok()) {
        assert_eq!(mapped, before, "{name}: {text:?}");
    } else {
        assert!(after.len() >= before.len(), "{name}: {text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn texts_go_there_and_back_with_the_same_ids_where_no_token_went(
        seed in any::<u64>(),
        share in 0..100_u64,
        text in "[a-z ▁人é👍🏽\n\0-\u{ff}中文0-9\\PC]{0,60}",
    ) {
        for (name, whole, vocabulary) in TOKENIZERS.iter() {
            let kept = closed(vocabulary, drawn(seed, share));
            let trimmed = whole.trimmed(&kept, kept.len()).unwrap();
            check(name, whole, &trimmed, &kept, &text);
        }
    }
}

#[test]
fn every_kept_token_is_reached_and_every_text_encoded() {
    for (name, whole, vocabulary) in TOKENIZERS.iter() {
        for (seed, share) in [(1, 0), (2, 20), (3, 60), (4, 100)] {
            let kept = closed(vocabulary, drawn(seed, share));
            let trimmed = whole.trimmed(&kept, kept.len()).unwrap();
            let free: Vec<u32> =
                kept.iter().copied().filter(|id| vocabulary.role(*id) == Role::Free).collect();
            assert!(share < 100 || free.len() > 12, "{name}: {}", free.len());
            for id in free {
                let piece = whole.inner.id_to_token(id).unwrap();
                let found = trimmed.inner.get_model().tokenize(&piece).unwrap();
                let found: Vec<&str> = found.iter().map(|token| token.value.as_str()).collect();
                assert_eq!(found, [piece.as_str()], "{name}, share {share}");
            }
            for text in texts() {
                check(name, whole, &trimmed, &kept, &text);
            }
        }
    }
}

#[test]
fn unreachable_pieces_are_told_and_words_of_their_own_are_none() {
    let (_, tokenizer, vocabulary) = TOKENIZERS.iter().find(|(n, ..)| n == "unigram").unwrap();
    let id = |text: &str| tokenizer.inner.token_to_id(text).unwrap();
    assert_eq!(vocabulary.role(id("ab")), Role::Unreachable);
    assert_eq!(vocabulary.role(id("a")), Role::Required);
    // A word that no merge makes, which the flag keeps whole.
    let (_, tokenizer, vocabulary) =
        TOKENIZERS.iter().find(|(n, ..)| n == "llama-bpe folder").unwrap();
    let jumps = tokenizer.inner.token_to_id("Ġjumps").unwrap();
    assert_eq!(vocabulary.role(jumps), Role::Free);
    assert!(vocabulary.needs(jumps).len() > 2);
}

#[test]
fn both_formats_of_a_trimmed_tokenizer_are_the_same() {
    for family in ["smollm", "qwen2", "llama-bpe", "llama-spm", "llama-spm-no-prefix"] {
        let whole = folder_of(family);
        let vocabulary = whole.vocabulary(whole.vocab_size(), &[]).unwrap();
        let kept = closed(&vocabulary, drawn(7, 50));
        let rows = kept.len() + 3;
        let trimmed = whole.trimmed(&kept, rows).unwrap();
        let metadata = trimmed.gguf_metadata(rows).unwrap();
        let through = TextTokenizer::from_gguf(Path::new("m.gguf"), &metadata).unwrap();
        let direct = gguf_of(family).trimmed(&kept, rows).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in direct.hf_files().unwrap() {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let back = TextTokenizer::from_hf_folder(folder.path()).unwrap();
        assert_eq!(trimmed.unassigned_ids(rows).len(), 3, "{family}");
        for other in [&through, &direct, &back] {
            assert_eq!(other.named, trimmed.named, "{family}");
            assert_eq!(other.special_ids(), trimmed.special_ids(), "{family}");
            for text in texts() {
                let (expected, found) = (trimmed.encode(&text), other.encode(&text));
                assert_eq!(found.unwrap(), expected.unwrap(), "{family}: {text:?}");
            }
        }
    }
}

#[test]
fn tokenizers_that_cannot_be_trimmed_are_refused_by_name() {
    let refused = |json: &Json| {
        let tokenizer = edited(json);
        let error = tokenizer.vocabulary(tokenizer.vocab_size(), &[]).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string()
    };
    let mut words = file("gpt-2");
    words["added_tokens"] = json!([]);
    words["post_processor"] = Json::Null;
    words["model"] = json!({"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0},
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
    assert!(refused(&words).contains("a WordPiece model, only BPE"), "{}", refused(&words));
    let mut characters = file("gpt-2");
    characters["decoder"] = Json::Null;
    assert!(refused(&characters).contains("BPE of characters without byte fallback"));
    let mut suffix = file("gpt-2");
    suffix["model"]["end_of_word_suffix"] = "</w>".into();
    assert!(refused(&suffix).contains("BPE with end_of_word_suffix"));
    let tokenizer = folder_of("smollm");
    let size = tokenizer.vocab_size();
    let beyond = tokenizer.vocabulary(size - 1, &[]).unwrap_err().to_string();
    assert!(beyond.contains("the model's embedding"), "{beyond}");
    let unknown = tokenizer.vocabulary(size + 8, &[size as u32 + 2]).unwrap_err().to_string();
    assert!(unknown.contains("has no token"), "{unknown}");
    for (kept, said) in [
        (vec![3, 2], "must ascend"),
        (vec![2, 2], "must ascend"),
        (vec![0, size as u32], "is kept, the vocabulary has"),
        // Special tokens that the files name would be added again.
        ((0..10).collect(), "tokens expected"),
    ] {
        let error = tokenizer.trimmed(&kept, kept.len()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn ids_in_configurations_follow() {
    let ids = Kept::new(&[0, 2, 5, 9], 10).unwrap();
    let config = json!({
        "bos_token_id": 2, "eos_token_id": [5, 9], "pad_token_id": null, "temperature": 0.6,
        "suppress_tokens": [1, 2, 9], "begin_suppress_tokens": [3], "max_length": 9,
        "bad_words_ids": [[2, 5], [2, 3]], "forced_decoder_ids": [[1, 5], [2, 4]],
        "sequence_bias": [[[9, 2], -1.5], [[4], 2.0]], "decoder_start_token_id": 0,
    });
    let expected = json!({
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": null, "temperature": 0.6,
        "suppress_tokens": [1, 3, 4, 5], "begin_suppress_tokens": [], "max_length": 9,
        "bad_words_ids": [[1, 2]], "forced_decoder_ids": [[1, 2]],
        "sequence_bias": [[[3, 1], -1.5]], "decoder_start_token_id": 0,
    });
    assert_eq!(generation_config(Some(&config), &ids, 4..6), Some(expected));
    assert_eq!(generation_config(None, &ids, 4..4), None);
    assert_eq!(generation_config(None, &ids, 4..5), Some(json!({"suppress_tokens": [4]})));
}

#[test]
fn damaged_tokenizers_are_refused_or_trimmed() {
    for family in ["smollm", "llama-spm"] {
        let seed = std::fs::read(fixtures().join(family).join("tokenizer.json")).unwrap();
        let (mut read, mut done) = (0, 0);
        for bytes in adapruner_testing::mutations(&[seed], 5).take(1500) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
            let Ok(tokenizer) = TextTokenizer::from_hf_folder(folder.path()) else { continue };
            let size = tokenizer.vocab_size();
            if size > 1 << 20 {
                continue;
            }
            read += 1;
            let Ok(vocabulary) = tokenizer.vocabulary(size, &[]) else { continue };
            let kept = closed(&vocabulary, drawn(3, 40));
            let Ok(trimmed) = tokenizer.trimmed(&kept, kept.len()) else { continue };
            done += 1;
            for text in ["a the 人 \0\n", "😀 hello"] {
                if let (Ok(_), Ok(after)) = (tokenizer.encode(text), trimmed.encode(text)) {
                    assert!(after.iter().all(|id| (*id as usize) < kept.len()));
                }
            }
        }
        assert!(read > 10 && done > 5, "{family}: {read} read, {done} trimmed");
    }
}
