//! Compensation: refits the matrices that read pruned units in closed form, or gives them a
//! bias.
//!
//! The pruned model's hidden states run through layer after layer. If a sublayer lost units,
//! its last matrix (the output projection of attention, the down projection of the
//! feed-forward) is fitted to the dense layer's output for the same hidden states, as far as
//! the kept units can express it:
//!
//! `min over W of Σ over tokens w_t · ‖r_t − p_t − W·x_t − b‖² + λ·‖W − W₀‖²`
//!
//! with `r` the *reference*, the hidden states after the dense sublayer, `p` the pruned model's
//! hidden states before the pruned one, `x` the kept activations on it, `b` the bias if there
//! is one, `W₀` the sliced weight, and λ = ridge · mean diagonal of the Gram matrix. The ridge
//! pulls towards the sliced weights. Reference and pruned hidden states differ only within a
//! layer: kept units cannot express the errors of earlier layers, and fits that also targeted
//! these did harm. If a layer's whole attention is removed, the feed-forward sublayer is fitted
//! to the output of the whole dense layer; if whole layers behind a layer are removed, to the
//! output of these (not in families that norm what a sublayer adds).
//!
//! An eighth of the samples is held out ([`held_out`]): no matrix is fitted on it, it chooses the
//! ridge of each fit ([`Ridge::HeldOut`]), and a fit that does not lower its error is
//! dropped.
//!
//! In the form of a bias ([`Form::Bias`]) the weight stays unchanged and only `b` is fitted. It
//! is the weighted mean of the missing output, which is what the removed units contributed on
//! average (FLAP, An et al., arXiv 2312.11983). It needs a model with biases, and few tokens.
//!
//! Memory: the hidden states, the inputs of one sublayer's last matrix on all samples, one
//! block of either model, the Gram matrix of one sublayer (f64) and the fitted matrices (f32);
//! [`CompensateFootprint`] counts them.
//!
//! Axes: `B` sequences, `T` tokens, `R` rows (`B·T`), `H` hidden, `F` features of
//! a fit: feed-forward channels or heads times their width.

mod bias;
mod cholesky;
mod memory;
mod normal;
mod ridge;

use std::{collections::BTreeMap, fmt, ops::Range};

use adapruner_checkpoint::{
    Checkpoint, ModelConfig,
    names::{Norm, Projection, Sublayer},
};
use adapruner_kernels::sublayer::{Affine, Residual};
use adapruner_model::{
    Decoder, Placement, Places, Residency,
    block::{Block, Pass},
};
use candle_core::{D, DType, Device, Result as CandleResult, Tensor, bail};
use serde::Serialize;

use self::{
    bias::{Mean, MeanResidual},
    normal::{NormalEquations, Solution},
};
pub use self::{memory::CompensateFootprint, ridge::Ridge};
use crate::{
    apply,
    error::{Error, Result, refuse_experts},
    plan::PrunePlan,
};

/// One sample out of this many is held out.
const HELD_OUT: usize = 8;

/// How many of a number of samples are held out: the last ones, an eighth, and at least one.
pub fn held_out(samples: usize) -> usize {
    samples.div_ceil(HELD_OUT)
}

/// What of a sublayer's last matrix is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Its weight.
    Weight {
        /// How strongly it is held to the sliced weight.
        ridge: Ridge,
    },
    /// Its bias.
    Bias,
}

/// How a model is compensated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompensateOptions {
    /// What is fitted.
    pub form: Form,
    /// Most tokens that run together.
    pub batch_tokens: usize,
}

/// One matrix that was fitted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refit {
    /// Layer index, in the dense model.
    pub layer: usize,
    /// Which matrix.
    #[serde(serialize_with = "display")]
    pub projection: Projection,
    /// Ridge that was used; none for a bias.
    pub ridge: Option<f64>,
    /// Whether the requested ridge left the system singular.
    pub raised: bool,
    /// Whether the fit lowered the held-out error; else the sliced matrix stays.
    pub kept: bool,
    /// Weighted mean squared error on the fitted samples with the sliced weights.
    pub error_before: f64,
    /// The same with the fitted ones.
    pub error_after: f64,
    /// Weighted mean squared error on the held-out samples with the sliced weights.
    pub held_out_before: f64,
    /// The same with the fitted ones.
    pub held_out_after: f64,
}

