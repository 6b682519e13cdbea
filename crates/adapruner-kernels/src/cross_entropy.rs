//! Cross-entropy of a linear map: `logsumexp(x · Wᵀ) − (x · Wᵀ)[target]`, in nats.
//!
//! Logits exist for one block of rows and one chunk of the vocabulary at a time
//! (half a megabyte a thread); maximum and sum of exponentials run along, the sum in f64. Where `x` is
//! tracked, `Σ_v p_v · W_v` runs along as well, rescaled with the maximum as in
//! attention, so that `dx = g · (Σ_v p_v · W_v − W[target])` needs no second pass
//! over the vocabulary. The weight's gradient `Σ_r g · (p − 1[target])ᵀ · x` makes
//! the logits again.
//!
//! Axes: `R` rows, `H` hidden, `V` vocabulary.

use std::{ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::{
    buffer::{Held, Unwritten, Weight, build, build_rows, fused, slice},
    composition,
    exp::{exponentials, largest},
    gemm::{View, multiply, multiply_add},
    packed::{Activations, Arithmetic, Source, multiply_words},
};

/// Rows of a block, at most.
const BLOCK_ROWS: usize = 512;
/// Words of a chunk of the vocabulary.
const CHUNK: usize = 256;
/// Parts of the vocabulary that run side by side, for more cores than blocks.
const PARTS: usize = 4;

/// `logsumexp(x · Wᵀ) − (x · Wᵀ)[target]` of every row.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R]` → f32 `[R]`.
///
/// # Errors
/// Shapes that do not fit, targets that are not u32 or outside the vocabulary.
pub fn linear_cross_entropy(x: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let ((rows, inputs), (vocabulary, hidden)) = (x.dims2()?, weight.dims2()?);
    if inputs != hidden || targets.dims() != [rows] || targets.dtype() != DType::U32 {
        bail!(
            "linear_cross_entropy: input {:?} does not fit weight {:?} and targets {:?} ({:?})",
            x.shape(),
            weight.shape(),
            targets.shape(),
            targets.dtype()
        );
    }
    if !fused(&[x]) || !Weight::takes(weight.dtype()) || x.elem_count() == 0 {
        return composition::linear_cross_entropy(x, weight, targets);
    }
    let targets = targets.contiguous()?;
    let ids = Held::new(&targets);
    if let Some((row, id)) =
        ids.slice::<u32>()?.iter().enumerate().find(|&(_, &id)| id as usize >= vocabulary)
    {
        bail!(
            "linear_cross_entropy: row {row} has target {id}, the vocabulary ends at {vocabulary}"
        );
    }
    let op = CrossEntropy {
        tracked: x.track_op(),
        differentiated: x.track_op() || weight.track_op(),
        logsumexp: OnceLock::new(),
        unit: OnceLock::new(),
    };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &targets, op)
}

struct CrossEntropy {
    /// Whether the gradient of `x` will be asked for.
    tracked: bool,
    /// Whether there will be a backward pass at all.
    differentiated: bool,
    /// Per row; known once forward has run.
    logsumexp: OnceLock<Vec<f64>>,
    /// Gradient of `x` for an upstream gradient of one, `[R, H]`.
    unit: OnceLock<Vec<f32>>,
}

impl CustomOp3 for CrossEntropy {
    fn name(&self) -> &'static str {
        "linear-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_layout.shape().dims2()?;
        let operands = Operands::new(
            slice(x, x_layout)?,
            Weight::of(weight, weight_layout)?,
            slice(targets, targets_layout)?,
            weight_layout.shape().dims2()?,
        );
        let forward = operands.forward(self.tracked, self.differentiated);
        self.logsumexp.get_or_init(|| forward.logsumexp);
        self.unit.get_or_init(|| forward.unit);
        Ok((CpuStorage::F32(forward.losses), Shape::from(rows)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (Some(logsumexp), Some(unit)) = (self.logsumexp.get(), self.unit.get()) else {
            bail!("linear_cross_entropy: backward before forward")
        };
        let grad = grad.contiguous()?;
        let (_, hidden) = x.dims2()?;
        let of_grad = Held::new(&grad);
        let upstream: &[f32] = of_grad.slice()?;
        let grad_x = if self.tracked {
            let fill = |rows: Range<usize>, out: &mut Unwritten| {
                for (row, out) in rows.zip(out.chunks_exact_mut(hidden)) {
                    let unit = &unit[row * hidden..(row + 1) * hidden];
                    out.iter_mut().zip(unit).for_each(|(out, v)| {
                        out.write(v * upstream[row]);
                    });
                }
            };
            // SAFETY: `fill` writes all its rows.
            let values = unsafe { build_rows(upstream.len(), hidden, fill) };
            Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
        } else {
            None
        };
        let grad_weight = if weight.track_op() {
            let (of_x, of_weight, of_targets) =
                (Held::new(x), Held::new(weight), Held::new(targets));
            let operands = Operands::new(
                of_x.slice()?,
                of_weight.weight()?,
                of_targets.slice()?,
                weight.dims2()?,
            );
            let values = operands.grad_weight(logsumexp, upstream);
            let values = Tensor::from_vec(values, weight.shape(), &Device::Cpu)?;
            Some(values.to_dtype(weight.dtype())?)
        } else {
            None
        };
        Ok((grad_x, grad_weight, None))
    }
}

struct Operands<'a> {
    x: &'a [f32],
    weight: Weight<'a>,
    targets: &'a [u32],
    vocabulary: usize,
    hidden: usize,
}

