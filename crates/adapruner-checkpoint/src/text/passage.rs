//! A part of a text as token ids, in bounded memory.

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use super::store::{Form, Store};
use crate::{
    error::{Error, Result},
    tokenizer::TextTokenizer,
};

/// Ids that are held while it is not known which are needed; those of longer
/// passages are made again.
const HELD: usize = 1 << 23;

/// A part of a text: a document, a paragraph, a row of ids, or all of them
/// joined. It says where that stands and holds none of it.
#[derive(Debug, Clone)]
pub struct Passage {
    store: Arc<Store>,
    range: Range<usize>,
    blank: bool,
    /// Whether the tokenizer's own special tokens stand around it.
    special: bool,
}

/// Whether they are the same place of the same text.
impl PartialEq for Passage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.store, &other.store) && self.range == other.range
    }
}

impl Eq for Passage {}

impl Passage {
    pub(super) fn new(store: &Arc<Store>, range: Range<usize>, blank: bool) -> Self {
        Self { store: Arc::clone(store), range, blank, special: true }
    }

    /// The same without the tokenizer's own special tokens, unless told otherwise.
    pub(super) fn special(self, special: bool) -> Self {
        Self { special, ..self }
    }

    /// Whether there is nothing in it but white space.
    pub fn is_blank(&self) -> bool {
        self.blank
    }

    /// Whether it is a row of token ids and no text.
    pub fn is_ids(&self) -> bool {
        self.store.form == Form::Ids
    }

    /// Its text, piece by piece.
    pub(super) fn parts(&self) -> impl Iterator<Item = Result<&str>> {
        self.store.text(self.range.clone())
    }

    /// Number of ids, where they were given.
    pub(super) fn given(&self) -> usize {
        self.range.len() / size_of::<u32>()
    }

    /// Its text, whole: for short ones. Of a row of ids there is none.
    ///
    /// # Errors
    /// A file that was changed since it was read.
    pub fn to_text(&self) -> Result<String> {
        match self.store.form {
            Form::Text => self.store.text(self.range.clone()).collect(),
            Form::Ids => Ok(String::new()),
        }
    }

    /// Its ids, piece by piece, as [`TextTokenizer::encode`] gives them for the
    /// whole passage ([`TextTokenizer::encode_plain`] of a text that is
    /// [opened](super::Text::opened_by)); given ids as they are. Nothing is read or tokenised after
    /// `visit` says [`ControlFlow::Break`].
    ///
    /// # Errors
    /// Those of the tokenizer and of `visit`; a file that was changed since it
    /// was read.
    pub fn encode<E: From<Error>>(
        &self,
        tokenizer: &TextTokenizer,
        mut visit: impl FnMut(&[u32]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let range = self.range.clone();
        match self.store.form {
            Form::Text => {
                let parts = self.store.text(range).map(|part| part.map_err(E::from));
                tokenizer.encode_pieces(parts, self.special, visit).map(drop)
            }
            Form::Ids => {
                for ids in self.store.ids(range) {
                    if visit(&ids?)?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Tokenises it once, to choose stretches of it.
    pub(super) fn counted<'a>(&'a self, tokenizer: &'a TextTokenizer) -> Result<Counted<'a>> {
        let (mut tokens, mut held) = (0, Vec::new());
        self.encode(tokenizer, |ids| -> Result<_> {
            tokens += ids.len();
            if tokens <= HELD {
                held.extend_from_slice(ids);
            } else {
                held = Vec::new();
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Counted { passage: self, tokenizer, tokens, held })
    }
}

/// A passage whose tokens were counted.
pub(super) struct Counted<'a> {
    passage: &'a Passage,
    tokenizer: &'a TextTokenizer,
    /// Their number.
    pub(super) tokens: usize,
    /// All of them, or none where there are too many.
    held: Vec<u32>,
}

impl Counted<'_> {
    /// The stretches of `length` tokens that begin at `starts`, which ascend and
    /// are apart.
    pub(super) fn stretches(&self, starts: &[usize], length: usize) -> Result<Vec<Vec<u32>>> {
        let mut cut = Stretches { starts, length, at: 0, done: Vec::new(), open: Vec::new() };
        if self.held.len() == self.tokens {
            let _ = cut.push(&self.held);
        } else {
            self.passage.encode(self.tokenizer, |ids| Ok::<_, Error>(cut.push(ids)))?;
        }
        Ok(cut.done)
    }
}

/// Cuts stretches out of ids that come piece by piece.
struct Stretches<'a> {
    starts: &'a [usize],
    length: usize,
    /// Ids that came.
    at: usize,
    done: Vec<Vec<u32>>,
    /// The one that is not complete.
    open: Vec<u32>,
}

impl Stretches<'_> {
    fn push(&mut self, ids: &[u32]) -> ControlFlow<()> {
        let end = self.at + ids.len();
        while let Some(&start) = self.starts.get(self.done.len()) {
            let from = (start + self.open.len()).max(self.at);
            let to = (start + self.length).min(end);
            if from >= to {
                break;
            }
            self.open.extend_from_slice(&ids[from - self.at..to - self.at]);
            if self.open.len() < self.length {
                break;
            }
            self.done.push(std::mem::take(&mut self.open));
        }
        self.at = end;
        match self.done.len() == self.starts.len() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_come_out_of_pieces_of_any_size() {
        let ids: Vec<u32> = (0..50).collect();
        let starts = [0, 4, 11, 30, 46];
        for size in 1..51 {
            let mut cut =
                Stretches { starts: &starts, length: 4, at: 0, done: Vec::new(), open: Vec::new() };
            let ends = ids.chunks(size).take_while(|ids| cut.push(ids).is_continue()).count();
            assert!(ends < ids.len().div_ceil(size), "it does not say that it has all");
            let expected = starts.map(|start| ids[start..start + 4].to_vec());
            assert_eq!(cut.done, expected, "{size}");
        }
    }
}
