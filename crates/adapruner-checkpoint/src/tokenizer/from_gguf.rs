//! A tokenizer from the metadata of a GGUF file, by way of the
//! `tokenizer.json` that the model's own folder would hold.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value as Json, json};

use super::{
    NamedTokens, Source, TextTokenizer, folder,
    keys::{self, Keys, Kind, Token},
    merges,
    pre::Pre,
    spm,
};
use crate::{
    error::{Error, Result},
    gguf::{Metadata, Value, header::shown},
};

/// Longest piece of SentencePiece in bytes that merges are looked for in; its
/// own limit is 16 characters.
const MAX_PIECE: usize = 512;

/// What SentencePiece puts in place of a space.
pub(super) const SPACE: &str = "▁";

pub(super) fn read(path: &Path, metadata: &Metadata) -> Result<TextTokenizer> {
    let own = |(key, _): &(&String, &Value)| key.starts_with("tokenizer.");
    let own = metadata.iter().filter(own).map(|(key, value)| (key.clone(), value.clone()));
    let architecture = metadata.get("general.architecture").and_then(Value::as_str);
    let context = architecture.and_then(|name| metadata.get(&format!("{name}.context_length")));
    assembled(path, own.collect(), context.and_then(Value::as_u64))
}

/// The tokenizer of `tokenizer.*` keys, for a model with this length of context.
pub(super) fn assembled(
    path: &Path,
    metadata: Metadata,
    context: Option<u64>,
) -> Result<TextTokenizer> {
    let built = build(Keys { path, metadata: &metadata })?;
    let inner = folder::load(path, built.json.to_string().as_bytes())?;
    let source = Source::Gguf { metadata, context };
    TextTokenizer::new(inner, path, source, built.named, built.chat_template)
}

/// The files of a Hugging Face folder.
pub(super) fn files(
    path: &Path,
    metadata: &Metadata,
    context: Option<u64>,
    adds_bos: bool,
    adds_eos: bool,
) -> Result<Vec<(String, Vec<u8>)>> {
    let built = build(Keys { path, metadata })?;
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "add_eos_token": adds_eos,
        "clean_up_tokenization_spaces": false,
    });
    let NamedTokens { bos, eos, pad, unk } = built.named;
    // transformers makes an added token of each: only what is one already.
    let added = |id: u32| {
        let tokens = built.json["added_tokens"].as_array()?;
        tokens.iter().find(|token| token["id"] == id).map(|token| token["content"].clone())
    };
    for (role, id) in [("bos", bos), ("eos", eos), ("pad", pad), ("unk", unk)] {
        if let Some(text) = id.and_then(added) {
            config[format!("{role}_token")] = text;
        }
    }
    if let Some(context) = context {
        config["model_max_length"] = context.into();
    }
    if let Some(template) = built.chat_template {
        config["chat_template"] = template.into();
    }
    let pretty = |json: &Json| {
        let bytes = serde_json::to_vec_pretty(json);
        bytes.map_err(|e| Error::Tokenizer { path: path.into(), message: e.to_string() })
    };
    Ok(vec![
        (folder::TOKENIZER.to_owned(), pretty(&built.json)?),
        (folder::CONFIG.to_owned(), pretty(&config)?),
    ])
}

/// What metadata says, in Hugging Face's terms.
pub(super) struct Built {
    /// `tokenizer.json`.
    pub json: Json,
    named: NamedTokens,
    chat_template: Option<String>,
}

pub(super) fn build(keys: Keys<'_>) -> Result<Built> {
    let model = keys.text(keys::MODEL)?.ok_or_else(|| keys.missing(keys::MODEL))?;
    let (tokens, count) = keys.tokens()?;
    let mut named = keys.named(count)?;
    let (mut json, default_bos) = match model {
        "gpt2" => byte_level(keys, &tokens)?,
        "llama" => {
            llama_defaults(&mut named, &tokens);
            (sentence_piece(keys, &tokens, count, named)?, true)
        }
        _ => {
            let message = format!(
                "metadata key {}: tokenizer model {} is not supported, only gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
                keys::MODEL,
                shown(model)
            );
            return Err(Error::Tokenizer { path: keys.path.into(), message });
        }
    };
    let adds_bos = keys.adds(keys::ADD_BOS, named.bos, keys::BOS, default_bos)?;
    let adds_eos = keys.adds(keys::ADD_EOS, named.eos, keys::EOS, false)?;
    let token = |id: Option<u32>, adds: bool| {
        let token = id.filter(|_| adds).and_then(|id| tokens.iter().find(|token| token.id == id));
        token.map(|token| (token.id, token.text.to_owned()))
    };
    json["post_processor"] =
        folder::template_processing(token(named.bos, adds_bos), token(named.eos, adds_eos));
    let chat_template = keys.text(keys::CHAT_TEMPLATE)?.map(str::to_owned);
    Ok(Built { json, named, chat_template })
}

/// What llama.cpp takes for the named tokens of SentencePiece where a file
/// does not say.
fn llama_defaults(named: &mut NamedTokens, tokens: &[Token<'_>]) {
    let of_kind = |id: u32, kind: Kind| {
        tokens.iter().find(|token| token.id == id && token.kind == kind).map(|token| token.id)
    };
    named.bos = named.bos.or_else(|| of_kind(1, Kind::Control));
    named.eos = named.eos.or_else(|| of_kind(2, Kind::Control));
    named.unk = named.unk.or_else(|| of_kind(0, Kind::Unknown));
}

/// tokenizer.json without its post-processor.
fn outline(tokens: &[Token<'_>], normalizer: Json, pre_tokenizer: Json, decoder: Json) -> Json {
    let added = tokens.iter().filter_map(|token| {
        let special = match token.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Unused | Kind::Byte => return None,
        };
        Some(json!({
            "id": token.id,
            "content": token.text,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": special,
        }))
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
    })
}

fn bpe(tokens: &[Token<'_>], merges: Json) -> Json {
    let vocab = tokens.iter().map(|token| (token.text.to_owned(), token.id.into()));
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab.collect::<Map<_, _>>(),
        "merges": merges,
    })
}