fn display<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

impl Refit {
    /// A fit of these errors before and after; `kept` or not.
    fn new(
        (layer, projection): (usize, Projection),
        kept: bool,
        fitted: (f64, f64),
        held_out: (f64, f64),
    ) -> Self {
        Self {
            layer,
            projection,
            ridge: None,
            raised: false,
            kept,
            error_before: fitted.0,
            error_after: fitted.1,
            held_out_before: held_out.0,
            held_out_after: held_out.1,
        }
    }

    /// What a user should know of it, if anything.
    pub fn warning(&self) -> Option<String> {
        let Self { layer, projection, ridge, .. } = self;
        ridge.filter(|_| self.raised).map(|ridge| {
            format!(
                "layer {layer}, {projection}: the samples leave the fit singular, its ridge was \
                 raised to {ridge:e}"
            )
        })
    }
}

/// A compensated model and what was fitted.
pub struct Compensated {
    /// The pruned model with the fitted matrices in place of the sliced ones, or
    /// with biases.
    pub checkpoint: Checkpoint,
    /// Every fit, in the order of the layers.
    pub refits: Vec<Refit>,
}

/// Applies a plan and fits the matrices that read pruned units so that, on
/// `samples`, the pruned layers follow the dense ones. Some of them are held
/// out ([`held_out`]).
///
/// Samples of equal length run together; `progress` receives (layers done, layers in all).
///
/// # Errors
/// A plan for another model, fewer than two samples, ids outside the vocabulary, a
/// ridge below 0, activations that are not finite, damaged weights, no memory.
pub fn compensate(
    dense: &Checkpoint,
    plan: &PrunePlan,
    samples: &[Vec<u32>],
    options: &CompensateOptions,
    placement: &Placement,
    progress: &dyn Fn(usize, usize),
) -> Result<Compensated> {
    refuse_experts(&dense.config, "compensate", "compensation")?;
    match options.form {
        Form::Weight { ridge } => ridge.check()?,
        Form::Bias => {}
    }
    let pruned = apply(dense, plan)?;
    let mut run = Run {
        dense: Decoder::load(dense, placement, Residency::Streamed)?,
        pruned: Decoder::load(&pruned, placement, Residency::Streamed)?,
        batches: Vec::new(),
        options,
        refits: Vec::new(),
        refitted: BTreeMap::new(),
    };
    let mut all = fits(&dense.config, plan);
    // Behind the last fit nothing changes any more.
    all.truncate(all.iter().rposition(|fit| !fit.projections.is_empty()).map_or(0, |at| at + 1));
    run.embed(samples)?;
    for (at, fit) in all.iter().enumerate() {
        run.layer(fit)?;
        progress(at + 1, all.len());
    }
    let Run { refits, refitted, .. } = run;
    let checkpoint = match options.form {
        Form::Weight { .. } => pruned.with_tensors(refitted)?,
        Form::Bias => pruned.with_biases(refitted)?,
    };
    Ok(Compensated { checkpoint, refits })
}

/// The configuration of a model that was compensated by a plan in this form:
/// biases where they are fitted.
pub fn compensated_config(dense: &ModelConfig, plan: &PrunePlan, form: Form) -> ModelConfig {
    let mut config = plan.pruned_config(dense);
    match form {
        Form::Weight { .. } => {}
        Form::Bias => {
            let fitted = fits(dense, plan).into_iter().flat_map(|fit| fit.projections);
            fitted.for_each(|projection| config.add_bias(projection));
        }
    }
    config
}

/// What is fitted of a layer that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LayerFit {
    /// Its index in the pruned model.
    at: usize,
    /// Its index in the dense model.
    layer: usize,
    /// Layers of the dense model that are gone right behind it.
    gone: Range<usize>,
    /// Its matrices that are fitted.
    projections: Vec<Projection>,
}

