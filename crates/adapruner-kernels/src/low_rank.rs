//! Low-rank updates beside a linear map (Hu et al., arXiv 2106.09685):
//! `y += scale · (drop(x) · aᵀ) · bᵀ`, with inverted dropout.
//!
//! With `p = scale · dy · b` and `u = drop(x) · aᵀ` the backward is `dx += mask · (p · a)`, `da
//! = pᵀ · drop(x)`, `db = scale · dyᵀ · u`. The mask is a hash of seed, row and column: the
//! backward pass recomputes it, and nothing is stored.
//!
//! All computations on a block of rows run together, so each row is read once. Blocks depend
//! only on the sizes, and their sums are added in order.
//!
//! Axes: `R` rows, `in` and `out` sides of the weight, `r` rank.

use std::{borrow::Cow, ops::Range};

use candle_core::{D, DType, Device, Result, Tensor, bail};
use multiversion::multiversion;

use crate::{
    buffer::{Held, build},
    gemm::{multiply, multiply_add},
    map::Sizes,
    threads::{self, Blocks},
    view::View,
};

/// Rows of a block, at most but for what makes whole strips.
const BLOCK_ROWS: usize = 120;

/// How rows go through updates: the same on any number of threads. Where there are several
/// blocks, their number is even, so that two threads have the same.
pub(crate) fn blocks(rows: usize) -> Blocks {
    let count = rows.div_ceil(BLOCK_ROWS);
    Blocks::new(rows, if count > 1 { count.next_multiple_of(2) } else { count })
}

/// [`blocks`] of some of all rows, which are one of them, or all.
fn blocks_of(rows: usize, all: usize) -> Blocks {
    if rows == all { blocks(rows) } else { Blocks::one(rows) }
}

/// Gradients of `a` and `b` that blocks of rows give, in their order.
pub(crate) type Parts = Vec<[Vec<f32>; 2]>;

/// A low-rank update of a linear map.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// f32 `[r, in]`.
    pub a: Tensor,
    /// f32 `[out, r]`.
    pub b: Tensor,
    /// Factor of the update.
    pub scale: f64,
    /// Dropout of what enters `a`; none outside training.
    pub dropout: Option<Dropout>,
}

/// The gradients of a [`LowRank`].
#[derive(Debug, Clone)]
pub struct LowRankGrad {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
}

/// Inverted dropout: each number is zero with a probability, and otherwise
/// divided by one minus that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Of a zero, from 0 to below 1.
    pub probability: f64,
    /// Of the mask.
    pub seed: u64,
}

impl Dropout {
    /// What the numbers of a matrix are multiplied by, row by row.
    pub fn mask(&self, rows: usize, width: usize) -> Vec<f32> {
        self.mask_from(0, rows, width)
    }

    fn mask_from(&self, start: usize, rows: usize, width: usize) -> Vec<f32> {
        let mut mask = vec![0.0; rows * width];
        let threshold = (self.probability * 2f64.powi(32)) as u32;
        let factor = (1.0 / (1.0 - self.probability)) as f32;
        for (row, out) in mask.chunks_exact_mut(width.max(1)).enumerate() {
            let key = mix64(self.seed ^ mix64((start + row) as u64));
            mask_row(key as u32, (key >> 32) as u32, threshold, factor, out);
        }
        mask
    }
}

/// The finaliser of SplitMix64.
fn mix64(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of 32 bits (Wellons, hash-prospector).
#[inline(always)]
fn mix32(value: u32) -> u32 {
    let h = (value ^ (value >> 16)).wrapping_mul(0x21f0_aaad);
    let h = (h ^ (h >> 15)).wrapping_mul(0x735a_2d97);
    h ^ (h >> 15)
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn mask_row(low: u32, high: u32, threshold: u32, factor: f32, out: &mut [f32]) {
    for (column, out) in out.iter_mut().enumerate() {
        let hash = mix32(mix32(column as u32 ^ low).wrapping_add(high));
        *out = if hash >= threshold { factor } else { 0.0 };
    }
}

/// Numbers times a mask, if there is one.
fn masked<'a>(x: &'a [f32], mask: Option<&[f32]>) -> Cow<'a, [f32]> {
    match mask {
        None => Cow::Borrowed(x),
        Some(mask) => Cow::Owned(x.iter().zip(mask).map(|(x, m)| x * m).collect()),
    }
}

