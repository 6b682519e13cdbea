//! Which step belongs to which epoch, and how many there are.

use super::options::TrainOptions;
use crate::data::{Example, batches};

/// The steps of a training.
#[derive(Debug, Clone)]
pub struct Epochs<'a> {
    examples: &'a [Example],
    options: &'a TrainOptions,
    /// Steps before each epoch but the first, as far as they are reached.
    ends: Vec<u64>,
    /// The epoch whose batches are held.
    held: Option<(u64, Vec<Vec<usize>>)>,
    /// All steps.
    pub total: u64,
}

impl<'a> Epochs<'a> {
    /// The epochs over some examples, at least one.
    pub fn new(examples: &'a [Example], options: &'a TrainOptions) -> Self {
        let most = options.max_steps.unwrap_or(u64::MAX);
        let epochs = options.epochs.unwrap_or(u64::MAX);
        let (mut ends, mut total) = (Vec::new(), 0_u64);
        for epoch in 0..epochs {
            let steps = match options.batch {
                batches::BatchSize::Sequences(count) => examples.len().div_ceil(count.max(1)),
                batches::BatchSize::Tokens(_) => {
                    batches::epoch(examples, options.batch, options.seed, epoch).len()
                }
            };
            total = total.saturating_add(steps.max(1) as u64);
            ends.push(total);
            if total >= most {
                break;
            }
        }
        Self { examples, options, ends, held: None, total: total.min(most) }
    }

    /// Epoch (counted from 0) and sequences of a step (counted from 0).
    pub fn step(&mut self, step: u64) -> (u64, Vec<usize>) {
        let epoch = self.ends.partition_point(|end| *end <= step);
        let before = epoch.checked_sub(1).map_or(0, |at| self.ends[at]);
        let epoch = epoch as u64;
        let fresh = || batches::epoch(self.examples, self.options.batch, self.options.seed, epoch);
        let batches = match self.held.take() {
            Some((held, batches)) if held == epoch => batches,
            Some(_) | None => fresh(),
        };
        let batch = batches[(step - before) as usize].clone();
        self.held = Some((epoch, batches));
        (epoch, batch)
    }
}
