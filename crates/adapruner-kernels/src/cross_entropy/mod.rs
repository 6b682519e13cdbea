//! Cross-entropy of a linear map in nats, `logsumexp(z) − z[target]` with `z = x · Wᵀ`, and to
//! sparse soft targets, `Σ_k w · logsumexp(z/τ) − Σ_k w · z[id]/τ`: the first is the second of
//! one target of weight 1. Capped logits are `c · tanh(z/c)` instead of `z`, and their slopes
//! multiply the gradients of `z`.
//!
//! Logits exist for one block of rows and one chunk of the vocabulary at a time (half a
//! megabyte per thread); the maximum and the sum of exponentials are running values, the sum in
//! f64. If `x` is tracked, `Σ_v p_v · W_v` is accumulated too, rescaled with the maximum as in
//! attention, so that `dx = g/τ · (Σ_k w · Σ_v p_v · W_v − Σ_k w · W[id])` needs no second pass
//! over the vocabulary. The weight's gradient `Σ_r g/τ · (Σ_k w · p − w[id])ᵀ · x` recomputes
//! the logits.
//!
//! Axes: `R` rows, `H` hidden, `V` vocabulary.

mod operands;

use std::{ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};

use self::operands::Operands;
use crate::{
    buffer::{Held, Unwritten, Weight, build_rows, fused, slice},
    composition,
    head::Head,
    map::Way,
    packed::Laid,
};

/// `logsumexp(x · Wᵀ) − (x · Wᵀ)[target]` of every row.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R]` → f32 `[R]`.
///
/// # Errors
/// Shapes that do not fit, targets that are not u32 or outside the vocabulary.
pub fn linear_cross_entropy(x: &Tensor, head: &Head, targets: &Tensor) -> Result<Tensor> {
    let rows = targets.dims1()?;
    let weights = Tensor::ones((rows, 1), DType::F32, targets.device())?;
    linear_soft_cross_entropy(x, head, &targets.unsqueeze(1)?, &weights, 1.0)
}

/// `Σ_k w · logsumexp(z) − Σ_k w · z[id]` of every row, `z = x · Wᵀ / τ`: the
/// cross-entropy to targets that are sparse and need not add up to one.
///
/// Rows whose weights are all zero are left out of the product.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R, k]`, f32 `[R, k]` → f32 `[R]`.
///
/// # Errors
/// Shapes that do not fit, ids that are not u32 or outside the vocabulary, or a
/// temperature that is not above 0.
pub fn linear_soft_cross_entropy(
    x: &Tensor,
    head: &Head,
    ids: &Tensor,
    weights: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let weight = &head.weight;
    let ((rows, inputs), (vocabulary, hidden)) = (x.dims2()?, weight.dims2()?);
    let (found, k) = ids.dims2()?;
    if inputs != hidden
        || found != rows
        || weights.dims() != [rows, k]
        || ids.dtype() != DType::U32
        || weights.dtype() != DType::F32
    {
        bail!(
            "linear_cross_entropy: input {:?} does not fit weight {:?} and targets {:?} ({:?}) of \
             weights {:?} ({:?})",
            x.shape(),
            weight.shape(),
            ids.shape(),
            ids.dtype(),
            weights.shape(),
            weights.dtype()
        );
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        bail!("linear_cross_entropy: temperature {temperature}, expected a number above 0");
    }
    let targets = Targets {
        ids: ids.flatten_all()?.to_vec1()?,
        weights: weights.flatten_all()?.to_vec1()?,
        k,
        temperature,
        cap: head.cap.map(|cap| cap as f32),
    };
    if let Some(at) = targets.ids.iter().position(|&id| id as usize >= vocabulary) {
        bail!(
            "linear_cross_entropy: row {} has target {}, the vocabulary ends at {vocabulary}",
            at / k,
            targets.ids[at]
        );
    }
    let active: Vec<u32> = (0..rows)
        .filter(|&row| targets.row(row).1.iter().any(|&w| w != 0.0))
        .map(|r| r as u32)
        .collect();
    if active.len() < rows {
        if active.is_empty() {
            return Tensor::zeros(rows, DType::F32, x.device());
        }
        let kept = active.len();
        let active = Tensor::from_vec(active, kept, x.device())?;
        let part = |t: &Tensor| t.contiguous()?.index_select(&active, 0);
        let losses =
            linear_soft_cross_entropy(&part(x)?, head, &part(ids)?, &part(weights)?, temperature)?;
        return Tensor::zeros(rows, losses.dtype(), x.device())?.index_add(&active, &losses, 0);
    }
    if !fused(&[x]) || !Weight::takes(weight.dtype()) || x.elem_count() == 0 {
        return composition::linear_soft_cross_entropy(x, head, ids, weights, temperature);
    }
    let op = CrossEntropy {
        targets,
        tracked: x.track_op(),
        weight_tracked: weight.track_op(),
        packed: head.packed.of(weight, Way::Forward, rows)?,
        logsumexp: OnceLock::new(),
        unit: OnceLock::new(),
    };
    x.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

/// What the rows are to predict: `k` words each, with weights.
struct Targets {
    /// `[R, k]`.
    ids: Vec<u32>,
    /// `[R, k]`.
    weights: Vec<f32>,
    k: usize,
    temperature: f64,
    /// Of the logits, before the temperature.
    cap: Option<f32>,
}

impl Targets {
    fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = row * self.k..(row + 1) * self.k;
        (&self.ids[range.clone()], &self.weights[range])
    }
}

struct CrossEntropy {
    targets: Targets,
    /// Whether the gradient of `x` is needed.
    tracked: bool,
    /// Whether the gradient of the weight is needed.
    weight_tracked: bool,
    /// A packed form of the weight.
    packed: Option<Laid>,
    /// Per row; known once forward has run.
    logsumexp: OnceLock<Vec<f64>>,
    /// Gradient of `x` for an upstream gradient of one, `[R, H]`.
    unit: OnceLock<Vec<f32>>,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "linear-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_layout.shape().dims2()?;
        let operands = Operands::new(
            slice(x, x_layout)?,
            Weight::of(weight, weight_layout)?,
            &self.targets,
            0..rows,
            weight_layout.shape().dims2()?,
        );
        let forward = operands.forward(self.tracked, self.weight_tracked, self.packed.as_ref());
        self.logsumexp.get_or_init(|| forward.logsumexp);
        self.unit.get_or_init(|| forward.unit);
        Ok((CpuStorage::F32(forward.losses), Shape::from(rows)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
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
            let (of_x, of_weight) = (Held::new(x), Held::new(weight));
            let operands = Operands::new(
                of_x.slice()?,
                of_weight.weight()?,
                &self.targets,
                0..x.dim(0)?,
                weight.dims2()?,
            );
            let values = operands.grad_weight(logsumexp, upstream);
            let values = Tensor::from_vec(values, weight.shape(), &Device::Cpu)?;
            Some(values.to_dtype(weight.dtype())?)
        } else {
            None
        };
        Ok((grad_x, grad_weight))
    }
}
