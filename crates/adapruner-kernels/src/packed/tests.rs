//! Products of every kind of operand, held to the scalar twin and to sums in f64.

use std::io::Write;

use half::bf16;
use proptest::prelude::*;

use super::{Arithmetic, Product, Right, Source, integers::Integers};
use crate::view::{Target, View};

/// Numbers of about one, from a seed.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |at: usize| (at as u32 ^ seed).wrapping_mul(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    (0..len).map(|at| (word(at) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// `[rows, cols]` of numbers that are held row by row or column by column, with
/// `gap` more from one to the next.
fn view<T>(values: &[T], rows: usize, cols: usize, gap: usize, transposed: bool) -> View<'_, T> {
    if transposed {
        View::new(values, cols, rows, rows + gap).t()
    } else {
        View::new(values, rows, cols, cols + gap)
    }
}

fn at<T: Copy>(view: View<'_, T>, row: usize, col: usize) -> T {
    let (row_stride, col_stride) = view.strides();
    view.data[row * row_stride + col * col_stride]
}

/// `product` with one right side, onto `before`.
fn run(
    product: Product<'_>,
    source: Source<'_>,
    here: bool,
    before: &[f32],
    stride: usize,
) -> Vec<f32> {
    let mut to = before.to_vec();
    let rights = [Right { source, to: Target { start: to.as_mut_ptr(), stride } }];
    let product = Product { rights: &rights, ..product };
    // SAFETY: the target has all rows, and holds numbers.
    unsafe { if here { product.run_here() } else { product.run() } };
    to
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_way_to_hold_operands_gives_the_twins_bits(
        // Around the sides of strips, squares, panels, slabs and parts.
        rows in prop_oneof![1..30_usize, 90..120_usize, 380..400_usize],
        inputs in prop_oneof![0..40_usize, 250..262_usize, 500..530_usize],
        cols in prop_oneof![1..70_usize, 180..200_usize],
        transposed in prop::array::uniform2(any::<bool>()),
        gap in 0..3_usize,
        of_bf16: bool,
        add: bool,
        here: bool,
        scaled: bool,
        seed: u32,
    ) {
        let scale = if scaled { 0.375 } else { 1.0 };
        let a = numbers((rows + gap) * (inputs + gap) + rows, seed);
        let b = numbers((cols + gap) * (inputs + gap) + cols, !seed);
        // Pairs are read from rows that follow each other.
        let b_gap = if of_bf16 { 0 } else { gap };
        let rounded: Vec<bf16> = b.iter().copied().map(bf16::from_f32).collect();
        let b: Vec<f32> = if of_bf16 { rounded.iter().map(|v| v.to_f32()).collect() } else { b };
        let left = view(&a, rows, inputs, gap, transposed[0]);
        let right = view(&b, inputs, cols, b_gap, transposed[1]);
        let source = if of_bf16 {
            Source::Bf16(view(&rounded, inputs, cols, b_gap, transposed[1]))
        } else {
            Source::F32(right)
        };
        let stride = cols + gap;
        let before = numbers(rows * stride, seed ^ 7);
        let product = Product { arithmetic: Arithmetic::Scalar, left, rights: &[], scale, add };
        let twin = run(product, source, true, &before, stride);
        for row in 0..rows {
            for col in 0..stride {
                let (found, onto) = (twin[row * stride + col], before[row * stride + col]);
                if col >= cols {
                    prop_assert_eq!(found, onto, "beside the product");
                    continue;
                }
                let terms = (0..inputs).map(|k| f64::from(at(left, row, k)) * f64::from(at(right, k, col)));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()));
                let onto = if add { f64::from(onto) } else { 0.0 };
                let (sum, size) = (onto + f64::from(scale) * sum, onto.abs() + f64::from(scale) * size);
                let nu = (inputs + 4) as f64 * 2_f64.powi(-24);
                let error = (f64::from(found) - sum).abs();
                prop_assert!(error <= nu / (1.0 - nu) * size, "{} for {}", found, sum);
            }
        }
        if Arithmetic::Widen.runs_here() {
            let product = Product { arithmetic: Arithmetic::Widen, ..product };
            prop_assert_eq!(bits(&run(product, source, here, &before, stride)), bits(&twin));
        }
    }
}

/// Laid out before or on the way, together or alone: the same bits.
#[test]
fn integers_laid_out_before_give_the_same_bits() {
    if !Arithmetic::Int16.runs_here() {
        // Through the handle, so that the line is seen though the test passes.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: integers are laid out for processors with VNNI alone").unwrap();
        return;
    }
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(
        rows in prop_oneof![13..30_usize, 90..120_usize, 380..400_usize],
        inputs in prop_oneof![0..40_usize, 500..530_usize, 1000..1100_usize],
        cols in prop::array::uniform2(prop_oneof![1..70_usize, 180..200_usize]),
        transposed in prop::array::uniform2(any::<bool>()),
        of_bf16 in any::<bool>(),
        add in any::<bool>(),
        seed in any::<u32>(),
    )| {
        let a = numbers(rows * inputs, seed);
        let left = View::dense(&a, rows, inputs);
        let values = cols.map(|cols| numbers(inputs * cols, !seed));
        let rounded = values.each_ref().map(|b| b.iter().copied().map(bf16::from_f32).collect::<Vec<_>>());
        let source = |at: usize| match of_bf16 {
            true => Source::Bf16(view(&rounded[at], inputs, cols[at], 0, transposed[at])),
            false => Source::F32(view(&values[at], inputs, cols[at], 0, transposed[at])),
        };
        let before = cols.map(|cols| numbers(rows * cols, seed ^ 7));
        let product = Product { arithmetic: Arithmetic::Int16, left, rights: &[], scale: 1.0, add };
        let alone = [0, 1].map(|at| bits(&run(product, source(at), true, &before[at], cols[at])));
        let integers = [0, 1].map(|at| Integers::of(source(at)));
        let mut together = before.clone();
        let rights: Vec<_> = (0..2)
            .map(|at| {
                let to = Target { start: together[at].as_mut_ptr(), stride: cols[at] };
                Right { source: Source::Integers(&integers[at]), to }
            })
            .collect();
        // SAFETY: the targets have all rows, and hold numbers.
        unsafe { Product { rights: &rights, ..product }.run() };
        for at in 0..2 {
            prop_assert!(bits(&together[at]) == alone[at], "side {}", at);
        }
    });
}

/// The same row by itself, among others, and on any number of threads.
#[test]
fn neither_threads_nor_rows_change_a_bit() {
    let (rows, inputs, cols) = (800, 700, 260);
    let (a, b) = (numbers(rows * inputs, 1), numbers(inputs * cols, 2));
    let arithmetic =
        if Arithmetic::Widen.runs_here() { Arithmetic::Widen } else { Arithmetic::Scalar };
    for transposed in [[false, false], [false, true], [true, false], [true, true]] {
        let left = view(&a, rows, inputs, 0, transposed[0]);
        let right = Source::F32(view(&b, inputs, cols, 0, transposed[1]));
        let product = Product { arithmetic, left, rights: &[], scale: 1.0, add: false };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bits(&run(product, right, false, &vec![0.0; rows * cols], cols)))
        };
        let one = on(1);
        for threads in [2, 3, 5] {
            assert!(on(threads) == one, "{threads} threads");
        }
        for some in [0..1, 11..14, 500..800] {
            let part = Product { left: left.part(some.clone(), 0..inputs), ..product };
            let found = bits(&run(part, right, true, &vec![0.0; some.len() * cols], cols));
            assert!(found == one[some.start * cols..some.end * cols], "rows {some:?}");
        }
    }
}
