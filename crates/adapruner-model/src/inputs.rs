//! The forward pass, block by block, with what the matrices read whose columns are
//! pruned: the output projection of attention and the down projection.
//!
//! Samples run in the micro-batches and groups of [`PassCuts`] (`kept_blocks` plays no
//! part), and a group runs through one block after the other, so memory holds one block,
//! one block input for every token of a group, and one micro-batch in one block. What is
//! shown equals, to the bit, [`crate::ProjectionGrad::input`] of the backward pass.
//!
//! The kernels keep what these matrices read inside whole sublayers, so it is computed
//! beside them: queries, keys, values, gate and up are multiplied twice.
//!
//! Axes: `S` samples of a micro-batch, `T` tokens, `H` hidden, `N` query heads, `D` head
//! width, `F` feed-forward width.

use std::{cell::Cell, ops::Range};

use adapruner_checkpoint::{ModelConfig, names::Projection};
use adapruner_kernels::sublayer::{Expertise, Experts};
use candle_core::{Result as CandleResult, Tensor};

use crate::{
    block::{MapPlace, Pass, Seen, extra_token_values},
    decoder::{Decoder, Places, next_token_nll},
    error::Result,
    gradient::{MicroBatch, PassCuts, micro_batches, sample_losses, take_newest},
};

/// What a projection read in the forward pass of one micro-batch.
#[derive(Debug)]
pub struct ProjectionInput<'a> {
    /// Layer index.
    pub layer: usize,
    /// Which of its projections: the output of a sublayer.
    pub projection: Projection,
    /// Of a mixture, which of its experts; every one is shown, also one that no token takes.
    pub expert: Option<usize>,
    /// Input activations, `[R, in]`, `S·T` rows but of an expert: `in` is `N·D` or `F`.
    pub input: &'a Tensor,
    /// Weight, `[H, in]`.
    pub weight: &'a Tensor,
    /// Which samples of the list the rows belong to, `S` of them.
    pub samples: Range<usize>,
    /// The rows of each of these samples: all its tokens, of an expert those that take it.
    pub rows: &'a [Range<usize>],
}

/// Receives what projections read, of each group of samples the first block first.
pub trait InputObserver {
    /// One projection of one micro-batch.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn input(&self, input: &ProjectionInput<'_>) -> CandleResult<()>;

    /// The mixture of layer `layer`, and what it reads of a micro-batch, `[S, T, H]`, before its
    /// experts are shown. Of no interest unless it is implemented.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn mixture(&self, layer: usize, mixture: &Experts, x: &Tensor) -> CandleResult<()> {
        let (_, _, _) = (layer, mixture, x);
        Ok(())
    }

    /// What an expert of layer `layer` makes of the rows of a micro-batch that take it; every one
    /// is shown, also one that no token takes. Of no interest unless it is implemented.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn expert(&self, layer: usize, expert: &Expertise<'_>) -> CandleResult<()> {
        let (_, _) = (layer, expert);
        Ok(())
    }
}

/// Bytes that the activations of one token of a micro-batch take at the widest point of a
/// block's forward pass with its inputs shown, in f32.
///
/// Alive at once are at most the stream before and behind the attention, the block's
/// output, the norm's output and one more of these (5·H), and either queries and keys
/// with their rotated copies, values and the heads' outputs, or gate, up and their product
/// (3·F).
pub fn forward_token_bytes(config: &ModelConfig) -> u64 {
    let hidden = 5 * config.hidden_size as u64;
    let widest = config.layers.iter().map(|widths| {
        let (n, k) = (widths.query_heads as u64, widths.kv_heads as u64);
        let extra = extra_token_values(config, n, k);
        ((3 * n + 3 * k) * config.head_dim as u64).max(3 * config.active_channels(widths) as u64)
            + extra
    });
    (hidden + widest.max().unwrap_or(0)) * size_of::<f32>() as u64
}

/// Shows `observer` what the output and down projections of every layer read, for every
/// sample. Returns each sample's mean loss in nats per predicted token.
///
/// `progress` is told (steps done, steps in all), a step for each time that a group runs
/// through a block.
///
/// # Errors
/// Samples of fewer than two tokens or with ids outside the vocabulary, a loss that is not
/// finite, damaged weights, no memory, or the observer's own.
pub fn observe_inputs(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    cuts: &PassCuts,
    observer: &dyn InputObserver,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<f64>> {
    let layers = decoder.config().layers.len();
    let mut batches = micro_batches(decoder, samples, cuts)?;
    let tokens: Vec<usize> = batches.iter().map(|b| b.samples.len() * b.tokens).collect();
    let groups = cuts.groups(&tokens);
    let (done, steps) = (Cell::new(0), groups.len() * layers);
    let mut losses = Vec::with_capacity(samples.len());
    for group in groups {
        let batches = &mut batches[group];
        let embedding = decoder.embedding()?;
        for batch in &mut *batches {
            batch.states = vec![decoder.embed(&embedding, &batch.ids, Places::From(0))?];
        }
        drop(embedding);
        for layer in 0..layers {
            run_block(decoder, layer, batches, observer)?;
            done.set(done.get() + 1);
            progress(done.get(), steps);
        }
        let ending = decoder.ending()?;
        for batch in batches {
            let x = take_newest(batch)?;
            losses.extend(sample_losses(&next_token_nll(&x, &batch.ids, &ending)?, batch)?);
        }
    }
    Ok(losses)
}

/// Sends micro-batches through a block.
fn run_block(
    decoder: &Decoder,
    layer: usize,
    batches: &mut [MicroBatch],
    observer: &dyn InputObserver,
) -> Result<()> {
    let block = decoder.block(layer)?;
    for batch in batches {
        let rotations = decoder.positions(0, batch.tokens)?;
        let pass = Pass::of(&rotations);
        let (samples, tokens) = (batch.samples.clone(), batch.tokens);
        let mut see = |seen: Seen<'_>| {
            let (place, inner, weight) = match seen {
                Seen::Read(place, inner, weight) => (place, inner, weight),
                Seen::Mixture(mixture, x) => return observer.mixture(layer, mixture, x),
                Seen::Expert(expert) => return observer.expert(layer, expert),
            };
            let (_, inputs) = weight.dims2()?;
            let input = &inner.reshape((inner.elem_count() / inputs.max(1), inputs))?;
            let rows = &place.rows_of(samples.len(), tokens);
            let MapPlace { projection, routed } = place;
            let (samples, expert) = (samples.clone(), routed.map(|routed| routed.expert));
            let seen = ProjectionInput { layer, projection, expert, input, weight, samples, rows };
            observer.input(&seen)
        };
        let y = block.forward_seen(&take_newest(batch)?, &pass, &mut see)?;
        batch.states.push(y);
    }
    Ok(())
}
