//! What collecting statistics takes in memory, and how the pass is cut so that it
//! fits.
//!
//! | part | bytes |
//! |---|---|
//! | weights | as the caller says: all, or those of one block and of the embedding ([`streamed_weights`]); with packed forms |
//! | bank | `4·S·U` for each per-sample term, `8·U` for those of the whole set, `8·S·C + 8·C` for what the columns read and the sizes of their weights |
//! | block states | `4·G·H·(k + 1)`: the inputs of `k` kept blocks and one gradient (of a forward pass alone `4·G·H`), for the `G` tokens of the largest group, and 64 KiB for each of its tensors, to which the allocator rounds them up; 8 for every token id |
//! | activations | one micro-batch through one block and back ([`backward_token_bytes`]), or through it alone ([`forward_token_bytes`]) |
//! | elements | with the terms of the whole set, 8 for every weight of a block that comes in several micro-batches; of all blocks where there are several groups |
//!
//! Axes: `S` samples, `U` vectors, `C` columns, `L` layers, `H` hidden.

use std::{fmt, iter::successors};

use adapruner_checkpoint::ModelConfig;
use adapruner_model::{
    PassCuts, Placement, gradient::backward_token_bytes, inputs::forward_token_bytes,
};
use serde::Serialize;

use super::Terms;
use crate::{
    cost::Costs,
    error::{Error, Result},
    layout::VectorLayout,
};

/// Tokens beyond which a larger micro-batch makes the products no faster.
const ENOUGH: usize = 2048;

/// Share of the memory that the activations of a micro-batch may take, unless one
/// sample needs more.
const ACTIVATIONS: u64 = 4;

/// Tokens that a micro-batch costs beside its own.
const SMALL: f64 = 64.0;
/// Tokens that reading a block costs.
const READING: f64 = 128.0;

/// What the allocator rounds a tensor of a micro-batch up by, at most.
const SLICE: u64 = 1 << 16;

/// Bytes of an f32.
const F32: u64 = size_of::<f32>() as u64;

/// What is to be collected, and of what.
#[derive(Debug, Clone, Copy)]
pub struct Collection<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Bytes of the weights that the pass holds at once, packed forms included.
    pub weights: u64,
    /// Tokens of each sample.
    pub lengths: &'a [usize],
    /// Which per-sample terms.
    pub terms: Terms,
    /// Whether the terms of the whole set are collected as well.
    pub batch: bool,
    /// Most tokens that run together; `None` to choose.
    pub batch_tokens: Option<usize>,
}

/// Bytes that collecting statistics takes, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Weights and their packed forms.
    pub weights: u64,
    /// The statistics.
    pub bank: u64,
    /// Block inputs that are kept, and the gradient of one of them where there is one.
    pub states: u64,
    /// One micro-batch in one block.
    pub activations: u64,
    /// Sums over samples for single weights.
    pub elements: u64,
}

impl Footprint {
    /// The most that is held at once.
    pub fn total(&self) -> u64 {
        let Self { weights, bank, states, activations, elements } = *self;
        sum([weights, bank, states, activations, elements])
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, bank, states, activations, elements } = self;
        write!(
            f,
            "weights {weights}, bank {bank}, block states {states}, activations {activations}"
        )?;
        if *elements > 0 {
            write!(f, ", sums for the terms of the whole set {elements}")?;
        }
        Ok(())
    }
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

fn product(factors: impl IntoIterator<Item = u64>) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

/// Bytes of the weights of a pass over a model that is read block by block: the largest
/// block, and the embedding or head, whose pages stay with the process when the blocks
/// are read; with packed forms, and with the pages of the largest tensor's `stored` bytes
/// while it is converted.
pub fn streamed_weights(config: &ModelConfig, placement: &Placement, stored: u64) -> u64 {
    let packed = placement.packed_bytes();
    let size = (placement.dtype.size_in_bytes() + packed.forward + packed.back + packed.few) as u64;
    let costs = Costs::new(config);
    let block = config.layers.iter().map(|widths| costs.layer(widths)).max().unwrap_or(0);
    let head = (config.vocab_size as u64).saturating_mul(config.hidden_size as u64);
    block.saturating_add(head).saturating_mul(size).saturating_add(stored)
}

