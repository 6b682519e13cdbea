//! The backward pass, block by block.
//!
//! The forward keeps the input of each block and nothing else; backward runs
//! from the last block to the first, recomputes one block, takes what is asked
//! of it and drops its gradients. Peak memory is the weights that are held, the
//! kept block inputs, one gradient of a block input and one micro-batch in one
//! block.
//!
//! Two numbers of [`PassCuts`] bound the block inputs:
//!
//! - `group_tokens`: samples run in groups, each group forward and backward
//!   before the next one begins. A group costs one more reading of the weights.
//! - `kept_blocks`: of a group, the inputs of so many blocks are kept, the last
//!   ones first; when backward has passed them, the group runs forward again up
//!   to the next ones. With `L/n` kept blocks the layers run forward about
//!   `(n + 1)/2` times.
//!
//! Micro-batches are cut first and never divided, and backward visits them in
//! the same order, so the same numbers come out, to the bit, whatever the groups
//! and the kept blocks. A group's observations of a layer follow each other;
//! those of the next group come after all layers of this one.
//!
//! The loss is Σ over samples of the sample's mean negative log-likelihood per
//! predicted token, in nats, so that the rows of a sample carry exactly the
//! gradient of that sample's own loss.
//!
//! Axes: `S` samples of a micro-batch, `T` tokens, `H` hidden, `L` layers.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use adapruner_checkpoint::{ModelConfig, names::Projection};
use adapruner_kernels::GradTap;
use candle_core::{Result as CandleResult, Tensor, Var};

use crate::{
    backward::{Ran, gradient_of},
    block::{MapPlace, Pass, extra_token_values},
    decoder::{Decoder, Places, next_token_nll},
    error::{Error, Result},
    train::{Batch, PassOptions, Term, full_gradients},
    wide::in_f64,
};

/// What a projection saw in the backward pass of one micro-batch.
#[derive(Debug)]
pub struct ProjectionGrad<'a> {
    /// Layer index.
    pub layer: usize,
    /// Which of its projections.
    pub projection: Projection,
    /// Of a mixture, which of its experts; every one is shown, also one that no token takes.
    pub expert: Option<usize>,
    /// Input activations, `[R, in]`, `S·T` rows but of an expert.
    pub input: &'a Tensor,
    /// Weight, `[out, in]`.
    pub weight: &'a Tensor,
    /// Gradient of the output, `[R, out]`; the weight gradient of sample `s`
    /// is `grad_output[s]ᵀ · input[s]` over its rows.
    pub grad_output: &'a Tensor,
    /// Which samples of the list the rows belong to, `S` of them.
    pub samples: Range<usize>,
    /// The rows of each of these samples: all its tokens, of an expert those that take it. They
    /// follow each other; rows behind the last have a gradient of 0.
    pub rows: &'a [Range<usize>],
}

/// Receives the gradients of the projections, of each group of samples the last
/// block first.
pub trait GradientObserver {
    /// One projection of one micro-batch.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn projection(&self, grad: &ProjectionGrad<'_>) -> CandleResult<()>;

    /// All micro-batches of a group were observed in a layer: the first `samples`
    /// samples of the list have been seen there by now.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn block_done(&self, layer: usize, samples: usize) -> CandleResult<()>;
}

/// How a pass is cut so that what it keeps fits into memory. Each number counts
/// as at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassCuts {
    /// Most tokens that run together (but at least one sample).
    pub batch_tokens: usize,
    /// Most tokens whose block inputs are kept together (but at least one
    /// micro-batch).
    pub group_tokens: usize,
    /// Most blocks whose inputs are kept together.
    pub kept_blocks: usize,
}

impl PassCuts {
    /// One group, the inputs of all blocks kept.
    pub fn whole(batch_tokens: usize) -> Self {
        Self { batch_tokens, group_tokens: usize::MAX, kept_blocks: usize::MAX }
    }

