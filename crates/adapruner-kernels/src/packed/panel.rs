//! Panels of f32: 32 columns of a matrix side by side, one row after another.

use std::ops::Range;

use half::bf16;
use multiversion::multiversion;

use super::{
    COLS, Line,
    transpose::{SIDE, transpose},
};
use crate::view::View;

/// Rows that are written at a time.
pub(super) const BLOCK: usize = SIDE;

/// Writes rows `rows`, at most [`BLOCK`], of columns `cols` of a matrix; columns
/// that do not exist are zero.
pub(super) fn write(from: View<'_>, rows: Range<usize>, cols: Range<usize>, to: &mut [Line]) {
    if from.transposed {
        for (half, start) in cols.clone().step_by(SIDE).enumerate() {
            let count = (cols.end - start).min(SIDE);
            let block = &from.data[start * from.stride + rows.start..];
            transpose(block, from.stride, (count, rows.len()), &mut to[half..], Line::OF_COLS);
        }
        if cols.len() <= SIDE {
            to.iter_mut().skip(1).step_by(Line::OF_COLS).for_each(|line| *line = Line::ZERO);
        }
        return;
    }
    copy_rows(from, rows, cols, to);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn copy_rows(from: View<'_>, rows: Range<usize>, cols: Range<usize>, to: &mut [Line]) {
    for (row, to) in rows.zip(to.chunks_exact_mut(Line::OF_COLS)) {
        let start = row * from.stride;
        words(&from.data[start + cols.start..start + cols.end], to, f32::to_bits);
    }
}

/// [`write`] of a row-major matrix of bf16, widened.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn widen_rows(
    from: View<'_, bf16>,
    rows: Range<usize>,
    cols: Range<usize>,
    to: &mut [Line],
) {
    for (row, to) in rows.zip(to.chunks_exact_mut(Line::OF_COLS)) {
        let start = row * from.stride;
        let widened = |v: bf16| u32::from(v.to_bits()) << 16;
        words(&from.data[start + cols.start..start + cols.end], to, widened);
    }
}

/// One row of a panel.
#[inline(always)]
fn words<T: Copy>(from: &[T], to: &mut [Line], word: impl Fn(T) -> u32) {
    match from.as_chunks::<COLS>() {
        ([whole], []) => {
            for (to, from) in to.iter_mut().zip(whole.as_chunks::<SIDE>().0) {
                to.0 = from.map(&word);
            }
        }
        _ => {
            to.fill(Line::ZERO);
            for (to, from) in to.iter_mut().zip(from.chunks(SIDE)) {
                to.0.iter_mut().zip(from).for_each(|(to, &from)| *to = word(from));
            }
        }
    }
}
