//! Compensation: the matrices that read pruned units fitted anew in closed form, or
//! given a bias.
//!
//! The pruned model's own stream runs through layer after layer. Where a sublayer
//! lost units, its last matrix (the output projection of attention, the down
//! projection of the feed-forward) is fitted to what the dense layer would make
//! of that stream, as far as the kept units can express it:
//!
//! `min over W of Σ over tokens w_t · ‖r_t − p_t − W·x_t − b‖² + λ·‖W − W₀‖²`
//!
//! with `r` the *reference*, the stream behind the dense sublayer, `p` the pruned
//! stream before the pruned one, `x` the kept activations on it, `b` the bias if
//! there is one, `W₀` the sliced weight, and λ = ridge · mean diagonal of the Gram
//! matrix. The ridge pulls towards the sliced weights. Reference and stream part
//! within a layer only: kept units cannot express the errors of earlier layers,
//! and fits that were to mend these as well did harm.
//!
//! In the form of a bias ([`Form::Bias`]) the weight stays as it is, and `b` alone is
//! fitted, so is the weighted mean of what is missing: what the removed units gave on
//! the average (FLAP, An et al., arXiv 2312.11983). It needs a model with biases, and
//! few tokens.
//!
//! Memory: the stream, what one sublayer's last matrix reads on all samples, one
//! block of either model, the Gram matrix of one sublayer (f64) and the matrices
//! that were fitted (f32); [`CompensateFootprint`] counts them.
//!
//! Axes: `B` sequences, `T` tokens, `R` rows (`B·T`), `H` hidden, `F` features of
//! a fit: feed-forward channels or heads times their width.

mod bias;
mod cholesky;
mod memory;
mod normal;

use std::{collections::BTreeMap, fmt};

use adapruner_checkpoint::{Checkpoint, LayerWidths, ModelConfig, names::Projection};
use adapruner_model::{
    Decoder, Placement, Residency,
    block::{Block, Linear},
};
use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use serde::Serialize;

pub use self::memory::CompensateFootprint;
use self::{
    bias::{Mean, MeanResidual},
    normal::{NormalEquations, Solution},
};
use crate::{
    apply,
    error::{Error, Result},
    plan::PrunePlan,
};

/// What of a sublayer's last matrix is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Its weight.
    Weight {
        /// λ as a share of the Gram matrix's mean diagonal; at least 0.
        ridge: f64,
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
    /// Layer index.
    pub layer: usize,
    /// Which matrix.
    #[serde(serialize_with = "display")]
    pub projection: Projection,
    /// Ridge that was used; none for a bias.
    pub ridge: Option<f64>,
    /// Whether the ridge asked for left the system singular.
    pub raised: bool,
    /// Weighted mean squared error on the samples with the sliced weights.
    pub error_before: f64,
    /// The same with the fitted ones.
    pub error_after: f64,
}

fn display<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

