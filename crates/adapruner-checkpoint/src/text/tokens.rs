//! Token windows and where they were cut.

use std::ops::ControlFlow;

use super::{Passage, Text};
use crate::{
    digest::{Digest, Parts},
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
    /// Tokens of the text after its last whole window; `None` where the text was
    /// not tokenised to its end (a limit, samples).
    pub dropped: Option<usize>,
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
    let mut digest = Parts::default();
    let mut bytes = Vec::new();
    for row in rows {
        bytes.clear();
        bytes.extend(row.iter().flat_map(|id| id.to_le_bytes()));
        digest.add("row", &bytes);
    }
    digest.finish()
}

impl TokenSet {
    /// The perplexity protocol of the literature: the documents joined,
    /// tokenised once with the tokenizer's own special tokens, cut into
    /// windows of `window` tokens that do not overlap; the remainder is dropped.
    /// Given ids are concatenated and cut the same way. `limit` keeps the first
    /// windows only, and the text is tokenised no further.
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
        check_windows(text, tokenizer, window, limit)?;
        let (limit, window) = (limit.unwrap_or(usize::MAX), text.own(window));
        let (mut windows, mut open, mut tokens) = (Vec::new(), Vec::new(), 0);
        text.joined().encode(tokenizer, |mut ids| -> Result<_> {
            tokens += ids.len();
            while !ids.is_empty() && windows.len() < limit {
                let (own, rest) = ids.split_at(ids.len().min(window - open.len()));
                open.extend_from_slice(own);
                ids = rest;
                if open.len() == window {
                    windows.push(std::mem::take(&mut open));
                }
            }
            Ok(if windows.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        if windows.is_empty() {
            return Err(no_window(text, tokens, window));
        }
        let dropped = (windows.len() < limit).then_some(open.len());
        let starts = (0..windows.len()).map(|i| i * window);
        let sources = starts.map(|start| Source { document: 0, start }).collect();
        Ok(Self::new(text, windows, sources, Cut::Joined, dropped))
    }

    /// So many of the windows that [`windows`](Self::windows) cuts, spread evenly
    /// over the text; all of them where there are no more.
    ///
    /// # Errors
    /// Those of [`windows`](Self::windows).
    pub fn spread(
        text: &Text,
        tokenizer: &TextTokenizer,
        window: usize,
        windows: usize,
    ) -> Result<Self> {
        check_windows(text, tokenizer, window, Some(windows))?;
        let window = text.own(window);
        let joined = text.joined();
        let counted = joined.counted(tokenizer)?;
        let all = counted.tokens / window;
        if all == 0 {
            return Err(no_window(text, counted.tokens, window));
        }
        let kept = windows.min(all);
        // In 128 bits no product of two numbers of windows overflows.
        let place = |at: usize| (at as u128 * all as u128 / kept as u128) as usize * window;
        let starts: Vec<usize> = (0..kept).map(place).collect();
        let windows = counted.stretches(&starts, window)?;
        let sources = starts.into_iter().map(|start| Source { document: 0, start }).collect();
        let dropped = Some(counted.tokens % window);
        Ok(Self::new(text, windows, sources, Cut::Joined, dropped))
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
            dropped: None,
        }
    }

    /// At most `most` of the windows, spread evenly over them.
    #[must_use]
    pub fn few(&self, most: usize) -> Self {
        let all = &self.windows;
        let count = most.min(all.len());
        let few = (0..count).map(|at| all[at * all.len() / count].clone()).collect();
        Self::of_rows(&self.name, self.text_digest, few)
    }

    pub(super) fn new(
        text: &Text,
        windows: Vec<Vec<u32>>,
        sources: Vec<Source>,
        cut: Cut,
        dropped: Option<usize>,
    ) -> Self {
        let mut windows = windows;
        if let Some(opening) = text.opening {
            windows.iter_mut().for_each(|window| window.insert(0, opening));
        }
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

/// Refuses what [`TokenSet::windows`] cannot cut, before the text is tokenised.
fn check_windows(
    text: &Text,
    tokenizer: &TextTokenizer,
    window: usize,
    limit: Option<usize>,
) -> Result<()> {
    check_length(text, "window", window)?;
    if limit == Some(0) {
        return Err(text.error("a limit of 0 windows leaves nothing"));
    }
    check_vocabulary(text, text.passages(), tokenizer)
}

/// Refuses given ids that the tokenizer does not know.
pub(super) fn check_vocabulary(
    text: &Text,
    rows: impl Iterator<Item = Passage>,
    tokenizer: &TextTokenizer,
) -> Result<()> {
    if text.joiner().is_some() {
        return Ok(());
    }
    let vocabulary = tokenizer.vocab_size();
    for (number, row) in rows.enumerate() {
        let mut before = 0;
        row.encode(tokenizer, |ids| {
            if let Some(at) = ids.iter().position(|id| *id as usize >= vocabulary) {
                let (place, id) = (before + at, ids[at]);
                let message = format!(
                    "row {number}, place {place}: id {id} is beyond the vocabulary of {vocabulary}"
                );
                return Err(text
                    .error(message)
                    .advise("the ids must be those of this model's tokenizer"));
            }
            before += ids.len();
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}

fn no_window(text: &Text, tokens: usize, window: usize) -> Error {
    too_short(text, format!("{tokens} tokens, one window needs {window}"))
}

pub(super) fn too_short(text: &Text, message: String) -> Error {
    text.error(message).advise("give a longer text, or ask for fewer or shorter windows")
}
