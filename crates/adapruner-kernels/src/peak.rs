//! Peak speed of the f32 units, to compare measured products with.

use std::{hint::black_box, time::Instant};

/// Operations of one thread in a cycle: fused multiplications and additions of 16
/// numbers on two ports, as most cores with AVX-512 have them. Where units are
/// narrower, less than all of it can be reached.
const PER_CYCLE: f64 = 64.0;

/// Operations on f32 that `threads` threads, each on a core of its own, can make in a
/// second at most, at the clock of this moment. Measuring that takes some 30
/// milliseconds.
pub fn f32_peak(threads: usize) -> f64 {
    PER_CYCLE * clock() * threads as f64
}

/// Cycles a second, the most of many short stretches: a multiplication of whole
/// numbers takes three, the exclusive or before it one.
fn clock() -> f64 {
    let count = 100_000_u64;
    let one = || {
        let start = Instant::now();
        let end = (0..count).fold(1_u64, |x, i| (x ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        black_box(end);
        4.0 * count as f64 / start.elapsed().as_secs_f64()
    };
    (0..200).map(|_| one()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let (one, four) = (f32_peak(1), f32_peak(4));
        // The clock may change between the two, but not fourfold.
        assert!(one > 0.0 && one.is_finite() && four > one, "{one} {four}");
    }
}
