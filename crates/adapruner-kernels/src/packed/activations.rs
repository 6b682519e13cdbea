//! Packed activations: rows of a slab of words each, f32, or pairs of bf16 or of integers, or
//! blocks of bf16 parts.

use std::ops::Range;

use multiversion::multiversion;

use super::{
    Arithmetic, DEPTH, Line, int16,
    prefetch::fetch,
    slabs, tiles,
    transpose::{SIDE, transpose},
};
use crate::view::View;

/// Lines from one row to the next: a slab's words, and one for the scale of
/// integers. It also keeps the rows off each other's places in the cache.
pub(super) const ROW_LINES: usize = DEPTH / 16 + 1;

/// Writes rows `rows` of `x`, one slab of inputs after another, and returns them; a
/// row begins every [`ROW_LINES`], and each slab has as many as [`Arithmetic::rows_kept`].
pub(super) fn write<'s>(
    arithmetic: Arithmetic,
    x: View<'_>,
    rows: Range<usize>,
    slabs: &[Range<usize>],
    to: &'s mut Vec<Line>,
) -> &'s [Line] {
    let of_slab = arithmetic.rows_kept(rows.len()) * ROW_LINES;
    let lines = slabs.len() * of_slab;
    if to.len() < lines {
        to.resize(lines, Line::ZERO);
    }
    let all = &mut to[..lines];
    if slabs.iter().all(Range::is_empty) {
        return all;
    }
    if x.transposed {
        for (slab, to) in slabs.iter().zip(all.chunks_exact_mut(of_slab.max(1))) {
            match arithmetic {
                Arithmetic::Widen | Arithmetic::Scalar => {
                    turn_slab(x, rows.clone(), slab.clone(), to);
                }
                Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts) => {
                    turn_blocks(x, rows.clone(), slab.clone(), parts.count(), to);
                }
                Arithmetic::Dot | Arithmetic::Int16 => {
                    unreachable!("{arithmetic:?} of rows that do not lie together")
                }
            }
        }
        return all;
    }
    for (at, row) in rows.enumerate() {
        for (slab, to) in slabs.iter().zip(all[at * ROW_LINES..].chunks_mut(of_slab)) {
            let from = &x.data[row * x.stride + slab.start..row * x.stride + slab.end];
            match arithmetic {
                Arithmetic::Dot => tiles::row(from, 1, to),
                Arithmetic::Int16 => int16::row(from, to),
                Arithmetic::Widen | Arithmetic::Scalar => copy(from, to),
                Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts) => {
                    tiles::row(from, parts.count(), to);
                }
            }
        }
    }
    all
}

/// Rows whose numbers lie `stride` apart, square by square.
fn turn_slab(x: View<'_>, rows: Range<usize>, slab: Range<usize>, to: &mut [Line]) {
    for (at, input) in slab.clone().step_by(SIDE).enumerate() {
        let inputs = (slab.end - input).min(SIDE);
        for row in rows.clone().step_by(SIDE) {
            let to = &mut to[(row - rows.start) * ROW_LINES + at..];
            let from = &x.data[input * x.stride + row..];
            for next in SIDE..2 * SIDE {
                fetch(from.as_ptr().wrapping_add(next * x.stride).cast());
            }
            transpose(from, x.stride, (inputs, (rows.end - row).min(SIDE)), to, ROW_LINES);
        }
    }
}

/// The same split into bf16 parts, block by block of inputs.
fn turn_blocks(x: View<'_>, rows: Range<usize>, slab: Range<usize>, parts: usize, to: &mut [Line]) {
    for (block, input) in slab.clone().step_by(tiles::BLOCK).enumerate() {
        for row in rows.clone().step_by(SIDE) {
            let count = (rows.end - row).min(SIDE);
            let mut columns = [[Line::ZERO; SIDE]; 2];
            for (half, columns) in columns.iter_mut().enumerate() {
                let first = input + half * SIDE;
                let inputs = slab.end.saturating_sub(first).min(SIDE);
                if inputs > 0 {
                    let from = &x.data[first * x.stride + row..];
                    for next in tiles::BLOCK..tiles::BLOCK + SIDE {
                        fetch(from.as_ptr().wrapping_add(next * x.stride).cast());
                    }
                    transpose(from, x.stride, (inputs, count), columns, 1);
                }
            }
            let start = (row - rows.start) * ROW_LINES + block * parts;
            tiles::turned(&columns, count, parts, &mut to[start..]);
        }
    }
}

/// f32 as words, the last line filled with zeros.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn copy(from: &[f32], to: &mut [Line]) {
    let (lines, rest) = from.as_chunks::<16>();
    for (line, to) in lines.iter().zip(&mut *to) {
        to.0 = line.map(f32::to_bits);
    }
    if !rest.is_empty() {
        let mut last = [0.0; 16];
        last[..rest.len()].copy_from_slice(rest);
        to[lines.len()].0 = last.map(f32::to_bits);
    }
}

/// All slabs of some rows, for products with one chunk of a weight after another.
pub(crate) struct Activations {
    pub(super) arithmetic: Arithmetic,
    pub(super) rows: usize,
    lines: Vec<Line>,
}

impl Activations {
    /// `x` holds rows of `inputs` numbers.
    pub(crate) fn new(arithmetic: Arithmetic, x: &[f32], inputs: usize) -> Self {
        let rows = x.len() / inputs.max(1);
        let slabs: Vec<_> = slabs(arithmetic, inputs).collect();
        let mut lines = Vec::new();
        write(arithmetic, View::dense(x, rows, inputs), 0..rows, &slabs, &mut lines);
        Self { arithmetic, rows, lines }
    }

    /// The rows of one slab after another.
    pub(super) fn slabs(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunks_exact((self.arithmetic.rows_kept(self.rows) * ROW_LINES).max(1))
    }
}
