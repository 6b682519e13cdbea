//! [`TextTokenizer`]: text as ids and back, whatever file the tokenizer stands
//! in, and the tokenizer as files again.
//!
//! Behind it is the `tokenizers` crate, so a Hugging Face folder encodes as
//! transformers does. What a GGUF file says is translated into the same
//! `tokenizer.json` that the model's own folder holds, and back:
//!
//! | module | what it holds |
//! |---|---|
//! | [`chat`] | conversations as text, by the model's Jinja template |
//! | `folder` | the files of a Hugging Face folder |
//! | `keys` | the `tokenizer.*` metadata, checked |
//! | `from_gguf` | metadata → tokenizer.json, tokenizer_config.json |
//! | `to_gguf` | tokenizer.json → metadata |
//! | `pre` | the pre-tokenizers that llama.cpp knows by name |
//! | `spm` | SentencePiece: scores → merges → scores |

pub mod chat;
pub(crate) mod folder;
mod from_gguf;
mod keys;
mod pre;
mod spm;
mod to_gguf;

use std::{
    collections::HashSet,
    ops::Range,
    path::{Path, PathBuf},
};

use tokenizers::Tokenizer;

use self::chat::ChatTemplate;
use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// A tokenizer with its special tokens and chat template.
///
/// Two ways lead to one and the same thing: encoding, decoding and writing do
/// not depend on the kind of file it was read from.
///
/// What GGUF cannot express is lost on the way through it: whether an added
/// token swallows the spaces around it (refused when written), and that some
/// SentencePiece tokenizers put no space in front of text that follows a
/// control token (llama.cpp always does).
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    path: PathBuf,
    source: Source,
    named: NamedTokens,
    special_ids: Vec<u32>,
    chat_template: Option<String>,
    /// The file that the template stands in, where it is another.
    template_file: Option<PathBuf>,
    vocab_size: usize,
    adds_bos: bool,
    adds_eos: bool,
}

/// What the tokenizer was read from, kept to be written again unchanged.
#[derive(Debug)]
enum Source {
    /// Files by name, `tokenizer.json` first.
    Folder(Vec<(String, Vec<u8>)>),
    /// The `tokenizer.*` keys and the length of the context.
    Gguf { metadata: Metadata, context: Option<u64> },
}

