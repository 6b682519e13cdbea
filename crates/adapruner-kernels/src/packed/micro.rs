//! The innermost products: a strip of rows times a panel, over one slab.

use multiversion::multiversion;

use super::{COLS, Line, activations::ROW_LINES};

/// Words from one row of a strip to the next.
const ROW: usize = ROW_LINES * 16;

/// One strip times one panel.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Rows of [`ROW_LINES`] each.
    pub(super) a: &'a [Line],
    /// Two lines for each step.
    pub(super) b: &'a [Line],
    pub(super) steps: usize,
    /// Of the strip.
    pub(super) rows: usize,
    /// Outputs of the panel that exist.
    pub(super) cols: usize,
    /// Where the result goes.
    pub(super) to: *mut f32,
    /// From one row of the result to the next.
    pub(super) stride: usize,
    /// What the sums are multiplied with.
    pub(super) scale: f32,
    /// What the result is added to, and how far its rows are apart.
    pub(super) onto: Option<(*const f32, usize)>,
}

impl Tile<'_> {
    /// What every way to multiply relies on.
    fn check(&self, steps_of_a: usize) {
        assert!((1..=COLS).contains(&self.cols) && steps_of_a <= ROW);
        assert!(self.a.len() >= self.rows * ROW_LINES);
        assert!(self.b.len() >= self.steps * Line::OF_COLS);
    }
}

/// The scalar twin of [`fused`], to the same bits.
///
/// # Safety
/// `tile.to` must be writable for the tile's rows and columns by this thread
/// alone, and `tile.onto` hold numbers.
pub(super) unsafe fn scalar(tile: Tile<'_>) {
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

#[cfg(target_arch = "x86_64")]
pub(super) use self::x86::{dot, fast_dot, fused, fused_pairs, has_dot, has_fused};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, sync::LazyLock};

    use super::{super::ahead::Ahead, COLS, ROW, Tile};

    pub(in super::super) fn has_fused() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    pub(in super::super) fn has_dot() -> bool {
        has_fused() && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether dot products of pairs are faster than fused multiply-adds: on
    /// AMD's processors, not on Intel's of these years (module documentation).
    pub(in super::super) fn fast_dot() -> bool {
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

    /// `Σ a · b` in f32; both sides are f32. `ahead` is asked for on the way.
    ///
    /// # Safety
    /// As [`super::scalar`], and the processor must have AVX-512.
    pub(in super::super) unsafe fn fused(tile: Tile<'_>, ahead: &mut Ahead) {
        tile.check(tile.steps);
        if tile.cols <= 16 {
            by_rows!(fused_rows, tile, (tile, ahead), 1, 1 2 3 4 5 6 7 8 9 10 11 12);
        } else {
            by_rows!(fused_rows, tile, (tile, ahead), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }

    /// [`fused`], to the same bits, with a panel of pairs of bf16; a step is a
    /// pair.
    ///
    /// # Safety
    /// As [`fused`].
    pub(in super::super) unsafe fn fused_pairs(tile: Tile<'_>) {
        tile.check(2 * tile.steps);
        by_rows!(fused_pairs_rows, tile, (tile), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// `Σ a · b` in f32; both sides are pairs of bf16.
    ///
    /// # Safety
    /// As [`super::scalar`], and the processor must have AVX512-BF16.
    pub(in super::super) unsafe fn dot(tile: Tile<'_>) {
        tile.check(tile.steps);
        by_rows!(dot_rows, tile, (tile), 2, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// Lines of a panel that are asked for ahead of their use.
    const AHEAD: usize = 32;

    /// Of `R` rows and `H` halves of a panel.
    type Sums<const R: usize, const H: usize> = [[__m512; H]; R];

    /// # Safety
    /// As [`fused`]; `tile.rows` is `R`, the columns are in `H` halves, and the
    /// tile was checked.
    #[target_feature(enable = "avx512f")]
    unsafe fn fused_rows<const R: usize, const H: usize>(tile: Tile<'_>, ahead: &mut Ahead) {
        let mut next = *ahead;
        let (a, b) = (tile.a.as_ptr().cast::<f32>(), tile.b.as_ptr().cast::<f32>());
        let mut sums: Sums<R, H> = [[_mm512_setzero_ps(); H]; R];
        for step in 0..tile.steps {
            if step < R {
                fetch_row(tile, step);
            }
            next.step();
            let mut of_step = [_mm512_setzero_ps(); H];
            for (half, of_step) in of_step.iter_mut().enumerate() {
                // SAFETY: `check` saw that both sides have all steps.
                *of_step = unsafe { _mm512_load_ps(b.add(step * COLS + half * 16)) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = _mm512_set1_ps(unsafe { *a.add(row * ROW + step) });
                for (sum, b) in sums.iter_mut().zip(of_step) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
        }
        *ahead = next;
        // SAFETY: the caller's promise.
        unsafe { store(sums, tile) };
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
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 1).cast());
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
        unsafe { store(sums, tile) };
    }

    /// # Safety
    /// As [`dot`]; `tile.rows` is `R`, and the tile was checked.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dot_rows<const R: usize, const H: usize>(tile: Tile<'_>) {
        let (a, b) = (tile.a.as_ptr().cast::<i32>(), tile.b.as_ptr().cast::<i32>());
        let mut sums: Sums<R, H> = [[_mm512_setzero_ps(); H]; R];
        fetch::<R>(tile);
        for step in 0..tile.steps {
            // SAFETY: `check` saw that both sides have all steps.
            let b = unsafe {
                let b = b.add(step * COLS).cast();
                [as_pairs(_mm512_load_si512(b)), as_pairs(_mm512_load_si512(b.add(1)))]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = as_pairs(_mm512_set1_epi32(unsafe { *a.add(row * ROW + step) }));
                sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { store(sums, tile) };
    }

    /// Asks for the lines of the result while the sums are made.
    #[inline(always)]
    fn fetch<const R: usize>(tile: Tile<'_>) {
        (0..R).for_each(|row| fetch_row(tile, row));
    }

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
    unsafe fn store<const R: usize, const H: usize>(sums: Sums<R, H>, tile: Tile<'_>) {
        let mask = u32::MAX >> (COLS - tile.cols);
        let scale = _mm512_set1_ps(tile.scale);
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                let mask = (mask >> (16 * half)) as __mmask16;
                let to = tile.to.wrapping_add(row * tile.stride + 16 * half);
                let sum = _mm512_mul_ps(scale, sum);
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
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::none::{dot, fast_dot, fused, fused_pairs, has_dot, has_fused};

/// Other processors have none of these; what is asked for anyway is made by the
/// twin.
#[cfg(not(target_arch = "x86_64"))]
mod none {
    use super::{super::ahead::Ahead, Tile, scalar};

    pub(in super::super) fn has_fused() -> bool {
        false
    }

    pub(in super::super) fn has_dot() -> bool {
        false
    }

    pub(in super::super) fn fast_dot() -> bool {
        false
    }

    /// # Safety
    /// As [`scalar`].
    pub(in super::super) unsafe fn fused(tile: Tile<'_>, _: &mut Ahead) {
        // SAFETY: the caller's promise.
        unsafe { scalar(tile) };
    }

    /// # Safety
    /// Never called: [`has_fused`] is false.
    pub(in super::super) unsafe fn fused_pairs(_: Tile<'_>) {
        unreachable!("no vector instructions here")
    }

    /// # Safety
    /// Never called: [`has_dot`] is false.
    pub(in super::super) unsafe fn dot(_: Tile<'_>) {
        unreachable!("no vector instructions here")
    }
}
