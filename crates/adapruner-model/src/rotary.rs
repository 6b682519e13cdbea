//! Rotary position embedding (Su et al., arXiv 2104.09864) in Hugging Face's
//! half-split form: pairs are `(x[d], x[d + D/2])`.
//!
//! Angles are computed in f64 and rounded once.

use std::f64::consts::TAU;

use adapruner_checkpoint::{Rope, RopeScaling};
use candle_core::{DType, Device, Result, Tensor};

/// Inverse frequencies in radians per token, `[D/2]`, scaling applied.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f64> {
    let plain = (0..head_dim / 2).map(|i| rope.theta.powf(-2.0 * i as f64 / head_dim as f64));
    match &rope.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Factors { divisors } => {
            plain.zip(divisors).map(|(f, &divisor)| f / f64::from(divisor)).collect()
        }
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let turns = original * frequency / TAU;
                    if turns > high_freq_factor {
                        frequency
                    } else if turns < low_freq_factor {
                        frequency / factor
                    } else {
                        let smooth =
                            (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect()
        }
    }
}

/// Cosines and sines of the first positions.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryTable {
    /// Tables for positions `0..positions`.
    ///
    /// # Shapes
    /// Two tables of `[positions, D/2]`.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(
        rope: &Rope,
        head_dim: usize,
        positions: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = inverse_frequencies(rope, head_dim);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..positions)
                .flat_map(|t| frequencies.iter().map(move |w| f(t as f64 * w) as f32))
                .collect();
            Tensor::from_vec(values, (positions, frequencies.len()), device)?.to_dtype(dtype)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// The rows of positions `start..start + tokens`.
    ///
    /// # Shapes
    /// `([tokens, D/2], [tokens, D/2])`.
    ///
    /// # Errors
    /// Positions beyond the table.
    pub fn positions(&self, start: usize, tokens: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.cos.narrow(0, start, tokens)?, self.sin.narrow(0, start, tokens)?))
    }
}