    /// The micro-batches of samples of `lengths` tokens: in order, runs of equal
    /// length.
    pub fn micro_batches(&self, lengths: &[usize]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        while start < lengths.len() {
            let tokens = lengths[start];
            let most = (self.batch_tokens / tokens.max(1)).max(1);
            let run = lengths[start..].iter().take(most).take_while(|&&t| t == tokens).count();
            ranges.push(start..start + run);
            start += run;
        }
        ranges
    }

    /// Times that a group runs forward through a block of a model with `layers` blocks,
    /// beside once in the backward pass.
    pub fn forward_blocks(&self, layers: usize) -> usize {
        kept_states(layers, self.kept_blocks).iter().map(|kept| kept.end - 1).sum()
    }

    /// The groups of micro-batches of `tokens` tokens each: in order, ranges of them.
    pub fn groups(&self, tokens: &[usize]) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut held = 0_usize;
        for (at, &tokens) in tokens.iter().enumerate() {
            held = held.saturating_add(tokens);
            match groups.last_mut() {
                Some(group) if held <= self.group_tokens => group.end = at + 1,
                Some(_) | None => {
                    groups.push(at..at + 1);
                    held = tokens;
                }
            }
        }
        groups
    }
}

/// Bytes that the activations of one token of a micro-batch take at the widest point
/// of a block's forward and backward pass, in f32.
///
/// Until the backward pass of a block is over it holds: of attention the norm's
/// output, rotated queries and keys, values, the heads' outputs and the gradients of
/// these; of the feed-forward the norm's output, gate, up and their product with
/// their gradients; and the streams before, between and behind with theirs.
pub fn backward_token_bytes(config: &ModelConfig) -> u64 {
    let hidden = 12 * config.hidden_size as u64;
    let widest = config.layers.iter().map(|widths| {
        let (n, k) = (widths.query_heads as u64, widths.kv_heads as u64);
        let extra = extra_token_values(config, n, k);
        (5 * n + 6 * k) * config.head_dim as u64
            + 2 * n
            + 6 * config.active_channels(widths) as u64
            + extra
    });
    (hidden + widest.max().unwrap_or(0)) * size_of::<f32>() as u64
}

/// One projection's tensors as its tap saw them.
struct Observation {
    place: MapPlace,
    input: Tensor,
    weight: Tensor,
    grad_output: Tensor,
}

/// Keeps what the taps of one block saw until its backward pass is over.
#[derive(Default)]
struct Recorder(Mutex<Vec<Observation>>);

struct Tap {
    place: MapPlace,
    recorder: Arc<Recorder>,
}

impl GradTap for Tap {
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> CandleResult<()> {
        self.recorder.0.lock().unwrap_or_else(PoisonError::into_inner).push(Observation {
            place: self.place.clone(),
            input: input.detach(),
            weight: weight.detach(),
            grad_output: grad_output.detach(),
        });
        Ok(())
    }
}

/// Samples of equal length that run together.
pub(crate) struct MicroBatch {
    pub(crate) samples: Range<usize>,
    pub(crate) tokens: usize,
    pub(crate) ids: Tensor,
    /// The newest block states that are kept, `[S, T, H]` each.
    pub(crate) states: Vec<Tensor>,
}

/// The micro-batches of samples, without states.
pub(crate) fn micro_batches(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    cuts: &PassCuts,
) -> Result<Vec<MicroBatch>> {
    let lengths: Vec<usize> = samples.iter().map(Vec::len).collect();
    cuts.micro_batches(&lengths)
        .into_iter()
        .map(|range| {
            let (tokens, ids) = (lengths[range.start], decoder.tokens(&samples[range.clone()])?);
            Ok(MicroBatch { samples: range, tokens, ids, states: Vec::new() })
        })
        .collect()
}

/// The block states that are kept one after the other, those of the last blocks
/// first: state `l` is the input of block `l`, state `L` the last block's output.
fn kept_states(layers: usize, kept_blocks: usize) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut end = layers;
    loop {
        let start = end.saturating_sub(kept_blocks.max(1));
        // The output of the last block goes with the first of them.
        out.push(start..if out.is_empty() { layers + 1 } else { end });
        if start == 0 {
            return out;
        }
        end = start;
    }
}

