//! Products number by number, on any processor: what tests hold the others to, to the bit.
//!
//! Where nothing else is used, products are those of the `gemm` crate, which has kernels of its
//! own for NEON and others.

use multiversion::multiversion;

#[cfg(test)]
use super::super::int16;
use super::{
    super::{
        Arithmetic, COLS, Line,
        activations::ROW_LINES,
        prefetch::{Ahead, Prefetch},
        tiles::{self, Parts},
    },
    Kernel, Set, Tile,
};

pub(super) const SET: Set = Set {
    name: "portable",
    flag: "portable",
    found: || true,
    slow: || Some("number by number, for tests; without others, products are the gemm crate's"),
    kernels: &[
        Kernel {
            arithmetic: Arithmetic::Scalar,
            strip: 12,
            run: run_widen,
            pairs: None,
            session: None,
        },
        of_tiles(Parts::One),
        of_tiles(Parts::Two),
        of_tiles(Parts::Three),
    ],
    ..Set::PLAIN
};

const fn of_tiles(parts: Parts) -> Kernel {
    Kernel {
        arithmetic: Arithmetic::Emulated(parts),
        strip: tiles::ROWS,
        run: run_tiles,
        pairs: None,
        session: None,
    }
}

/// [`widen`] as a kernel.
///
/// # Safety
/// As [`widen`].
unsafe fn run_widen(tile: Tile<'_>, _: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { widen(tile) }
}

/// The unit of tiles in software.
///
/// # Safety
/// As [`widen`].
unsafe fn run_tiles(tile: Tile<'_>, _: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { tiles::run(tile, Ahead::NONE, true) }
}

/// [`Arithmetic::Widen`](super::super::Arithmetic::Widen), to the same bits.
///
/// # Safety
/// `tile.to` must be writable for the tile's rows and columns by this thread
/// alone, and `tile.onto` hold numbers.
pub(in super::super) unsafe fn widen(tile: Tile<'_>) {
    tile.check(tile.steps);
    for row in 0..tile.rows {
        for col in 0..tile.cols {
            let a = &tile.a[row * ROW_LINES..];
            let sum = tile.scale * scalar_sum(a, tile.b, col, tile.steps);
            // SAFETY: the caller's promise.
            unsafe {
                let onto = tile.onto.map(|(onto, stride)| onto.add(row * stride + col).read());
                tile.to.add(row * tile.stride + col).write(onto.map_or(sum, |v| v + sum));
            }
        }
    }
}

/// A row times a column of a panel, step by step.
#[multiversion(targets("x86_64+avx2+fma"))]
fn scalar_sum(a: &[Line], b: &[Line], col: usize, steps: usize) -> f32 {
    let word = |lines: &[Line], at: usize| f32::from_bits(lines[at / 16].0[at % 16]);
    (0..steps).fold(0.0, |sum, step| word(a, step).mul_add(word(b, step * COLS + col), sum))
}

/// [`Arithmetic::Int16`](super::super::Arithmetic::Int16), to the same bits.
///
/// # Safety
/// As [`widen`].
#[cfg(test)]
pub(in super::super) unsafe fn int16(tile: Tile<'_>) {
    tile.check_int16();
    let word = |lines: &[Line], at: usize| lines[at / Line::WORDS].0[at % Line::WORDS];
    let halves = |word: u32| [word as u16, (word >> 16) as u16].map(|v| i32::from(v.cast_signed()));
    for row in 0..tile.rows {
        let a = &tile.a[row * ROW_LINES..];
        for col in 0..tile.cols {
            let sum = (0..tile.steps).fold(0_i32, |sum, step| {
                let (a, b) = (halves(word(a, step)), halves(word(tile.b, step * COLS + col)));
                sum.wrapping_add((a[0] * b[0]).wrapping_add(a[1] * b[1]))
            });
            let of_row = f32::from_bits(word(a, int16::SCALE_LINE * Line::WORDS));
            let of_col = f32::from_bits(word(tile.b, tile.steps * COLS + col));
            let sum = tile.scale * (sum as f32 * (of_row * of_col));
            // SAFETY: the caller's promise.
            unsafe {
                let onto = tile.onto.map(|(onto, stride)| onto.add(row * stride + col).read());
                tile.to.add(row * tile.stride + col).write(onto.map_or(sum, |v| v + sum));
            }
        }
    }
}
