//! The backward pass, block by block.
//!
//! The forward keeps the input of each block and nothing else; backward runs
//! from the last block to the first, recomputes one block, takes what is asked
//! of it and drops its gradients. Peak memory is the mapped weights, the block
//! inputs (`L · B · T · H` numbers) and one block.
//!
//! The loss is Σ over samples of the sample's mean negative log-likelihood per
//! predicted token, in nats, so that the rows of a sample carry exactly the
//! gradient of that sample's own loss.
//!
//! Axes: `S` samples of a micro-batch, `T` tokens, `H` hidden.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use adapruner_checkpoint::names::Projection;
use adapruner_kernels::GradTap;
use candle_core::{Result as CandleResult, Tensor, Var};

use crate::{
    backward::{Ran, gradient_of},
    block::Pass,
    decoder::{Decoder, next_token_nll},
    error::{Error, Result},
    train::{Lesson, PassOptions, Term, full_gradients},
    wide::in_f64,
};

/// What a projection saw in the backward pass of one micro-batch.
#[derive(Debug)]
pub struct ProjectionGrad<'a> {
    /// Layer index.
    pub layer: usize,
    /// Which of its projections.
    pub projection: Projection,
    /// Input activations, `[S·T, in]`.
    pub input: &'a Tensor,
    /// Weight, `[out, in]`.
    pub weight: &'a Tensor,
    /// Gradient of the output, `[S·T, out]`; the weight gradient of sample `s`
    /// is `grad_output[s]ᵀ · input[s]`.
    pub grad_output: &'a Tensor,
    /// Which samples of the list the rows belong to, `S` of them.
    pub samples: Range<usize>,
    /// `T`, the same for all samples of a micro-batch.
    pub tokens: usize,
}

/// Receives the gradients of the projections, last block first.
pub trait GradientObserver {
    /// One projection of one micro-batch.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn projection(&self, grad: &ProjectionGrad<'_>) -> CandleResult<()>;

    /// All micro-batches of a layer were observed.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn block_done(&self, layer: usize) -> CandleResult<()>;
}

/// One projection's tensors as its tap saw them.
struct Observation {
    projection: Projection,
    input: Tensor,
    weight: Tensor,
    grad_output: Tensor,
}

/// Keeps what the taps of one block saw until its backward pass is over.
#[derive(Default)]
struct Recorder(Mutex<Vec<Observation>>);

struct Tap {
    projection: Projection,
    recorder: Arc<Recorder>,
}

impl GradTap for Tap {
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> CandleResult<()> {
        self.recorder.0.lock().unwrap_or_else(PoisonError::into_inner).push(Observation {
            projection: self.projection,
            input: input.detach(),
            weight: weight.detach(),
            grad_output: grad_output.detach(),
        });
        Ok(())
    }
}

/// Samples of equal length that run together.
struct MicroBatch {
    samples: Range<usize>,
    tokens: usize,
    ids: Tensor,
    /// Input of every block, then the last block's output: `[S, T, H]` each.
    states: Vec<Tensor>,
}

/// Splits samples, in order, into runs of equal length of at most
/// `batch_tokens` tokens (but at least one sample).
fn micro_batches(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    batch_tokens: usize,
) -> Result<Vec<MicroBatch>> {
    let mut batches = Vec::new();
    let mut start = 0;
    while start < samples.len() {
        let tokens = samples[start].len();
        let most = (batch_tokens / tokens.max(1)).max(1);
        let run = samples[start..].iter().take(most).take_while(|s| s.len() == tokens).count();
        let range = start..start + run;
        let ids = decoder.tokens(&samples[range.clone()])?;
        batches.push(MicroBatch { samples: range, tokens, ids, states: Vec::new() });
        start += run;
    }
    Ok(batches)
}

