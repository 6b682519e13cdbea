//! [`TextTokenizer`]: encodes and decodes text, reads the tokenizer from any format, and writes
//! it.
//!
//! Behind it is the `tokenizers` crate, so a Hugging Face folder encodes as transformers does.
//! The metadata of a GGUF file are translated into the `tokenizer.json` that the model's own
//! folder holds, and back:
//!
//! | module | content |
//! |---|---|
//! | [`chat`] | conversations as text, by the model's Jinja template |
//! | `added` | added tokens from files beside `tokenizer.json` |
//! | `bytes` | how many bytes of text each token stands for |
//! | `check`, `charsmap` | what a `tokenizer.json` may hold |
//! | `folder` | the files of a Hugging Face folder |
//! | `keys` | the `tokenizer.*` metadata, checked |
//! | `from_gguf` | metadata → tokenizer.json, tokenizer_config.json |
//! | `to_gguf` | tokenizer.json → metadata |
//! | `merges` | the merges of byte-pair encoding, as both formats write them |
//! | `pieces` | text of any length, piece by piece |
//! | `pre` | the pre-tokenizers that llama.cpp knows by name |
//! | `spm` | SentencePiece: scores → merges → scores |
//! | `trimmed` | a tokenizer restricted to some of its tokens |
//! | [`vocabulary`] | which tokens must stay, and the replacements of the others |

mod added;
mod bytes;
mod charsmap;
pub mod chat;
mod check;
pub(crate) mod folder;
mod from_gguf;
mod keys;
mod merges;
mod pieces;
mod pre;
mod spm;
mod to_gguf;
pub(crate) mod trimmed;
pub mod vocabulary;

use std::{
    collections::HashSet,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
};

use tokenizers::Tokenizer;

