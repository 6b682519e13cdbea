//! A tokenizer restricted to some of its tokens: its files or metadata are rewritten without
//! the others, with every id renumbered, and read again.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value as Json};

use super::{Source, TextTokenizer, folder, from_gguf, keys, merges};
use crate::{
    error::Result,
    gguf::{Metadata, Value},
};

/// Which ids stay, and what they become.
#[derive(Debug)]
pub(crate) struct Kept {
    /// By old id.
    new: Vec<Option<u32>>,
}

impl Kept {
    /// The ids of `kept`, ascending, become 0, 1, … of a vocabulary of `rows`; an error
    /// in words.
    pub fn new(kept: &[u32], rows: usize) -> Result<Self, String> {
        let mut new = vec![None; rows];
        let mut before = None;
        for (at, &id) in (0..).zip(kept) {
            if before.is_some_and(|before| before >= id) {
                return Err(format!("kept ids must ascend, {id} does not"));
            }
            before = Some(id);
            match new.get_mut(id as usize) {
                Some(slot) => *slot = Some(at),
                None => return Err(format!("id {id} is kept, the vocabulary has {rows}")),
            }
        }
        Ok(Self { new })
    }

    /// What `id` becomes; `None` where it goes.
    pub fn get(&self, id: u32) -> Option<u32> {
        self.new.get(id as usize).copied().flatten()
    }

    /// What an id in JSON becomes.
    pub fn json(&self, id: &Json) -> Option<Json> {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok())?;
        self.get(id).map(Json::from)
    }

    /// Renumbers an id in place, and leaves what is none or goes.
    fn renumber(&self, id: &mut Json) {
        if let Some(new) = self.json(id) {
            *id = new;
        }
    }
}

impl TextTokenizer {
    /// The tokenizer with the tokens of `kept` (ascending) alone, which become the ids 0,
    /// 1, …, for a model of `rows` embedding rows.
    ///
    /// # Errors
    /// Ids that do not ascend or have no token; a tokenizer that does not give every
    /// kept token its new id.
    pub fn trimmed(&self, kept: &[u32], rows: usize) -> Result<Self> {
        let refuse =
            |message: String| self.error(format!("its vocabulary cannot be trimmed: {message}"));
        let ids = Kept::new(kept, self.vocab_size()).map_err(refuse)?;
        let mut trimmed = match &self.source {
            Source::Folder(files) => {
                let files = files.iter().map(|(name, bytes)| {
                    let bytes = self.rewritten(name, bytes, &ids)?;
                    Ok((name.clone(), bytes))
                });
                let files = files.collect::<Result<Vec<_>>>()?;
                let dir = self.path.parent().unwrap_or(Path::new(""));
                let template = (self.template_file.clone(), self.chat_template.clone());
                folder::assembled(dir, files, template)?
            }
            Source::Gguf { metadata, context } => {
                from_gguf::assembled(&self.path, rewritten_metadata(metadata, &ids), *context)?
            }
        };
        let found = trimmed.pieces(kept.len());
        for (new, &old) in kept.iter().enumerate() {
            let expected = self.inner.id_to_token(old);
            let token = expected.as_deref().unwrap_or_default();
            if expected.is_none() {
                return Err(refuse(format!("id {old} is kept, but has no token")));
            }
            if found[new] != expected {
                let found = found[new].as_deref().unwrap_or_default();
                return Err(refuse(format!("id {new} would be {found:?}, not {token:?}")));
            }
        }
        if trimmed.vocab_size != kept.len() {
            let (expected, found) = (kept.len(), trimmed.vocab_size);
            return Err(refuse(format!("{expected} tokens expected, {found} found")));
        }
        trimmed.bind(rows)?;
        Ok(trimmed)
    }

    /// A file of a folder.
    fn rewritten(&self, name: &str, bytes: &[u8], ids: &Kept) -> Result<Vec<u8>> {
        let rewrite: fn(&mut Json, &Kept) = match name {
            folder::TOKENIZER => tokenizer,
            folder::CONFIG => config,
            folder::ADDED => added_tokens,
            // Templates and names of roles have no ids.
            _ => return Ok(bytes.to_vec()),
        };
        let mut json: Json = serde_json::from_slice(bytes).map_err(|e| self.error(e))?;
        rewrite(&mut json, ids);
        serde_json::to_vec_pretty(&json).map_err(|e| self.error(e))
    }
}