/// The layers that stay, first to last, each with its matrices that are fitted: those that read
/// what the layer lost. Where its attention is gone as a whole, or layers behind it are, the
/// feed-forward sublayer makes up for that.
fn fits(dense: &ModelConfig, plan: &PrunePlan) -> Vec<LayerFit> {
    let kept = plan.kept_layers();
    let behind = kept.iter().skip(1).copied().chain([dense.layers.len()]);
    let normed = Norm::AfterFfn.of(dense.family()).is_some();
    let fit = |(at, (&layer, next)): (usize, (&usize, usize))| {
        let gone = if normed { next..next } else { layer + 1..next };
        let (before, after) = (dense.layers[layer], plan.layers[layer].widths());
        let dropped = before.has_attention() && !after.has_attention();
        let heads = before.query_heads != after.query_heads && !dropped;
        let channels = before.ffn != after.ffn || dropped || !gone.is_empty();
        let cut = [(heads, Sublayer::Attention), (channels, Sublayer::FeedForward)];
        let cut = cut.into_iter().filter_map(|(cut, of)| cut.then_some(of.output()));
        LayerFit { at, layer, gone, projections: cut.collect() }
    };
    kept.iter().zip(behind).enumerate().map(fit).collect()
}

/// The sublayers, in the order in which they are fitted.
const SUBLAYERS: [Sublayer; 2] = [Sublayer::Attention, Sublayer::FeedForward];

/// Samples that run together.
struct Batch {
    /// What enters the layer, `[B, T, H]`.
    entered: Tensor,
    /// The pruned model's stream, `[B, T, H]`.
    stream: Tensor,
    /// The dense layer's where it is another, `[B, T, H]`.
    reference: Option<Tensor>,
    /// Whether the samples are held out.
    held_out: bool,
}

/// What a sublayer's last matrix reads, that matrix, and how what it gives is added; of what
/// entered the layer and of the stream before the sublayer.
fn parts<'a>(
    sublayer: Sublayer,
    block: &'a Block,
    entered: &Tensor,
    stream: &Tensor,
    pass: &Pass<'_>,
) -> CandleResult<Option<(Tensor, &'a Affine, &'a Residual)>> {
    Ok(match (sublayer, &block.attention) {
        (Sublayer::FeedForward, _) => {
            // Models with experts are refused before work begins.
            let Some(ffn) = block.ffn.dense() else { bail!("a feed-forward of experts") };
            let read = ffn.channels(block.read_by_ffn(entered, stream))?;
            Some((read, &ffn.down, &ffn.residual))
        }
        (Sublayer::Attention, None) => None,
        (Sublayer::Attention, Some(attention)) => {
            let read = block.head_outputs(stream, pass)?;
            read.map(|inner| (inner, &attention.o, &attention.residual))
        }
    })
}

/// The stream with a sublayer added, if the block has it.
fn with_sublayer(
    sublayer: Sublayer,
    block: &Block,
    entered: &Tensor,
    stream: &Tensor,
    pass: &Pass<'_>,
) -> CandleResult<Tensor> {
    match parts(sublayer, block, entered, stream, pass)? {
        None => Ok(stream.clone()),
        Some((inner, map, residual)) => residual.add(stream, &map.apply(&inner)?),
    }
}

/// What the last matrix of a sublayer gives too little, `[B, T, H]`, so that the stream behind it
/// is `reference`; where a norm comes behind the matrix, so that the norm reads what the dense
/// matrix gives.
fn missing(
    residual: &Residual,
    stream: &Tensor,
    given: &Tensor,
    reference: &Tensor,
    dense: &Tensor,
) -> CandleResult<Tensor> {
    if residual.norm.is_some() {
        return dense - given;
    }
    let difference = (reference - residual.add(stream, given)?)?;
    if residual.scale == 1.0 { Ok(difference) } else { difference / residual.scale }
}

struct Run<'a> {
    dense: Decoder,
    pruned: Decoder,
    batches: Vec<Batch>,
    options: &'a CompensateOptions,
    refits: Vec<Refit>,
    refitted: BTreeMap<String, Tensor>,
}

