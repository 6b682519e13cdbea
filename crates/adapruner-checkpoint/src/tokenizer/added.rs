//! Added tokens that stand beside `tokenizer.json`.
//!
//! transformers (`PreTrainedTokenizerFast`) adds them to what the file holds:
//! those of `added_tokens_decoder` in `tokenizer_config.json`, or without that key
//! those of `added_tokens.json`, and every token with a role of its own that is
//! no added token yet. Text keeps all of them whole.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value as Json};
use tokenizers::{AddedToken, Tokenizer};

use super::check::MAX_TEXT;

/// The roles of single tokens, in transformers' order.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Further tokens, as a list or a table.
const FURTHER: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The files beside `tokenizer.json`; null where there is none.
pub(super) struct Beside<'a> {
    /// `tokenizer_config.json`.
    pub config: &'a Json,
    /// `special_tokens_map.json`.
    pub map: &'a Json,
    /// `added_tokens.json`.
    pub added: &'a Json,
    /// Texts of roles that the tokenizer's class gives where the files do not.
    pub defaults: &'a [(&'static str, &'static str)],
}

impl Beside<'_> {
    /// What the files say of `key`: with `added_tokens_decoder` the configuration
    /// counts first, without it, as in older folders, the map.
    fn said(&self, key: &str) -> &Json {
        let (first, second) = match self.config["added_tokens_decoder"].is_object() {
            true => (&self.config[key], &self.map[key]),
            false => (&self.map[key], &self.config[key]),
        };
        if first.is_null() { second } else { first }
    }

    /// The text of the token with a role.
    pub fn role(&self, role: &str) -> Option<&str> {
        let default =
            || self.defaults.iter().find(|(name, _)| *name == role).map(|(_, text)| *text);
        text(self.said(role)).or_else(default)
    }

    /// Every token with a role, as a file writes it.
    fn special(&self) -> Vec<Json> {
        let mut all = Vec::new();
        for role in ROLES {
            let said = self.said(role);
            match text(said) {
                Some(_) => all.push(said.clone()),
                None => all.extend(self.role(role).map(Json::from)),
            }
        }
        for key in FURTHER {
            match self.said(key) {
                Json::Array(list) => all.extend(list.iter().cloned()),
                Json::Object(table) => all.extend(table.values().cloned()),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
            }
        }
        all.retain(|token| text(token).is_some_and(|text| !text.is_empty()));
        all
    }

    /// Adds the tokens to `tokenizer`; an error in words for an entry that is
    /// none.
    pub fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        let special = self.special();
        let names: HashSet<&str> = special.iter().filter_map(text).collect();
        let mut tokens: Vec<(Option<u32>, AddedToken)> = Vec::new();
        for (id, mut token) in self.decoder(&names)? {
            token.special |= names.contains(token.content.as_str());
            tokens.push((Some(id), token));
        }
        let mut known: HashSet<String> =
            tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        known.extend(tokens.iter().map(|(_, token)| token.content.clone()));
        for name in special.iter().filter_map(text) {
            if known.insert(name.to_owned()) {
                tokens.push((None, AddedToken::from(name, true)));
            }
        }
        if let Some((_, token)) = tokens.iter().find(|(_, token)| token.content.len() > MAX_TEXT) {
            let bytes = token.content.len();
            return Err(format!("an added token of {bytes} bytes, at most {MAX_TEXT} expected"));
        }
        let added = tokenizer.add_tokens(tokens.iter().map(|(_, token)| token.clone()));
        added.map_err(|error| error.to_string())?;
        for (said, token) in &tokens {
            let (Some(said), Some(id)) = (*said, tokenizer.token_to_id(&token.content)) else {
                continue;
            };
            if said != id {
                let token = &token.content;
                tracing::warn!("added token {token:?} has id {id}, not {said} as the files say");
            }
        }
        Ok(())
    }

    /// The tokens that files list with their ids.
    fn decoder(&self, special: &HashSet<&str>) -> Result<BTreeMap<u32, AddedToken>, String> {
        let mut tokens = BTreeMap::new();
        if let Some(table) = self.config["added_tokens_decoder"].as_object() {
            for (id, entry) in table {
                let broken = |what| format!("added_tokens_decoder[{id:?}]: {what}");
                let number = id.parse().map_err(|_| broken("a token id expected"))?;
                let entry = entry.as_object().ok_or_else(|| broken("an object expected"))?;
                let token = of_entry(entry).ok_or_else(|| broken("content expected"))?;
                tokens.insert(number, token);
            }
            return Ok(tokens);
        }
        for (name, id) in self.added.as_object().into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id =
                id.ok_or_else(|| format!("added_tokens.json: {name:?}: a token id expected"))?;
            let special = special.contains(name.as_str());
            tokens.insert(id, AddedToken::from(name.as_str(), special));
        }
        Ok(tokens)
    }
}

/// A token's text: a string, or an object that holds it.
pub(super) fn text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// An entry of `added_tokens_decoder`, with transformers' defaults.
fn of_entry(entry: &Map<String, Json>) -> Option<AddedToken> {
    let flag = |key: &str, default| entry.get(key).and_then(Json::as_bool).unwrap_or(default);
    let special = flag("special", false);
    let token = AddedToken::from(entry.get("content")?.as_str()?, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special));
    Some(token)
}