impl Refit {
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
/// `samples`, the pruned layers follow the dense ones.
///
/// Samples of equal length run together; `progress` is told (layers done, layers
/// in all).
///
/// # Errors
/// A plan for another model, no samples, ids outside the vocabulary, a ridge
/// below 0, activations that are not finite, damaged weights, no memory.
pub fn compensate(
    dense: &Checkpoint,
    plan: &PrunePlan,
    samples: &[Vec<u32>],
    options: &CompensateOptions,
    placement: &Placement,
    progress: &dyn Fn(usize, usize),
) -> Result<Compensated> {
    match options.form {
        Form::Weight { ridge } if !(ridge >= 0.0 && ridge.is_finite()) => {
            return Err(Error::Option {
                option: "compensate-ridge",
                message: format!("expected a number of at least 0, found {ridge}"),
                hint: None,
            });
        }
        Form::Weight { .. } | Form::Bias => {}
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
    let cut = |layer: usize| pruned.config.layers[layer] != dense.config.layers[layer];
    let layers = (0..dense.config.layers.len()).rfind(|&layer| cut(layer)).map_or(0, |l| l + 1);
    run.embed(samples)?;
    for layer in 0..layers {
        run.layer(layer)?;
        progress(layer + 1, layers);
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
pub fn compensated_config(dense: &ModelConfig, pruned: &ModelConfig, form: Form) -> ModelConfig {
    let lost = |of: fn(&LayerWidths) -> usize| {
        dense.layers.iter().zip(&pruned.layers).any(|(a, b)| of(a) != of(b) && of(b) > 0)
    };
    let biased = matches!(form, Form::Bias);
    ModelConfig {
        attention_bias: pruned.attention_bias || (biased && lost(|widths| widths.query_heads)),
        mlp_bias: pruned.mlp_bias || (biased && lost(|widths| widths.ffn)),
        ..pruned.clone()
    }
}

/// Cosines and sines of the positions, `[T, D/2]` each.
type Angles = (Tensor, Tensor);

/// Samples that run together.
struct Batch {
    /// The pruned model's, `[B, T, H]`.
    stream: Tensor,
    /// The dense layer's where it is another, `[B, T, H]`.
    reference: Option<Tensor>,
}

#[derive(Clone, Copy)]
enum Sublayer {
    Attention,
    FeedForward,
}

impl Sublayer {
    fn output(self) -> Projection {
        match self {
            Self::Attention => Projection::O,
            Self::FeedForward => Projection::Down,
        }
    }

    /// What the sublayer's last matrix reads, and that matrix.
    fn of<'a>(
        self,
        block: &'a Block,
        x: &Tensor,
        angles: &Angles,
    ) -> CandleResult<Option<(Tensor, &'a Linear)>> {
        Ok(match (self, &block.attention) {
            (Self::FeedForward, _) => Some((block.channels(x)?, &block.ffn.down)),
            (Self::Attention, None) => None,
            (Self::Attention, Some(attention)) => {
                block.head_outputs(x, angles)?.map(|inner| (inner, &attention.o))
            }
        })
    }

    /// `x` with the sublayer added, if the block has it.
    fn forward(self, block: &Block, x: &Tensor, angles: &Angles) -> CandleResult<Tensor> {
        match self.of(block, x, angles)? {
            None => Ok(x.clone()),
            Some((inner, map)) => x + map.forward(&inner)?,
        }
    }
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
        if samples.is_empty() {
            return Err(Error::Compensation("expected at least 1 sample, found none".into()));
        }
        let embedding = self.dense.embedding()?;
        for run in samples.chunk_by(|a, b| a.len() == b.len()) {
            let most = (self.options.batch_tokens / run[0].len().max(1)).max(1);
            for rows in run.chunks(most) {
                let ids = self.dense.tokens(rows)?;
                let x = self.dense.embed(&embedding, &ids)?;
                self.batches.push(Batch { stream: x, reference: None });
            }
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize) -> Result<()> {
        let dense = self.dense.block(layer)?;
        let pruned = self.pruned.block(layer)?;
        let (before, after) =
            (self.dense.config().layers[layer], self.pruned.config().layers[layer]);
        // Attention that is gone as a whole is for the feed-forward to make up for.
        let dropped = before.has_attention() && !after.has_attention();
        let heads = before.query_heads != after.query_heads && !dropped;
        let channels = before.ffn != after.ffn;
        if dropped && channels {
            for batch in &mut self.batches {
                let angles = self.dense.positions(0, batch.stream.dim(1)?)?;
                let reference = Sublayer::Attention.forward(&dense, &batch.stream, &angles)?;
                batch.reference = Some(reference);
            }
        }
        for (sublayer, cut) in [(Sublayer::Attention, heads), (Sublayer::FeedForward, channels)] {
            if cut {
                self.fit(layer, sublayer, &dense, &pruned)?;
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
            let angles = self.pruned.positions(0, batch.stream.dim(1)?)?;
            batch.stream = sublayer.forward(pruned, &batch.stream, &angles)?;
        }
        Ok(())
    }

    /// Fits a sublayer's last matrix and sends the stream through it.
    fn fit(
        &mut self,
        layer: usize,
        sublayer: Sublayer,
        dense: &Block,
        pruned: &Block,
    ) -> Result<()> {
        let (mut fit, mut read) = (None, Vec::new());
        let form = self.options.form;
        for batch in &mut self.batches {
            let angles = self.dense.positions(0, batch.stream.dim(1)?)?;
            let from = batch.reference.as_ref().unwrap_or(&batch.stream);
            let reference = sublayer.forward(dense, from, &angles)?;
            if let Some((inner, map)) = sublayer.of(pruned, &batch.stream, &angles)? {
                let residual = (&reference - (&batch.stream + map.forward(&inner)?)?)?;
                let (features, outputs) = (inner.dim(D::Minus1)?, residual.dim(D::Minus1)?);
                let (_, sums) =
                    fit.get_or_insert_with(|| (map, Sums::new(form, features, outputs)));
                let residual = residual.reshape(((), outputs))?;
                let weights = token_weights(&reference)?;
                match sums {
                    Sums::Weight(equations, _) => {
                        equations.add(&inner.reshape(((), features))?, &residual, &weights)?;
                    }
                    Sums::Bias(mean) => mean.add(&residual, &weights)?,
                }
                read.push(inner);
            }
            batch.reference = Some(reference);
        }
        if let Some((map, sums)) = fit {
            let map = self.refit(layer, sublayer.output(), sums, map)?;
            for (batch, inner) in self.batches.iter_mut().zip(read) {
                batch.stream = (&batch.stream + map.forward(&inner)?)?;
            }
        }
        Ok(())
    }

    /// `map` with the solution in place of its weight or bias.
    fn refit(
        &mut self,
        layer: usize,
        projection: Projection,
        sums: Sums,
        map: &Linear,
    ) -> Result<Linear> {
        if !sums.is_finite() {
            return Err(Error::Compensation(format!(
                "layer {layer}, {projection}: the activations are not finite"
            )));
        }
        let (device, fitted) = (map.weight.device(), &mut self.refitted);
        let (map, ridge, raised, before, after) = match sums {
            Sums::Weight(equations, asked) => {
                let Solution { change, ridge, before, after } = equations.solve(asked);
                let mut map = map.clone();
                if let Some(change) = change {
                    let weight = wide(&map.weight)?;
                    let weight =
                        (&weight + Tensor::from_vec(change, weight.shape(), &Device::Cpu)?)?;
                    map.weight = weight.to_dtype(map.weight.dtype())?.to_device(device)?;
                    map.packed = Default::default();
                    fitted.insert(projection.weight(layer), weight);
                }
                (map, Some(ridge), ridge > asked, before, after)
            }
            Sums::Bias(mean) => {
                let Mean { bias, before, after } = mean.solve();
                let outputs = bias.len();
                let change = Tensor::from_vec(bias, outputs, &Device::Cpu)?;
                let bias = match &map.bias {
                    Some(bias) => (wide(bias)? + change)?,
                    None => change,
                };
                let dtype = self.pruned.placement().activations();
                let used = bias.to_dtype(dtype)?.to_device(device)?;
                fitted.insert(projection.bias(layer), bias);
                (Linear { bias: Some(used), ..map.clone() }, None, false, before, after)
            }
        };
        let (error_before, error_after) = (before, after);
        self.refits.push(Refit { layer, projection, ridge, raised, error_before, error_after });
        Ok(map)
    }
}

/// Sums of one fit.
enum Sums {
    /// With the ridge that is asked for.
    Weight(NormalEquations, f64),
    Bias(MeanResidual),
}

impl Sums {
    fn new(form: Form, features: usize, outputs: usize) -> Self {
        match form {
            Form::Weight { ridge } => Self::Weight(NormalEquations::new(features, outputs), ridge),
            Form::Bias => Self::Bias(MeanResidual::new(outputs)),
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Self::Weight(equations, _) => equations.is_finite(),
            Self::Bias(mean) => mean.is_finite(),
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
