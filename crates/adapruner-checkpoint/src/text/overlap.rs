//! Text that two token sets share.
//!
//! Two windows share text if the same run of [`RUN`] tokens occurs in both, at any place: so a
//! window that was cut elsewhere from the same document is found. Where windows are shorter
//! than that, whole windows of the shortest length are compared. Runs of few different tokens
//! (rows of a table, rules of equals signs) stand in unrelated texts too and do not count.

use std::collections::HashSet;

use super::tokens::TokenSet;

/// Tokens in common that are taken as the same text.
const RUN: usize = 32;
/// A run counts when at least one in so many of its tokens is a new one.
const VARIETY: usize = 4;

impl TokenSet {
    /// The number of windows of this set that share text with any window of
    /// `other`: a run of 32 tokens in common, or of the shortest window's
    /// length where that is less.
    ///
    /// It sees what the windows hold, not where they come from: sets that were
    /// cut from one text without touching do not overlap, though their
    /// [`text_digest`](Self::text_digest) is the same.
    pub fn overlap(&self, other: &TokenSet) -> usize {
        let windows = self.windows.iter().chain(&other.windows);
        let run = windows.map(Vec::len).min().unwrap_or(0).min(RUN);
        if run == 0 {
            return 0;
        }
        let known: HashSet<&[u32]> = other.windows.iter().flat_map(|w| w.windows(run)).collect();
        let shared = |part: &[u32]| known.contains(part) && is_varied(part);
        self.windows.iter().filter(|w| w.windows(run).any(shared)).count()
    }
}

/// Whether a run has enough different tokens to tell one text from another.
fn is_varied(run: &[u32]) -> bool {
    let different: HashSet<u32> = run.iter().copied().collect();
    different.len() * VARIETY >= run.len()
}
