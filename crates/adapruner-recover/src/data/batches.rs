//! Which sequences form a step: a function of seed and epoch alone, so a resumed training uses
//! the same ones.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Example;

/// What a stream of random numbers is for; each is independent of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The split into training and validation.
    Split,
    /// The order of an epoch, counted from 0.
    Epoch(u64),
    /// What adapters begin with.
    Init,
}

impl Stream {
    /// The generator of this stream.
    pub fn generator(self, seed: u64) -> ChaCha8Rng {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(match self {
            Self::Split => 0,
            Self::Init => 1,
            Self::Epoch(epoch) => epoch.saturating_add(2),
        });
        generator
    }
}

/// `0..count` in a random order.
pub fn shuffled(count: usize, seed: u64, stream: Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut stream.generator(seed));
    order
}

/// How much a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// So many sequences.
    Sequences(usize),
    /// As many sequences as fit into a number of tokens; at least one.
    Tokens(usize),
}

/// The sequences of every step of an epoch, by index.
pub fn epoch(examples: &[Example], size: BatchSize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let order = shuffled(examples.len(), seed, Stream::Epoch(epoch));
    match size {
        BatchSize::Sequences(count) => order.chunks(count.max(1)).map(<[_]>::to_vec).collect(),
        BatchSize::Tokens(tokens) => filled(examples, &order, tokens),
    }
}

/// The same sequences in parts of at most a number of tokens (at least one sequence each): what
/// runs together.
pub fn filled(examples: &[Example], order: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut held = 0;
    for &at in order {
        let length = examples[at].ids.len();
        match out.last_mut() {
            Some(last) if held + length <= tokens => {
                last.push(at);
                held += length;
            }
            Some(_) | None => {
                out.push(vec![at]);
                held = length;
            }
        }
    }
    out
}