impl LowRank {
    /// Checks the sides against those of the weight.
    ///
    /// # Errors
    /// Shapes that do not fit, numbers that are not f32, or a probability outside
    /// 0 to below 1.
    pub fn check(&self, outputs: usize, inputs: usize) -> Result<()> {
        let (rank, found_inputs) = self.a.dims2()?;
        if found_inputs != inputs || self.b.dims() != [outputs, rank] {
            bail!(
                "a low-rank update of {:?} and {:?} does not fit a weight of [{outputs}, {inputs}]",
                self.a.shape(),
                self.b.shape()
            );
        }
        if let Some(Dropout { probability, .. }) = self.dropout
            && !(0.0..1.0).contains(&probability)
        {
            bail!("dropout: probability {probability}, expected 0 to below 1");
        }
        Ok(())
    }

    /// Whether the fused path takes the update.
    pub(crate) fn fused(&self) -> bool {
        [&self.a, &self.b].iter().all(|t| {
            t.device().is_cpu() && !t.track_op() && t.dtype() == DType::F32 && t.is_contiguous()
        })
    }

    fn rank(&self) -> Result<usize> {
        self.a.dim(0)
    }

    /// `drop(x)`, by candle's operations.
    fn drop(&self, x: &Tensor) -> Result<Tensor> {
        let Some(dropout) = self.dropout else { return Ok(x.clone()) };
        let width = x.dim(D::Minus1)?;
        let mask = dropout.mask(x.elem_count() / width.max(1), width);
        x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
    }

