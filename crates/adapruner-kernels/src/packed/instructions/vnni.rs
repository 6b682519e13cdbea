//! VNNI: dot products of pairs of 16-bit integers, in the strips of [`super::avx512`] and of
//! [`super::avx2`].

use std::arch::x86_64::*;

use super::{
    super::{Arithmetic, Line, int16::SCALE_LINE, prefetch::Prefetch},
    COLS, Kernel, ROW, Set, Tile, avx2, avx512,
    avx512::{by_rows, by_rows_and_halves, fetch_row, sums},
};

/// For integers, where products of tiles are not used.
const PURPOSE: &str = "16-bit integer products in high precision, where there are no tiles";

pub(super) const AVX512: Set = Set {
    name: "AVX512-VNNI",
    flag: "avx512-vnni",
    purpose: PURPOSE,
    needs: &["avx512"],
    found: || is_x86_feature_detected!("avx512vnni"),
    kernels: &[of(int16_of_avx512)],
    ..Set::PLAIN
};

pub(super) const AVX: Set = Set {
    name: "AVX-VNNI",
    flag: "avx-vnni",
    purpose: PURPOSE,
    needs: &["avx2"],
    found: || is_x86_feature_detected!("avxvnni"),
    kernels: &[of(int16_of_avx2)],
    ..Set::PLAIN
};

const fn of(run: unsafe fn(Tile<'_>, &mut Prefetch)) -> Kernel {
    Kernel { arithmetic: Arithmetic::Int16, strip: 12, run, pairs: None, session: None }
}

/// # Safety
/// As [`super::portable::widen`]; the processor must have
/// AVX512-VNNI.
unsafe fn int16_of_avx512(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check_int16();
    by_rows_and_halves!(avx512_rows, tile, prefetch);
}

/// # Safety
/// As [`int16_of_avx512`]; `tile.rows` is `R`, the columns are in `H` halves.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn avx512_rows<const R: usize, const H: usize>(tile: Tile<'_>, prefetch: &mut Prefetch) {
    let sums = sums!(tile, prefetch, R, H, _mm512_setzero_si512(), |sum, a, b| {
        _mm512_dpwssd_epi32(sum, a, b)
    });
    let (a, b) = (tile.a.as_ptr().cast::<f32>(), tile.b.as_ptr().cast::<f32>());
    let mut of_cols = [_mm512_setzero_ps(); H];
    for (half, of_cols) in of_cols.iter_mut().enumerate() {
        // SAFETY: `check_int16` saw that the scales follow the steps.
        *of_cols = unsafe { _mm512_load_ps(b.add(tile.steps * COLS + half * 16)) };
    }
    for (row, sums) in sums.into_iter().enumerate() {
        // SAFETY: the row is as long.
        let of_row = unsafe { *a.add(row * ROW + SCALE_LINE * Line::WORDS) };
        for ((half, sum), of_cols) in sums.into_iter().enumerate().zip(of_cols) {
            let scale = _mm512_mul_ps(_mm512_set1_ps(of_row), of_cols);
            let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
            // SAFETY: the caller's promise.
            unsafe { avx512::store(sum, (row, half), tile) };
        }
    }
}

/// # Safety
/// As [`super::portable::widen`]; the processor must have AVX2, FMA
/// and AVX-VNNI.
unsafe fn int16_of_avx2(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check_int16();
    for (part, rows) in avx2::parts(tile, 6) {
        avx2::by_rows!(avx2_rows, rows, (part, prefetch), 1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`int16_of_avx2`], for a part of `R` rows.
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn avx2_rows<const R: usize>(part: avx2::Part<'_>, prefetch: &mut Prefetch) {
    let avx2::Part { tile, row, col } = part;
    let a = tile.a.as_ptr().cast::<i32>().wrapping_add(row * ROW);
    let b = tile.b.as_ptr().cast::<i32>().wrapping_add(col);
    let mut sums = [[_mm256_setzero_si256(); avx2::WIDE]; R];
    // The next operands are prefetched once in a tile.
    let mut next = *prefetch;
    let asks = row == 0 && col == 0;
    for step in 0..tile.steps {
        if asks {
            next.step();
        }
        let mut of_step = [_mm256_setzero_si256(); avx2::WIDE];
        for (at, of_step) in of_step.iter_mut().enumerate() {
            // SAFETY: `check_int16` saw that both sides have all steps; half a line is
            // aligned as a register is.
            *of_step = unsafe { _mm256_load_si256(b.add(step * COLS + at * avx2::LANES).cast()) };
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
    let mut products: avx2::Sums<R> = [[_mm256_setzero_ps(); avx2::WIDE]; R];
    for at in 0..avx2::WIDE {
        // SAFETY: `check_int16` saw that the scales follow the steps.
        let of_cols = unsafe { _mm256_load_ps(b.add(tile.steps * COLS + at * avx2::LANES).cast()) };
        for (row, (sums, products)) in sums.iter().zip(&mut products).enumerate() {
            // SAFETY: the row is as long.
            let of_row = unsafe { *a.add(row * ROW + SCALE_LINE * Line::WORDS).cast::<f32>() };
            let scale = _mm256_mul_ps(_mm256_set1_ps(of_row), of_cols);
            products[at] = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[at]), scale);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { avx2::store(products, part) };
}
