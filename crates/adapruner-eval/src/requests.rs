//! Contexts and continuations as token ids, truncated as in the harness.

use adapruner_checkpoint::tokenizer::TextTokenizer;

use crate::{
    error::{Error, Result},
    tasks::{Request, strip_end},
};

/// Token ids with some at the end that are scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// What is run: all but the last token.
    pub input: Vec<u32>,
    /// What is scored: the last tokens, of which the first follows
    /// `input[input.len() − targets.len()]`.
    pub targets: Vec<u32>,
    /// Tokens that were cut off at the left because the model has no positions
    /// for them.
    pub truncated: usize,
}

impl Sequence {
    /// Joins ids, cut at the left to `window` positions.
    ///
    /// # Errors
    /// Nothing before or in what is scored, or more of it than fits.
    pub fn new(context: &[u32], continuation: &[u32], window: usize) -> Result<Self, String> {
        if context.is_empty() {
            return Err("the context has no tokens".into());
        }
        if continuation.is_empty() {
            return Err("the continuation has no tokens".into());
        }
        if continuation.len() > window {
            return Err(format!(
                "the continuation has {} tokens, the model {window} positions",
                continuation.len()
            ));
        }
        let mut input = [context, continuation].concat();
        input.pop();
        let truncated = input.len().saturating_sub(window);
        input.drain(..truncated);
        Ok(Self { input, targets: continuation.to_vec(), truncated })
    }
}

/// Turns texts into ids as the harness does.
#[derive(Debug, Clone)]
pub struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    /// Positions of the model.
    window: usize,
    /// What stands for an empty context, as id and as text.
    prefix: Option<(u32, String)>,
}

impl<'a> Encoder<'a> {
    /// An encoder for a model of `window` positions.
    pub fn new(tokenizer: &'a TextTokenizer, window: usize) -> Self {
        let prefix = tokenizer.bos_id().or(tokenizer.eos_id());
        // An id without a text begins no text.
        let text = |id: u32| tokenizer.decode(&[id], false).unwrap_or_default();
        Self { tokenizer, window, prefix: prefix.map(|id| (id, text(id))) }
    }

    /// The ids of `text`; special tokens are added where the tokenizer does so
    /// by default, unless the text begins with the first of them.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let begun = self
            .prefix
            .as_ref()
            .is_some_and(|(_, prefix)| !prefix.is_empty() && text.starts_with(prefix.as_str()));
        let ids =
            if begun { self.tokenizer.encode_plain(text) } else { self.tokenizer.encode(text) };
        ids.map_err(said)
    }

    fn prefix(&self) -> Result<u32, String> {
        self.prefix.as_ref().map(|(id, _)| *id).ok_or_else(|| {
            "the context is empty, and the tokenizer has neither BOS nor EOS to stand for it".into()
        })
    }

    /// The ids of a context and of what follows it.
    ///
    /// Spaces that end the context go to what follows. Context and whole are
    /// encoded, and what follows is what the whole has more of. An empty context
    /// is BOS, else EOS.
    ///
    /// # Errors
    /// An empty context without such a token; nothing to score, or more than
    /// the model has positions; where the tokenizer fails.
    pub fn request(&self, request: &Request) -> Result<Sequence, String> {
        let Request { context, continuation } = request;
        if context.is_empty() {
            let follows = self.tokenizer.encode_plain(continuation).map_err(said)?;
            let prefix = self.prefix()?;
            return match follows.split_first() {
                Some((first, rest)) if *first == prefix => {
                    Sequence::new(&[prefix], rest, self.window)
                }
                Some(_) | None => Sequence::new(&[prefix], &follows, self.window),
            };
        }
        let whole = self.encode(&format!("{context}{continuation}"))?;
        let context = self.encode(strip_end(context))?;
        let follows = whole.get(context.len()..).unwrap_or_default();
        Sequence::new(&context, follows, self.window)
    }

    /// A whole text in windows: every token is scored once, the first window
    /// after the prefix token, the last with as many tokens before it as fit.
    ///
    /// # Errors
    /// A tokenizer without BOS and EOS, or that fails on the text.
    pub fn rolling(&self, text: &str) -> Result<Vec<Sequence>, String> {
        let prefix = self.prefix()?;
        let ids = self.encode(text)?;
        let whole = [&[prefix], ids.as_slice()].concat();
        let mut out = Vec::new();
        let mut done = 0;
        while done < ids.len() {
            let end = (done + self.window).min(ids.len());
            let start = end.saturating_sub(self.window);
            // `whole` is one ahead of `ids`: the input of ids start..end.
            out.push(Sequence {
                input: whole[start..end].to_vec(),
                targets: ids[done..end].to_vec(),
                truncated: 0,
            });
            done = end;
        }
        Ok(out)
    }
}

fn said(error: adapruner_checkpoint::Error) -> String {
    error.to_string()
}

/// The sequences of every question of `task`.
///
/// # Errors
/// As [`Encoder::request`], naming task, question and choice.
pub fn sequences(
    task: &str,
    questions: &[crate::tasks::Question],
    encoder: &Encoder<'_>,
) -> Result<Vec<Vec<Sequence>>> {
    questions
        .iter()
        .map(|question| {
            let one = |(choice, request)| {
                encoder.request(request).map_err(|message| Error::Question {
                    task: task.to_owned(),
                    question: question.id,
                    choice,
                    message,
                })
            };
            question.requests.iter().enumerate().map(one).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sequences_lose_their_beginning() {
        let cut = |window| Sequence::new(&[1, 2, 3], &[4, 5], window);
        assert_eq!(
            cut(4).unwrap(),
            Sequence { input: vec![1, 2, 3, 4], targets: vec![4, 5], truncated: 0 }
        );
        assert_eq!(
            cut(2).unwrap(),
            Sequence { input: vec![3, 4], targets: vec![4, 5], truncated: 2 }
        );
        assert!(cut(1).unwrap_err().contains("2 tokens, the model 1 positions"));
        assert!(Sequence::new(&[], &[1], 4).is_err());
        assert!(Sequence::new(&[1], &[], 4).is_err());
    }
}