    /// The update, by candle's operations.
    ///
    /// # Shapes
    /// `[.., in]` → `[.., out]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, _) = self.b.dims2()?;
        self.check(outputs, x.dim(D::Minus1)?)?;
        let [a, b] = [&self.a, &self.b].map(|t| t.to_dtype(x.dtype()));
        self.drop(x)?.broadcast_matmul(&a?.t()?)?.broadcast_matmul(&b?.t()?)? * self.scale
    }

    /// The gradients, by candle's operations.
    ///
    /// # Shapes
    /// `[R, in]`, `[R, out]` → those of the update.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn composed_gradients(&self, x: &Tensor, grad_output: &Tensor) -> Result<LowRankGrad> {
        let (x, dy) = (self.drop(&x.detach())?, grad_output.detach());
        let [a, b] = [&self.a, &self.b].map(|t| t.detach().to_dtype(x.dtype()));
        let p = (dy.matmul(&b?)? * self.scale)?;
        let u = (x.matmul(&a?.t()?)? * self.scale)?;
        Ok(LowRankGrad { a: p.t()?.matmul(&x)?, b: dy.t()?.matmul(&u)? })
    }

    /// Adds the update of some rows to `y`; `first` is which of all rows they begin at.
    pub(crate) fn forward_onto(
        &self,
        x: &[f32],
        first: usize,
        y: &mut [f32],
        Sizes { rows: all, inputs, outputs }: Sizes,
    ) -> Result<()> {
        let rank = self.rank()?;
        if rank == 0 || inputs == 0 || outputs == 0 {
            return Ok(());
        }
        let (a, b) = (Held::new(&self.a), Held::new(&self.b));
        let (a, b) =
            (View::dense(a.slice()?, rank, inputs), View::dense(b.slice()?, outputs, rank));
        let blocks = blocks_of(y.len() / outputs, all);
        threads::each(blocks.of(y, outputs), |at, y| {
            let Range { start, end } = blocks.range(at);
            let rows = end - start;
            let mask = self.dropout.map(|dropout| dropout.mask_from(first + start, rows, inputs));
            let x = masked(&x[start * inputs..end * inputs], mask.as_deref());
            let u = self.inner(View::dense(&x, rows, inputs), a);
            multiply_add(View::dense(&u, rows, rank), b.t(), y);
        });
        Ok(())
    }

    /// `scale · drop(x) · aᵀ`.
    fn inner(&self, x: View<'_>, a: View<'_>) -> Vec<f32> {
        // SAFETY: the product writes everything.
        unsafe { build(x.rows() * a.rows(), |to| multiply(x, a.t(), self.scale as f32, to)) }
    }

    /// Adds the gradient of the input of some rows to `grad_x`; returns the update's own,
    /// if `wanted`: parts to be summed in the order of the rows. They are all rows, or one of
    /// their [`blocks`]; `first` is which of all they begin at.
    pub(crate) fn backward_onto(
        &self,
        x: &[f32],
        first: usize,
        grad: &[f32],
        grad_x: &mut [f32],
        Sizes { rows: all, inputs, outputs }: Sizes,
        wanted: bool,
    ) -> Result<Parts> {
        let rank = self.rank()?;
        if rank == 0 || inputs == 0 || outputs == 0 {
            return Ok(Vec::new());
        }
        let (a, b) = (Held::new(&self.a), Held::new(&self.b));
        let a = View::dense(a.slice()?, rank, inputs);
        let b = View::dense(b.slice()?, outputs, rank);
        let blocks = blocks_of(grad_x.len() / inputs, all);
        let parts = threads::blocks(blocks.of(grad_x, inputs), |at, grad_x| {
            let Range { start, end } = blocks.range(at);
            let x = &x[start * inputs..end * inputs];
            let grad = View::dense(&grad[start * outputs..end * outputs], end - start, outputs);
            Ok(self.backward_block(first + start, x, grad, grad_x, a, b, wanted))
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The gradients whose parts these are.
    pub(crate) fn gradients(&self, parts: Parts) -> Result<LowRankGrad> {
        let mut sums = [&self.a, &self.b].map(|t| vec![0.0_f32; t.elem_count()]);
        for part in parts {
            for (sums, part) in sums.iter_mut().zip(part) {
                sums.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
            }
        }
        let [a, b] = sums;
        let a = Tensor::from_vec(a, self.a.shape(), &Device::Cpu)?;
        Ok(LowRankGrad { a, b: Tensor::from_vec(b, self.b.shape(), &Device::Cpu)? })
    }

    /// Backward of the rows from `start` on.
    #[expect(clippy::too_many_arguments, reason = "operands of one product and another")]
    fn backward_block(
        &self,
        start: usize,
        x: &[f32],
        grad: View<'_>,
        grad_x: &mut [f32],
        a: View<'_>,
        b: View<'_>,
        wanted: bool,
    ) -> Option<[Vec<f32>; 2]> {
        let (rows, rank, inputs) = (grad.rows(), a.rows(), a.cols());
        let scale = self.scale as f32;
        // SAFETY: the products write everything.
        let p = unsafe { build(rows * rank, |to| multiply(grad, b, scale, to)) };
        let p = View::dense(&p, rows, rank);
        let mask = self.dropout.map(|dropout| dropout.mask_from(start, rows, inputs));
        match &mask {
            None => multiply_add(p, a, grad_x),
            Some(mask) => {
                // SAFETY: the product writes everything.
                let update = unsafe { build(rows * inputs, |to| multiply(p, a, 1.0, to)) };
                let pairs = grad_x.iter_mut().zip(update.iter().zip(mask));
                pairs.for_each(|(to, (v, m))| *to += v * m);
            }
        }
        if !wanted {
            return None;
        }
        let x = masked(x, mask.as_deref());
        let x = View::dense(&x, rows, inputs);
        let u = self.inner(x, a);
        let u = View::dense(&u, rows, rank);
        // SAFETY: the products write everything.
        unsafe {
            let grad_a = build(rank * inputs, |to| multiply(p.t(), x, 1.0, to));
            let grad_b = build(b.rows() * rank, |to| multiply(grad.t(), u, 1.0, to));
            Some([grad_a, grad_b])
        }
    }
}
