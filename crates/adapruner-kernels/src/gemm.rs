//! Matrix products of f32: by our own kernels ([`crate::packed`]) if the processor has AVX-512
//! or AVX2 and there are more than a few rows and inputs, otherwise by the `gemm` crate.
//!
//! With up to four rows, reading the right side is the cost. The crate reads it in storage
//! order, which takes half the time, but sums in another order, so a row alone and the same row
//! among many may differ in their last bits. From five rows on, neither threads nor other rows
//! change a bit. Sums of up to four terms use the crate too, because writing the result
//! dominates. So do products of fewer than 16 columns (adapters), which would fill less than
//! half a panel; training is as fast or faster with the crate.
//!
//! The crate's own threading splits one dimension alone and, for some strides, not at all
//! (measured: 150 of 300 GFLOP/s on two cores where the left side is row-major). So products
//! for the crate are split into parts here, each on one thread. Packing the right side is
//! costly, so it is split first, and the left side only if that gives too few parts. The parts
//! depend only on the sizes, and no sum is split, so results do not depend on the number of
//! threads.

use candle_core::DType;
use gemm::Parallelism;

use crate::{
    buffer::Unwritten,
    packed::{Arithmetic, Entering, Parts, Product, Right, Source},
    threads::side_by_side,
    view::{Target, View, share},
};

/// Products of at most this many rows, or sums of this many terms, use the crate.
pub(crate) const FEW: usize = 4;
/// Products of fewer columns are the crate's: a panel has 32, filled with zeros.
pub(crate) const NARROW: usize = 16;
/// Right sides of fewer elements give too little work for a row to be worth rounding.
const ROUNDED: usize = 32 * 1024;
/// Floating point operations of a part of a product, at least.
const PART_FLOPS: usize = 40_000_000;
/// Elements of the right side of a part, where reading them is what takes time.
const PART_READS: usize = 256 * 1024;
/// Parts of a product, at most.
const PARTS: usize = 64;
/// Columns and rows that parts are multiples of: those of the product's inner
/// kernels.
const COLS: usize = 64;
const ROWS: usize = 48;
/// Rows of a part, at least, where there are several.
const PART_ROWS: usize = 192;

/// `to = scale · a · b` on this thread; `to` has `rows(a) × cols(b)` elements.
pub(crate) fn multiply(a: View<'_>, b: View<'_>, scale: f32, to: &mut Unwritten) {
    check(a, b, b.cols, to.len());
    let target = Target { start: to.as_mut_ptr().cast(), stride: b.cols };
    // SAFETY: the target lies in `to`, which is borrowed for us alone.
    unsafe { product(a, b, scale, target, false) }
}

/// `to += a · b` on this thread.
pub(crate) fn multiply_add(a: View<'_>, b: View<'_>, to: &mut [f32]) {
    check(a, b, b.cols, to.len());
    let target = Target { start: to.as_mut_ptr(), stride: b.cols };
    // SAFETY: the target lies in `to`, which is borrowed for us alone and holds numbers.
    unsafe { product(a, b, 1.0, target, true) }
}

/// `to = a · b` on all threads; rows of `to` are `stride` apart.
pub(crate) fn par_multiply(a: View<'_>, b: View<'_>, to: &mut Unwritten, stride: usize) {
    check(a, b, stride, to.len());
    let target = Target { start: to.as_mut_ptr().cast(), stride };
    // SAFETY: the target lies in `to`, which is borrowed for us alone.
    unsafe { par_product(a, b, target, false) }
}

/// `to += a · b` on all threads; rows of `to` are `stride` apart.
pub(crate) fn par_multiply_add(a: View<'_>, b: View<'_>, to: &mut [f32], stride: usize) {
    check(a, b, stride, to.len());
    let target = Target { start: to.as_mut_ptr(), stride };
    // SAFETY: the target lies in `to`, which is borrowed for us alone and holds numbers.
    unsafe { par_product(a, b, target, true) }
}

fn check(a: View<'_>, b: View<'_>, stride: usize, len: usize) {
    assert_eq!(a.cols, b.rows, "the inner sides of a product");
    assert!(b.cols <= stride, "rows of {} elements, {stride} apart", b.cols);
    assert!(
        a.rows == 0 || b.cols == 0 || (a.rows - 1) * stride + b.cols <= len,
        "a product of {} × {} does not fit {len} elements",
        a.rows,
        b.cols
    );
}

/// How many parts rows and columns are cut into.
fn grid(rows: usize, cols: usize, inner: usize) -> (usize, usize) {
    let flops = 2usize.saturating_mul(rows).saturating_mul(cols).saturating_mul(inner);
    let reads = cols.saturating_mul(inner);
    let parts = (flops / PART_FLOPS).max(reads / PART_READS).clamp(1, PARTS);
    let by_col = parts.min(cols.div_ceil(COLS)).max(1);
    let by_row = parts.div_ceil(by_col).min(rows / PART_ROWS).max(1);
    (by_row, by_col)
}