/// The tokens that have a role of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct NamedTokens {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` of a Hugging Face folder, with
    /// `tokenizer_config.json`, `special_tokens_map.json` and the files of chat
    /// templates (`chat_template.jinja`, `additional_chat_templates/`,
    /// `chat_template.json`) where they are.
    ///
    /// # Errors
    /// A file that is missing, malformed or absurdly large.
    pub fn from_hf_folder(dir: &Path) -> Result<Self> {
        folder::read(dir)
    }

    /// Builds the tokenizer of a GGUF file from its metadata; `path` is for
    /// messages.
    ///
    /// # Errors
    /// A tokenizer model or pre-tokenizer that this program does not know, by
    /// name; keys that are missing, of the wrong type or contradict each other.
    pub fn from_gguf(path: &Path, metadata: &Metadata) -> Result<Self> {
        from_gguf::read(path, metadata)
    }

    /// The parts common to both ways. The ids that are added are found by
    /// encoding nothing.
    fn new(
        mut inner: Tokenizer,
        path: &Path,
        source: Source,
        named: NamedTokens,
        chat_template: Option<String>,
    ) -> Result<Self> {
        let refuse = |message: String| Error::Tokenizer { path: path.into(), message };
        // As transformers: what a file says of these counts for no call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| refuse(e.to_string()))?;

        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let mut special_ids: Vec<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        special_ids.sort_unstable();
        let empty = inner.encode_fast("", true).map_err(|e| refuse(e.to_string()))?;
        let ends = empty.get_ids();
        let adds_bos = named.bos.is_some() && ends.first().copied() == named.bos;
        let rest = if adds_bos { &ends[1..] } else { ends };
        let adds_eos = named.eos.is_some() && rest.last().copied() == named.eos;
        Ok(Self {
            inner,
            path: path.to_path_buf(),
            source,
            named,
            special_ids,
            chat_template,
            template_file: None,
            vocab_size,
            adds_bos,
            adds_eos,
        })
    }

    fn error(&self, message: impl ToString) -> Error {
        Error::Tokenizer { path: self.path.clone(), message: message.to_string() }
    }

    /// Ids that the tokenizer can produce, one past the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids of `text`, with the special tokens that the tokenizer adds by
    /// default (BOS for Llama). Control tokens written out in the text become
    /// their ids.
    ///
    /// # Errors
    /// Where the tokenizer fails on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, true)
    }

    /// Ids of `text` alone, without special tokens around them.
    ///
    /// # Errors
    /// Where the tokenizer fails on this text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    /// Ids of `text` alone with the bytes of it that each stands for. Bytes of
    /// one character may belong to several tokens; all of them then get it
    /// whole.
    ///
    /// # Errors
    /// Where the tokenizer fails on this text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(|e| self.error(e))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| self.error(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`, without that of control tokens if `skip_special`.
    ///
    /// # Errors
    /// Ids that are none of the tokenizer's, or where it fails on them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab_size) {
            let size = self.vocab_size;
            return Err(self.error(format!("no token has id {id}, only those below {size}")));
        }
        self.inner.decode(ids, skip_special).map_err(|e| self.error(e))
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.named.bos
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.named.eos
    }

    /// The token that fills up a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.named.pad
    }

    /// Whether [`encode`](Self::encode) begins with BOS.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether [`encode`](Self::encode) ends with EOS.
    pub fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Ids of the control tokens, ascending.
    pub fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    /// The Jinja template of a conversation.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// That template, compiled; `None` where the model has none.
    ///
    /// # Errors
    /// A template that is not valid Jinja, or absurdly large.
    pub fn chat(&self) -> Result<Option<ChatTemplate>> {
        let Some(source) = &self.chat_template else { return Ok(None) };
        let NamedTokens { bos, eos, pad, unk } = self.named;
        let token = |(name, id): (&'static str, Option<u32>)| {
            id.and_then(|id| Some((name, self.inner.id_to_token(id)?)))
        };
        let tokens =
            [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)];
        let path = self.template_file.as_ref().unwrap_or(&self.path);
        ChatTemplate::new(path, source, tokens.into_iter().filter_map(token)).map(Some)
    }

    /// The files of this tokenizer in a Hugging Face folder, by name.
    ///
    /// Those that it was read from, byte for byte; made from the metadata if
    /// that was a GGUF file, so that `transformers.AutoTokenizer` opens them
    /// and encodes as this tokenizer does.
    ///
    /// # Errors
    /// None for a tokenizer that was read.
    pub fn hf_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        match &self.source {
            Source::Folder(files) => Ok(files.clone()),
            Source::Gguf { metadata, context } => {
                from_gguf::files(&self.path, metadata, *context, self.adds_bos, self.adds_eos)
            }
        }
    }

    /// All `tokenizer.*` keys of a GGUF file for a model of `vocab_size`
    /// tokens, the ids behind the tokenizer's own filled up with `[PADn]`.
    ///
    /// The keys it was read from, unchanged but for that filling; made from
    /// `tokenizer.json` if that was a folder.
    ///
    /// # Errors
    /// A vocabulary too small for the tokenizer; a tokenizer that llama.cpp
    /// has no name for or would apply differently.
    pub fn gguf_metadata(&self, vocab_size: usize) -> Result<Metadata> {
        if vocab_size < self.vocab_size {
            let own = self.vocab_size;
            let message = format!("{own} tokens do not fit into a vocabulary of {vocab_size}");
            return Err(self.error(message));
        }
        match &self.source {
            Source::Folder(_) => to_gguf::metadata(self, vocab_size),
            Source::Gguf { metadata, .. } => to_gguf::filled_up(self, metadata, vocab_size),
        }
    }

    /// The bytes of `tokenizer.json`, where it came from a folder.
    fn json(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Folder(files) => files.first().map(|(_, bytes)| bytes.as_slice()),
            Source::Gguf { .. } => None,
        }
    }
}

/// The text of a token that only fills up the vocabulary.
fn padding_token(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The first that comes twice.
fn first_duplicate<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
