//! The metadata of a GGUF file from a `tokenizer.json`.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::{
    TextTokenizer,
    bytes::is_byte,
    from_gguf::SPACE,
    keys::{self, Kind},
    merges, padding_token,
    pre::{self, Pre},
    spm,
};
use crate::{
    error::{Error, Result},
    gguf::{Metadata, Value, header::shown},
};

/// What to do about a tokenizer that GGUF cannot express.
const HINT: &str = "write a Hugging Face folder instead of a GGUF file";
/// Score of what only fills up the vocabulary, as llama.cpp's converter has it.
const UNUSED_SCORE: f32 = -10_000.0;
/// Score of tokens behind SentencePiece's own, likewise.
const BEHIND_SCORE: f32 = -1000.0;

fn text(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// The metadata that a GGUF file came with, filled up to `vocab_size` tokens.
pub(super) fn filled_up(
    tokenizer: &TextTokenizer,
    metadata: &Metadata,
    vocab_size: usize,
) -> Result<Metadata> {
    let mut metadata = metadata.clone();
    let count = metadata.get(keys::TOKENS).and_then(Value::as_array).map_or(0, <[_]>::len);
    if vocab_size > count {
        // Without types, what fills up would be text.
        let types = || Value::Array(vec![Value::I32(Kind::Normal.code()); count]);
        metadata.entry(keys::TOKEN_TYPE.to_owned()).or_insert_with(types);
    }
    for key in [keys::TOKENS, keys::TOKEN_TYPE, keys::SCORES] {
        let Some(Value::Array(values)) = metadata.get_mut(key) else { continue };
        values.truncate(vocab_size);
        // An array of another integer or float type stays of one type.
        let like = values.first().cloned();
        let filled = (values.len()..vocab_size).map(|id| match key {
            keys::TOKENS => text(padding_token(id)),
            keys::TOKEN_TYPE => alike(Value::I32(Kind::Unused.code()), like.as_ref()),
            _ => alike(Value::F32(UNUSED_SCORE), like.as_ref()),
        });
        values.extend(filled);
    }
    let added = metadata[keys::TOKENS].as_array().unwrap_or_default();
    check_padding(tokenizer, added.iter().filter_map(Value::as_str))?;
    Ok(metadata)
}

/// `value` in the type of `like`.
fn alike(value: Value, like: Option<&Value>) -> Value {
    let small = value.as_u64().and_then(|v| u8::try_from(v).ok());
    match (like, small, value.as_f64()) {
        (Some(Value::U8(_)), Some(v), _) => Value::U8(v),
        (Some(Value::U16(_)), Some(v), _) => Value::U16(v.into()),
        (Some(Value::U32(_)), Some(v), _) => Value::U32(v.into()),
        (Some(Value::U64(_)), Some(v), _) => Value::U64(v.into()),
        (Some(Value::I16(_)), Some(v), _) => Value::I16(v.into()),
        (Some(Value::I64(_)), Some(v), _) => Value::I64(v.into()),
        (Some(Value::F64(_)), _, Some(v)) => Value::F64(v),
        _ => value,
    }
}

/// Refuses a filling that is a token already.
fn check_padding<'a>(
    tokenizer: &TextTokenizer,
    tokens: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    match super::first_duplicate(tokens.into_iter().filter(|token| !token.is_empty())) {
        None => Ok(()),
        Some(token) => {
            let token = shown(token);
            Err(tokenizer
                .error(format!("token \"{token}\" would come twice, as an unused one too")))
        }
    }
}

/// The metadata of a tokenizer that came from a folder.
pub(super) fn metadata(tokenizer: &TextTokenizer, vocab_size: usize) -> Result<Metadata> {
    let json = tokenizer.json().ok_or_else(|| tokenizer.error("no tokenizer.json"))?;
    let json: Json = serde_json::from_slice(json).map_err(|e| tokenizer.error(e))?;
    let writer = Writer { tokenizer, json, vocab_size };
    writer.metadata()
}

struct Writer<'a> {
    tokenizer: &'a TextTokenizer,
    json: Json,
    vocab_size: usize,
}

/// A row of the vocabulary.
struct Row {
    text: String,
    kind: Kind,
}

