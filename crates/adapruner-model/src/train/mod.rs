//! The differentiable pass of fine-tuning: a loss of several terms and its
//! gradients, of low-rank updates, of all parameters or of the masks of units; and
//! what moves numbers along gradients.
//!
//! The sequences of a batch run *packed*: their rows follow each other in one
//! matrix `[1, R, H]`, nothing is padded, attention stays inside each sequence and
//! positions start at 0 in each. So a batch's loss is the sum of those of its
//! sequences run alone. Losses are sums, in nats.
//!
//! Axes: `R` rows of all sequences, `P` rows that predict (all but the last of each
//! sequence), `H` hidden, `V` vocabulary, `k` targets of a row.

pub mod adamw;
mod pass;
pub mod schedule;
mod teacher;

use std::collections::BTreeMap;

use adapruner_checkpoint::names::Projection;
pub use adapruner_kernels::{Dropout, LowRank, LowRankGrad};
use candle_core::Tensor;

pub use self::teacher::TopLogits;
pub use crate::changes::{Adapters, Masks};
use crate::{
    decoder::Decoder,
    error::{Error, Result},
};

/// One term of the loss: Σ over the predicting rows `r` of
/// `(Σ_k w_rk) · logsumexp(z_r/τ) − Σ_k w_rk · z_r[id_rk]/τ`.
///
/// Cross-entropy is `k = 1`, `τ = 1` and weights of 1, or 0 where a token is not to
/// be learned; rows whose weights are all zero cost nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// `τ`.
    pub temperature: f64,
    /// Targets of a row.
    pub k: usize,
    /// `[P, k]`.
    pub ids: Vec<u32>,
    /// `[P, k]`.
    pub weights: Vec<f32>,
}

impl Term {
    /// Cross-entropy of the tokens of some sequences, each weighted by `weight`
    /// (sequence, position of the token, 1 or more).
    pub fn cross_entropy(sequences: &[Vec<u32>], weight: impl Fn(usize, usize) -> f32) -> Self {
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (index, sequence) in sequences.iter().enumerate() {
            for (at, &id) in sequence.iter().enumerate().skip(1) {
                ids.push(id);
                weights.push(weight(index, at));
            }
        }
        Self { temperature: 1.0, k: 1, ids, weights }
    }

    /// Whether no row has a target.
    fn is_empty(&self) -> bool {
        self.weights.iter().all(|&weight| weight == 0.0)
    }
}

/// What is learned from in one pass.
pub struct Batch<'a> {
    /// Tokens, two or more each, of any lengths.
    pub sequences: &'a [Vec<u32>],
    /// Terms of the loss.
    pub terms: Vec<Term>,
    /// Matching of hidden states.
    pub hidden: Option<HiddenMatch<'a>>,
}

/// Matching of the outputs of blocks to a teacher's:
/// `weight · Σ over layers, Σ over rows ‖h − t‖²/‖t‖²`. By the target's square,
/// because the few massive activations (at the first position mostly) would be all
/// that is matched without it.
pub struct HiddenMatch<'a> {
    /// Factor of the term.
    pub weight: f64,
    /// Which layers' outputs.
    pub layers: Vec<usize>,
    /// What those of a layer are to be, `[R, H]`; see [`Decoder::block_outputs`].
    pub target: &'a dyn Fn(usize) -> Result<Tensor>,
}

/// How a pass is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassOptions {
    /// Run each block again in backward: memory is the blocks' inputs and one
    /// block, in place of the activations of all.
    pub checkpointing: bool,
}

/// Losses and gradients of a batch.
#[derive(Debug, Clone)]
pub struct Learned<G> {
    /// The sum of each term, in nats.
    pub terms: Vec<f64>,
    /// The matching of hidden states, with its weight; 0 where there is none.
    pub hidden: f64,
    /// The gradients of the sum of all.
    pub gradients: G,
}

/// The gradients of all low-rank updates of a decoder ([`Decoder::with_adapters`]),
/// and none of the frozen weights.
///
/// # Errors
/// Sequences of fewer than two tokens or with ids outside the vocabulary, targets
/// that do not fit, a loss that is not finite, a low-rank update without a gradient
/// (named by layer and projection), damaged weights, or no memory.
pub fn adapter_gradients(
    decoder: &Decoder,
    batch: &Batch<'_>,
    options: &PassOptions,
) -> Result<Learned<BTreeMap<(usize, Projection), LowRankGrad>>> {
    let learned = pass::run(decoder, batch, options, pass::Wanted::Adapters)?;
    for &(layer, projection) in decoder.adapters().keys() {
        if !learned.gradients.adapters.contains_key(&(layer, projection)) {
            return Err(Error::NoGradient(format!(
                "low-rank update of layer {layer}, {projection}"
            )));
        }
    }
    Ok(learned.map(|gradients| gradients.adapters))
}

/// The gradients of all parameters, by canonical name; a tied head adds to the
/// embedding's. Low-rank updates stay as they are.
///
/// # Errors
/// As [`adapter_gradients`]; a parameter without a gradient is named.
pub fn full_gradients(
    decoder: &Decoder,
    batch: &Batch<'_>,
    options: &PassOptions,
) -> Result<Learned<BTreeMap<String, Tensor>>> {
    let learned = pass::run(decoder, batch, options, pass::Wanted::Parameters)?;
    Ok(learned.map(|gradients| gradients.parameters))
}

/// The gradients of masks, by layer and projection as in [`Masks`]: `∂L/∂m_j` of every
/// factor, also of those that are 0.
pub type MaskGradients = BTreeMap<(usize, Projection), Vec<f64>>;

/// Adds the gradients of all masks of a decoder ([`Decoder::with_masks`]) to `sums`,
/// row after row: where our own kernels make the products, the sums over batches are the
/// same however their sequences are divided among them. The weights are frozen.
///
/// # Errors
/// As [`adapter_gradients`]; a mask without a gradient is named, and the sums are lost.
pub fn mask_gradients(
    decoder: &Decoder,
    batch: &Batch<'_>,
    options: &PassOptions,
    sums: &mut MaskGradients,
) -> Result<Learned<()>> {
    let gradients = pass::Gradients { masks: std::mem::take(sums), ..pass::Gradients::default() };
    let learned = pass::run_onto(decoder, batch, options, pass::Wanted::Masks, gradients)?;
    for &(layer, projection) in decoder.masks().keys() {
        if !learned.gradients.masks.contains_key(&(layer, projection)) {
            return Err(Error::NoGradient(format!("mask of layer {layer}, {projection}")));
        }
    }
    Ok(learned.map(|gradients| *sums = gradients.masks))
}

impl<G> Learned<G> {
    fn map<T>(self, f: impl FnOnce(G) -> T) -> Learned<T> {
        let Self { terms, hidden, gradients } = self;
        Learned { terms, hidden, gradients: f(gradients) }
    }
}