/// See [`Operands::bf16`].
type Bf16<'a> = Option<(&'a Activations, Source<'a>)>;

struct Forward {
    losses: Vec<f32>,
    logsumexp: Vec<f64>,
    /// Empty unless asked for.
    unit: Vec<f32>,
}

/// Running sums of some rows over a part of the vocabulary.
struct Partial {
    /// Largest logit so far.
    top: Vec<f32>,
    /// `Σ e^(logit − top)`.
    sum: Vec<f64>,
    /// The target's logit, once it was seen.
    picked: Vec<Option<f32>>,
    /// `Σ e^(logit − top) · W`, `[R, H]`; empty until the first chunk.
    unit: Vec<f32>,
}

impl Partial {
    /// Takes a new largest logit of a row into account.
    fn raise(&mut self, row: usize, top: f32, hidden: usize) {
        if top <= self.top[row] {
            return;
        }
        let factor = (f64::from(self.top[row]) - f64::from(top)).exp();
        self.top[row] = top;
        self.sum[row] *= factor;
        if let Some(unit) = self.unit.get_mut(row * hidden..(row + 1) * hidden) {
            unit.iter_mut().for_each(|v| *v *= factor as f32);
        }
    }
}

impl<'a> Operands<'a> {
    fn new(
        x: &'a [f32],
        weight: Weight<'a>,
        targets: &'a [u32],
        (vocabulary, hidden): (usize, usize),
    ) -> Self {
        Self { x, weight, targets, vocabulary, hidden }
    }

    /// Rows of a block, all almost equal.
    fn block(&self) -> usize {
        let rows = self.targets.len();
        rows.div_ceil(rows.div_ceil(BLOCK_ROWS).max(1)).max(1)
    }

    /// Chunks of one of the parts of the vocabulary.
    fn chunks(&self, part: usize) -> impl Iterator<Item = Range<usize>> {
        let vocabulary = self.vocabulary;
        let chunks = vocabulary.div_ceil(CHUNK);
        (chunks * part / PARTS..chunks * (part + 1) / PARTS)
            .map(move |at| at * CHUNK..(at * CHUNK + CHUNK).min(vocabulary))
    }

    fn forward(&self, tracked: bool, differentiated: bool) -> Forward {
        let step = self.block();
        let blocks: Vec<Forward> = self
            .x
            .par_chunks(step * self.hidden)
            .zip(self.targets.par_chunks(step))
            .map(|(x, targets)| {
                let block = Operands { x, targets, ..*self };
                let bf16 = if differentiated { None } else { block.bf16() };
                let bf16 = bf16.as_ref().map(|(x, weight)| (x, *weight));
                let parts =
                    (0..PARTS).into_par_iter().map(|part| block.forward_part(part, tracked, bf16));
                block.finish(parts.collect(), tracked)
            })
            .collect();
        let mut all = Forward { losses: Vec::new(), logsumexp: Vec::new(), unit: Vec::new() };
        for block in blocks {
            all.losses.extend(block.losses);
            all.logsumexp.extend(block.logsumexp);
            all.unit.extend(block.unit);
        }
        all
    }

    /// The operands of products with bf16 weights, if it is one. For a pass without
    /// a backward: that one needs the weight in f32, and its logits must be those of
    /// the forward.
    fn bf16(&self) -> Option<(Activations, Source<'a>)> {
        let Weight::Bf16(values) = self.weight else { return None };
        if self.hidden == 0 {
            return None;
        }
        let arithmetic = Arithmetic::preferred()?;
        let (outputs, inputs) = (self.vocabulary, self.hidden);
        let x = Activations::new(arithmetic, self.x, inputs);
        Some((x, Source::Rows { values, outputs, inputs }))
    }

    /// Logits of these rows for a chunk of the vocabulary.
    fn logits(&self, weight: View<'_>, words: usize) -> Vec<f32> {
        let rows = self.targets.len();
        let x = View::dense(self.x, rows, self.hidden);
        // SAFETY: the product writes everything.
        unsafe { build(rows * words, |to| multiply(x, weight.t(), 1.0, to)) }
    }

    /// Takes the logits of some words into the sums, and leaves `e^(logit − top)`.
    fn take(&self, logits: &mut [f32], words: &Range<usize>, out: &mut Partial) {
        for (row, logits) in logits.chunks_exact_mut(words.len()).enumerate() {
            let target = self.targets[row] as usize;
            if words.contains(&target) {
                out.picked[row] = Some(logits[target - words.start]);
            }
            out.raise(row, largest(logits), self.hidden);
            out.sum[row] += exponentials(logits, out.top[row]);
        }
    }

