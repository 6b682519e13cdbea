//! Compensation: the matrices that read pruned units, fitted anew in closed form.
//!
//! Two streams run side by side, sublayer after sublayer: the *reference*, which
//! passes the dense model's sublayers, and the *pruned* one, which passes those
//! of the pruned model as fitted so far. Where a sublayer lost units, its last
//! matrix (the output projection of attention, the down projection of the
//! feed-forward) is fitted to what of the reference the kept units can express:
//!
//! `min over W of Σ over tokens w_t · ‖r_t − p_t − W·x_t − b‖² + λ·‖W − W₀‖²`
//!
//! with `r` the reference after the sublayer, `p` the pruned stream before it,
//! `x` the kept activations on the pruned stream, `b` the bias if there is one,
//! `W₀` the sliced weight, and λ = ridge · mean diagonal of the Gram matrix. The
//! ridge pulls towards the sliced weights, so little text changes little.
//!
//! Memory: both streams, one block of either model, the Gram matrix of one
//! sublayer (f64) and the matrices that were fitted (f32).
//!
//! Axes: `B` sequences, `T` tokens, `R` rows (`B·T`), `H` hidden, `F` features of
//! a fit: feed-forward channels or heads times their width.

mod cholesky;
mod normal;
mod source;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use adapruner_checkpoint::{Checkpoint, Digest, names::Projection};
use adapruner_model::{
    Decoder, Placement, Residency,
    block::{Block, Linear, Pass},
};
use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};

use self::{normal::NormalEquations, source::RefittedSource};
use crate::{
    apply,
    error::{Error, Result},
    plan::PrunePlan,
};

/// What the fitted sublayers are to reproduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The dense model's own residual stream: a fit also mends what earlier
    /// layers got wrong.
    #[default]
    Dense,
    /// What the dense layer would make of the pruned stream: every layer answers
    /// for itself.
    Pruned,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dense" => Ok(Self::Dense),
            "pruned" => Ok(Self::Pruned),
            other => Err(format!("unknown target {other:?}, expected dense or pruned")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dense => "dense",
            Self::Pruned => "pruned",
        })
    }
}

/// How a model is compensated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompensateOptions {
    /// λ as a share of the Gram matrix's mean diagonal; at least 0.
    pub ridge: f64,
    /// What is reproduced.
    pub target: Target,
    /// Most tokens that run together.
    pub batch_tokens: usize,
    /// Digest of the samples.
    pub samples_digest: Digest,
}

/// One matrix that was fitted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refit {
    /// Layer index.
    pub layer: usize,
    /// Which matrix.
    #[serde(serialize_with = "display")]
    pub projection: Projection,
    /// Ridge that was used.
    pub ridge: f64,
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
        self.raised.then(|| {
            format!(
                "layer {layer}, {projection}: the samples leave the fit singular, its ridge was \
                 raised to {ridge:e}"
            )
        })
    }
}

/// A compensated model and what was fitted.
pub struct Compensated {
    /// The pruned model with the fitted matrices in place of the sliced ones.
    pub checkpoint: Checkpoint,
    /// Every fit, in the order of the layers.
    pub refits: Vec<Refit>,
}

/// Applies a plan and fits the matrices that read pruned units so that, on
/// `samples`, the pruned model follows the dense one.
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
    if !(options.ridge >= 0.0 && options.ridge.is_finite()) {
        return Err(Error::Option {
            option: "compensate-ridge",
            message: format!("expected a number of at least 0, found {}", options.ridge),
            hint: None,
        });
    }
    let pruned = apply(dense, plan)?;
    let digest = Digest::of_parts([
        ("compensated", pruned.digest()?.as_bytes().as_slice()),
        ("samples", options.samples_digest.as_bytes()),
        ("ridge", &options.ridge.to_le_bytes()),
        ("target", options.target.to_string().as_bytes()),
        ("dtype", placement.dtype.as_str().as_bytes()),
    ]);
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
    let source = RefittedSource { base: pruned.tensors.clone(), refitted, digest };
    Ok(Compensated { checkpoint: Checkpoint { tensors: Arc::new(source), ..pruned }, refits })
}