/// How products of `rows` of `inner` numbers with as many columns are made by our own
/// kernels, where they take them; small right sides (attention, adapters) stay f32 in
/// every precision.
pub(crate) fn arithmetic(
    rows: usize,
    inner: usize,
    cols: usize,
    entering: Entering,
) -> Option<Arithmetic> {
    if rows.min(inner) <= FEW || cols < NARROW {
        return None;
    }
    if inner * cols < ROUNDED {
        return Arithmetic::exact();
    }
    Arithmetic::of(DType::F32, rows, entering)
}

/// [`arithmetic`] of a product. Rows that lie across (weight gradients, Gram matrices, which
/// are solved with) keep 16 bits or more: by tiles, in f32 where there are none, as sums over
/// rows are what integers' scales do not fit.
fn own(a: View<'_>, b: View<'_>) -> Option<Arithmetic> {
    let own = arithmetic(a.rows, a.cols, b.cols, Entering::Gradients)?;
    match own {
        Arithmetic::Dot | Arithmetic::Int16 if a.transposed => Arithmetic::exact(),
        Arithmetic::Tiles(Parts::One) if a.transposed => Some(Arithmetic::Tiles(Parts::Two)),
        Arithmetic::Dot
        | Arithmetic::Int16
        | Arithmetic::Tiles(_)
        | Arithmetic::Emulated(_)
        | Arithmetic::Widen
        | Arithmetic::Scalar => Some(own),
    }
}

/// # Safety
/// As [`product`].
unsafe fn par_product(a: View<'_>, b: View<'_>, to: Target, add: bool) {
    if let Some(arithmetic) = own(a, b) {
        let rights = [Right { source: Source::F32(b), to }];
        let product = Product { arithmetic, left: a, rights: &rights, scale: 1.0, add };
        // SAFETY: the caller's promise.
        return unsafe { product.run() };
    }
    let (by_row, by_col) = grid(a.rows, b.cols, a.cols);
    let one = |at: usize| {
        let rows = share(a.rows, ROWS, by_row, at / by_col);
        let cols = share(b.cols, COLS, by_col, at % by_col);
        let part = to.offset(rows.start * to.stride + cols.start);
        let a = a.part(rows, 0..a.cols);
        let b = b.part(0..b.rows, cols);
        // SAFETY: parts of the grid do not overlap and lie within the target.
        unsafe { by_crate(a, b, 1.0, part, add) }
    };
    side_by_side(by_row * by_col, one);
}

/// # Safety
/// The target must be writable for `rows(a)` rows of `cols(b)` elements by this
/// thread alone, and hold numbers if they are added to.
unsafe fn product(a: View<'_>, b: View<'_>, scale: f32, to: Target, add: bool) {
    let Some(arithmetic) = own(a, b) else {
        // SAFETY: the caller's promise.
        return unsafe { by_crate(a, b, scale, to, add) };
    };
    let rights = [Right { source: Source::F32(b), to }];
    // SAFETY: the caller's promise.
    unsafe { Product { arithmetic, left: a, rights: &rights, scale, add }.run_here() }
}

/// # Safety
/// As [`product`].
unsafe fn by_crate(a: View<'_>, b: View<'_>, scale: f32, to: Target, add: bool) {
    let [(a_rows, a_cols), (b_rows, b_cols)] =
        [a.strides(), b.strides()].map(|(rows, cols)| (rows as isize, cols as isize));
    // SAFETY: `View` checked that the reads stay within their slices; the rest
    // is the caller's promise. The strides of views are at most their slices'
    // lengths, which fit isize.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            to.start,
            1,
            to.stride as isize,
            add,
            a.data.as_ptr(),
            a_cols,
            a_rows,
            b.data.as_ptr(),
            b_cols,
            b_rows,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_product_once() {
        for rows in [1, 2, 191, 640, 1000, 5000] {
            for cols in [1, 63, 65, 192, 576, 50_000] {
                let (by_row, by_col) = grid(rows, cols, 576);
                for (len, unit, parts) in [(rows, ROWS, by_row), (cols, COLS, by_col)] {
                    let mut end = 0;
                    for at in 0..parts {
                        let part = share(len, unit, parts, at);
                        assert_eq!(part.start, end);
                        assert!(!part.is_empty(), "{rows} × {cols}: part {at} of {parts}");
                        end = part.end;
                    }
                    assert_eq!(end, len);
                }
            }
        }
    }
}