/// Runs micro-batches forward, block by block, up to the last of the block states
/// `kept`, and keeps those.
fn forward_states(
    decoder: &Decoder,
    batches: &mut [MicroBatch],
    kept: &Range<usize>,
    step: &dyn Fn(),
) -> Result<()> {
    let embedding = decoder.embedding()?;
    for batch in &mut *batches {
        batch.states = vec![decoder.embed(&embedding, &batch.ids, Places::From(0))?];
    }
    drop(embedding);
    for layer in 0..kept.end - 1 {
        let block = decoder.block(layer)?;
        for batch in &mut *batches {
            let rotations = decoder.positions(0, batch.tokens)?;
            let pass = Pass::of(&rotations);
            let y = block.forward(newest(batch)?, &pass, None)?;
            if layer < kept.start {
                batch.states.clear();
            }
            batch.states.push(y);
        }
        step();
    }
    Ok(())
}

/// Per-sample mean losses of a micro-batch from its `[S, T−1]` token losses.
pub(crate) fn sample_losses(nll: &Tensor, batch: &MicroBatch) -> Result<Vec<f64>> {
    let rows = in_f64(&nll.detach())?.mean(1)?.to_vec1::<f64>()?;
    match rows.iter().position(|loss| !loss.is_finite()) {
        Some(at) => Err(Error::Loss { sample: batch.samples.start + at, loss: rows[at] }),
        None => Ok(rows),
    }
}