/// Samples that run together.
struct Batch {
    /// `[B, T, H]`.
    reference: Tensor,
    /// `[B, T, H]`.
    pruned: Tensor,
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
        pass: &Pass<'_>,
    ) -> CandleResult<Option<(Tensor, &'a Linear)>> {
        Ok(match (self, &block.attention) {
            (Self::FeedForward, _) => Some((block.channels(x)?, &block.ffn.down)),
            (Self::Attention, None) => None,
            (Self::Attention, Some(attention)) => {
                block.head_outputs(x, pass)?.map(|inner| (inner, &attention.o))
            }
        })
    }

    /// `x` with the sublayer added, if the block has it.
    fn forward(self, block: &Block, x: &Tensor, pass: &Pass<'_>) -> CandleResult<Tensor> {
        match self.of(block, x, pass)? {
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
                self.batches.push(Batch { reference: x.clone(), pruned: x });
            }
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize) -> Result<()> {
        let dense = self.dense.block(layer)?;
        let mut pruned = Block::clone(&*self.pruned.block(layer)?);
        let (before, after) =
            (self.dense.config().layers[layer], self.pruned.config().layers[layer]);
        let experiment = |name: &str| std::env::var(name).unwrap_or_default();
        let dropped = before.has_attention() && !after.has_attention();
        let heads = before.query_heads != after.query_heads && !dropped;
        let channels = before.ffn != after.ffn || (dropped && experiment("X_FOLD") == "1");
        if self.options.target == Target::Pruned {
            for batch in &mut self.batches {
                batch.reference = batch.pruned.clone();
            }
        }
        for (sublayer, cut) in [(Sublayer::Attention, heads), (Sublayer::FeedForward, channels)] {
            if experiment("X_SUB") == "1" && !(dropped && matches!(sublayer, Sublayer::FeedForward))
            {
                for batch in &mut self.batches {
                    batch.reference = batch.pruned.clone();
                }
            }
            self.sublayer(layer, sublayer, cut, &dense, &mut pruned)?;
        }
        Ok(())
    }

    fn sublayer(
        &mut self,
        layer: usize,
        sublayer: Sublayer,
        cut: bool,
        dense: &Block,
        pruned: &mut Block,
    ) -> Result<()> {
        let carry: f64 = std::env::var("X_CARRY").ok().and_then(|c| c.parse().ok()).unwrap_or(1.0);
        let mut equations = None;
        for batch in &mut self.batches {
            let (cos, sin) = self.dense.positions(0, batch.reference.dim(1)?)?;
            let pass = Pass { cos: &cos, sin: &sin, taps: None };
            let before = batch.reference.clone();
            batch.reference = sublayer.forward(dense, &batch.reference, &pass)?;
            if cut && let Some((inner, map)) = sublayer.of(pruned, &batch.pruned, &pass)? {
                let target = (&batch.reference + ((before - &batch.pruned)? * (carry - 1.0))?)?;
                let residual = (target - (&batch.pruned + map.forward(&inner)?)?)?;
                let (features, outputs) = (inner.dim(D::Minus1)?, residual.dim(D::Minus1)?);
                equations.get_or_insert_with(|| NormalEquations::new(features, outputs)).add(
                    &inner.reshape(((), features))?,
                    &residual.reshape(((), outputs))?,
                    &token_weights(&batch.reference)?,
                )?;
            }
        }
        if let Some(equations) = equations {
            self.refit(layer, sublayer, equations, pruned)?;
        }
        for batch in &mut self.batches {
            let (cos, sin) = self.pruned.positions(0, batch.pruned.dim(1)?)?;
            let pass = Pass { cos: &cos, sin: &sin, taps: None };
            batch.pruned = sublayer.forward(pruned, &batch.pruned, &pass)?;
        }
        Ok(())
    }

    /// Puts the solution in place of the sublayer's last matrix.
    fn refit(
        &mut self,
        layer: usize,
        sublayer: Sublayer,
        equations: NormalEquations,
        pruned: &mut Block,
    ) -> Result<()> {
        let projection = sublayer.output();
        if !equations.is_finite() {
            return Err(Error::Compensation(format!(
                "layer {layer}, {projection}: the activations are not finite"
            )));
        }
        let map = match (sublayer, &mut pruned.attention) {
            (Sublayer::FeedForward, _) => &mut pruned.ffn.down,
            (Sublayer::Attention, Some(attention)) => &mut attention.o,
            (Sublayer::Attention, None) => return Ok(()),
        };
        let solution = equations.solve(self.options.ridge);
        self.refits.push(Refit {
            layer,
            projection,
            ridge: solution.ridge,
            raised: solution.ridge > self.options.ridge,
            error_before: solution.before,
            error_after: solution.after,
        });
        let Some(change) = solution.change else { return Ok(()) };
        let weight = map.weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let weight = (&weight + Tensor::from_vec(change, weight.shape(), &Device::Cpu)?)?;
        let used = weight.to_dtype(map.weight.dtype())?.to_device(map.weight.device())?;
        *map = Linear { weight: used, bias: map.bias.clone(), packed: Default::default() };
        self.refitted.insert(projection.weight(layer), weight);
        Ok(())
    }
}

/// One over the mean square of the stream at each token. The next norm divides by
/// just that, and without it a few massive activations (at the first position
/// mostly) would be all that is fitted.
///
/// # Shapes
/// `[B, T, H]` → `[B·T, 1]`.
fn token_weights(stream: &Tensor) -> CandleResult<Tensor> {
    let (b, t, _) = stream.dims3()?;
    let mode = std::env::var("X_WEIGHT").unwrap_or_default();
    let skip: usize = std::env::var("X_SKIP").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let square = stream.to_dtype(DType::F32)?.sqr()?.mean_keepdim(D::Minus1)?;
    let weights = if mode == "none" { square.ones_like()? } else { (square + 1e-12)?.recip()? };
    let mask: Vec<f32> = (0..b * t).map(|at| if at % t < skip { 0.0 } else { 1.0 }).collect();
    weights.reshape((b * t, 1))?.mul(&Tensor::from_vec(mask, (b * t, 1), stream.device())?)
}
