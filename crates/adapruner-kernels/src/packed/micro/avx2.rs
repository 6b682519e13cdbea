//! [`super::fused`] and [`super::fused_pairs`] in AVX2 with fused multiply-add: half a
//! panel at a time, for as many rows as have their sums in the sixteen registers.

use std::arch::x86_64::*;

use super::{
    super::{Line, int16::SCALE_LINE, prefetch::Prefetch},
    COLS, ROW, Tile,
};

/// Columns of half a panel.
const HALF: usize = COLS / 2;
/// Numbers of a register.
const LANES: usize = 8;
/// Registers of half a row of a panel.
const WIDE: usize = HALF / LANES;

/// Of `R` rows and half a panel.
type Sums<const R: usize> = [[__m256; WIDE]; R];

pub(super) fn runs_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

pub(super) fn has_int16() -> bool {
    runs_here() && is_x86_feature_detected!("avxvnni")
}

/// Part of a tile: some rows from `row` on, half a panel's columns from `col` on.
#[derive(Clone, Copy)]
struct Part<'a> {
    tile: Tile<'a>,
    row: usize,
    col: usize,
}

/// A tile in parts of at most `most` rows, each with its number of rows.
fn parts(tile: Tile<'_>, most: usize) -> impl Iterator<Item = (Part<'_>, usize)> {
    let groups = tile.rows.div_ceil(most);
    (0..tile.cols).step_by(HALF).flat_map(move |col| {
        (0..groups).map(move |group| {
            // Nearly as many rows in each.
            let row = tile.rows * group / groups;
            (Part { tile, row, col }, tile.rows * (group + 1) / groups - row)
        })
    })
}

/// One of the products below for any number of rows of a part.
macro_rules! by_rows {
    ($product:ident, $rows:ident, $operands:tt, $($count:literal)*) => {
        // SAFETY: the caller's promises are those of this function.
        match $rows {
            $($count => unsafe { $product::<$count> $operands },)*
            rows => unreachable!("{rows} rows at a time"),
        }
    };
}

