//! AVX2 with fused multiply-add: half a panel at a time, for as many rows as have their sums in
//! the sixteen registers.

use std::arch::x86_64::*;

use super::{
    super::{Arithmetic, prefetch::Prefetch},
    COLS, Kernel, ROW, Set, Tile,
};

pub(super) const SET: Set = Set {
    name: "AVX2 and FMA",
    flag: "avx2",
    purpose: "f32 products without AVX-512",
    found: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
    kernels: &[Kernel {
        arithmetic: Arithmetic::Widen,
        strip: 12,
        run: fused,
        pairs: Some(fused_pairs),
        session: None,
    }],
    ..Set::PLAIN
};

/// Columns of half a panel.
pub(super) const HALF: usize = COLS / 2;
/// Numbers of a register.
pub(super) const LANES: usize = 8;
/// Registers of half a row of a panel.
pub(super) const WIDE: usize = HALF / LANES;

/// Of `R` rows and half a panel.
pub(super) type Sums<const R: usize> = [[__m256; WIDE]; R];

/// Part of a tile: some rows from `row` on, half a panel's columns from `col` on.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) tile: Tile<'a>,
    pub(super) row: usize,
    pub(super) col: usize,
}

/// A tile in parts of at most `most` rows, each with its number of rows.
pub(super) fn parts(tile: Tile<'_>, most: usize) -> impl Iterator<Item = (Part<'_>, usize)> {
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

pub(super) use by_rows;

/// # Safety
/// As [`super::portable::widen`]; the processor must have AVX2 and
/// FMA.
unsafe fn fused(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check(tile.steps);
    for (part, rows) in parts(tile, 6) {
        by_rows!(fused_rows, rows, (part, prefetch), 1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`super::portable::widen`]; the processor must have
/// AVX2 and FMA.
unsafe fn fused_pairs(tile: Tile<'_>) {
    tile.check(2 * tile.steps);
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
/// As [`super::portable::widen`], for a part of `R` rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn store<const R: usize>(sums: Sums<R>, part: Part<'_>) {
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
