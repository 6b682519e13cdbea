//! The `tokenizer.*` metadata of a GGUF file, checked before use.

use std::path::Path;

use super::{NamedTokens, first_duplicate, padding_token};
use crate::{
    error::{Error, Result},
    gguf::{Metadata, Value, header::shown},
};

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const PAD: &str = "tokenizer.ggml.padding_token_id";
pub(super) const UNK: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Longest token in bytes; the longest of published models have some 512
/// (runs of spaces).
const MAX_TOKEN: usize = 4096;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of text.
    Normal,
    /// Stands for what no other token does.
    Unknown,
    /// Says something about the text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Nothing becomes it.
    Unused,
    /// One byte.
    Byte,
}

impl Kind {
    /// The type of a GGUF number; 0 ("undefined") is treated as 1 there too.
    fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// GGUF's number.
    pub fn code(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// A token of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub id: u32,
    pub text: &'a str,
    pub kind: Kind,
}

/// The metadata with the file's name for messages.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub metadata: &'a Metadata,
}

impl<'a> Keys<'a> {
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        let message = format!("metadata key {key}: {message}");
        Error::Tokenizer { path: self.path.into(), message }
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| self.error(key, format!("{kind} expected")))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", Value::as_bool)
    }

    /// The elements of an array of one type.
    pub fn list<T>(
        &self,
        key: &str,
        kind: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(values) = self.typed(key, "an array", Value::as_array)? else { return Ok(None) };
        let element = |(at, value)| {
            get(value).ok_or_else(|| self.error(key, format!("element {at}: {kind} expected")))
        };
        values.iter().enumerate().map(element).collect::<Result<_>>().map(Some)
    }

    /// An array with an element for each token.
    pub fn list_of<T>(
        &self,
        key: &str,
        kind: &str,
        count: usize,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(list) = self.list(key, kind, get)? else { return Ok(None) };
        if list.len() == count {
            return Ok(Some(list));
        }
        let found = list.len();
        Err(self.error(key, format!("{count} elements expected, one a token, {found} found")))
    }

    pub fn missing(&self, key: &str) -> Error {
        self.error(key, "missing")
    }

    /// All tokens but those that only fill up the vocabulary, and how many
    /// there are with them.
    pub fn tokens(&self) -> Result<(Vec<Token<'a>>, usize)> {
        let texts = self.list(TOKENS, "a string", Value::as_str)?;
        let texts = texts.ok_or_else(|| self.missing(TOKENS))?;
        let count = texts.len();
        if count == 0 || u32::try_from(count).is_err() {
            return Err(self.error(TOKENS, format!("{count} tokens")));
        }
        let codes = self.list_of(TOKEN_TYPE, "a type from 0 to 6", count, |value| {
            value.as_u64().and_then(Kind::from_code)
        })?;
        let kinds = codes.unwrap_or_else(|| vec![Kind::Normal; count]);
        // Nothing becomes an empty token; llama.cpp renames it.
        let named = texts.iter().copied().filter(|text| !text.is_empty());
        if let Some(text) = first_duplicate(named) {
            return Err(self.error(TOKENS, format!("token \"{}\" comes twice", shown(text))));
        }
        let mut tokens = Vec::with_capacity(count);
        for (at, (text, kind)) in texts.into_iter().zip(kinds).enumerate() {
            if text.len() > MAX_TOKEN {
                let length = text.len();
                let message =
                    format!("token {at} has {length} bytes, at most {MAX_TOKEN} expected");
                return Err(self.error(TOKENS, message));
            }
            if !text.is_empty() && (kind != Kind::Unused || text != padding_token(at)) {
                // In range: their number is.
                tokens.push(Token { id: at as u32, text, kind });
            }
        }
        Ok((tokens, count))
    }

    /// The id under a key.
    pub fn id(&self, key: &str, count: usize) -> Result<Option<u32>> {
        let Some(id) = self.typed(key, "a non-negative integer", Value::as_u64)? else {
            return Ok(None);
        };
        match u32::try_from(id) {
            Ok(id) if (id as usize) < count => Ok(Some(id)),
            _ => Err(self.error(key, format!("id {id} is outside the vocabulary of {count}"))),
        }
    }

    /// The tokens with a role that the file names.
    pub fn named(&self, count: usize) -> Result<NamedTokens> {
        Ok(NamedTokens {
            bos: self.id(BOS, count)?,
            eos: self.id(EOS, count)?,
            pad: self.id(PAD, count)?,
            unk: self.id(UNK, count)?,
        })
    }

    /// Whether the token of an id is added, `default` where the file does not
    /// say and there is such a token.
    pub fn adds(&self, key: &str, id: Option<u32>, id_key: &str, default: bool) -> Result<bool> {
        match (self.flag(key)?, id) {
            (Some(true), None) => Err(self.error(key, format!("true, but {id_key} is missing"))),
            (flag, Some(_)) => Ok(flag.unwrap_or(default)),
            (Some(false) | None, None) => Ok(false),
        }
    }
}