impl Run<'_> {
    fn embed(&mut self, samples: &[Vec<u32>]) -> Result<()> {
        if samples.len() < 2 {
            return Err(Error::Compensation(format!(
                "expected at least 2 samples, one of them to be held out, found {}",
                samples.len()
            )));
        }
        let embedding = self.dense.embedding()?;
        let (fitted, held) = samples.split_at(samples.len() - held_out(samples.len()));
        for (samples, held_out) in [(fitted, false), (held, true)] {
            for run in samples.chunk_by(|a, b| a.len() == b.len()) {
                let most = (self.options.batch_tokens / run[0].len().max(1)).max(1);
                for rows in run.chunks(most) {
                    let ids = self.dense.tokens(rows)?;
                    let stream = self.dense.embed(&embedding, &ids, Places::From(0))?;
                    let entered = stream.clone();
                    self.batches.push(Batch { entered, stream, reference: None, held_out });
                }
            }
        }
        Ok(())
    }

    fn layer(&mut self, of: &LayerFit) -> Result<()> {
        let dense = self.dense.block(of.layer)?;
        let pruned = self.pruned.block(of.at)?;
        self.batches.iter_mut().for_each(|batch| batch.entered = batch.stream.clone());
        if dense.attention.is_some() && pruned.attention.is_none() {
            for batch in &mut self.batches {
                let rotations = self.dense.positions(0, batch.stream.dim(1)?)?;
                let pass = Pass::of(&rotations);
                let (entered, stream) = (&batch.entered, &batch.stream);
                let attention = Sublayer::Attention;
                let reference = with_sublayer(attention, &dense, entered, stream, &pass)?;
                batch.reference = Some(reference);
            }
        }
        for sublayer in SUBLAYERS {
            if of.projections.contains(&sublayer.output()) {
                self.fit(of, sublayer, &dense, &pruned)?;
            } else {
                self.pass(sublayer, &pruned)?;
            }
        }
        self.batches.iter_mut().for_each(|batch| batch.reference = None);
        Ok(())
    }

    /// Sends the stream through a sublayer that lost nothing.
    fn pass(&mut self, sublayer: Sublayer, pruned: &Block) -> Result<()> {
        for batch in &mut self.batches {
            let rotations = self.pruned.positions(0, batch.stream.dim(1)?)?;
            let (entered, stream, pass) = (&batch.entered, &batch.stream, Pass::of(&rotations));
            batch.stream = with_sublayer(sublayer, pruned, entered, stream, &pass)?;
        }
        Ok(())
    }

    /// Fits a sublayer's last matrix and sends the stream through it.
    fn fit(
        &mut self,
        of: &LayerFit,
        sublayer: Sublayer,
        dense: &Block,
        pruned: &Block,
    ) -> Result<()> {
        let gone = match sublayer {
            Sublayer::Attention => 0..0,
            Sublayer::FeedForward => of.gone.clone(),
        };
        let (mut fit, mut read) = (None, Vec::new());
        let form = self.options.form;
        for batch in &mut self.batches {
            let rotations = self.dense.positions(0, batch.stream.dim(1)?)?;
            let pass = Pass::of(&rotations);
            let from = batch.reference.as_ref().unwrap_or(&batch.stream);
            let of_dense = parts(sublayer, dense, &batch.entered, from, &pass)?;
            let Some((inner, map, added)) = of_dense else { continue };
            let given = map.apply(&inner)?;
            let reference = self.dense.through(&added.add(from, &given)?, gone.clone())?;
            let of_pruned = parts(sublayer, pruned, &batch.entered, &batch.stream, &pass)?;
            if let Some((inner, map, added)) = of_pruned {
                let own = map.apply(&inner)?;
                let missing = missing(added, &batch.stream, &own, &reference, &given)?;
                let (features, outputs) = (inner.dim(D::Minus1)?, missing.dim(D::Minus1)?);
                let (_, _, sums) =
                    fit.get_or_insert_with(|| (map, added, Sums::new(form, features, outputs)));
                let missing = missing.reshape(((), outputs))?;
                let weights = token_weights(&reference)?;
                match sums {
                    Sums::Weight(equations, _) => {
                        equations.of(batch.held_out).add(
                            &inner.reshape(((), features))?,
                            &missing,
                            &weights,
                        )?;
                    }
                    Sums::Bias(means) => means.of(batch.held_out).add(&missing, &weights)?,
                }
                read.push(inner);
            }
            batch.reference = Some(reference);
        }
        if let Some((map, added, sums)) = fit {
            let map = self.refit(of, sublayer.output(), sums, map)?;
            for (batch, inner) in self.batches.iter_mut().zip(read) {
                batch.stream = added.add(&batch.stream, &map.apply(&inner)?)?;
            }
        }
        Ok(())
    }

    /// `map` with the solution in place of its weight or bias.
    fn refit(
        &mut self,
        &LayerFit { layer, at, .. }: &LayerFit,
        projection: Projection,
        sums: Sums,
        map: &Affine,
    ) -> Result<Affine> {
        if !sums.is_finite() {
            return Err(Error::Compensation(format!(
                "layer {layer}, {projection}: the activations are not finite"
            )));
        }
        let family = self.dense.config().family();
        let (device, refitted) = (map.weight.device(), &mut self.refitted);
        let mut map = map.clone();
        let refit = match sums {
            Sums::Weight(Split { fitted, held_out }, ridge) => {
                let Solution { change, ridge, raised, fitted, held_out } =
                    fitted.solve(ridge, &held_out)?;
                let refit = Refit {
                    ridge: Some(ridge),
                    raised,
                    ..Refit::new((layer, projection), change.is_some(), fitted, held_out)
                };
                if let Some(change) = change {
                    let weight = wide(&map.weight)?;
                    let weight =
                        (&weight + Tensor::from_vec(change, weight.shape(), &Device::Cpu)?)?;
                    map.weight = weight.to_dtype(map.weight.dtype())?.to_device(device)?;
                    map.packed = Default::default();
                    refitted.insert(projection.weight(family, at), weight);
                }
                refit
            }
            Sums::Bias(Split { fitted, held_out }) => {
                let Mean { bias, fitted, held_out } = fitted.solve(&held_out);
                let refit = Refit::new((layer, projection), bias.is_some(), fitted, held_out);
                if let Some(change) = bias {
                    let outputs = change.len();
                    let change = Tensor::from_vec(change, outputs, &Device::Cpu)?;
                    let bias = match &map.bias {
                        Some(bias) => (wide(bias)? + change)?,
                        None => change,
                    };
                    let dtype = self.pruned.placement().activations();
                    map.bias = Some(bias.to_dtype(dtype)?.to_device(device)?);
                    refitted.insert(projection.bias(family, at), bias);
                }
                refit
            }
        };
        self.refits.push(refit);
        Ok(map)
    }
}