impl Writer<'_> {
    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::Tokenizer { path: self.tokenizer.path.clone(), message: message.into() }.advise(HINT)
    }

    fn metadata(&self) -> Result<Metadata> {
        let model = &self.json["model"];
        // Old files do not name the type.
        let kind = model["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" || !model["merges"].is_array() {
            return Err(self.refuse(format!("a {kind} model is not supported in GGUF, only BPE")));
        }
        let mut out = if model["byte_fallback"] == true {
            self.sentence_piece()?
        } else {
            self.byte_level()?
        };
        let t = self.tokenizer;
        for (key, id) in [
            (keys::BOS, t.named.bos),
            (keys::EOS, t.named.eos),
            (keys::PAD, t.named.pad),
            (keys::UNK, t.named.unk),
        ] {
            if let Some(id) = id {
                out.insert(key.to_owned(), Value::U32(id));
            }
        }
        out.insert(keys::ADD_BOS.to_owned(), Value::Bool(t.adds_bos));
        out.insert(keys::ADD_EOS.to_owned(), Value::Bool(t.adds_eos));
        if let Some(template) = &t.chat_template {
            out.insert(keys::CHAT_TEMPLATE.to_owned(), text(template));
        }
        let unk = model["unk_token"].as_str().and_then(|text| t.inner.token_to_id(text));
        if let Some(id) = unk {
            out.insert(keys::UNK.to_owned(), Value::U32(id));
        }
        self.check_ends()?;
        Ok(out)
    }

    /// Holds what the tokenizer puts around a text against BOS and EOS, the
    /// only ones that GGUF can add.
    fn check_ends(&self) -> Result<()> {
        let t = self.tokenizer;
        let expected: Vec<u32> = t.named.bos.filter(|_| t.adds_bos).into_iter().collect();
        let expected =
            [expected, t.named.eos.filter(|_| t.adds_eos).into_iter().collect()].concat();
        let found = t.encode("")?;
        if found == expected {
            return Ok(());
        }
        Err(self.refuse(format!("it adds the tokens {found:?} to a text, GGUF only BOS and EOS")))
    }

    fn byte_level(&self) -> Result<Metadata> {
        let ignore_merges = self.json["model"]["ignore_merges"] == true;
        let unknown = |what: String| {
            let known = Pre::names();
            self.refuse(format!(
                "{what}: none of the pre-tokenizers that GGUF has names for ({known})"
            ))
        };
        let nfc = pre::is_nfc(&self.json["normalizer"]).ok_or_else(|| {
            unknown(format!("normalizer {}", shown(&self.json["normalizer"].to_string())))
        })?;
        let steps = pre::steps(&self.json["pre_tokenizer"]);
        let steps = steps.map_err(|what| unknown(format!("pre-tokenizer with {what}")))?;
        let pre = Pre::of_steps(&steps, nfc, ignore_merges).ok_or_else(|| {
            let nfc = if nfc { ", NFC" } else { "" };
            unknown(format!("pre-tokenizer {steps:?}{nfc}, ignore_merges {ignore_merges}"))
        })?;
        let rows = self.rows(|_| Kind::Normal)?;
        let merges = self.merges()?;
        let mut out = self.common("gpt2", pre.name, &rows);
        out.insert(keys::MERGES.to_owned(), self.written_merges(&merges)?);
        out.insert(keys::SPACE_PREFIX.to_owned(), Value::Bool(false));
        Ok(out)
    }

    fn written_merges(&self, merges: &[spm::Merge]) -> Result<Value> {
        let mut written = Vec::with_capacity(merges.len());
        for (left, right) in merges {
            // Where a merge is cut is where its first space is.
            if left.chars().skip(1).any(|c| c == ' ') {
                let left = shown(left);
                return Err(self.refuse(format!("a merge of \"{left}\", which has a space in it")));
            }
            written.push(text(format!("{left} {right}")));
        }
        Ok(Value::Array(written))
    }

    fn sentence_piece(&self) -> Result<Metadata> {
        let space_prefix = self.space_prefix()?;
        let unk = self.json["model"]["unk_token"].as_str();
        let unk = unk.and_then(|text| self.tokenizer.inner.token_to_id(text));
        let mut rows = self.rows(|text| if is_byte(text) { Kind::Byte } else { Kind::Normal })?;
        if let Some(row) = unk.and_then(|id| rows.get_mut(id as usize))
            && row.kind == Kind::Control
        {
            row.kind = Kind::Unknown;
        }
        let merges = self.merges()?;
        let ranks = spm::ranks(&merges);
        let pieces = self.json["model"]["vocab"].as_object().map_or(0, serde_json::Map::len);
        let mut last = ranks.len();
        let scores: Vec<f32> = rows
            .iter()
            .enumerate()
            .map(|(id, row)| match (row.kind, ranks.get(&row.text)) {
                (Kind::Unused, _) => UNUSED_SCORE,
                (Kind::Control | Kind::UserDefined, _) if id >= pieces => BEHIND_SCORE,
                (Kind::Control | Kind::Unknown | Kind::Byte, _) => 0.0,
                // Below 2^24 exact.
                (_, Some(rank)) => -(*rank as f32),
                (_, None) => {
                    last += 1;
                    -(last as f32)
                }
            })
            .collect();
        let mut out = self.common("llama", "default", &rows);
        self.add_merges(&mut out, &merges, &rows, &scores)?;
        let scores = scores.into_iter().map(Value::F32).collect();
        out.insert(keys::SCORES.to_owned(), Value::Array(scores));
        out.insert(keys::SPACE_PREFIX.to_owned(), Value::Bool(space_prefix));
        Ok(out)
    }

    /// Holds the merges against those that the scores stand for. The same set
    /// in another order is written out beside the scores; llama.cpp, which
    /// does not read it, joins equals from left to right in either case.
    fn add_merges(
        &self,
        out: &mut Metadata,
        merges: &[spm::Merge],
        rows: &[Row],
        scores: &[f32],
    ) -> Result<()> {
        let rows = rows.iter().zip(scores).enumerate();
        let pieces: Vec<(&str, u32, f32)> = rows
            .filter(|(_, (row, score))| {
                row.kind != Kind::Unused
                    && !(matches!(row.kind, Kind::Control | Kind::UserDefined)
                        && **score <= BEHIND_SCORE)
            })
            .map(|(id, (row, score))| (row.text.as_str(), id as u32, *score))
            .collect();
        let scored = spm::merges(&pieces);
        if scored == merges {
            return Ok(());
        }
        let own: HashSet<&spm::Merge> = merges.iter().collect();
        let all: HashSet<&spm::Merge> = scored.iter().collect();
        if let Some((left, right)) =
            scored.iter().chain(merges).find(|m| own.contains(m) != all.contains(m))
        {
            let (left, right) = (shown(left), shown(right));
            return Err(self.refuse(format!(
                "its merges cannot be written as SentencePiece's scores: \"{left}\" and \"{right}\" would not be joined alike"
            )));
        }
        out.insert(keys::MERGES.to_owned(), self.written_merges(merges)?);
        Ok(())
    }

    /// Whether a space is put in front of a text; refuses normalisation that
    /// is not SentencePiece's for Llama.
    fn space_prefix(&self) -> Result<bool> {
        let normalizer = &self.json["normalizer"];
        let pre_tokenizer = &self.json["pre_tokenizer"];
        let parts: Vec<&Json> = match normalizer["normalizers"].as_array() {
            Some(parts) => parts.iter().collect(),
            None if normalizer.is_null() => Vec::new(),
            None => vec![normalizer],
        };
        let prepend = |part: &Json| part["type"] == "Prepend" && part["prepend"] == SPACE;
        let replace = |part: &Json| {
            part["type"] == "Replace"
                && part["pattern"]["String"] == " "
                && part["content"] == SPACE
        };
        let metaspace = pre_tokenizer["type"] == "Metaspace"
            && pre_tokenizer["replacement"] == SPACE
            && pre_tokenizer["split"] == false;
        match parts[..] {
            [first, second] if prepend(first) && replace(second) && pre_tokenizer.is_null() => {
                Ok(true)
            }
            [only] if replace(only) && pre_tokenizer.is_null() => Ok(false),
            [] if metaspace => match pre_tokenizer["prepend_scheme"].as_str() {
                Some("never") => Ok(false),
                Some("always") => Ok(true),
                Some("first") => {
                    tracing::warn!(
                        "{}: in GGUF a space is put in front of text behind control tokens too",
                        self.tokenizer.path.display()
                    );
                    Ok(true)
                }
                _ => Err(self.refuse(format!("the pre-tokenizer {pre_tokenizer}"))),
            },
            _ => {
                let (n, p) = (normalizer.to_string(), pre_tokenizer.to_string());
                Err(self.refuse(format!(
                    "normalizer {} with pre-tokenizer {} has no equal in GGUF for BPE with byte fallback",
                    shown(&n),
                    shown(&p)
                )))
            }
        }
    }

    /// The vocabulary by id, filled up; `kind` of the tokens that are not
    /// added ones.
    fn rows(&self, kind: impl Fn(&str) -> Kind) -> Result<Vec<Row>> {
        let inner = &self.tokenizer.inner;
        let added = inner.get_added_tokens_decoder();
        let by_id: HashMap<u32, String> =
            inner.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
        let mut rows = Vec::with_capacity(by_id.len());
        for id in 0..self.vocab_size {
            let found = u32::try_from(id).ok().and_then(|id| Some((id, by_id.get(&id)?)));
            let Some((id, text)) = found else {
                rows.push(Row { text: padding_token(id), kind: Kind::Unused });
                continue;
            };
            let kind = match added.get(&id) {
                Some(token) if token.lstrip || token.rstrip || token.single_word => {
                    let message = format!(
                        "token \"{}\" depends on the spaces or words around it, which GGUF cannot say",
                        shown(text)
                    );
                    return Err(self.refuse(message));
                }
                Some(token) if token.special => Kind::Control,
                Some(_) => Kind::UserDefined,
                None => kind(text),
            };
            rows.push(Row { text: text.clone(), kind });
        }
        check_padding(self.tokenizer, rows.iter().map(|row| row.text.as_str()))?;
        Ok(rows)
    }

    fn merges(&self) -> Result<Vec<spm::Merge>> {
        let merges = merges::of(&self.json["model"]).map_err(|what| self.refuse(shown(&what)))?;
        Ok(merges.into_iter().map(|(l, r)| (l.to_owned(), r.to_owned())).collect())
    }

    /// What both kinds of tokenizer write.
    fn common(&self, model: &str, pre: &str, rows: &[Row]) -> Metadata {
        let tokens = rows.iter().map(|row| text(&row.text)).collect();
        let kinds = rows.iter().map(|row| Value::I32(row.kind.code())).collect();
        Metadata::from([
            (keys::MODEL.to_owned(), text(model)),
            (keys::PRE.to_owned(), text(pre)),
            (keys::TOKENS.to_owned(), Value::Array(tokens)),
            (keys::TOKEN_TYPE.to_owned(), Value::Array(kinds)),
        ])
    }
}
