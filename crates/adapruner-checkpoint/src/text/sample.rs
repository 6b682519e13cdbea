//! Calibration samples: windows drawn from a text.
//!
//! As in LLM-Pruner, a document is drawn at random, without replacement,
//! tokenised by itself, left out if it is shorter than a sample, and a window is
//! cut at a random place. Documents are the rows of a text; of plain text, which
//! is one document, its paragraphs.
//!
//! Where too few documents are long enough (sentences, a handful of books), all
//! samples are cut from the joined text instead, as a whole: at places that
//! do not overlap, each arrangement of them as likely as any other, in random
//! order. [`Cut`] of the set tells which way it went.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Passage, Text,
    lines::Paragraphs,
    store::MOST_DOCUMENTS,
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
        let tokens = text.own(tokens);
        if samples == 0 {
            return Err(text.error("0 samples: at least 1"));
        }
        let Some(joiner) = text.joiner() else {
            return given(text, tokenizer, samples, tokens);
        };
        let drawn = match text.len() {
            1 if joiner.is_empty() => {
                let paragraphs = paragraphs(text)?;
                let place = |at: usize| text.paragraph(paragraphs[at]);
                let order = (0..paragraphs.len() as u32).collect();
                drawn(order, place, tokenizer, samples, tokens, seed)?
            }
            documents => {
                let filled = |at: &u32| !text.passage(*at as usize).is_blank();
                let order = (0..documents as u32).filter(filled).collect();
                let place = |at| text.passage(at);
                drawn(order, place, tokenizer, samples, tokens, seed)?
            }
        };
        if let Some((windows, sources)) = drawn {
            return Ok(Self::new(text, windows, sources, Cut::Documents, None));
        }
        tracing::info!(
            "{}: fewer than {samples} documents have {tokens} tokens; samples are cut from the \
             joined text",
            text.name
        );
        let joined = text.all();
        let counted = joined.counted(tokenizer)?;
        let needed = samples.saturating_mul(tokens);
        let found = counted.tokens;
        if found < needed {
            let message =
                format!("{found} tokens, {samples} samples of {tokens} tokens need {needed}");
            return Err(too_short(text, message));
        }
        let starts = separate_places(found, samples, tokens, seed);
        let mut ascending = starts.clone();
        ascending.sort_unstable();
        let mut cut = counted.stretches(&ascending, tokens)?;
        let window = |start: &usize| {
            ascending
                .binary_search(start)
                .map(|at| std::mem::take(&mut cut[at]))
                .unwrap_or_default()
        };
        let windows = starts.iter().map(window).collect();
        let sources = starts.into_iter().map(|start| Source { document: 0, start }).collect();
        Ok(Self::new(text, windows, sources, Cut::Joined, None))
    }
}

/// Where a paragraph begins and its last byte.
type Paragraph = (u32, u32);

/// The paragraphs of plain text.
///
/// # Errors
/// More of them than a text may have.
fn paragraphs(text: &Text) -> Result<Vec<Paragraph>> {
    let (mut paragraphs, mut out) = (Paragraphs::default(), Vec::new());
    // A text has at most 2³² bytes.
    let place = |block: Range<usize>| (block.start as u32, (block.end - 1) as u32);
    let all = text.all();
    for piece in all.parts() {
        paragraphs.push(piece?, |block| out.push(place(block)));
        if out.len() > MOST_DOCUMENTS {
            let error = text.error(format!("more than {MOST_DOCUMENTS} paragraphs"));
            return Err(error.advise("give a part of it"));
        }
    }
    paragraphs.end(|block| out.push(place(block)));
    Ok(out)
}

/// The first rows of given ids.
fn given(
    text: &Text,
    tokenizer: &TextTokenizer,
    samples: usize,
    tokens: usize,
) -> Result<TokenSet> {
    if text.len() < samples {
        let message = format!("{} rows of token ids, {samples} samples are needed", text.len());
        return Err(text.error(message).advise("give an array of arrays, a row for each sample"));
    }
    let rows = || text.passages().take(samples);
    for (number, row) in rows().enumerate() {
        let found = row.given();
        if found < tokens {
            let message = format!("row {number} has {found} tokens, a sample needs {tokens}");
            return Err(too_short(text, message));
        }
    }
    check_vocabulary(text, rows(), tokenizer)?;
    let first = |row: Passage| row.counted(tokenizer)?.stretches(&[0], tokens);
    let windows = rows().map(first).collect::<Result<Vec<_>>>()?.concat();
    let sources = (0..samples).map(|document| Source { document, start: 0 }).collect();
    Ok(TokenSet::new(text, windows, sources, Cut::Rows, None))
}

/// Windows and their sources.
type Drawn = (Vec<Vec<u32>>, Vec<Source>);

/// One window each from the documents `order`, drawn at random; `None` where too
/// few are long enough.
fn drawn(
    mut order: Vec<u32>,
    passage: impl Fn(usize) -> Passage,
    tokenizer: &TextTokenizer,
    samples: usize,
    tokens: usize,
    seed: u64,
) -> Result<Option<Drawn>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    if order.len() < samples {
        return Ok(None);
    }
    let (mut windows, mut sources) = (Vec::new(), Vec::new());
    // The shuffle of Fisher and Yates, a step for every document that is drawn.
    for next in 0..order.len() {
        let drawn = next + below(&mut rng, order.len() - next);
        order.swap(next, drawn);
        let document = order[next] as usize;
        let passage = passage(document);
        let counted = passage.counted(tokenizer)?;
        if counted.tokens < tokens {
            continue;
        }
        let start = below(&mut rng, counted.tokens - tokens + 1);
        windows.append(&mut counted.stretches(&[start], tokens)?);
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