/// tokenizer.json of byte-level BPE, and whether BOS is added by default.
fn byte_level(keys: Keys<'_>, tokens: &[Token<'_>]) -> Result<(Json, bool)> {
    let name = keys.text(keys::PRE)?.unwrap_or_else(|| {
        tracing::warn!(
            "{}: no {}: text is cut as llama.cpp does by default, perhaps not as in training",
            keys.path.display(),
            keys::PRE
        );
        "default"
    });
    let pre = Pre::named(name).ok_or_else(|| {
        let known = Pre::names();
        let message = format!("pre-tokenizer {} is not supported, only {known}", shown(name));
        let error = keys.error(keys::PRE, message);
        error.advise("use the model's Hugging Face folder instead of the GGUF file")
    })?;
    let merges = keys.list(keys::MERGES, "a string", Value::as_str)?;
    let merges = merges.ok_or_else(|| keys.missing(keys::MERGES))?;
    let merges = listed_merges(keys, &merges, tokens)?;
    let decoder = json!({
        "type": "ByteLevel",
        "add_prefix_space": true,
        "trim_offsets": true,
        "use_regex": true,
    });
    let mut json = outline(tokens, pre.normalizer(), pre.pre_tokenizer(), decoder);
    json["model"] = bpe(tokens, merges);
    json["model"]["ignore_merges"] = pre.ignore_merges.into();
    Ok((json, pre.adds_bos))
}

/// The merges of a file, each of two known tokens that together are a third.
fn listed_merges(keys: Keys<'_>, merges: &[&str], tokens: &[Token<'_>]) -> Result<Json> {
    let known: HashSet<&str> = tokens.iter().map(|token| token.text).collect();
    let mut joined = String::new();
    let mut list = Vec::with_capacity(merges.len());
    for (at, merge) in merges.iter().enumerate() {
        let refuse = |message| {
            keys.error(keys::MERGES, format!("merge {at} (\"{}\"): {message}", shown(merge)))
        };
        let Some((left, right)) = merges::cut(merge) else {
            return Err(refuse("two tokens expected".to_owned()));
        };
        joined.clear();
        joined.extend([left, right]);
        for token in [left, right, &joined] {
            if !known.contains(token) {
                return Err(refuse(format!("\"{}\" is no token", shown(token))));
            }
        }
        list.push(json!([left, right]));
    }
    Ok(list.into())
}

fn sentence_piece(
    keys: Keys<'_>,
    tokens: &[Token<'_>],
    count: usize,
    named: NamedTokens,
) -> Result<Json> {
    let merges = match keys.list(keys::MERGES, "a string", Value::as_str)? {
        Some(merges) => listed_merges(keys, &merges, tokens)?,
        None => json!(scored_merges(keys, tokens, count)?),
    };
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders =
        vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if keys.flag(keys::SPACE_PREFIX)?.unwrap_or(true) {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut json = outline(
        tokens,
        json!({"type": "Sequence", "normalizers": normalizers}),
        Json::Null,
        json!({"type": "Sequence", "decoders": decoders}),
    );
    json["model"] = bpe(tokens, merges);
    let unk = named.unk.and_then(|id| tokens.iter().find(|token| token.id == id));
    json["model"]["unk_token"] = unk.map_or(Json::Null, |token| token.text.into());
    json["model"]["fuse_unk"] = true.into();
    json["model"]["byte_fallback"] = true.into();
    Ok(json)
}

/// Merges from the scores of the pieces.
fn scored_merges(keys: Keys<'_>, tokens: &[Token<'_>], count: usize) -> Result<Vec<spm::Merge>> {
    let finite = |value: &Value| value.as_f64().filter(|score| score.is_finite());
    let scores = keys.list_of(keys::SCORES, "a finite number", count, finite)?;
    let scores = scores.ok_or_else(|| keys.missing(keys::SCORES))?;
    // Converters give -1000 to tokens that are not SentencePiece's own but
    // were added behind it.
    let behind = |token: &Token<'_>| {
        matches!(token.kind, Kind::Control | Kind::UserDefined)
            && scores[token.id as usize] <= -1000.0
    };
    let pieces: Vec<&Token<'_>> = tokens.iter().filter(|token| !behind(token)).collect();
    if let Some(token) = pieces.iter().find(|token| token.text.len() > MAX_PIECE) {
        let (id, length) = (token.id, token.text.len());
        let message = format!("token {id} has {length} bytes, at most {MAX_PIECE} expected");
        return Err(keys.error(keys::TOKENS, message));
    }
    // Converters that had no scores at hand gave all pieces the same; what is
    // left of their order is that of the ids.
    let normal = pieces.iter().filter(|token| token.kind == Kind::Normal);
    let mut normal = normal.map(|token| scores[token.id as usize]);
    let first = normal.next();
    let flat = first.is_some() && normal.all(|score| Some(score) == first);
    let scored: Vec<(&str, u32, f32)> = pieces
        .iter()
        .map(|token| {
            // Zero has one sign only, as in a comparison.
            let score = scores[token.id as usize] as f32 + 0.0;
            (token.text, token.id, if flat { -(token.id as f32) } else { score })
        })
        .collect();
    Ok(spm::merges(&scored))
}
