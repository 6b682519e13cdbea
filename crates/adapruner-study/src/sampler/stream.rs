//! Random numbers that depend only on the seed, the draw and their purpose.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// One stream of random numbers.
///
/// Every conversion from bits is written out here, so that a seed means the
/// same with every version of the libraries below.
#[derive(Debug, Clone)]
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of a `purpose` (such as the name of a parameter) in draw
    /// number `draw` of the sampler with this `seed`.
    pub(crate) fn new(seed: u64, draw: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&draw.to_le_bytes());
        key[16..24].copy_from_slice(&fnv(purpose.bytes()).to_le_bytes());
        key[24..].copy_from_slice(&fnv(purpose.bytes().rev()).to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in [0, 1), with 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in (0, 1).
    fn open_uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// An integer below `n` ≥ 1; the bias of n / 2⁶⁴ is beyond notice.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Normal of mean 0 and deviation 1 (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.open_uniform().ln()).sqrt();
        radius * (TAU * self.uniform()).cos()
    }

    /// Exponential of mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.open_uniform().ln()
    }

    /// Gumbel of location 0 and scale 1.
    pub(crate) fn gumbel(&mut self) -> f64 {
        -(-self.open_uniform().ln()).ln()
    }
}

/// The 64-bit FNV-1a hash.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_draw_and_purpose() {
        let first = |seed, draw, purpose| Stream::new(seed, draw, purpose).uniform().to_bits();
        let all = [first(0, 0, "a"), first(1, 0, "a"), first(0, 1, "a"), first(0, 0, "b")];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
        assert_eq!(first(3, 4, "c"), first(3, 4, "c"));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(1, 0, "moments");
        let n = 20_000;
        let mean = |draws: &[f64]| draws.iter().sum::<f64>() / n as f64;
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let squares: Vec<f64> = normal.iter().map(|x| x * x).collect();
        let gumbel: Vec<f64> = (0..n).map(|_| stream.gumbel()).collect();
        // Five standard errors or more.
        assert!(mean(&normal).abs() < 0.04);
        assert!((mean(&squares) - 1.0).abs() < 0.06);
        assert!((mean(&gumbel) - 0.577_215_664_9).abs() < 0.05);
        assert!((0..1000).all(|_| stream.below(3) < 3));
    }
}
