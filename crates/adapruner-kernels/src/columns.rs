//! Dot products of the columns of two matrices, which give the gradient of a mask.
//!
//! Sums are f64, row after row, so neither threads nor splitting rows into calls changes a bit.

use candle_core::{Result, Tensor, bail};
use multiversion::multiversion;

use crate::{buffer::Held, threads};

/// Columns of one task: their sums stay in the first-level cache.
const COLUMNS: usize = 256;

/// Adds `Σ_r a_rj · b_rj` of every column `j` to `sums[j]`.
///
/// # Shapes
/// f32 `[R, C]` on the CPU, both; `C` sums.
///
/// # Errors
/// Other types, devices or shapes.
pub fn column_dots(a: &Tensor, b: &Tensor, sums: &mut [f64]) -> Result<()> {
    let (_, width) = a.dims2()?;
    if a.dims() != b.dims() || sums.len() != width {
        bail!("columns of {:?} and {:?} have no {} products", a.shape(), b.shape(), sums.len());
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let [of_a, of_b] = [&a, &b].map(Held::new);
    let (a, b): (&[f32], &[f32]) = (of_a.slice()?, of_b.slice()?);
    threads::chunks(sums, COLUMNS, |at, sums| {
        let first = at * COLUMNS;
        let rows = a.chunks_exact(width.max(1)).zip(b.chunks_exact(width.max(1)));
        rows.for_each(|(a, b)| add(&a[first..], &b[first..], sums));
    });
    Ok(())
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn add(a: &[f32], b: &[f32], sums: &mut [f64]) {
    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
        *sum += f64::from(a) * f64::from(b);
    }
}
