//! Numbers as 16-bit integers, with one scale for each row (or column) of a slab.
//!
//! Notation: `x` the numbers of a row in one slab, at most 512; `s` its scale, `q`
//! its integers, `x ≈ s · q`.
//!
//! The sums of products of integers are exact in 32 bits: `s` is the smallest for which `abs(q)
//! ≤ 32 767` and `‖q‖ ≤ 46 312`, so that by Cauchy and Schwarz a sum is below 46 312² < 2³¹,
//! and sums that leave the range on the way come back. A number is off by `s/2` at most, where
//! `s ≤ ‖x‖ / 32 767`, and mostly `‖x‖ / 46 300`.
//!
//! Rows with values that are not finite have a scale of NaN; numbers below 2⁻¹⁰⁰ count as zero
//! where a row has no others.

use multiversion::multiversion;

use super::{COLS, DEPTH, Line};

/// The largest integer.
const LARGEST: f32 = 32_767.0;
/// The longest row of integers before they are rounded, which adds at most
/// `√512 / 2`.
const LONGEST: f32 = 46_300.0;
/// Added to a number of less than 2²², leaves the nearest integer (ties to even) in
/// the low bits.
const TO_INTEGER: f32 = 12_582_912.0;
/// Numbers that are smaller count as zero.
const LEAST: f32 = f32::from_bits((127 - 100) << 23);
/// Squares whose sum lies within are summed in f32.
const SUMMED: std::ops::Range<f32> = 1e-24..1e36;

/// What rounding both sides to integers makes of `Σ x·w`, at most: `(‖x‖₁·‖w‖ +
/// ‖x‖·‖w‖₁)/(2·32 767) + n·‖x‖·‖w‖/(4·32 767²)`.
pub(super) fn error(x: &[f32], w: &[f32]) -> f64 {
    let norms = |values: &[f32]| {
        let all = || values.iter().map(|&v| f64::from(v));
        (all().map(f64::abs).sum::<f64>(), all().map(|v| v * v).sum::<f64>().sqrt())
    };
    let ((x_sum, x_length), (w_sum, w_length)) = (norms(x), norms(w));
    let largest = f64::from(LARGEST);
    (x_sum * w_length + x_length * w_sum) / (2.0 * largest)
        + x.len() as f64 * x_length * w_length / (4.0 * largest.powi(2))
}

/// Line of a row of activations that begins with its scale; the pairs lie before.
pub(super) const SCALE_LINE: usize = DEPTH / Line::WORDS;

/// How many numbers before their use memory is prefetched.
pub(super) const PREFETCH: usize = 1024;

/// Scale of some numbers and its inverse, from the largest of them and the sum of
/// their squares.
fn scale(largest: f32, squares: f32, all: impl Iterator<Item = f32>) -> (f32, f32) {
    let length = if SUMMED.contains(&squares) {
        squares.sqrt()
    } else {
        // Far from one, or not a number.
        all.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
    };
    if !length.is_finite() {
        return (f32::NAN, 0.0);
    }
    if largest < LEAST {
        return (0.0, 0.0);
    }
    let scale = (largest / LARGEST).max(length / LONGEST);
    (scale, 1.0 / scale)
}

/// The integer of a number, in the low half; what is in the high one is noise.
#[inline(always)]
fn integer(x: f32, inverse: f32) -> u32 {
    (x * inverse + TO_INTEGER).to_bits()
}

#[inline(always)]
fn pair(even: u32, odd: u32) -> u32 {
    even & 0xffff | odd << 16
}

/// Numbers that become a line of pairs.
type Numbers = [f32; 2 * Line::WORDS];

/// Writes a row of one slab as pairs, the last line filled with zeros, and its scale.
pub(super) fn row(from: &[f32], to: &mut [Line]) {
    assert!(from.len() <= 2 * DEPTH && to.len() > SCALE_LINE);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the lengths are right, and the processor has AVX-512.
        return unsafe { x86::row(from, to) };
    }
    row_scalar(from, to);
}

/// The scalar twin of [`row`], to the same bits.
fn row_scalar(from: &[f32], to: &mut [Line]) {
    let (lines, rest) = from.as_chunks();
    let mut last: Numbers = [0.0; 2 * Line::WORDS];
    last[..rest.len()].copy_from_slice(rest);
    let mut sums = ([0.0; 2 * Line::WORDS], [0.0; 2 * Line::WORDS]);
    lines.iter().for_each(|line| measure(line, &mut sums));
    measure(&last, &mut sums);
    let (largest, squares) = (fold(sums.0, f32::max), fold(sums.1, |a, b| a + b));
    let (scale, inverse) = scale(largest, squares, from.iter().copied());
    lines.iter().zip(&mut *to).for_each(|(line, to)| *to = pairs(line, inverse));
    if !rest.is_empty() {
        to[lines.len()] = pairs(&last, inverse);
    }
    to[SCALE_LINE].0[0] = scale.to_bits();
}

