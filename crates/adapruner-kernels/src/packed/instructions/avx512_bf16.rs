//! AVX512-BF16: dot products of pairs, in the strips of [`super::avx512`].
//!
//! Fast on AMD's processors; Intel's of these years make half a dot product a cycle and two
//! fused multiply-adds, so that f32 is as fast there and rounds less.

use std::{arch::x86_64::*, sync::LazyLock};

use super::{
    super::{Arithmetic, prefetch::Prefetch},
    COLS, Kernel, ROW, Set, Tile,
    avx512::{by_rows, by_rows_and_halves, fetch_row, store_all, sums},
};

pub(super) const SET: Set = Set {
    name: "AVX512-BF16",
    flag: "avx512-bf16",
    purpose: "products with bf16 weights in medium precision, where there are no tiles",
    needs: &["avx512"],
    found: || is_x86_feature_detected!("avx512bf16"),
    slow: || (!fast()).then_some("not faster than f32 products on this processor"),
    kernels: &[Kernel {
        arithmetic: Arithmetic::Dot,
        strip: 12,
        run: dot,
        pairs: None,
        session: None,
    }],
    ..Set::PLAIN
};

/// Whether dot products of pairs are faster than fused multiply-adds: on AMD's processors.
fn fast() -> bool {
    static AMD: LazyLock<bool> = LazyLock::new(|| {
        let id = __cpuid(0);
        [id.ebx, id.edx, id.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
    });
    *AMD
}

/// # Safety
/// As [`super::portable::widen`]; the processor must have
/// AVX512-BF16.
unsafe fn dot(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check(tile.steps);
    by_rows_and_halves!(dot_rows, tile, prefetch);
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

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_pairs(words: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes that may be anything.
    unsafe { std::mem::transmute(words) }
}