/// # Safety
/// As [`super::fused`] of a tile that was checked; the processor must have AVX2 and
/// FMA.
pub(super) unsafe fn fused(tile: Tile<'_>, prefetch: &mut Prefetch) {
    for (part, rows) in parts(tile, 6) {
        by_rows!(fused_rows, rows, (part, prefetch), 1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`super::int16`] of a tile that was checked; the processor must have AVX2, FMA
/// and AVX-VNNI.
pub(super) unsafe fn int16(tile: Tile<'_>, prefetch: &mut Prefetch) {
    for (part, rows) in parts(tile, 6) {
        by_rows!(int16_rows, rows, (part, prefetch), 1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`super::fused_pairs`] of a tile that was checked; the processor must have
/// AVX2 and FMA.
pub(super) unsafe fn fused_pairs(tile: Tile<'_>) {
    for (part, rows) in parts(tile, 4) {
        by_rows!(fused_pairs_rows, rows, (part), 1 2 3 4);
    }
}

/// # Safety
/// As [`fused`], for a part of `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn fused_rows<const R: usize>(part: Part<'_>, prefetch: &mut Prefetch) {
    let Part { tile, row, col } = part;
    let a = tile.a.as_ptr().cast::<f32>().wrapping_add(row * ROW);
    let b = tile.b.as_ptr().cast::<f32>().wrapping_add(col);
    let mut sums: Sums<R> = [[_mm256_setzero_ps(); WIDE]; R];
    // The next operands are prefetched once in a tile.
    let mut next = *prefetch;
    let asks = row == 0 && col == 0;
    for step in 0..tile.steps {
        if asks {
            next.step();
        }
        let mut of_step = [_mm256_setzero_ps(); WIDE];
        for (at, of_step) in of_step.iter_mut().enumerate() {
            // SAFETY: `check` saw that both sides have all steps; half a line is
            // aligned as a register is.
            *of_step = unsafe { _mm256_load_ps(b.add(step * COLS + at * LANES)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = _mm256_set1_ps(unsafe { *a.add(row * ROW + step) });
            for (sum, b) in sums.iter_mut().zip(of_step) {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
    }
    if asks {
        *prefetch = next;
    }
    // SAFETY: the caller's promise.
    unsafe { store(sums, part) };
}

/// # Safety
/// As [`int16`], for a part of `R` rows.
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn int16_rows<const R: usize>(part: Part<'_>, prefetch: &mut Prefetch) {
    let Part { tile, row, col } = part;
    let a = tile.a.as_ptr().cast::<i32>().wrapping_add(row * ROW);
    let b = tile.b.as_ptr().cast::<i32>().wrapping_add(col);
    let mut sums = [[_mm256_setzero_si256(); WIDE]; R];
    // The next operands are prefetched once in a tile.
    let mut next = *prefetch;
    let asks = row == 0 && col == 0;
    for step in 0..tile.steps {
        if asks {
            next.step();
        }
        let mut of_step = [_mm256_setzero_si256(); WIDE];
        for (at, of_step) in of_step.iter_mut().enumerate() {
            // SAFETY: `check_int16` saw that both sides have all steps; half a line is
            // aligned as a register is.
            *of_step = unsafe { _mm256_load_si256(b.add(step * COLS + at * LANES).cast()) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = _mm256_set1_epi32(unsafe { *a.add(row * ROW + step) });
            for (sum, b) in sums.iter_mut().zip(of_step) {
                *sum = _mm256_dpwssd_avx_epi32(*sum, a, b);
            }
        }
    }
    if asks {
        *prefetch = next;
    }
    let mut products: Sums<R> = [[_mm256_setzero_ps(); WIDE]; R];
    for at in 0..WIDE {
        // SAFETY: `check_int16` saw that the scales follow the steps.
        let of_cols = unsafe { _mm256_load_ps(b.add(tile.steps * COLS + at * LANES).cast()) };
        for (row, (sums, products)) in sums.iter().zip(&mut products).enumerate() {
            // SAFETY: the row is as long.
            let of_row = unsafe { *a.add(row * ROW + SCALE_LINE * Line::WORDS).cast::<f32>() };
            let scale = _mm256_mul_ps(_mm256_set1_ps(of_row), of_cols);
            products[at] = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[at]), scale);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { store(products, part) };
}

/// # Safety
/// As [`fused_pairs`], for a part of `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn fused_pairs_rows<const R: usize>(part: Part<'_>) {
    let Part { tile, row, col } = part;
    let a = tile.a.as_ptr().cast::<f32>().wrapping_add(row * ROW);
    let b = tile.b.as_ptr().cast::<i32>().wrapping_add(col);
    let mut sums: Sums<R> = [[_mm256_setzero_ps(); WIDE]; R];
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    for step in 0..tile.steps {
        for at in 0..WIDE {
            // SAFETY: `check` saw that both sides have all steps; half a line is
            // aligned as a register is.
            let b = unsafe { _mm256_load_si256(b.add(step * COLS + at * LANES).cast()) };
            let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
            let odd = _mm256_castsi256_ps(_mm256_and_si256(b, high));
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = unsafe {
                    let a = a.add(row * ROW + 2 * step);
                    [_mm256_set1_ps(*a), _mm256_set1_ps(*a.add(1))]
                };
                sums[at] = _mm256_fmadd_ps(a[0], even, sums[at]);
                sums[at] = _mm256_fmadd_ps(a[1], odd, sums[at]);
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { store(sums, part) };
}

/// # Safety
/// As [`super::scalar`], for a part of `R` rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store<const R: usize>(sums: Sums<R>, part: Part<'_>) {
    let Part { tile, row: first, col } = part;
    let scale = _mm256_set1_ps(tile.scale);
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (at, col) in (col..tile.cols.min(col + HALF)).step_by(LANES).enumerate() {
        let count = (tile.cols - col).min(LANES) as i32;
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
        for (row, sums) in sums.iter().enumerate() {
            let row = first + row;
            let sum = _mm256_mul_ps(scale, sums[at]);
            // SAFETY: only columns of the mask are touched, which are the tile's.
            unsafe {
                let sum = match tile.onto {
                    Some((onto, stride)) => {
                        let onto = onto.add(row * stride + col);
                        _mm256_add_ps(_mm256_maskload_ps(onto, mask), sum)
                    }
                    None => sum,
                };
                _mm256_maskstore_ps(tile.to.add(row * tile.stride + col), mask, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{avx512, fixed_scalar, scalar},
        *,
    };
    use crate::packed::{activations::ROW_LINES, int16::panel_lines};

    /// Numbers of about one as words, from a seed.
    fn lines(count: usize, seed: u32) -> Vec<Line> {
        let word = |at: u32| (at ^ seed).wrapping_mul(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
        let number = |at: u32| ((word(at) >> 8) as f32 / 8_388_608.0 - 1.0).to_bits();
        (0..count as u32)
            .map(|at| Line(std::array::from_fn(|w| number(at * 16 + w as u32))))
            .collect()
    }

    proptest! {
        #[test]
        fn tiles_have_the_twins_bits(
            rows in 1..=12_usize,
            cols in 1..=COLS,
            steps in 0..40_usize,
            scaled: bool,
            add: bool,
            seed: u32,
        ) {
            if !runs_here() {
                return Ok(());
            }
            let a = lines(rows * ROW_LINES, seed);
            let b = lines(2 * steps * Line::OF_COLS, !seed);
            let stride = COLS + 3;
            let before: Vec<f32> = (0..rows * stride).map(|at| at as f32).collect();
            let scale = if scaled { 0.375 } else { 1.0 };
            let run = |b: &[Line], steps, product: &dyn Fn(Tile<'_>)| -> Vec<u32> {
                let mut to = before.clone();
                let start = to.as_mut_ptr();
                let onto = add.then_some((start.cast_const(), stride));
                product(Tile { a: &a, b, steps, rows, cols, to: start, stride, scale, onto });
                to.iter().map(|v| v.to_bits()).collect()
            };
            // SAFETY: the result has all rows, and holds numbers.
            let twin = |tile: Tile<'_>| unsafe { scalar(tile) };
            // SAFETY: as above, and the processor has the instructions.
            let whole = |tile: Tile<'_>| unsafe { fused(tile, &mut { Prefetch::NONE }) };
            prop_assert_eq!(run(&b, steps, &whole), run(&b, steps, &twin));

            // Pairs: the upper halves of two steps' words.
            let words = |even: &Line, odd: &Line| {
                Line(std::array::from_fn(|w| even.0[w] >> 16 | odd.0[w] & 0xffff_0000))
            };
            let rounded: Vec<Line> = b.iter().map(|l| Line(l.0.map(|w| w & 0xffff_0000))).collect();
            let paired: Vec<Line> = b
                .chunks_exact(2 * Line::OF_COLS)
                .flat_map(|step| (0..Line::OF_COLS).map(|at| words(&step[at], &step[at + 2])))
                .collect();
            // SAFETY: as above.
            let pairs = |tile: Tile<'_>| unsafe { fused_pairs(tile) };
            prop_assert_eq!(run(&paired, steps, &pairs), run(&rounded, 2 * steps, &twin));

            // Integers: any words, and scales behind them.
            let integers = lines(panel_lines(2 * steps), !seed);
            // SAFETY: as above.
            let twin = |tile: Tile<'_>| unsafe { fixed_scalar(tile) };
            let expected = run(&integers, steps, &twin);
            if has_int16() {
                // SAFETY: as above.
                let whole = |tile: Tile<'_>| unsafe { int16(tile, &mut { Prefetch::NONE }) };
                prop_assert_eq!(run(&integers, steps, &whole), expected.clone());
            }
            if avx512::has_int16() {
                // SAFETY: as above.
                let whole = |tile: Tile<'_>| unsafe { avx512::int16(tile, &mut { Prefetch::NONE }) };
                prop_assert_eq!(run(&integers, steps, &whole), expected);
            }
        }
    }
}