/// `tokenizer.json`.
fn tokenizer(json: &mut Json, ids: &Kept) {
    let model = &mut json["model"];
    // Before the vocabulary, by which texts are known.
    let vocab = model["vocab"].as_object().into_iter().flatten();
    let kept = vocab.filter(|(_, id)| ids.json(id).is_some());
    let pieces: HashSet<String> = kept.map(|(text, _)| text.clone()).collect();
    if let Some(list) = model.get_mut("merges").and_then(Json::as_array_mut) {
        let mut joined = String::new();
        list.retain(|merge| {
            let Some((left, right)) = merges::pair(merge) else { return true };
            joined.clear();
            joined.extend([left, right]);
            merges::is_heading(merge)
                || [left, right, &joined].iter().all(|text| pieces.contains(*text))
        });
    }
    match model.get_mut("vocab") {
        Some(Json::Object(vocab)) => {
            let kept = vocab.iter().filter_map(|(text, id)| Some((text.clone(), ids.json(id)?)));
            *vocab = kept.collect();
        }
        Some(Json::Array(list)) => {
            let mut id = 0;
            list.retain(|_| {
                id += 1;
                ids.get(id - 1).is_some()
            });
        }
        Some(_) | None => {}
    }
    if let Some(id) = model.get_mut("unk_id") {
        ids.renumber(id);
    }
    if let Some(list) = json.get_mut("added_tokens").and_then(Json::as_array_mut) {
        list.retain(|token| ids.json(&token["id"]).is_some());
        list.iter_mut().for_each(|token| ids.renumber(&mut token["id"]));
        // The library numbers them in their order.
        list.sort_by_key(|token| token["id"].as_u64());
    }
    if let Some(id) = json.get_mut("padding").and_then(|padding| padding.get_mut("pad_id")) {
        ids.renumber(id);
    }
    if let Some(processor) = json.get_mut("post_processor") {
        post_processor(processor, ids);
    }
}

/// The tokens that are put around a text.
fn post_processor(part: &mut Json, ids: &Kept) {
    if let Some(steps) = part.get_mut("processors").and_then(Json::as_array_mut) {
        steps.iter_mut().for_each(|step| post_processor(step, ids));
    }
    if let Some(tokens) = part.get_mut("special_tokens").and_then(Json::as_object_mut) {
        for (_, token) in tokens.iter_mut() {
            let list = token.get_mut("ids").and_then(Json::as_array_mut);
            list.into_iter().flatten().for_each(|id| ids.renumber(id));
        }
    }
    for key in ["sep", "cls"] {
        if let Some(id) = part.get_mut(key).and_then(|pair| pair.get_mut(1)) {
            ids.renumber(id);
        }
    }
}

/// `tokenizer_config.json`.
fn config(json: &mut Json, ids: &Kept) {
    if let Some(Json::Object(table)) = json.get_mut("added_tokens_decoder") {
        let mut kept: Vec<(u32, Json)> = table
            .iter()
            .filter_map(|(id, token)| Some((ids.get(id.parse().ok()?)?, token.clone())))
            .collect();
        kept.sort_by_key(|(id, _)| *id);
        *table = kept.into_iter().map(|(id, token)| (id.to_string(), token)).collect();
    }
}

/// `added_tokens.json`.
fn added_tokens(json: &mut Json, ids: &Kept) {
    if let Json::Object(table) = json {
        let kept = table.iter().filter_map(|(text, id)| Some((text.clone(), ids.json(id)?)));
        *table = kept.collect::<Map<_, _>>();
    }
}

