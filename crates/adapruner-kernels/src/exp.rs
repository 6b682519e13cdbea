//! The exponential in a form that compilers vectorise, and row operations built on it.

use multiversion::multiversion;

/// Arguments below are taken as this one: the smallest normal result.
const LOWEST: f32 = -87.33654;
/// Arguments above are taken as this one: the largest power of two in range.
const HIGHEST: f32 = 88.02;
/// Adding and subtracting this rounds to an integer (1.5 · 2²³).
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first exact in few bits.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` with a relative error below 2·10⁻⁷ for `x` in −87.3 to 88; results do
/// not leave the normal numbers. NaN stays NaN.
///
/// The argument is split into `n · ln 2 + r` and `e^r` taken from the
/// polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let fraction = p * (r * r) + r + 1.0;
    fraction * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Bends numbers to `c · tanh(x/c)`.
pub(crate) fn cap(values: &mut [f32], of: f32) {
    values.iter_mut().for_each(|value| *value = of * (*value / of).tanh());
}

/// Multiplies numbers by the slopes of [`cap`] where it gave `bent`: `1 − (bent/c)²`.
pub(crate) fn multiply_by_slopes(values: &mut [f32], bent: &[f32], of: f32) {
    for (value, bent) in values.iter_mut().zip(bent) {
        let part = bent / of;
        *value *= 1.0 - part * part;
    }
}

/// Accumulators side by side, for vector code.
const LANES: usize = 16;

/// The largest of some numbers (NaN is passed over), −∞ of none.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut last = lanes;
    last[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain([&last]) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for at in 0..half {
            lanes[at] = larger(lanes[at], lanes[at + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Replaces numbers by `e^(x − shift)` and returns the sum: in f32 along
/// 16 lanes of at most 64 numbers each, in f64 beyond.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(crate) fn exponentials(values: &mut [f32], shift: f32) -> f64 {
    let mut sum = 0.0_f64;
    for part in values.chunks_mut(64 * LANES) {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = part.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *value = exp(*value - shift);
                *lane += *value;
            }
        }
        if !rest.is_empty() {
            // As vector code too, to the same bits.
            let mut last = [shift; LANES];
            last[..rest.len()].copy_from_slice(rest);
            for value in &mut last {
                *value = exp(*value - shift);
            }
            rest.copy_from_slice(&last[..rest.len()]);
            rest.iter().for_each(|&value| sum += f64::from(value));
        }
        sum += lanes.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    sum
}

/// `Σ a · b` in f64.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f64::from(a) * f64::from(b);
        }
    }
    let rest = a.remainder().iter().zip(b.remainder());
    let rest = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The polynomial's own error and a few roundings of 6·10⁻⁸ each.
    const TOLERANCE: f64 = 2e-7;

    #[test]
    fn the_error_is_bounded_over_the_whole_range() {
        for step in 0..2_000_000_u32 {
            let x = LOWEST + (HIGHEST - LOWEST) * (step as f32 / 2e6);
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < TOLERANCE, "exp({x}) is wrong by {error:e}");
        }
    }

    #[test]
    fn ends_of_the_range_saturate_and_nan_stays() {
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(sigmoid(200.0), 1.0);
        assert!(sigmoid(-200.0) < 2e-38);
    }

    #[test]
    fn rows_of_any_length_agree_with_sums_in_f64() {
        for len in [0, 1, 15, 16, 17, 1023, 1024, 1025, 3000] {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&values), top);
            let square: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((dot(&values, &values) - square).abs() <= 1e-12 * square);
            let expected: f64 = values.iter().map(|&v| f64::from(v - 1.0).exp()).sum();
            let mut made = values.clone();
            let sum = exponentials(&mut made, 1.0);
            // Lanes of 64 numbers in f32: a few roundings each.
            assert!((sum - expected).abs() <= 1e-6 * expected, "{len}: {sum} for {expected}");
            for (made, value) in made.iter().zip(&values) {
                assert_eq!(made.to_bits(), exp(value - 1.0).to_bits());
            }
        }
    }
}
