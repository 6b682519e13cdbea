//! The mean of what a sublayer lacks, summed batch by batch.
//!
//! Notation: `E` what the present weights leave of the target `[R, H]`, `w` a
//! weight for each of the `R` rows. `b = argmin Σ w·‖E − b‖² = Σ w·E / Σ w`. Sums
//! are f64.

use adapruner_model::wide::in_f64;
use candle_core::{Result as CandleResult, Tensor};

/// Sums of one bias.
pub(super) struct MeanResidual {
    /// `Σ w·E`, `[H]`.
    total: Vec<f64>,
    /// `Σ w·‖E‖²`.
    error: f64,
    /// `Σ w`.
    weight: f64,
}

/// What came of it.
pub(super) struct Mean {
    /// `b`, `[H]`.
    pub(super) bias: Vec<f32>,
    /// Weighted mean squared error before.
    pub(super) before: f64,
    /// Weighted mean squared error after.
    pub(super) after: f64,
}

impl MeanResidual {
    pub(super) fn new(outputs: usize) -> Self {
        Self { total: vec![0.0; outputs], error: 0.0, weight: 0.0 }
    }

    /// Adds rows.
    ///
    /// # Shapes
    /// `residual` `[R, H]`, `weights` `[R, 1]`.
    pub(super) fn add(&mut self, residual: &Tensor, weights: &Tensor) -> CandleResult<()> {
        let rows = in_f64(residual)?.to_vec2::<f64>()?;
        let weights = in_f64(weights)?.flatten_all()?.to_vec1::<f64>()?;
        for (row, weight) in rows.iter().zip(weights) {
            for (total, value) in self.total.iter_mut().zip(row) {
                *total += weight * value;
                self.error += weight * value * value;
            }
            self.weight += weight;
        }
        Ok(())
    }

    /// Whether every sum is a finite number.
    pub(super) fn is_finite(&self) -> bool {
        self.total.iter().chain([&self.error, &self.weight]).all(|sum| sum.is_finite())
    }

    /// The mean and the errors without and with it.
    pub(super) fn solve(self) -> Mean {
        let scale = 1.0 / self.weight.max(f64::MIN_POSITIVE);
        let bias: Vec<f64> = self.total.iter().map(|total| total * scale).collect();
        let gain: f64 = bias.iter().map(|value| value * value).sum();
        let before = self.error * scale;
        Mean {
            bias: bias.into_iter().map(|value| value as f32).collect(),
            before,
            after: (before - gain).max(0.0),
        }
    }
}