/// Takes numbers into the largest and the sum of squares, lane by lane.
#[inline(always)]
fn measure(line: &Numbers, (largest, squares): &mut (Numbers, Numbers)) {
    for at in 0..line.len() {
        let (x, most) = (line[at].abs(), largest[at]);
        largest[at] = if x > most { x } else { most };
        squares[at] += line[at] * line[at];
    }
}

/// Halves against halves, until one number is left.
#[inline(always)]
fn fold(mut values: Numbers, of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = values.len() / 2;
    while half > 0 {
        for at in 0..half {
            values[at] = of(values[at], values[at + half]);
        }
        half /= 2;
    }
    values[0]
}

#[inline(always)]
fn pairs(line: &Numbers, inverse: f32) -> Line {
    let mut words = Line::ZERO;
    for (word, of_pair) in words.0.iter_mut().zip(line.as_chunks::<2>().0) {
        *word = pair(integer(of_pair[0], inverse), integer(of_pair[1], inverse));
    }
    words
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, PREFETCH, SCALE_LINE, TO_INTEGER, scale};

    /// # Safety
    /// The processor must have AVX-512F and AVX-512BW; `to` holds the pairs of `from` and
    /// the line after [`SCALE_LINE`].
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn row(from: &[f32], to: &mut [Line]) {
        // Two registers of numbers make one line.
        let line = |at: usize| {
            let half = |start: usize| {
                let left = from.len().saturating_sub(start).min(Line::WORDS);
                let mask = (0xffff_u32 >> (Line::WORDS - left)) as __mmask16;
                // SAFETY: only numbers of the mask are read.
                unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_add(start)) }
            };
            [half(2 * at * Line::WORDS), half((2 * at + 1) * Line::WORDS)]
        };
        let lines = from.len().div_ceil(2 * Line::WORDS);
        let (mut largest, mut squares) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        for at in 0..lines {
            // The numbers may be far away; rows mostly follow each other.
            for next in [0, Line::WORDS] {
                let next = from.as_ptr().wrapping_add(2 * at * Line::WORDS + PREFETCH + next);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            for (half, x) in line(at).into_iter().enumerate() {
                largest[half] = _mm512_max_ps(_mm512_abs_ps(x), largest[half]);
                squares[half] = _mm512_add_ps(squares[half], _mm512_mul_ps(x, x));
            }
        }
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(largest[0], largest[1]));
        let squares = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1]));
        let (scale, inverse) = scale(largest, squares, from.iter().copied());
        let (by, to_integer) = (_mm512_set1_ps(inverse), _mm512_set1_ps(TO_INTEGER));
        let integers = |x| _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, by), to_integer));
        // The low halves of both registers' words.
        let low: [u16; 32] = std::array::from_fn(|at| 2 * at as u16);
        // SAFETY: as long.
        let low = unsafe { _mm512_loadu_si512(low.as_ptr().cast()) };
        for (at, to) in to.iter_mut().enumerate().take(lines) {
            let [a, b] = line(at).map(integers);
            let words = _mm512_permutex2var_epi16(a, low, b);
            // SAFETY: a line is as long, and aligned.
            unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), words) };
        }
        to[SCALE_LINE].0[0] = scale.to_bits();
    }
}

/// Lines of a panel of so many inputs: the pairs, then the scales of all columns.
pub(super) const fn panel_lines(inputs: usize) -> usize {
    inputs.div_ceil(2) * Line::OF_COLS + Line::OF_COLS
}