    /// Runs over one part of the vocabulary; with `bf16`, by the kernels of bf16
    /// weights.
    fn forward_part(&self, part: usize, tracked: bool, bf16: Bf16<'_>) -> Partial {
        let (rows, hidden) = (self.targets.len(), self.hidden);
        let mut out = Partial {
            top: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            picked: vec![None; rows],
            unit: Vec::new(),
        };
        let mut scratch = Vec::new();
        for words in self.chunks(part) {
            if let Some((x, weight)) = bf16 {
                // SAFETY: the product writes everything.
                let mut logits = unsafe {
                    build(rows * words.len(), |to| multiply_words(x, weight, words.clone(), to))
                };
                self.take(&mut logits, &words, &mut out);
                continue;
            }
            let weight = self.weight.part(words.start * hidden..words.end * hidden, &mut scratch);
            let weight = View::dense(weight, words.len(), hidden);
            let mut logits = self.logits(weight, words.len());
            self.take(&mut logits, &words, &mut out);
            if tracked {
                let p = View::dense(&logits, rows, words.len());
                if out.unit.is_empty() {
                    // SAFETY: the product writes everything.
                    out.unit = unsafe { build(rows * hidden, |to| multiply(p, weight, 1.0, to)) };
                } else {
                    multiply_add(p, weight, &mut out.unit);
                }
            }
        }
        out
    }

    /// Puts the parts together, in order.
    fn finish(&self, parts: Vec<Partial>, tracked: bool) -> Forward {
        let (rows, hidden) = (self.targets.len(), self.hidden);
        let mut all = Partial {
            top: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            picked: vec![None; rows],
            unit: vec![0.0; if tracked { rows * hidden } else { 0 }],
        };
        for part in parts {
            for row in 0..rows {
                if part.sum[row] == 0.0 {
                    continue;
                }
                all.raise(row, part.top[row], hidden);
                let factor = (f64::from(part.top[row]) - f64::from(all.top[row])).exp();
                all.sum[row] += part.sum[row] * factor;
                all.picked[row] = all.picked[row].or(part.picked[row]);
                if tracked {
                    let of_row = row * hidden..(row + 1) * hidden;
                    let from = &part.unit[of_row.clone()];
                    let pairs = all.unit[of_row].iter_mut().zip(from);
                    pairs.for_each(|(to, v)| *to += *v * factor as f32);
                }
            }
        }
        let mut scratch = Vec::new();
        for (row, unit) in all.unit.chunks_exact_mut(hidden).enumerate() {
            let factor = (1.0 / all.sum[row]) as f32;
            let target = self.targets[row] as usize;
            let weight = self.weight.part(target * hidden..(target + 1) * hidden, &mut scratch);
            unit.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * factor - w);
        }
        let logsumexp: Vec<f64> =
            all.top.iter().zip(&all.sum).map(|(&top, sum)| f64::from(top) + sum.ln()).collect();
        let losses = logsumexp
            .iter()
            .zip(&all.picked)
            .map(|(all, one)| (all - f64::from(one.unwrap_or(f32::NAN))) as f32)
            .collect();
        Forward { losses, logsumexp, unit: all.unit }
    }

    /// `Σ_r g · (p − 1[target])ᵀ · x`, chunk by chunk of the vocabulary.
    fn grad_weight(&self, logsumexp: &[f64], upstream: &[f32]) -> Vec<f32> {
        let hidden = self.hidden;
        let mut out = vec![0.0; self.vocabulary * hidden];
        out.par_chunks_mut(CHUNK * hidden).enumerate().for_each(|(at, out)| {
            let words = at * CHUNK..at * CHUNK + out.len() / hidden;
            let mut scratch = Vec::new();
            let weight = self.weight.part(words.start * hidden..words.end * hidden, &mut scratch);
            let weight = View::dense(weight, words.len(), hidden);
            for start in (0..self.targets.len()).step_by(BLOCK_ROWS) {
                let rows = start..(start + BLOCK_ROWS).min(self.targets.len());
                let x = &self.x[start * hidden..rows.end * hidden];
                let part = Operands { x, targets: &self.targets[rows.clone()], ..*self };
                let mut p = part.logits(weight, words.len());
                for (row, p) in rows.clone().zip(p.chunks_exact_mut(words.len())) {
                    exponentials(p, logsumexp[row] as f32);
                    let target = self.targets[row] as usize;
                    if words.contains(&target) {
                        p[target - words.start] -= 1.0;
                    }
                    p.iter_mut().for_each(|p| *p *= upstream[row]);
                }
                let p = View::dense(&p, rows.len(), words.len());
                multiply_add(p.t(), View::dense(x, rows.len(), hidden), out);
            }
        });
        out
    }
}
