//! The innermost products: a strip of rows times a panel, over one slab.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use multiversion::multiversion;

use super::{COLS, Line, activations::ROW_LINES, int16, prefetch::Prefetch};

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
        assert!((1..=COLS).contains(&self.cols) && steps_of_a <= ROW - Line::WORDS);
        assert!(self.a.len() >= self.rows * ROW_LINES);
        assert!(self.b.len() >= self.steps * Line::OF_COLS);
    }

    /// What [`int16`] relies on.
    fn check_int16(&self) {
        self.check(self.steps);
        assert!(self.b.len() >= int16::panel_lines(2 * self.steps));
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

/// The scalar twin of [`int16`], to the same bits.
///
/// # Safety
/// As [`scalar`].
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) unsafe fn fixed_scalar(tile: Tile<'_>) {
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

/// Whether there are instructions for [`fused`] and [`fused_pairs`].
pub(super) fn has_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::runs_here() || avx2::runs_here();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether there are instructions for [`dot`].
pub(super) fn has_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::has_dot();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether [`dot`] is faster than [`fused`].
pub(super) fn fast_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::fast_dot();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether there are instructions for [`int16`].
pub(super) fn has_int16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::has_int16() || avx2::has_int16();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `Σ a · b` of integers, times the scales of row and column; both sides are as
/// [`super::int16`] writes them, a step is a pair. `prefetch` is fetched on the way.
///
/// # Safety
/// As [`scalar`], and [`has_int16`].
pub(super) unsafe fn int16(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check_int16();
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match avx512::has_int16() {
            true => avx512::int16(tile, prefetch),
            false => avx2::int16(tile, prefetch),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = prefetch;
        unreachable!("no products of integers for {} rows", tile.rows)
    }
}

/// `Σ a · b` in f32; both sides are f32. `prefetch` is fetched on the way.
///
/// # Safety
/// As [`scalar`], and [`has_fused`].
pub(super) unsafe fn fused(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check(tile.steps);
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match avx512::runs_here() {
            true => avx512::fused(tile, prefetch),
            false => avx2::fused(tile, prefetch),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = prefetch;
        unreachable!("no vector instructions for {} rows", tile.rows)
    }
}

/// [`fused`], to the same bits, with a panel of pairs of bf16; a step is a pair.
///
/// # Safety
/// As [`fused`].
pub(super) unsafe fn fused_pairs(tile: Tile<'_>) {
    tile.check(2 * tile.steps);
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match avx512::runs_here() {
            true => avx512::fused_pairs(tile),
            false => avx2::fused_pairs(tile),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no vector instructions for {} rows", tile.rows)
}

/// `Σ a · b` in f32; both sides are pairs of bf16. `prefetch` is fetched on the way.
///
/// # Safety
/// As [`scalar`], and [`has_dot`].
pub(super) unsafe fn dot(tile: Tile<'_>, prefetch: &mut Prefetch) {
    tile.check(tile.steps);
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        avx512::dot(tile, prefetch)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = prefetch;
        unreachable!("no dot products of bf16 for {} rows", tile.rows)
    }
}
