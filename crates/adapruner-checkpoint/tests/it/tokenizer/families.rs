//! GGUF metadata and folder give the ids that transformers gives.

use std::{collections::BTreeMap, sync::LazyLock};

use adapruner_checkpoint::{gguf::Value, tokenizer::TextTokenizer};
use proptest::prelude::*;

use super::{FAMILIES, check, expected, from_folder, from_gguf, metadata, texts};

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for family in FAMILIES {
        check(&from_folder(family), family);
        check(&from_gguf(&metadata(family)), family);
    }
}

#[test]
fn what_is_known_of_a_tokenizer_is_the_same_from_both() {
    for family in FAMILIES {
        let spm = family.starts_with("llama-spm");
        let (bos, eos) = if spm { ("<s>", "</s>") } else { ("<|bos|>", "<|im_end|>") };
        for tokenizer in [from_folder(family), from_gguf(&metadata(family))] {
            let id = |text: &str| match tokenizer.encode_plain(text).unwrap()[..] {
                [id] => Some(id),
                _ => None,
            };
            assert_eq!(tokenizer.bos_id(), id(bos));
            assert_eq!(tokenizer.eos_id(), id(eos));
            assert_eq!(tokenizer.pad_id(), id("<|im_start|>").filter(|_| !spm), "{family}");
            let adds_bos = !expected(family).ends[0].is_empty();
            assert_eq!(tokenizer.adds_bos(), adds_bos, "{family}");
            let mut special = vec![id("<|im_start|>"), id("<|im_end|>"), id(bos), id(eos)];
            special.extend(spm.then(|| id("<unk>")));
            special.sort();
            special.dedup();
            let found = tokenizer.special_ids().iter().copied().map(Some);
            assert_eq!(found.collect::<Vec<_>>(), special, "{family}");
            assert!(tokenizer.chat_template().unwrap().contains("<|im_start|>"));
            let words = metadata(family)["tokenizer.ggml.tokens"].as_array().unwrap().len();
            assert_eq!(tokenizer.vocab_size(), words - 2, "{family}: [PADn] is no token");
        }
    }
}

#[test]
fn byte_level_texts_come_back_whole() {
    for family in FAMILIES.into_iter().filter(|name| !name.starts_with("llama-spm")) {
        let tokenizer = from_gguf(&metadata(family));
        let nfc = ["qwen2", "command-r"].contains(&family);
        for text in texts().iter().filter(|text| !nfc || text.is_ascii()) {
            let ids = tokenizer.encode_plain(text).unwrap();
            assert_eq!(&tokenizer.decode(&ids, false).unwrap(), text, "{family}");
        }
    }
    for family in ["llama-spm", "llama-spm-no-prefix"] {
        let tokenizer = from_gguf(&metadata(family));
        for text in texts().iter().filter(|text| !text.contains(['▁', '<'])) {
            let ids = tokenizer.encode_plain(text).unwrap();
            assert_eq!(&tokenizer.decode(&ids, false).unwrap(), text, "{family}");
        }
    }
}

#[test]
fn other_names_of_a_pre_tokenizer_mean_the_same() {
    for (family, alias) in
        [("llama-bpe", "llama3"), ("llama-bpe", "llama-v3"), ("smollm", "starcoder")]
    {
        let mut metadata = metadata(family);
        metadata.insert("tokenizer.ggml.pre".into(), Value::String(alias.into()));
        check(&from_gguf(&metadata), family);
    }
    let mut metadata = metadata("default");
    metadata.remove("tokenizer.ggml.pre");
    check(&from_gguf(&metadata), "default");
}

#[test]
fn bos_and_eos_are_added_as_the_file_says() {
    for (family, default) in [("smollm", false), ("llama-bpe", true), ("llama-spm", true)] {
        let mut metadata = metadata(family);
        metadata.remove("tokenizer.ggml.add_eos_token");
        let ids = |metadata: &_| {
            let tokenizer = from_gguf(metadata);
            let (ids, plain) =
                (tokenizer.encode("a").unwrap(), tokenizer.encode_plain("a").unwrap());
            let ends = ids.len() - plain.len();
            (tokenizer.adds_bos(), ids[0] == tokenizer.bos_id().unwrap(), ends)
        };
        metadata.remove("tokenizer.ggml.add_bos_token");
        assert_eq!(ids(&metadata), (default, default, usize::from(default)));
        for says in [false, true] {
            metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(says));
            assert_eq!(ids(&metadata), (says, says, usize::from(says)));
        }
        metadata.insert("tokenizer.ggml.add_eos_token".into(), Value::Bool(true));
        assert_eq!(ids(&metadata), (true, true, 2));
    }
}

#[test]
fn equal_scores_stand_for_the_order_of_the_ids() {
    let mut metadata = metadata("llama-spm");
    let Some(Value::Array(scores)) = metadata.get_mut("tokenizer.ggml.scores") else {
        panic!("scores expected");
    };
    scores.fill(Value::F32(-999.0));
    check(&from_gguf(&metadata), "llama-spm");
}

static PAIRS: LazyLock<BTreeMap<&str, (TextTokenizer, TextTokenizer)>> = LazyLock::new(|| {
    let pair = |family| (family, (from_folder(family), from_gguf(&metadata(family))));
    FAMILIES.into_iter().map(pair).collect()
});

/// Words that meet the tokenizers' seams, among arbitrary ones.
fn text() -> impl Strategy<Value = String> {
    let seam = proptest::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'LL",
        "<|im_end|>",
        "<s>",
        "</s>",
        "▁",
        "12",
        "3456",
        "the",
        "The",
        "人",
        "é",
        "e\u{301}",
        "👍🏽",
        "   ",
        "...",
        "/\n",
        "<|user_defined|>",
    ]);
    let piece = prop_oneof![
        3 => seam.prop_map(str::to_owned),
        1 => "\\PC{0,6}",
        1 => any::<String>(),
        1 => "[a-zA-Z ']{0,12}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn gguf_and_folder_encode_alike(text in text()) {
        for (family, (folder, gguf)) in PAIRS.iter() {
            let ids = gguf.encode(&text).unwrap();
            prop_assert_eq!(&ids, &folder.encode(&text).unwrap(), "{}", family);
            let plain = gguf.encode_plain(&text).unwrap();
            prop_assert_eq!(&plain, &folder.encode_plain(&text).unwrap());
            prop_assert_eq!(gguf.decode(&ids, true).unwrap(), folder.decode(&ids, true).unwrap());
        }
    }
}