/// Bytes of the statistics of a number of samples.
pub fn bank_bytes(config: &ModelConfig, samples: usize, terms: Terms, batch: bool) -> u64 {
    let count = |layout: Option<VectorLayout>| layout.map_or(u64::MAX, |l| l.len() as u64);
    let vectors =
        count(VectorLayout::new(&config.layers, config.head_dim, config.family().feed_forward()));
    let columns = count(VectorLayout::columns(&config.layers, config.head_dim));
    let samples = samples as u64;
    let set = if batch { product([2, vectors]) } else { 0 };
    let numbers = [
        product([terms.of_vector() as u64, samples, vectors]),
        set,
        // Two sums for each sample, two sizes of weights.
        product([2, samples, columns]),
        product([2, columns]),
    ];
    product([F32, sum(numbers)])
}

impl Collection<'_> {
    fn layers(&self) -> usize {
        self.config.layers.len().max(1)
    }

    /// Block states that are held of every token of a group, with the inputs of
    /// `kept_blocks` kept.
    fn states(&self, kept_blocks: usize) -> u64 {
        match self.terms {
            Terms::Activations => 1,
            Terms::Coarse | Terms::Full => kept_blocks.clamp(1, self.layers()) as u64 + 1,
        }
    }

    /// Bytes of all token ids, as they came and as tensors.
    fn id_bytes(&self) -> u64 {
        product([2 * size_of::<u32>() as u64, sum(self.lengths.iter().map(|&t| t as u64))])
    }

    /// What the collection takes if its pass is cut by `cuts`.
    pub fn footprint(&self, cuts: &PassCuts) -> Footprint {
        let Self { config, lengths, .. } = *self;
        let batches: Vec<usize> = cuts
            .micro_batches(lengths)
            .into_iter()
            .map(|range| lengths[range.start].saturating_mul(range.len()))
            .collect();
        let groups = cuts.groups(&batches);
        let batch = batches.iter().map(|&tokens| tokens as u64).max().unwrap_or(0);
        let state = |&tokens: &usize| {
            sum([product([F32, config.hidden_size as u64, tokens as u64]), SLICE])
        };
        let group = groups.iter().map(|range| sum(batches[range.clone()].iter().map(state))).max();
        let layers = config.layers.iter();
        let widest =
            layers.map(|w| config.active_channels(w).max(w.query_heads * config.head_dim)).max();
        let of_token = match self.terms {
            Terms::Activations => forward_token_bytes(config),
            // Products with the weight take the place of weight gradients.
            Terms::Coarse => {
                let product = 3 * F32 * widest.unwrap_or(0).max(config.hidden_size) as u64;
                product + backward_token_bytes(config)
            }
            Terms::Full => backward_token_bytes(config),
        };

        let costs = Costs::new(config);
        let blocks = config.layers.iter().map(|widths| costs.layer(widths));
        let elements = match (self.batch, batches.len(), groups.len()) {
            (false, _, _) | (true, 0 | 1, _) => 0,
            (true, _, 0 | 1) => blocks.max().unwrap_or(0),
            (true, _, _) => sum(blocks),
        };
        Footprint {
            weights: self.weights,
            bank: bank_bytes(config, lengths.len(), self.terms, self.batch),
            states: sum([
                product([self.states(cuts.kept_blocks), group.unwrap_or(0)]),
                self.id_bytes(),
            ]),
            activations: batch.saturating_mul(of_token),
            elements: elements.saturating_mul(2 * F32),
        }
    }

    /// Cuts the pass so that it takes at most `memory` bytes: of the cuts that fit, the
    /// one that costs the least time.
    ///
    /// # Errors
    /// [`Error::Memory`] where none fits.
    pub fn cut(&self, memory: u64) -> Result<PassCuts> {
        let longest = self.lengths.iter().copied().max().unwrap_or(1).max(1);
        let of_token = self.footprint(&PassCuts::whole(1)).activations / longest as u64;
        let fitting = usize::try_from(memory / ACTIVATIONS / of_token.max(1)).unwrap_or(usize::MAX);
        let chosen = (fitting.min(ENOUGH.max(longest)) / longest).max(1) * longest;
        let sizes = match self.batch_tokens {
            Some(given) => vec![given],
            None => successors(Some(chosen), |&size| {
                (size > longest).then(|| (size / 2 / longest).max(1) * longest)
            })
            .collect(),
        };
        let mut best: Option<(f64, PassCuts)> = None;
        let mut least: Option<Footprint> = None;
        for cuts in sizes.into_iter().flat_map(|size| self.candidates(size, memory)) {
            let (footprint, cost) = (self.footprint(&cuts), self.cost(&cuts));
            if footprint.total() > memory {
                if least.is_none_or(|least| footprint.total() < least.total()) {
                    least = Some(footprint);
                }
            } else if best.is_none_or(|(found, _)| cost < found) {
                best = Some((cost, cuts));
            }
        }
        let footprint = least.unwrap_or_else(|| self.footprint(&PassCuts::whole(1)));
        let refused = Error::Memory { samples: self.lengths.len(), footprint, limit: memory };
        best.map(|(_, cuts)| cuts).ok_or(refused)
    }

    /// Cuts for micro-batches of `batch_tokens`: with the inputs of any number of blocks
    /// kept, one group, and groups that are as large as fits.
    fn candidates(&self, batch_tokens: usize, memory: u64) -> Vec<PassCuts> {
        let batches = PassCuts::whole(batch_tokens).micro_batches(self.lengths).into_iter();
        let least = batches.map(|range| self.lengths[range.start] * range.len()).min();
        let of = |kept_blocks: usize| {
            let whole = PassCuts { batch_tokens, group_tokens: usize::MAX, kept_blocks };
            // As many tokens as fit beside the rest, each with its part of the slices of the
            // smallest micro-batch.
            let kept = self.states(kept_blocks);
            let slices = (kept * SLICE).div_ceil(least.unwrap_or(1).max(1) as u64);
            let of_token = product([F32, self.config.hidden_size as u64, kept]) + slices;
            let rest = self.footprint(&PassCuts { group_tokens: 1, ..whole });
            let rest = Footprint { states: self.id_bytes(), ..rest };
            let tokens = memory.saturating_sub(rest.total()) / of_token.max(1);
            let group_tokens = usize::try_from(tokens).unwrap_or(usize::MAX).max(1);
            [whole, PassCuts { group_tokens, ..whole }]
        };
        let most = match self.terms {
            // No block's input is needed again.
            Terms::Activations => 1,
            Terms::Coarse | Terms::Full => self.layers(),
        };
        (1..=most).rev().flat_map(of).collect()
    }

    /// What a pass costs, in tokens that run through all blocks once: backward as much as
    /// three times forward, small micro-batches more than large ones, and every reading of
    /// the weights as much as some tokens. A forward pass alone reads them once.
    fn cost(&self, cuts: &PassCuts) -> f64 {
        let batches = cuts.micro_batches(self.lengths).into_iter();
        let batches: Vec<usize> = batches.map(|r| self.lengths[r.start] * r.len()).collect();
        // Times that a token runs through the blocks, and that these are read.
        let (runs, readings) = match self.terms {
            Terms::Activations => (1.0, 1.0),
            Terms::Coarse | Terms::Full => {
                let forward = cuts.forward_blocks(self.layers()) as f64 / self.layers() as f64;
                (forward + 3.0, forward + 1.0)
            }
        };
        let compute: f64 = batches.iter().map(|&tokens| tokens as f64 + SMALL).sum();
        let groups = cuts.groups(&batches).len() as f64;
        compute * runs + groups * READING * readings
    }
}
