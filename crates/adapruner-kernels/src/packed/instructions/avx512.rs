//! AVX-512: a strip of twelve rows times a panel of two halves, 24 sums in registers.

use std::arch::x86_64::*;

use super::{
    super::{Arithmetic, prefetch::Prefetch},
    COLS, Kernel, ROW, Set, Tile,
};

pub(super) const SET: Set = Set {
    name: "AVX-512",
    flag: "avx512",
    purpose: "f32 products",
    found: || is_x86_feature_detected!("avx512f"),
    kernels: &[Kernel {
        arithmetic: Arithmetic::Widen,
        strip: 12,
        run: fused,
        pairs: Some(fused_pairs),
        session: None,
    }],
    ..Set::PLAIN
};

/// One of the products below for any number of rows.
macro_rules! by_rows {
    ($product:ident, $tile:ident, $operands:tt, $halves:literal, $($rows:literal)*) => {
        // SAFETY: the caller's promises are those of this function.
        match $tile.rows {
            0 => {}
            $($rows => unsafe { $product::<$rows, $halves> $operands },)*
            rows => unreachable!("a strip of {rows} rows"),
        }
    };
}

/// The same for any number of columns.
macro_rules! by_rows_and_halves {
    ($product:ident, $tile:ident, $prefetch:ident) => {
        if $tile.cols <= 16 {
            by_rows!($product, $tile, ($tile, $prefetch), 1, 1 2 3 4 5 6 7 8 9 10 11 12);
        } else {
            by_rows!($product, $tile, ($tile, $prefetch), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
        }
    };
}

pub(super) use by_rows;
pub(super) use by_rows_and_halves;

/// # Safety
/// As [`super::portable::widen`]; the processor must have AVX-512.
unsafe fn fused(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check(tile.steps);
    by_rows_and_halves!(fused_rows, tile, prefetch);
}

/// # Safety
/// As [`super::portable::widen`]; the processor must have
/// AVX-512.
unsafe fn fused_pairs(tile: Tile<'_>) {
    tile.check(2 * tile.steps);
    by_rows!(fused_pairs_rows, tile, (tile), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Lines of a panel that are asked for prefetch of their use.
const PREFETCH: usize = 32;

/// Of `R` rows and `H` halves of a panel.
type Sums<const R: usize, const H: usize> = [[__m512; H]; R];

/// The sums of a strip times a panel: words of both, step by step, in `$rows` × `$halves`
/// registers that begin as `$zero`. `$prefetch` is asked for on the way.
macro_rules! sums {
    ($tile:ident, $prefetch:ident, $rows:ident, $halves:ident, $zero:expr, $add:expr) => {{
        let (a, b) = ($tile.a.as_ptr().cast::<i32>(), $tile.b.as_ptr().cast::<i32>());
        let mut next = *$prefetch;
        let mut sums = [[$zero; $halves]; $rows];
        for step in 0..$tile.steps {
            if step < $rows {
                fetch_row($tile, step);
            }
            next.step();
            let mut of_step = [_mm512_setzero_si512(); $halves];
            for (half, of_step) in of_step.iter_mut().enumerate() {
                // SAFETY: `check` saw that both sides have all steps.
                *of_step = unsafe { _mm512_load_si512(b.add(step * COLS + half * 16).cast()) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = _mm512_set1_epi32(unsafe { *a.add(row * ROW + step) });
                for (sum, b) in sums.iter_mut().zip(of_step) {
                    *sum = $add(*sum, a, b);
                }
            }
        }
        *$prefetch = next;
        sums
    }};
}

pub(super) use sums;

/// # Safety
/// As [`fused`]; `tile.rows` is `R`, the columns are in `H` halves.
#[target_feature(enable = "avx512f")]
unsafe fn fused_rows<const R: usize, const H: usize>(tile: Tile<'_>, prefetch: &mut Prefetch) {
    let sums = sums!(tile, prefetch, R, H, _mm512_setzero_ps(), |sum, a, b| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
    });
    // SAFETY: the caller's promise.
    unsafe { store_all(sums, tile) };
}

/// # Safety
/// As [`fused_rows`].
#[target_feature(enable = "avx512f")]
unsafe fn fused_pairs_rows<const R: usize, const H: usize>(tile: Tile<'_>) {
    let (a, b) = (tile.a.as_ptr().cast::<f32>(), tile.b.as_ptr().cast::<i32>());
    let mut sums: Sums<R, H> = [[_mm512_setzero_ps(); H]; R];
    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for step in 0..tile.steps {
        // SAFETY: `check` saw that both sides have all steps.
        let b = unsafe {
            let b = b.add(step * COLS).cast::<__m512i>();
            // With few rows, reading the panels is what takes time.
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(PREFETCH).cast());
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(PREFETCH + 1).cast());
            [_mm512_load_si512(b), _mm512_load_si512(b.add(1))]
        };
        let even = [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b[0])),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b[1])),
        ];
        let odd = [
            _mm512_castsi512_ps(_mm512_and_si512(b[0], high)),
            _mm512_castsi512_ps(_mm512_and_si512(b[1], high)),
        ];
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = unsafe {
                let a = a.add(row * ROW + 2 * step);
                [_mm512_set1_ps(*a), _mm512_set1_ps(*a.add(1))]
            };
            sums[0] = _mm512_fmadd_ps(a[0], even[0], sums[0]);
            sums[1] = _mm512_fmadd_ps(a[0], even[1], sums[1]);
            sums[0] = _mm512_fmadd_ps(a[1], odd[0], sums[0]);
            sums[1] = _mm512_fmadd_ps(a[1], odd[1], sums[1]);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { store_all(sums, tile) };
}

/// Asks for the lines of a row of the result while the sums are made.
#[inline(always)]
pub(super) fn fetch_row(tile: Tile<'_>, row: usize) {
    for half in [0, 16] {
        let to = tile.to.wrapping_add(row * tile.stride + half);
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(to.cast()) };
    }
}

/// # Safety
/// As [`super::portable::widen`], for `R` rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store_all<const R: usize, const H: usize>(sums: Sums<R, H>, tile: Tile<'_>) {
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { store(sum, (row, half), tile) };
        }
    }
}

/// One half of one row of the result.
///
/// # Safety
/// As [`super::portable::widen`], for this row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(sum: __m512, (row, half): (usize, usize), tile: Tile<'_>) {
    let mask = (u32::MAX >> (COLS - tile.cols) >> (16 * half)) as __mmask16;
    let to = tile.to.wrapping_add(row * tile.stride + 16 * half);
    let sum = _mm512_mul_ps(_mm512_set1_ps(tile.scale), sum);
    // SAFETY: only columns of the mask are touched, which are the tile's.
    unsafe {
        let sum = match tile.onto {
            Some((onto, stride)) => {
                let onto = onto.add(row * stride).wrapping_add(16 * half);
                _mm512_add_ps(_mm512_maskz_loadu_ps(mask, onto), sum)
            }
            None => sum,
        };
        _mm512_mask_storeu_ps(to, mask, sum);
    }
}
