//! Seconds of a pass, of two models in turns, so that other load on the machine cancels in their
//! ratio.

use std::time::Instant;

use adapruner_model::{Decoder, KvCache};

use super::{SpeedOf, Timed};
use crate::error::Result;

/// Tokens that are generated in a turn.
pub const TURN: usize = 8;

/// A model that is ready to be timed.
pub struct Timer {
    decoder: Decoder,
    timed: Timed,
    /// What a prompt consists of.
    prompt: Vec<u32>,
    /// What is generated; which tokens they are does not matter.
    next: u32,
    /// The context of a generated token.
    context: KvCache,
}

impl Timer {
    /// Runs the context of what is timed.
    ///
    /// # Errors
    /// A context that the model does not run, damaged weights, or no memory.
    pub fn new(decoder: Decoder, SpeedOf { timed, tokens }: SpeedOf) -> Result<Self> {
        let vocabulary = decoder.config().vocab_size as u64;
        let id = |at: u64| (at.wrapping_mul(7919) % vocabulary) as u32;
        let prompt: Vec<u32> = (0..tokens as u64).map(id).collect();
        let next = id(tokens as u64);
        let mut context = KvCache::default();
        match timed {
            Timed::Prompt => {}
            Timed::Decode => drop(decoder.next_row(&prompt, &mut context)?),
        }
        Ok(Self { decoder, timed, prompt, next, context })
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Seconds of one pass: over the prompt, or of one of several generated tokens.
    ///
    /// # Errors
    /// No memory.
    pub fn turn(&self) -> Result<f64> {
        let start = Instant::now();
        match self.timed {
            Timed::Prompt => {
                self.decoder.next_row(&self.prompt, &mut KvCache::default())?;
                Ok(start.elapsed().as_secs_f64())
            }
            Timed::Decode => {
                let mut cache = self.context.clone();
                for _ in 0..TURN {
                    self.decoder.next_row(&[self.next], &mut cache)?;
                }
                Ok(start.elapsed().as_secs_f64() / TURN as f64)
            }
        }
    }
}

/// Seconds of two models in turns, a pair a round; the first round warms up and does not count.
///
/// # Errors
/// Those of [`Timer::turn`].
pub fn in_turns(first: &Timer, second: &Timer, rounds: usize) -> Result<Vec<(f64, f64)>> {
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let pair = (first.turn()?, second.turn()?);
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}
