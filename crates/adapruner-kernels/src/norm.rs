//! Root mean square normalisation (Zhang and Sennrich, arXiv 1910.07467):
//! `y = x · w / √(mean(x²) + eps)`.
//!
//! With `i = 1/√(mean(x²) + eps)` the backward is
//! `dx = i · (dy·w − x · i²/H · Σ dy·w·x)` and `dw = Σ_r dy · x · i`. Sums are
//! made in f64.
//!
//! Axes: `R` rows, `H` width.

use std::{mem::MaybeUninit, ops::Range};

use candle_core::{CpuStorage, CustomOp2, D, Device, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::{
    buffer::{Held, Unwritten, build, fill_rows, fused, rows_of_a_task, slice},
    composition,
    exp::dot,
};

/// `x / √(mean(x²) + eps) · w` along the last axis.
///
/// # Shapes
/// `[.., H]`, `[H]` → `[.., H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dim(D::Minus1)? != weight.dims1()? {
        bail!("rms_norm: input {:?} does not fit weight {:?}", x.shape(), weight.shape());
    }
    if !fused(&[x]) || x.elem_count() == 0 {
        return composition::rms_norm(x, weight, eps);
    }
    let weight = weight.to_dtype(x.dtype())?.contiguous()?;
    x.contiguous()?.apply_op2(&weight, RmsNorm { eps })
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let y = forward(x, weight, self.eps);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (of_x, of_weight, of_grad) = (Held::new(x), Held::new(weight), Held::new(&grad));
        let (values, w, dy) = (of_x.slice()?, of_weight.slice()?, of_grad.slice()?);
        let grad_x = if x.track_op() {
            let values = grad_input(values, w, dy, self.eps);
            Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
        } else {
            None
        };
        let grad_weight = if weight.track_op() {
            let values = grad_weight(values, dy, w.len(), self.eps);
            Some(Tensor::from_vec(values, weight.shape(), &Device::Cpu)?)
        } else {
            None
        };
        Ok((grad_x, grad_weight))
    }
}

/// `1/√(mean(x²) + eps)` of a row.
fn inverse(x: &[f32], eps: f64) -> f64 {
    1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt()
}

pub(crate) fn forward(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    // SAFETY: `write` writes as many elements as there are.
    unsafe { build(x.len(), |out| write(x, weight, eps, out)) }
}

/// [`forward`] into `out`, all of which is written.
pub(crate) fn write(x: &[f32], weight: &[f32], eps: f64, out: &mut Unwritten) {
    let width = weight.len();
    assert_eq!(x.len(), out.len(), "rows of a norm");
    let fill = |rows: Range<usize>, out: &mut Unwritten| {
        let x = x[rows.start * width..rows.end * width].chunks_exact(width);
        for (x, out) in x.zip(out.chunks_exact_mut(width)) {
            scale_row(x, weight, inverse(x, eps) as f32, out);
        }
    };
    fill_rows(out, width, fill);
}

/// `out = x · w · inverse`.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn scale_row(x: &[f32], weight: &[f32], inverse: f32, out: &mut [MaybeUninit<f32>]) {
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        out.write(x * inverse * w);
    }
}

fn grad_input(x: &[f32], weight: &[f32], grad: &[f32], eps: f64) -> Vec<f32> {
    // SAFETY: `write_grad_input` writes as many elements as there are.
    unsafe { build(x.len(), |out| write_grad_input(x, weight, grad, eps, out)) }
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
    let fill = |rows: Range<usize>, out: &mut Unwritten| {
        let range = rows.start * width..rows.end * width;
        let rows = x[range.clone()].chunks_exact(width).zip(grad[range].chunks_exact(width));
        for ((x, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
            let inverse = inverse(x, eps);
            let along = dot3(x, weight, grad) * inverse.powi(3) / width as f64;
            grad_row(x, weight, grad, inverse as f32, along as f32, out);
        }
    };
    fill_rows(out, width, fill);
}

/// `Σ a · b · c` in f64.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f64; LANES];
    let chunks = a.chunks(LANES).zip(b.chunks(LANES)).zip(c.chunks(LANES));
    for ((a, b), c) in chunks {
        for (((lane, &a), &b), &c) in lanes.iter_mut().zip(a).zip(b).zip(c) {
            *lane += f64::from(a * b) * f64::from(c);
        }
    }
    lanes.iter().sum()
}

/// `out = inverse · grad · w − along · x`.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn grad_row(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    inverse: f32,
    along: f32,
    out: &mut [MaybeUninit<f32>],
) {
    for (((out, x), w), g) in out.iter_mut().zip(x).zip(weight).zip(grad) {
        out.write(inverse * g * w - along * x);
    }
}

/// Sums over tasks of a fixed number of rows, then over the tasks in order.
fn grad_weight(x: &[f32], grad: &[f32], width: usize, eps: f64) -> Vec<f32> {
    let part = rows_of_a_task(width) * width;
    let parts: Vec<Vec<f64>> = x
        .par_chunks(part)
        .zip(grad.par_chunks(part))
        .map(|(x, grad)| {
            let mut sums = vec![0.0_f64; width];
            for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                let inverse = inverse(x, eps);
                for ((sum, &x), &g) in sums.iter_mut().zip(x).zip(grad) {
                    *sum += f64::from(x) * f64::from(g) * inverse;
                }
            }
            sums
        })
        .collect();
    (0..width).map(|at| parts.iter().map(|sums| sums[at]).sum::<f64>() as f32).collect()
}