/// The `tokenizer.*` keys of a GGUF file.
fn rewritten_metadata(metadata: &Metadata, ids: &Kept) -> Metadata {
    let of_id = |id: usize| u32::try_from(id).ok().and_then(|id| ids.get(id));
    let tokens = metadata.get(keys::TOKENS).and_then(Value::as_array).unwrap_or_default();
    let kept = tokens.iter().enumerate().filter(|(id, _)| of_id(*id).is_some());
    let pieces: HashSet<&str> = kept.filter_map(|(_, text)| text.as_str()).collect();
    let mut out = Metadata::new();
    for (key, value) in metadata {
        let value = match (key.as_str(), value) {
            (keys::TOKENS | keys::TOKEN_TYPE | keys::SCORES, Value::Array(values)) => {
                let kept = values.iter().enumerate().filter(|(id, _)| of_id(*id).is_some());
                Value::Array(kept.map(|(_, value)| value.clone()).collect())
            }
            (keys::MERGES, Value::Array(values)) => {
                let mut joined = String::new();
                let kept = values.iter().filter(|merge| {
                    let Some((left, right)) = merge.as_str().and_then(merges::cut) else {
                        return false;
                    };
                    joined.clear();
                    joined.extend([left, right]);
                    [left, right, &joined].iter().all(|text| pieces.contains(*text))
                });
                Value::Array(kept.cloned().collect())
            }
            // A whole tokenizer.json, which would be another one now.
            ("tokenizer.huggingface.json", _) => continue,
            (key, value) if key.ends_with("_token_id") => {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                match id.and_then(|id| ids.get(id)) {
                    Some(id) => Value::U32(id),
                    None => continue,
                }
            }
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    out
}

/// `generation_config.json` with its ids renumbered; ids that go are left out of lists.
/// `padding` ids are never to be generated.
pub(crate) fn generation_config(
    config: Option<&Json>,
    ids: &Kept,
    padding: std::ops::Range<u32>,
) -> Option<Json> {
    if config.is_none() && padding.is_empty() {
        return None;
    }
    let mut out = Map::new();
    for (key, value) in config.and_then(Json::as_object).into_iter().flatten() {
        let value = match key.as_str() {
            "suppress_tokens" | "begin_suppress_tokens" | "bad_words_ids" | "force_words_ids" => {
                listed(value, ids)
            }
            "forced_decoder_ids" => paired(value, 1, ids),
            "sequence_bias" => paired(value, 0, ids),
            key if key.ends_with("_token_id") => listed(value, ids),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if !padding.is_empty() {
        let mut all = out.get("suppress_tokens").and_then(Json::as_array).cloned();
        let all = all.get_or_insert_default();
        all.extend(padding.map(Json::from));
        out.insert("suppress_tokens".to_owned(), std::mem::take(all).into());
    }
    Some(Json::Object(out))
}

/// An id or lists of ids, nested; a list of lists loses those that hold an id that goes.
fn listed(value: &Json, ids: &Kept) -> Json {
    match value {
        Json::Number(_) => ids.json(value).unwrap_or(Json::Null),
        Json::Array(list) => {
            let whole = |item: &&Json| !has_gone(item, ids);
            list.iter().filter(whole).map(|item| listed(item, ids)).collect()
        }
        Json::Null | Json::Bool(_) | Json::String(_) | Json::Object(_) => value.clone(),
    }
}

/// A list of pairs of which element `at` is an id, or a list of ids; pairs of ids that go
/// are left out.
fn paired(value: &Json, at: usize, ids: &Kept) -> Json {
    let Json::Array(list) = value else { return value.clone() };
    let stays = list.iter().filter(|pair| pair.get(at).is_some_and(|of| !has_gone(of, ids)));
    let pair = |pair: &Json| {
        let mut pair = pair.clone();
        pair[at] = listed(&pair[at], ids);
        pair
    };
    stays.map(pair).collect()
}

/// Whether an id, or one in a list of ids, goes.
fn has_gone(value: &Json, ids: &Kept) -> bool {
    match value {
        Json::Number(_) => ids.json(value).is_none(),
        Json::Array(list) => list.iter().any(|item| item.is_number() && has_gone(item, ids)),
        Json::Null | Json::Bool(_) | Json::String(_) | Json::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
