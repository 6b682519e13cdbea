//! [`super::fused`] and the others in AVX-512: a strip of twelve rows times a panel
//! of two halves, 24 sums in registers.

use std::{arch::x86_64::*, sync::LazyLock};

use super::{
    super::{Line, int16::SCALE_LINE, prefetch::Prefetch},
    COLS, ROW, Tile,
};

pub(super) fn runs_here() -> bool {
    is_x86_feature_detected!("avx512f")
}

pub(super) fn has_dot() -> bool {
    runs_here() && is_x86_feature_detected!("avx512bf16")
}

pub(super) fn has_int16() -> bool {
    runs_here() && is_x86_feature_detected!("avx512vnni")
}

/// Whether dot products of pairs are faster than fused multiply-adds: on
/// AMD's processors, not on Intel's of these years (module documentation).
pub(super) fn fast_dot() -> bool {
    static AMD: LazyLock<bool> = LazyLock::new(|| {
        let id = __cpuid(0);
        [id.ebx, id.edx, id.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
    });
    has_dot() && *AMD
}

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

/// # Safety
/// As [`super::fused`] of a tile that was checked; the processor must have AVX-512.
pub(super) unsafe fn fused(tile: Tile<'_>, prefetch: &mut Prefetch) {
    by_rows_and_halves!(fused_rows, tile, prefetch);
}

/// # Safety
/// As [`super::int16`] of a tile that was checked; the processor must have
/// AVX512-VNNI.
pub(super) unsafe fn int16(tile: Tile<'_>, prefetch: &mut Prefetch) {
    by_rows_and_halves!(int16_rows, tile, prefetch);
}

/// # Safety
/// As [`super::fused_pairs`] of a tile that was checked; the processor must have
/// AVX-512.
pub(super) unsafe fn fused_pairs(tile: Tile<'_>) {
    by_rows!(fused_pairs_rows, tile, (tile), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`super::dot`] of a tile that was checked; the processor must have
/// AVX512-BF16.
pub(super) unsafe fn dot(tile: Tile<'_>, prefetch: &mut Prefetch) {
    by_rows_and_halves!(dot_rows, tile, prefetch);
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
/// As [`dot`]; `tile.rows` is `R`, the columns are in `H` halves.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot_rows<const R: usize, const H: usize>(tile: Tile<'_>, prefetch: &mut Prefetch) {
    let sums = sums!(tile, prefetch, R, H, _mm512_setzero_ps(), |sum, a, b| {
        _mm512_dpbf16_ps(sum, as_pairs(a), as_pairs(b))
    });
    // SAFETY: the caller's promise.
    unsafe { store_all(sums, tile) };
}

/// # Safety
/// As [`int16`]; `tile.rows` is `R`, the columns are in `H` halves.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int16_rows<const R: usize, const H: usize>(tile: Tile<'_>, prefetch: &mut Prefetch) {
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
            unsafe { store(sum, (row, half), tile) };
        }
    }
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
fn fetch_row(tile: Tile<'_>, row: usize) {
    for half in [0, 16] {
        let to = tile.to.wrapping_add(row * tile.stride + half);
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(to.cast()) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_pairs(words: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes that may be anything.
    unsafe { std::mem::transmute(words) }
}

/// # Safety
/// As [`super::scalar`], for `R` rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_all<const R: usize, const H: usize>(sums: Sums<R, H>, tile: Tile<'_>) {
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
/// As [`super::scalar`], for this row.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(sum: __m512, (row, half): (usize, usize), tile: Tile<'_>) {
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
