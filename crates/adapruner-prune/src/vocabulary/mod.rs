//! Which tokens of a vocabulary stay.
//!
//! Every token's row costs the same parameters: `H` in the embedding, and as many in an untied
//! head. The value of a row is the number of additional tokens that a text needs without it. A
//! [`Ranking`] removes one token at a time, always the one whose removal adds the fewest tokens
//! to a text:
//!
//! - `c(v)` is how often token `v` occurs in the text, `k(v)` the number of tokens that replace
//!   it; its removal adds `c(v)·(k(v) − 1)` tokens.
//! - After `v` is removed, each of those `k(v)` occurs `c(v)` times more.
//! - A token that is part of another token's merge is removed after that one, so the kept
//!   tokens are closed under merges.
//!
//! So every vocabulary size is a prefix of one order, and the value of each token takes earlier
//! removals into account. Of equal tokens the larger id is removed first: of merges, the one
//! learned last.

mod ranking;

use adapruner_checkpoint::ModelConfig;
use serde::{Deserialize, Serialize};

pub use ranking::{Ranking, Step};

use crate::error::{Error, Result};

/// The tokens that a model keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularyPlan {
    /// Ids in the original vocabulary, ascending; the first becomes 0, the next 1.
    pub kept: Vec<u32>,
    /// Rows of the embedding: the kept ones, and padding behind them that no token has.
    pub rows: usize,
}

impl VocabularyPlan {
    /// A plan that keeps these tokens (ascending), in rows that are a multiple of
    /// `multiple_of`.
    ///
    /// # Errors
    /// A multiple of 0, or one that leaves nothing to remove from `before` rows.
    pub fn new(kept: Vec<u32>, before: usize, multiple_of: usize) -> Result<Self> {
        if multiple_of == 0 {
            return Err(option("vocab-multiple-of", "expected at least 1, found 0".into()));
        }
        let rows = kept.len().checked_next_multiple_of(multiple_of);
        match rows.filter(|&rows| rows <= before) {
            Some(rows) => Ok(Self { kept, rows }),
            None => Err(option(
                "vocab-multiple-of",
                format!(
                    "{} kept tokens in multiples of {multiple_of} are more than the {before} rows \
                     that there are",
                    kept.len()
                ),
            )),
        }
    }

    /// The configuration's size with this vocabulary; its ids are still the original ones.
    pub fn sized(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig { vocab_size: self.rows, ..config.clone() }
    }

    /// Refuses what does not fit a vocabulary of `before` rows.
    pub(crate) fn check(&self, before: Option<usize>) -> Result<()> {
        let malformed = |message: String| Err(Error::Plan(format!("vocabulary: {message}")));
        if let Some(pair) = self.kept.windows(2).find(|pair| pair[0] >= pair[1]) {
            let [first, second] = [pair[0], pair[1]];
            return malformed(format!("expected ascending ids, found {first} before {second}"));
        }
        let Some(&last) = self.kept.last() else {
            return malformed("expected at least 1 kept token, found none".into());
        };
        if self.rows < self.kept.len() {
            let (count, rows) = (self.kept.len(), self.rows);
            return malformed(format!("{count} kept tokens do not fit into {rows} rows"));
        }
        match before {
            Some(before) if last as usize >= before => {
                malformed(format!("token {last} is kept, but the model has {before}"))
            }
            Some(before) if self.rows > before => {
                malformed(format!("{} rows, but the model has {before}", self.rows))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn option(option: &'static str, message: String) -> Error {
    Error::Option { option, message, hint: None }
}