use self::{
    chat::ChatTemplate,
    pieces::{Limits, Pieces},
};
use crate::{
    error::{Error, Result},
    fence::fenced,
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
    /// The file of the template, if it is another.
    template_file: Option<PathBuf>,
    vocab_size: usize,
    /// Rows of the model's embedding, where a model is known.
    model_vocab: Option<usize>,
    /// Ids that are added before and after a text by default.
    ends: [Vec<u32>; 2],
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

/// A token of a text.
#[derive(Debug, Clone)]
struct Token {
    id: u32,
    /// Which part of the text it lies in, as pre-tokenizing splits it.
    word: Option<u32>,
    /// Its position in the text.
    bytes: Range<usize>,
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

    /// Builds the tokenizer of a `tokenizer.json` alone, from the file's bytes.
    ///
    /// # Errors
    /// JSON that is malformed or no tokenizer.
    pub fn from_json(json: Vec<u8>) -> Result<Self> {
        let files = vec![(folder::TOKENIZER.to_owned(), json)];
        folder::assembled(Path::new(""), files, (None, None))
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
        let ends = ends(&inner).map_err(refuse)?;
        if let Some(id) = ends.iter().flatten().find(|id| inner.id_to_token(**id).is_none()) {
            let message = "which is none of its own";
            return Err(refuse(format!("post_processor: it adds the token {id}, {message}")));
        }
        let [before, after] = &ends;
        let adds_bos = named.bos.is_some() && before.first().copied() == named.bos;
        let rest = if adds_bos { &before[1..] } else { &before[..] };
        let last = after.last().or(rest.last()).copied();
        let adds_eos = named.eos.is_some() && last == named.eos;
        Ok(Self {
            inner,
            path: path.to_path_buf(),
            source,
            named,
            special_ids,
            chat_template,
            template_file: None,
            vocab_size,
            model_vocab: None,
            ends,
            adds_bos,
            adds_eos,
        })
    }

    fn error(&self, message: impl ToString) -> Error {
        Error::Tokenizer { path: self.path.clone(), message: message.to_string() }
    }

    /// Binds the tokenizer to a model whose embedding has `vocab` rows. transformers
    /// opens a model with more tokens as long as none of them is used: added
    /// tokens beyond the embedding are left, and a text that holds one is an error.
    ///
    /// # Errors
    /// Ids beyond the embedding that are no added tokens, or that the tokenizer
    /// adds to every text.
    pub(crate) fn bind(&mut self, vocab: usize) -> Result<()> {
        let beyond = |id: &u32| *id as usize >= vocab;
        let size = self.vocab_size;
        if size <= vocab {
            self.model_vocab = Some(vocab);
            return Ok(());
        }
        let added = self.inner.get_added_tokens_decoder();
        let mut own = self.inner.get_vocab(false).into_values();
        if own.any(|id| beyond(&id) && !added.contains_key(&id))
            || self.ends.iter().flatten().any(beyond)
        {
            let last = size - 1;
            let message =
                format!("it has ids up to {last}, but the model's vocabulary has only {vocab}");
            return Err(self.error(message));
        }
        let names: Vec<&str> = added
            .iter()
            .filter(|(id, _)| beyond(id))
            .map(|(_, token)| token.content.as_str())
            .collect();
        tracing::warn!(
            "{}: {} added tokens ({}{}) are beyond the model's vocabulary of {vocab}; texts must not hold them",
            self.path.display(),
            names.len(),
            names[0],
            if names.len() > 1 { ", …" } else { "" }
        );
        let NamedTokens { bos, eos, pad, unk } = &mut self.named;
        for role in [bos, eos, pad, unk] {
            *role = role.filter(|id| !beyond(id));
        }
        self.special_ids.retain(|id| !beyond(id));
        self.model_vocab = Some(vocab);
        Ok(())
    }

    /// The ids below `vocab` that stand for nothing: rows that fill up an
    /// embedding, and gaps.
    pub fn unassigned_ids(&self, vocab: usize) -> Vec<u32> {
        let known: HashSet<u32> = self.inner.get_vocab(true).into_values().collect();
        let ids = (0..vocab).map_while(|id| u32::try_from(id).ok());
        ids.filter(|id| !known.contains(id)).collect()
    }

    /// Ids that the tokenizer can produce for its model, one past the largest.
    pub fn vocab_size(&self) -> usize {
        self.model_vocab.map_or(self.vocab_size, |vocab| vocab.min(self.vocab_size))
    }

    /// Ids of `text`, with the special tokens that the tokenizer adds by
    /// default (BOS for Llama). Control tokens written out in the text become
    /// their ids. Long texts are encoded piece by piece, with the same ids.
    ///
    /// # Errors
    /// Where the tokenizer fails on this text; a run of 2 MiB without a place
    /// to cut.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, true)
    }

    /// Ids of `text` alone, without special tokens around them.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    /// Encodes a text of any length in bounded memory: takes its parts one
    /// after the other, in any sizes, and hands their ids to `visit` as soon as
    /// they are certain, some tens of thousands at a time. All that `visit` is
    /// handed is together what [`encode`](Self::encode) (`special`) or
    /// [`encode_plain`](Self::encode_plain) gives for the whole text. No part is
    /// taken after `visit` returns [`ControlFlow::Break`], and that is what is
    /// returned then.
    ///
    /// Memory beside the parts: some tens of MiB, a few hundred for a text with
    /// runs of up to 2 MiB that cannot be cut.
    ///
    /// ```
    /// # use std::{ops::ControlFlow, path::Path};
    /// # use adapruner_checkpoint::{Error, tokenizer::TextTokenizer};
    /// # let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/smollm");
    /// let tokenizer = TextTokenizer::from_hf_folder(&folder)?;
    /// let mut ids = Vec::new();
    /// let parts = ["The quick bro", "wn fox"].into_iter().map(Ok::<_, Error>);
    /// let _ = tokenizer.encode_pieces(parts, true, |piece| {
    ///     ids.extend_from_slice(piece);
    ///     Ok(if ids.len() < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    /// })?;
    /// assert_eq!(ids, tokenizer.encode("The quick brown fox")?);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the parts and of `visit`; where the tokenizer fails on a piece
    /// or a run of 2 MiB has no place to cut, with the byte of the text where.
    pub fn encode_pieces<T: AsRef<str>, E: From<Error>>(
        &self,
        parts: impl IntoIterator<Item = Result<T, E>>,
        special: bool,
        mut visit: impl FnMut(&[u32]) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        self.encode_pieces_of(Limits::DEFAULT, parts, special, &mut visit)
    }

    fn encode_pieces_of<T: AsRef<str>, E: From<Error>>(
        &self,
        limits: Limits,
        parts: impl IntoIterator<Item = Result<T, E>>,
        special: bool,
        visit: &mut pieces::Visit<'_, E>,
    ) -> Result<ControlFlow<()>, E> {
        let [before, after] = &self.ends;
        let mut on = |ids: &[u32]| match ids.is_empty() {
            true => Ok(ControlFlow::Continue(())),
            false => visit(ids),
        };
        if special && on(before)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut pieces = Pieces::new(self, limits);
        for part in parts {
            if pieces.push(part?.as_ref(), &mut on)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if pieces.finish(&mut on)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if special { on(after) } else { Ok(ControlFlow::Continue(())) }
    }

    /// Ids of `text` alone with the bytes of it that each stands for. Bytes of
    /// one character may belong to several tokens; all of them then get it
    /// whole.
    ///
    /// # Errors
    /// A text of more than 2 MiB; where the tokenizer fails on this text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let (bytes, most) = (text.len(), Limits::DEFAULT.most);
        if bytes > most {
            let message = format!("a text of {bytes} bytes, at most {most} expected");
            return Err(self.error(message));
        }
        let tokens = self.tokens_window(text).map_err(|e| self.error(e))?;
        Ok(tokens.into_iter().map(|token| (token.id, token.bytes)).collect())
    }

    /// Tokens of a text of bounded length; an error in words.
    fn tokens_window(&self, text: &str) -> Result<Vec<Token>, String> {
        let encoding = fenced(|| self.inner.encode(text, false))?.map_err(|e| e.to_string())?;
        self.check_ids(encoding.get_ids().iter().copied())?;
        let ids = encoding.get_ids().iter().zip(encoding.get_word_ids());
        let tokens = ids.zip(encoding.get_offsets());
        Ok(tokens
            .map(|((&id, &word), &(start, end))| Token { id, word, bytes: start..end })
            .collect())
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        if text.len() <= Limits::DEFAULT.whole() {
            return self.encoded_window(text, special).map_err(|e| self.error(e));
        }
        let mut ids = Vec::new();
        let _ = self.encode_pieces([Ok::<_, Error>(text)], special, |piece| {
            ids.extend_from_slice(piece);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(ids)
    }

    /// Ids of a text of bounded length; an error in words.
    fn encoded_window(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let encoding = fenced(|| self.inner.encode_fast(text, special))?;
        let ids = encoding.map_err(|e| e.to_string())?.get_ids().to_vec();
        self.check_ids(ids.iter().copied())?;
        Ok(ids)
    }

    /// Refuses ids beyond the model's embedding; an error in words.
    fn check_ids(&self, mut ids: impl Iterator<Item = u32>) -> Result<(), String> {
        let Some(vocab) = self.model_vocab else { return Ok(()) };
        let Some(id) = ids.find(|id| *id as usize >= vocab) else { return Ok(()) };
        let token = self.inner.id_to_token(id).unwrap_or_default();
        Err(format!("token {token:?} has id {id}, beyond the model's vocabulary of {vocab}"))
    }

    /// Text of `ids`, without that of control tokens if `skip_special`.
    ///
    /// # Errors
    /// Ids that are none of the tokenizer's, or where it fails on them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let size = self.vocab_size();
        if let Some(id) = ids.iter().find(|id| **id as usize >= size) {
            return Err(self.error(format!("no token has id {id}, only those below {size}")));
        }
        let text = fenced(|| self.inner.decode(ids, skip_special));
        text.map_err(|e| self.error(e))?.map_err(|e| self.error(e))
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
    /// and encodes as this tokenizer does. A class that transformers 5 builds a
    /// tokenizer of its own for, unlike `tokenizer.json`, is replaced.
    ///
    /// # Errors
    /// None for a tokenizer that was read.
    pub fn hf_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        match &self.source {
            Source::Folder(files) => folder::written(self, files),
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
        let own = self.vocab_size();
        if vocab_size < own {
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

/// The ids that a tokenizer adds before and after a text by default; an error in
/// words where it adds others.
fn ends(inner: &Tokenizer) -> Result<[Vec<u32>; 2], String> {
    let ids = |text: &str, special| {
        let encoding = fenced(|| inner.encode_fast(text, special));
        Ok::<_, String>(encoding?.map_err(|e| e.to_string())?.get_ids().to_vec())
    };
    // Any text that has ids shows where those that are added stand.
    for text in ["a", "1", "é", " ", "人"] {
        let (all, own) = (ids(text, true)?, ids(text, false)?);
        if own.is_empty() {
            continue;
        }
        let added = all.len().checked_sub(own.len());
        // The empty text says how much of it is before, should that be unclear.
        let places = (0..=added.unwrap_or(0)).filter(|&at| all[at..].starts_with(&own));
        let empty = ids("", true)?;
        let place =
            places.into_iter().find(|&at| [&all[..at], &all[at + own.len()..]].concat() == empty);
        let Some(at) = place.filter(|_| added.is_some()) else {
            return Err("post_processor: it does not only put tokens around a text".into());
        };
        return Ok([all[..at].to_vec(), all[at + own.len()..].to_vec()]);
    }
    Ok([ids("", true)?, Vec::new()])
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
