//! Token windows and where they were cut.

use super::{Content, Text};
use crate::{
    digest::Digest,
    error::{Error, Result},
    tokenizer::TextTokenizer,
};

/// Windows of token ids, all of one length, cut from a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// The text's name.
    pub name: String,
    /// The windows, in the order in which they are used.
    pub windows: Vec<Vec<u32>>,
    /// Where each window comes from.
    pub sources: Vec<Source>,
    /// What the sources' document numbers count.
    pub cut: Cut,
    /// The digest of the text.
    pub text_digest: Digest,
    /// The digest of the windows' ids.
    pub digest: Digest,
    /// Tokens of the text after the last window of [`windows`](Self::windows);
    /// 0 for [`samples`](Self::samples), which do not read a text to its end.
    pub dropped: usize,
}

/// Where a window was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The document, counted from 0; see [`Cut`].
    pub document: usize,
    /// The window's first token, counted from 0 in the tokens of the document.
    pub start: usize,
}

/// What windows were cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The joined text, tokenised once: it is document 0.
    Joined,
    /// Single documents, or paragraphs of plain text.
    Documents,
    /// Rows of given token ids.
    Rows,
}

/// The digest of rows of ids.
pub(super) fn digest(rows: &[Vec<u32>]) -> Digest {
    let bytes: Vec<Vec<u8>> =
        rows.iter().map(|row| row.iter().flat_map(|id| id.to_le_bytes()).collect()).collect();
    Digest::of_parts(bytes.iter().map(|row| ("row", row.as_slice())))
}

impl TokenSet {
    /// The perplexity protocol of the literature: the documents joined,
    /// tokenised once with the tokenizer's own special tokens, cut into
    /// windows of `window` tokens that do not overlap; the remainder is dropped.
    /// Given ids are concatenated and cut the same way. `limit` keeps the first
    /// windows only.
    ///
    /// Of the named set `c4` the first 1100 documents are the text, as in GPTQ
    /// and its successors.
    ///
    /// # Errors
    /// A window of fewer than two tokens (nothing to predict), a limit of 0, a
    /// text shorter than one window, a given id beyond the vocabulary.
    pub fn windows(
        text: &Text,
        tokenizer: &TextTokenizer,
        window: usize,
        limit: Option<usize>,
    ) -> Result<Self> {
        check_length(text, "window", window)?;
        if limit == Some(0) {
            return Err(text.error("a limit of 0 windows leaves nothing"));
        }
        let ids = match &text.content {
            Content::Documents { documents, joiner } => {
                tokenizer.encode(&text.joined(documents, joiner))?
            }
            Content::Ids(rows) => {
                check_vocabulary(text, rows, tokenizer.vocab_size())?;
                rows.concat()
            }
        };
        if ids.len() < window {
            let found = ids.len();
            return Err(too_short(text, format!("{found} tokens, one window needs {window}")));
        }
        let windows: Vec<Vec<u32>> = ids
            .chunks_exact(window)
            .take(limit.unwrap_or(usize::MAX))
            .map(<[u32]>::to_vec)
            .collect();
        let sources = (0..windows.len()).map(|i| Source { document: 0, start: i * window });
        let dropped = ids.len() - windows.len() * window;
        Ok(Self::new(text, windows, sources.collect(), Cut::Joined, dropped))
    }

    /// So many of the windows, spread evenly over the text; all of them where
    /// there are no more.
    #[must_use]
    pub fn spread(&self, windows: usize) -> Self {
        let all = self.windows.len();
        if windows >= all {
            return self.clone();
        }
        let picked = (0..windows).map(|i| i * all / windows);
        let (kept, sources): (Vec<_>, Vec<_>) =
            picked.map(|at| (self.windows[at].clone(), self.sources[at])).unzip();
        Self { digest: digest(&kept), windows: kept, sources, ..self.clone() }
    }

    /// Windows that were cut before, each a row of its own.
    pub fn of_rows(name: &str, text_digest: Digest, windows: Vec<Vec<u32>>) -> Self {
        Self {
            name: name.to_owned(),
            sources: (0..windows.len()).map(|document| Source { document, start: 0 }).collect(),
            cut: Cut::Rows,
            text_digest,
            digest: digest(&windows),
            windows,
            dropped: 0,
        }
    }

    pub(super) fn new(
        text: &Text,
        windows: Vec<Vec<u32>>,
        sources: Vec<Source>,
        cut: Cut,
        dropped: usize,
    ) -> Self {
        Self {
            name: text.name.clone(),
            digest: digest(&windows),
            text_digest: text.digest,
            windows,
            sources,
            cut,
            dropped,
        }
    }
}

/// Refuses windows in which there is nothing to predict.
pub(super) fn check_length(text: &Text, what: &str, tokens: usize) -> Result<()> {
    if tokens < 2 {
        let message = format!("a {what} of {tokens} tokens: at least 2, one to predict the other");
        return Err(text.error(message));
    }
    Ok(())
}

/// Refuses given ids that the tokenizer does not know.
pub(super) fn check_vocabulary(text: &Text, rows: &[Vec<u32>], vocabulary: usize) -> Result<()> {
    for (number, row) in rows.iter().enumerate() {
        if let Some((at, id)) = row.iter().enumerate().find(|(_, id)| **id as usize >= vocabulary) {
            let message = format!(
                "row {number}, place {at}: id {id} is beyond the vocabulary of {vocabulary}"
            );
            return Err(text
                .error(message)
                .advise("the ids must be those of this model's tokenizer"));
        }
    }
    Ok(())
}

pub(super) fn too_short(text: &Text, message: String) -> Error {
    text.error(message).advise("give a longer text, or ask for fewer or shorter windows")
}