/// Sums over the fitted and over the held-out samples.
struct Split<T> {
    fitted: T,
    held_out: T,
}

impl<T> Split<T> {
    fn new(sums: impl Fn() -> T) -> Self {
        Self { fitted: sums(), held_out: sums() }
    }

    fn of(&mut self, held_out: bool) -> &mut T {
        if held_out { &mut self.held_out } else { &mut self.fitted }
    }
}

/// Sums of one fit.
enum Sums {
    /// With the requested ridge.
    Weight(Split<NormalEquations>, Ridge),
    Bias(Split<MeanResidual>),
}

impl Sums {
    fn new(form: Form, features: usize, outputs: usize) -> Self {
        match form {
            Form::Weight { ridge } => {
                Self::Weight(Split::new(|| NormalEquations::new(features, outputs)), ridge)
            }
            Form::Bias => Self::Bias(Split::new(|| MeanResidual::new(outputs))),
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Self::Weight(Split { fitted, held_out }, _) => {
                fitted.is_finite() && held_out.is_finite()
            }
            Self::Bias(Split { fitted, held_out }) => fitted.is_finite() && held_out.is_finite(),
        }
    }
}

/// f32 on the CPU.
fn wide(tensor: &Tensor) -> CandleResult<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// One over the mean square of the stream at each token. The next norm divides by
/// just that, and without it a few massive activations (at the first position
/// mostly) would be all that is fitted.
///
/// # Shapes
/// `[B, T, H]` → `[B·T, 1]`.
fn token_weights(stream: &Tensor) -> CandleResult<Tensor> {
    let (b, t, _) = stream.dims3()?;
    let square = stream.to_dtype(DType::F32)?.sqr()?.mean_keepdim(D::Minus1)?;
    // A stream of zeros weighs much, not infinitely.
    (square + 1e-12)?.recip()?.reshape((b * t, 1))
}
