//! Activations as the products read them: strips of 12 rows, each row a slab of
//! words: f32, or pairs of bf16 or of integers.

use std::ops::Range;

use multiversion::multiversion;

use super::{
    Arithmetic, DEPTH, Line,
    ahead::fetch,
    fixed, slabs,
    turn::{SIDE, turn},
};
use crate::view::View;

/// Rows of a strip, at most.
pub(super) const ROWS: usize = 12;
/// Lines from one row of a strip to the next: a slab's words, and one for the scale of
/// integers. It also keeps the rows of a strip off each other's places in the cache.
pub(super) const ROW_LINES: usize = DEPTH / 16 + 1;

/// Writes rows `rows` of `x`, one slab of inputs after another, and returns them; a
/// row begins every [`ROW_LINES`].
pub(super) fn write<'s>(
    arithmetic: Arithmetic,
    x: View<'_>,
    rows: Range<usize>,
    slabs: &[Range<usize>],
    to: &'s mut Vec<Line>,
) -> &'s [Line] {
    let of_slab = rows.len() * ROW_LINES;
    let lines = slabs.len() * of_slab;
    if to.len() < lines {
        to.resize(lines, Line::ZERO);
    }
    let all = &mut to[..lines];
    if slabs.iter().all(Range::is_empty) {
        return all;
    }
    if x.turned {
        assert!(!arithmetic.rounds_activations(), "rows that lie together are what is rounded");
        for (slab, to) in slabs.iter().zip(all.chunks_exact_mut(of_slab.max(1))) {
            turn_slab(x, rows.clone(), slab.clone(), to);
        }
        return all;
    }
    for (at, row) in rows.enumerate() {
        for (slab, to) in slabs.iter().zip(all[at * ROW_LINES..].chunks_mut(of_slab)) {
            let from = &x.data[row * x.stride + slab.start..row * x.stride + slab.end];
            match arithmetic {
                Arithmetic::Dot => round(from, to),
                Arithmetic::Fixed => fixed::row(from, to),
                Arithmetic::Widen | Arithmetic::Scalar => copy(from, to),
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
            turn(from, x.stride, (inputs, (rows.end - row).min(SIDE)), to, ROW_LINES);
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

/// Pairs of bf16, the last line filled with zeros.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn round(from: &[f32], to: &mut [Line]) {
    let line = |from: &[f32; 32], to: &mut Line| {
        for (word, pair) in to.0.iter_mut().zip(from.as_chunks::<2>().0) {
            *word = rounded(pair[0]) >> 16 | rounded(pair[1]) & 0xffff_0000;
        }
    };
    let (lines, rest) = from.as_chunks::<32>();
    lines.iter().zip(&mut *to).for_each(|(from, to)| line(from, to));
    if !rest.is_empty() {
        let mut last = [0.0; 32];
        last[..rest.len()].copy_from_slice(rest);
        line(&last, &mut to[lines.len()]);
    }
}

/// The bits of a number rounded to bf16 (ties to even; NaN stays), in the high half.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if value.is_nan() { bits | 0x0040_0000 } else { up }
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
        self.lines.chunks_exact((self.rows * ROW_LINES).max(1))
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn numbers_round_as_those_of_half() {
        let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, 0.1];
        let all = (0..1_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for value in specials.into_iter().chain(all) {
            let found = bf16::from_bits((rounded(value) >> 16) as u16);
            let expected = bf16::from_f32(value);
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{value}: {found} for {expected}"
            );
        }
    }
}