/// Runs all micro-batches forward, block by block, keeping block inputs.
fn forward_states(
    decoder: &Decoder,
    batches: &mut [MicroBatch],
    progress: &dyn Fn(usize, usize),
) -> Result<()> {
    let layers = decoder.config().layers.len();
    let embedding = decoder.embedding()?;
    for batch in &mut *batches {
        batch.states.push(decoder.embed(&embedding, &batch.ids)?);
    }
    drop(embedding);
    for layer in 0..layers {
        let block = decoder.block(layer)?;
        for batch in &mut *batches {
            let (cos, sin) = decoder.positions(0, batch.tokens)?;
            let pass = Pass { cos: &cos, sin: &sin, lengths: None, taps: None };
            let y = block.forward(&batch.states[layer], &pass, None)?;
            batch.states.push(y);
        }
        progress(layer + 1, 2 * layers);
    }
    Ok(())
}

/// Per-sample mean losses of a micro-batch from its `[S, T−1]` token losses.
fn sample_losses(nll: &Tensor, batch: &MicroBatch) -> Result<Vec<f64>> {
    let rows = in_f64(&nll.detach())?.mean(1)?.to_vec1::<f64>()?;
    match rows.iter().position(|loss| !loss.is_finite()) {
        Some(at) => Err(Error::Loss { sample: batch.samples.start + at, loss: rows[at] }),
        None => Ok(rows),
    }
}

/// Shows `observer` the input and output gradient of every projection, for
/// every sample. Returns each sample's mean loss in nats per predicted token.
///
/// Samples run together in micro-batches of at most `batch_tokens` tokens;
/// `progress` is told (steps done, steps in all), two steps a block.
///
/// # Errors
/// Samples of fewer than two tokens or with ids outside the vocabulary, a loss
/// that is not finite, damaged weights, no memory, or the observer's own.
pub fn observe_gradients(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    batch_tokens: usize,
    observer: &dyn GradientObserver,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<f64>> {
    let layers = decoder.config().layers.len();
    let mut batches = micro_batches(decoder, samples, batch_tokens)?;
    forward_states(decoder, &mut batches, progress)?;

    let mut losses = Vec::with_capacity(samples.len());
    let mut upstream = Vec::with_capacity(batches.len());
    let (norm, head) = (decoder.final_norm()?, decoder.head()?);
    for batch in &mut batches {
        let x = Var::from_tensor(&last_state(batch)?)?;
        let eps = decoder.config().rms_norm_eps;
        let nll = next_token_nll(x.as_tensor(), &batch.ids, &norm, &head, eps)?;
        losses.extend(sample_losses(&nll, batch)?);
        let grads = (nll.sum_all()? / (batch.tokens - 1) as f64)?.backward()?;
        upstream.push(gradient_of(&grads, &x, "the last hidden state")?);
    }
    drop((norm, head));

    for layer in (0..layers).rev() {
        let block = decoder.block(layer)?;
        for (batch, upstream) in batches.iter_mut().zip(&mut upstream) {
            let recorder = Arc::new(Recorder::default());
            let taps = |projection| -> Arc<dyn GradTap> {
                Arc::new(Tap { projection, recorder: recorder.clone() })
            };
            let (cos, sin) = decoder.positions(0, batch.tokens)?;
            let pass = Pass { cos: &cos, sin: &sin, lengths: None, taps: Some(&taps) };
            let ran = Ran::new(layer, &block, &last_state(batch)?, &pass)?;
            *upstream = ran.pull_back(upstream)?.0;
            let observations =
                std::mem::take(&mut *recorder.0.lock().unwrap_or_else(PoisonError::into_inner));
            for o in observations {
                observer.projection(&ProjectionGrad {
                    layer,
                    projection: o.projection,
                    input: &o.input,
                    weight: &o.weight,
                    grad_output: &o.grad_output,
                    samples: batch.samples.clone(),
                    tokens: batch.tokens,
                })?;
            }
        }
        observer.block_done(layer)?;
        progress(2 * layers - layer, 2 * layers);
    }
    Ok(losses)
}

/// Takes the newest block state of a micro-batch; older ones stay.
fn last_state(batch: &mut MicroBatch) -> Result<Tensor> {
    batch
        .states
        .pop()
        .ok_or_else(|| Error::Tokens("a micro-batch has fewer states than the model layers".into()))
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
    let lesson = Lesson { sequences: samples, terms, hidden: None };
    let options = PassOptions { checkpointing: true };
    Ok(full_gradients(decoder, &lesson, &options)?.gradients)
}
