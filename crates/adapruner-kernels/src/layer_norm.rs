//! Layer normalisation (Ba, Kiros and Hinton, arXiv 1607.06450):
//! `y = z · w + b` with `z = (x − mean(x)) · i`, `i = 1/√(var(x) + eps)`.
//!
//! With `h = dy · w` the backward is `dx = i · (h − mean(h) − z · mean(h · z))`,
//! `dw = Σ_r dy · z` and `db = Σ_r dy`. Sums are made in f64.
//!
//! Axes: `R` rows, `H` width.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, D, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::{
    buffer::{Held, Unwritten, build, fill_rows, fused, rows_of_a_task, slice},
    composition,
};

/// `(x − mean(x)) / √(var(x) + eps) · w + b` along the last axis.
///
/// # Shapes
/// `[.., H]`, `[H]`, `[H]` → `[.., H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if [weight.dims1()?, bias.dims1()?] != [width; 2] {
        bail!(
            "layer_norm: input {:?} does not fit weight {:?} and bias {:?}",
            x.shape(),
            weight.shape(),
            bias.shape()
        );
    }
    if !fused(&[x]) || x.elem_count() == 0 {
        return composition::layer_norm(x, weight, bias, eps);
    }
    let [weight, bias] = [weight, bias].map(|t| t.to_dtype(x.dtype())?.contiguous());
    x.contiguous()?.apply_op3(&weight?, &bias?, LayerNorm { eps })
}

struct LayerNorm {
    eps: f64,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x: &[f32] = slice(x, x_layout)?;
        let (weight, bias) = (slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        // SAFETY: `write` writes as many elements as there are.
        let y = unsafe { build(x.len(), |out| write(x, weight, bias, self.eps, out)) };
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [of_x, of_weight, of_grad] = [x, weight, &grad].map(Held::new);
        let (values, w, dy): (&[f32], &[f32], &[f32]) =
            (of_x.slice()?, of_weight.slice()?, of_grad.slice()?);
        let grad_x = if x.track_op() {
            // SAFETY: `write_grad_input` writes as many elements as there are.
            let values = unsafe {
                build(values.len(), |out| write_grad_input(values, w, dy, self.eps, out))
            };
            Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
        } else {
            None
        };
        let tracked = [weight, bias].map(Tensor::track_op);
        let [grad_weight, grad_bias] = match tracked {
            [false, false] => [None, None],
            [_, _] => column_sums(values, dy, w.len(), self.eps).map(Some),
        };
        let of = |values: Option<Vec<f32>>, like: &Tensor, tracked: bool| {
            let values = values.filter(|_| tracked);
            values.map(|values| Tensor::from_vec(values, like.shape(), &Device::Cpu)).transpose()
        };
        Ok((grad_x, of(grad_weight, weight, tracked[0])?, of(grad_bias, bias, tracked[1])?))
    }
}

/// Mean, and `1/√(var + eps)`, of a row.
fn moments(x: &[f32], eps: f64) -> (f64, f64) {
    let count = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    (mean, 1.0 / (x.iter().map(square).sum::<f64>() / count + eps).sqrt())
}

/// The rows' norm into `out`, all of which is written.
pub(crate) fn write(x: &[f32], weight: &[f32], bias: &[f32], eps: f64, out: &mut Unwritten) {
    let width = weight.len();
    assert!(x.len() == out.len() && bias.len() == width, "rows of a norm");
    fill_rows(out, width, |rows: Range<usize>, out: &mut Unwritten| {
        let x = x[rows.start * width..rows.end * width].chunks_exact(width);
        for (x, out) in x.zip(out.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(x, eps);
            for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                let z = ((f64::from(x) - mean) * inverse) as f32;
                out.write(z * w + b);
            }
        }
    });
}

/// The gradient of the input into `out`, all of which is written.
pub(crate) fn write_grad_input(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    eps: f64,
    out: &mut Unwritten,
) {
    let width = weight.len();
    assert!(x.len() == out.len() && grad.len() == out.len(), "rows of a norm");
    fill_rows(out, width, |rows: Range<usize>, out: &mut Unwritten| {
        let range = rows.start * width..rows.end * width;
        let rows = x[range.clone()].chunks_exact(width).zip(grad[range].chunks_exact(width));
        for ((x, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(x, eps);
            let normed = |x: f32| (f64::from(x) - mean) * inverse;
            let (mut sum, mut along) = (0.0, 0.0);
            for ((&x, &w), &g) in x.iter().zip(weight).zip(grad) {
                let h = f64::from(g) * f64::from(w);
                sum += h;
                along += h * normed(x);
            }
            let (sum, along) = (sum / width as f64, along / width as f64);
            for (((out, &x), &w), &g) in out.iter_mut().zip(x).zip(weight).zip(grad) {
                let h = f64::from(g) * f64::from(w);
                out.write((inverse * (h - sum - normed(x) * along)) as f32);
            }
        }
    });
}

/// Gradients of weight and bias: sums over tasks of a fixed number of rows, then over the tasks
/// in order.
fn column_sums(x: &[f32], grad: &[f32], width: usize, eps: f64) -> [Vec<f32>; 2] {
    let part = rows_of_a_task(width) * width;
    let parts: Vec<[Vec<f64>; 2]> = x
        .par_chunks(part)
        .zip(grad.par_chunks(part))
        .map(|(x, grad)| {
            let [mut of_weight, mut of_bias] = [(); 2].map(|()| vec![0.0_f64; width]);
            for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                let (mean, inverse) = moments(x, eps);
                let sums = of_weight.iter_mut().zip(&mut of_bias);
                for (((w, b), &x), &g) in sums.zip(x).zip(grad) {
                    *w += f64::from(g) * (f64::from(x) - mean) * inverse;
                    *b += f64::from(g);
                }
            }
            [of_weight, of_bias]
        })
        .collect();
    [0, 1].map(|of| {
        let sum = |at| parts.iter().map(|sums| sums[of][at]).sum::<f64>() as f32;
        (0..width).map(sum).collect()
    })
}
