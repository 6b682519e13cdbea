//! Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split
//! form: pairs are `(x[d], x[d + R/2])`. Backward turns the other way. Where the tables
//! are of a part of each head, `R < D`, the rest of it stays as it is.
//!
//! Axes: `B` sequences, `T` tokens, `N` heads, `D` head width, `R` width that is rotated.

use std::{mem::MaybeUninit, ops::Range};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;

use crate::{
    buffer::{Held, Unwritten, build, fill_rows, fused, slice},
    composition,
};

/// Rotary position embedding in the half-split form.
///
/// # Shapes
/// `[B, T, N, D]`, `[T, R/2]`, `[T, R/2]` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, t, _, d) = x.dims4()?;
    if !fits(cos, sin, t, d) {
        bail!(
            "rope: input {:?} does not fit cosines {:?} and sines {:?}",
            x.shape(),
            cos.shape(),
            sin.shape()
        );
    }
    let plain = !cos.track_op() && !sin.track_op() && x.elem_count() > 0;
    if !plain || !fused(&[x, cos, sin]) {
        return composition::rope(x, cos, sin);
    }
    let rope = Rope { cos: cos.contiguous()?, sin: sin.contiguous()? };
    x.contiguous()?.apply_op1(rope)
}

/// Whether tables are of the positions of `t` tokens and of heads of width `d`, or of a part.
pub(crate) fn fits(cos: &Tensor, sin: &Tensor, t: usize, d: usize) -> bool {
    let of = |table: &Tensor| {
        table.dims2().is_ok_and(|(rows, half)| rows == t && half > 0 && 2 * half <= d)
    };
    of(cos) && cos.dims() == sin.dims()
}

struct Rope {
    cos: Tensor,
    sin: Tensor,
}

/// Turns `[B, T, N, D]`, forwards or back; the tables are `[T, R/2]`.
fn turn(
    x: &[f32],
    cos: &Tensor,
    sin: &Tensor,
    (n, head_dim): (usize, usize),
    back: bool,
) -> Result<Vec<f32>> {
    let (_, half) = cos.dims2()?;
    let (cos, sin) = (Held::new(cos), Held::new(sin));
    let tables = Tables { cos: cos.slice()?, sin: sin.slice()?, half, head_dim };
    // SAFETY: `write` writes as many elements as there are.
    Ok(unsafe { build(x.len(), |out| tables.write(x, 0, n, back, out)) })
}

/// Cosines and sines of the positions of a sequence, `[T, R/2]` each.
pub(crate) struct Tables<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    /// `R/2`.
    pub(crate) half: usize,
    /// `D`.
    pub(crate) head_dim: usize,
}

impl Tables<'_> {
    /// Turns rows of `n` heads, forwards or back, into `out`, all of which is written;
    /// `first` is which of all rows `[B·T]` they begin at.
    pub(crate) fn write(&self, x: &[f32], first: usize, n: usize, back: bool, out: &mut Unwritten) {
        let &Self { cos, sin, half, head_dim } = self;
        let t = cos.len() / half.max(1);
        assert_eq!(x.len(), out.len(), "rows of heads");
        let sign = if back { -1.0 } else { 1.0 };
        let width = n * head_dim;
        let fill = |rows: Range<usize>, out: &mut Unwritten| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                let x = &x[row * width..(row + 1) * width];
                let place = (first + row) % t;
                let at = place * half..(place + 1) * half;
                turn_heads(x, &cos[at.clone()], &sin[at], (head_dim, sign), out);
            }
        };
        fill_rows(out, width, fill);
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, _, n, d) = layout.shape().dims4()?;
        let y = turn(slice(x, layout)?, &self.cos, &self.sin, (n, d), false)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (_, _, n, d) = x.dims4()?;
        let values = turn(Held::new(&grad).slice()?, &self.cos, &self.sin, (n, d), true)?;
        Ok(Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?))
    }
}

/// Turns every head of one token.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn turn_heads(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    (head_dim, sign): (usize, f32),
    out: &mut [MaybeUninit<f32>],
) {
    let half = cos.len();
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        let (x, rest) = x.split_at(2 * half);
        let (out, to_rest) = out.split_at_mut(2 * half);
        to_rest.write_copy_of_slice(rest);
        let (a, b) = x.split_at(half);
        let (first, second) = out.split_at_mut(half);
        let pairs = a.iter().zip(b).zip(cos.iter().zip(sin));
        for (((&a, &b), (&cos, &sin)), (first, second)) in pairs.zip(first.iter_mut().zip(second)) {
            first.write(a * cos - b * (sin * sign));
            second.write(b * cos + a * (sin * sign));
        }
    }
}