/// Writes a panel, rows of f32, as pairs and then the scales of its columns.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn panel(from: &[Line], to: &mut [Line]) {
    let (rows, _) = from.as_chunks::<{ Line::OF_COLS }>();
    let (mut largest, mut squares) = ([0.0_f32; COLS], [0.0_f32; COLS]);
    for row in rows {
        for (half, line) in row.iter().enumerate() {
            let at = half * Line::WORDS..(half + 1) * Line::WORDS;
            let sums = largest[at.clone()].iter_mut().zip(&mut squares[at]);
            for ((largest, squares), word) in sums.zip(line.0) {
                let x = f32::from_bits(word);
                *largest = if x.abs() > *largest { x.abs() } else { *largest };
                *squares += x * x;
            }
        }
    }
    let (mut scales, mut inverses) = ([0.0; COLS], [0.0; COLS]);
    for col in 0..COLS {
        let all = rows.iter().map(|row| f32::from_bits(row[col / 16].0[col % 16]));
        (scales[col], inverses[col]) = scale(largest[col], squares[col], all);
    }
    let (inverses, _) = inverses.as_chunks::<{ Line::WORDS }>();
    let zero = [Line::ZERO; Line::OF_COLS];
    let (to, _) = to.as_chunks_mut::<{ Line::OF_COLS }>();
    for (rows, to) in rows.chunks(2).zip(&mut *to) {
        let (even, odd) = (&rows[0], rows.get(1).unwrap_or(&zero));
        for (half, (to, inverses)) in to.iter_mut().zip(inverses).enumerate() {
            let words = even[half].0.into_iter().zip(odd[half].0);
            for ((to, (even, odd)), &inverse) in to.0.iter_mut().zip(words).zip(inverses) {
                let of = |word| integer(f32::from_bits(word), inverse);
                *to = pair(of(even), of(odd));
            }
        }
    }
    let last = &mut to[rows.len().div_ceil(2)];
    for (line, scales) in last.iter_mut().zip(scales.as_chunks::<{ Line::WORDS }>().0) {
        line.0 = scales.map(f32::to_bits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers of a row and what they stand for.
    fn unpacked(lines: &[Line], len: usize) -> (f32, Vec<i16>) {
        let word = |at: usize| lines[at / 32].0[at % 32 / 2];
        let integer = |at: usize| (word(at) >> (16 * (at % 2))) as u16;
        let integers = (0..len).map(|at| integer(at).cast_signed()).collect();
        (f32::from_bits(lines[SCALE_LINE].0[0]), integers)
    }

    fn numbers() -> impl Strategy<Value = Vec<f32>> {
        let sizes = prop_oneof![Just(1.0_f32), Just(1e-30), Just(1e30), Just(1e-44), Just(0.0)];
        let number = (-1.0..1.0_f32, prop_oneof![9 => Just(1.0_f32), 1 => Just(1000.0)]);
        (prop::collection::vec(number, 0..=2 * DEPTH), sizes)
            .prop_map(|(all, size)| all.into_iter().map(|(v, odd)| v * odd * size).collect())
    }

    proptest! {
        #[test]
        fn rows_are_near_their_numbers_and_short(from in numbers()) {
            let mut to = vec![Line([7; 16]); SCALE_LINE + 1];
            row(&from, &mut to);
            let mut twin = vec![Line([7; 16]); SCALE_LINE + 1];
            row_scalar(&from, &mut twin);
            prop_assert!(to == twin, "the twin's bits");

            let (scale, integers) = unpacked(&to, from.len());
            let length = from.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            prop_assert!(f64::from(scale) <= length * (1.0 + 1e-5) / f64::from(LARGEST));
            for (&q, &x) in integers.iter().zip(&from) {
                let off = (f64::from(scale) * f64::from(q) - f64::from(x)).abs();
                // Half a step, and what rounding `x / s` adds; or too small to count.
                let most = f64::from(scale) * 0.51;
                prop_assert!(off <= most.max(f64::from(LEAST)), "{} for {x}", f64::from(q) * f64::from(scale));
            }
            let squares: i64 = integers.iter().map(|&q| i64::from(q).pow(2)).sum();
            prop_assert!(squares < 1 << 31);
        }

        #[test]
        fn panels_are_rows_standing(rows in 1..40_usize, seed: u32) {
            let number = |at: usize| {
                let word = (at as u32 ^ seed).wrapping_mul(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
                (word >> 8) as f32 / 8_388_608.0 - 1.0
            };
            let from: Vec<Line> = (0..rows * Line::OF_COLS)
                .map(|at| Line(std::array::from_fn(|w| number(at * 16 + w).to_bits())))
                .collect();
            let mut to = vec![Line([7; 16]); panel_lines(rows)];
            panel(&from, &mut to);
            for col in 0..COLS {
                let of = |lines: &[Line], at: usize| lines[at * Line::OF_COLS + col / 16].0[col % 16];
                let column: Vec<f32> = (0..rows).map(|at| f32::from_bits(of(&from, at))).collect();
                let mut expected = vec![Line::ZERO; SCALE_LINE + 1];
                row(&column, &mut expected);
                let (scale, integers) = unpacked(&expected, rows.next_multiple_of(2));
                let found = f32::from_bits(of(&to, rows.div_ceil(2)));
                // Sums of squares run in another order.
                prop_assert!((found - scale).abs() <= 1e-6 * scale);
                for (at, pair) in integers.chunks(2).enumerate() {
                    let word = of(&to, at);
                    let found = [word as u16, (word >> 16) as u16].map(u16::cast_signed);
                    prop_assert!(found.iter().zip(pair).all(|(a, b)| a.abs_diff(*b) <= 1));
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_no_scale() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut from = vec![1.0; 40];
            from[33] = odd;
            let mut to = vec![Line::ZERO; SCALE_LINE + 1];
            row(&from, &mut to);
            assert!(unpacked(&to, 0).0.is_nan(), "{odd}");
            let from: Vec<Line> = (0..8)
                .map(|at| Line([if at == 5 { odd } else { 1.0 }; 16].map(f32::to_bits)))
                .collect();
            let mut to = vec![Line::ZERO; panel_lines(4)];
            panel(&from, &mut to);
            let scales = &to[4..];
            assert!(scales[0].0.iter().all(|&v| f32::from_bits(v) > 0.0));
            assert!(scales[1].0.iter().all(|&v| f32::from_bits(v).is_nan()), "{odd}");
        }
    }
}
