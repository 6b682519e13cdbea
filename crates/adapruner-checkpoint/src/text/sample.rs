//! Calibration samples: windows drawn from a text.
//!
//! As in LLM-Pruner, a document is drawn at random, without replacement,
//! tokenised by itself, left out if it is shorter than a sample, and a window is
//! cut at a random place. Documents are the rows of a text; of plain text, which
//! is one document, its paragraphs.
//!
//! Where too few documents are long enough (sentences, a handful of books), all
//! samples are cut from the joined text instead, tokenised once: at places that
//! do not overlap, each arrangement of them as likely as any other, in random
//! order. [`Cut`] of the set tells which way it went.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Content, Text, lines,
    tokens::{Cut, Source, TokenSet, check_length, check_vocabulary, too_short},
};
use crate::{error::Result, tokenizer::TextTokenizer};

impl TokenSet {
    /// Draws `samples` windows of `tokens` tokens by `seed`, no two of which
    /// share a place: one window a document, or separate places of the joined
    /// text where too few documents are long enough.
    ///
    /// Given ids are taken as they are: the first `samples` rows, each cut to
    /// its first `tokens`; the seed has no part in it.
    ///
    /// # Errors
    /// No samples, samples of fewer than two tokens, a text too short for that
    /// many, given rows that are too few or too short or hold ids beyond the
    /// vocabulary.
    pub fn samples(
        text: &Text,
        tokenizer: &TextTokenizer,
        samples: usize,
        tokens: usize,
        seed: u64,
    ) -> Result<Self> {
        check_length(text, "sample", tokens)?;
        if samples == 0 {
            return Err(text.error("0 samples: at least 1"));
        }
        let (documents, joiner) = match &text.content {
            Content::Documents { documents, joiner } => (documents, joiner),
            Content::Ids(rows) => return given(text, rows, tokenizer, samples, tokens),
        };
        let units: Vec<&str> = match documents.as_slice() {
            [whole] if joiner.is_empty() => lines::paragraphs(whole),
            documents => documents.iter().map(String::as_str).collect(),
        };
        if let Some((windows, sources)) = drawn(&units, tokenizer, samples, tokens, seed)? {
            return Ok(Self::new(text, windows, sources, Cut::Documents, 0));
        }
        tracing::info!(
            "{}: fewer than {samples} documents have {tokens} tokens; samples are cut from the \
             joined text",
            text.name
        );
        let ids = tokenizer.encode(&documents.join(joiner))?;
        let needed = samples.saturating_mul(tokens);
        if ids.len() < needed {
            let found = ids.len();
            let message =
                format!("{found} tokens, {samples} samples of {tokens} tokens need {needed}");
            return Err(too_short(text, message));
        }
        let starts = separate_places(ids.len(), samples, tokens, seed);
        let windows = starts.iter().map(|&start| ids[start..start + tokens].to_vec()).collect();
        let sources = starts.into_iter().map(|start| Source { document: 0, start }).collect();
        Ok(Self::new(text, windows, sources, Cut::Joined, 0))
    }
}

/// The first rows of given ids.
fn given(
    text: &Text,
    rows: &[Vec<u32>],
    tokenizer: &TextTokenizer,
    samples: usize,
    tokens: usize,
) -> Result<TokenSet> {
    if rows.len() < samples {
        let message = format!("{} rows of token ids, {samples} samples are needed", rows.len());
        return Err(text.error(message).advise("give an array of arrays, a row for each sample"));
    }
    let rows = &rows[..samples];
    if let Some((number, row)) = rows.iter().enumerate().find(|(_, row)| row.len() < tokens) {
        let message = format!("row {number} has {} tokens, a sample needs {tokens}", row.len());
        return Err(too_short(text, message));
    }
    check_vocabulary(text, rows, tokenizer.vocab_size())?;
    let windows = rows.iter().map(|row| row[..tokens].to_vec()).collect();
    let sources = (0..samples).map(|document| Source { document, start: 0 }).collect();
    Ok(TokenSet::new(text, windows, sources, Cut::Rows, 0))
}

/// One window each from documents in random order; `None` where too few are
/// long enough.
#[expect(clippy::type_complexity, reason = "windows and their sources, used once")]
fn drawn(
    documents: &[&str],
    tokenizer: &TextTokenizer,
    samples: usize,
    tokens: usize,
    seed: u64,
) -> Result<Option<(Vec<Vec<u32>>, Vec<Source>)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> =
        (0..documents.len()).filter(|&i| !documents[i].trim().is_empty()).collect();
    if order.len() < samples {
        return Ok(None);
    }
    let (mut windows, mut sources) = (Vec::new(), Vec::new());
    // The shuffle of Fisher and Yates, a step for every document that is drawn.
    for next in 0..order.len() {
        let drawn = next + below(&mut rng, order.len() - next);
        order.swap(next, drawn);
        let document = order[next];
        let ids = tokenizer.encode(documents[document])?;
        if ids.len() < tokens {
            continue;
        }
        let start = below(&mut rng, ids.len() - tokens + 1);
        windows.push(ids[start..start + tokens].to_vec());
        sources.push(Source { document, start });
        if windows.len() == samples {
            return Ok(Some((windows, sources)));
        }
    }
    Ok(None)
}

/// The starts of `samples` stretches of `tokens` in a text of `length` that do
/// not overlap, in random order. Needs `samples · tokens ≤ length`.
///
/// With all tokens but the first of each stretch taken out, the starts are a
/// subset of what is left, and every subset is an arrangement: so a subset
/// drawn uniformly (Floyd's way) gives every arrangement the same chance.
fn separate_places(length: usize, samples: usize, tokens: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let slots = length - samples * (tokens - 1);
    let mut chosen = std::collections::BTreeSet::new();
    for last in slots - samples..slots {
        let slot = below(&mut rng, last + 1);
        if !chosen.insert(slot) {
            chosen.insert(last);
        }
    }
    let mut starts: Vec<usize> =
        chosen.into_iter().enumerate().map(|(i, slot)| slot + i * (tokens - 1)).collect();
    for end in (1..starts.len()).rev() {
        starts.swap(end, below(&mut rng, end + 1));
    }
    starts
}

/// A number below `bound`, drawn as `u64` on every machine.
fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    rng.random_range(0..bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_are_separate_and_inside(
            samples in 1usize..20,
            tokens in 2usize..9,
            spare in 0usize..30,
            seed: u64,
        ) {
            let length = samples * tokens + spare;
            let mut starts = separate_places(length, samples, tokens, seed);
            prop_assert_eq!(starts.len(), samples);
            starts.sort_unstable();
            prop_assert!(starts.windows(2).all(|w| w[0] + tokens <= w[1]));
            prop_assert!(starts[samples - 1] + tokens <= length);
        }
    }

    /// Two stretches of 2 in 6 tokens: six arrangements, each in two orders.
    #[test]
    fn every_arrangement_is_as_likely() {
        let mut counts = BTreeMap::new();
        for seed in 0..12_000 {
            *counts.entry(separate_places(6, 2, 2, seed)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 12, "{counts:?}");
        // 1000 expected, standard deviation 30.
        assert!(counts.values().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