/// Shows `observer` the input and output gradient of every projection, for
/// every sample. Returns each sample's mean loss in nats per predicted token.
///
/// `progress` is told (steps done, steps in all), a step for each time that a
/// group runs through a block.
///
/// # Errors
/// Samples of fewer than two tokens or with ids outside the vocabulary, a loss
/// that is not finite, damaged weights, no memory, or the observer's own.
pub fn observe_gradients(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    cuts: &PassCuts,
    observer: &dyn GradientObserver,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<f64>> {
    let layers = decoder.config().layers.len();
    let mut batches = micro_batches(decoder, samples, cuts)?;
    let tokens: Vec<usize> = batches.iter().map(|b| b.samples.len() * b.tokens).collect();
    let groups = cuts.groups(&tokens);
    let kept = kept_states(layers, cuts.kept_blocks);
    let steps = groups.len() * (cuts.forward_blocks(layers) + layers);
    let done = Cell::new(0);
    let step = || {
        done.set(done.get() + 1);
        progress(done.get(), steps);
    };
    let mut losses = Vec::with_capacity(samples.len());
    for group in groups {
        let batches = &mut batches[group];
        let seen = batches.last().map_or(0, |batch| batch.samples.end);
        let mut upstream = Vec::new();
        for kept in &kept {
            forward_states(decoder, batches, kept, &step)?;
            if kept.end > layers {
                upstream = loss_gradients(decoder, batches, &mut losses)?;
            }
            for layer in (kept.start..kept.end.min(layers)).rev() {
                observe_block(decoder, layer, batches, &mut upstream, observer)?;
                observer.block_done(layer, seen)?;
                step();
            }
        }
    }
    Ok(losses)
}

/// Takes the last block's outputs; adds the samples' losses to `losses`, and
/// returns the gradient of each micro-batch's outputs.
fn loss_gradients(
    decoder: &Decoder,
    batches: &mut [MicroBatch],
    losses: &mut Vec<f64>,
) -> Result<Vec<Tensor>> {
    let ending = decoder.ending()?;
    let gradient = |batch: &mut MicroBatch| {
        let x = Var::from_tensor(&take_newest(batch)?)?;
        let nll = next_token_nll(x.as_tensor(), &batch.ids, &ending)?;
        losses.extend(sample_losses(&nll, batch)?);
        let grads = (nll.sum_all()? / (batch.tokens - 1) as f64)?.backward()?;
        gradient_of(&grads, &x, "the last hidden state")
    };
    batches.iter_mut().map(gradient).collect()
}

/// Runs micro-batches through a block and back, and shows what its projections
/// saw; gradients of its outputs become those of its inputs.
fn observe_block(
    decoder: &Decoder,
    layer: usize,
    batches: &mut [MicroBatch],
    upstream: &mut [Tensor],
    observer: &dyn GradientObserver,
) -> Result<()> {
    let block = decoder.block(layer)?;
    for (batch, upstream) in batches.iter_mut().zip(upstream) {
        let recorder = Arc::new(Recorder::default());
        let taps =
            |place| -> Arc<dyn GradTap> { Arc::new(Tap { place, recorder: recorder.clone() }) };
        let rotations = decoder.positions(0, batch.tokens)?;
        let pass = Pass { taps: Some(&taps), ..Pass::of(&rotations) };
        let ran = Ran::new(layer, &block, &take_newest(batch)?, &pass)?;
        *upstream = ran.pull_back(upstream)?.0;
        let observations =
            std::mem::take(&mut *recorder.0.lock().unwrap_or_else(PoisonError::into_inner));
        for o in observations {
            observer.projection(&ProjectionGrad {
                layer,
                projection: o.place.projection,
                expert: o.place.routed.as_ref().map(|routed| routed.expert),
                input: &o.input,
                weight: &o.weight,
                grad_output: &o.grad_output,
                samples: batch.samples.clone(),
                rows: &o.place.rows_of(batch.samples.len(), batch.tokens),
            })?;
        }
    }
    Ok(())
}

fn no_state() -> Error {
    Error::Tokens("a micro-batch has fewer states than the model layers".into())
}

/// The newest block state of a micro-batch.
fn newest(batch: &MicroBatch) -> Result<&Tensor> {
    batch.states.last().ok_or_else(no_state)
}

/// Takes the newest block state of a micro-batch; older ones stay.
pub(crate) fn take_newest(batch: &mut MicroBatch) -> Result<Tensor> {
    batch.states.pop().ok_or_else(no_state)
}

/// The gradient of the loss of [`observe_gradients`] for every parameter, by
/// canonical name; a tied head adds to the embedding's.
///
/// All gradients are held at once: for training and for tests, not for
/// scoring.
///
/// # Errors
/// As [`full_gradients`].
pub fn parameter_gradients(
    decoder: &Decoder,
    samples: &[Vec<u32>],
) -> Result<BTreeMap<String, Tensor>> {
    let weight = |sample: usize, _| (1.0 / (samples[sample].len() - 1) as f64) as f32;
    let terms = vec![Term::cross_entropy(samples, weight)];
    let batch = Batch { sequences: samples, terms, hidden: None };
    let options = PassOptions { checkpointing: true };
    Ok(full_gradients(decoder, &batch, &options)?.gradients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_whole_micro_batches_that_fit() {
        let batches =
            |batch_tokens| PassCuts::whole(batch_tokens).micro_batches(&[8, 8, 8, 5, 5, 8]);
        assert_eq!(batches(16), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(batches(0), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
        let groups =
            |group_tokens| PassCuts { group_tokens, ..PassCuts::whole(1) }.groups(&[16, 8, 10, 8]);
        assert_eq!(groups(usize::MAX), std::slice::from_ref(&(0..4)));
        assert_eq!(groups(24), [0..2, 2..4]);
        assert_eq!(groups(33), [0..2, 2..4]);
        assert_eq!(groups(0), [0..1, 1..2, 2..3, 3..4]);
        assert!(PassCuts::whole(1).groups(&[]).is_empty());
    }

    #[test]
    fn every_block_state_is_kept_once_and_the_last_ones_first() {
        assert_eq!(kept_states(5, usize::MAX), std::slice::from_ref(&(0..6)));
        assert_eq!(kept_states(5, 5), std::slice::from_ref(&(0..6)));
        assert_eq!(kept_states(5, 2), [3..6, 1..3, 0..1]);
        assert_eq!(kept_states(2, 0), [1..3, 0..1]);
        let forward =
            |kept_blocks| PassCuts { kept_blocks, ..PassCuts::whole(1) }.forward_blocks(5);
        assert_eq!((forward(5), forward(4), forward(2), forward(1)), (5, 5, 7, 5 + 3 + 2 + 1));
    }
}
