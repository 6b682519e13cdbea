//! The mean of a sublayer's missing output, summed batch by batch.
//!
//! Notation: `E` the residual of the target `[R, H]` with the present weights, `w` a weight for
//! each of the `R` rows. `b = argmin Σ w·‖E − b‖² = Σ w·E / Σ w`. Sums are f64.

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

/// The result. Errors are weighted means of squares.
pub(super) struct Mean {
    /// `b`, `[H]`; `None` where it does not lower the held-out error.
    pub(super) bias: Option<Vec<f32>>,
    /// On the fitted rows, without and with `b`.
    pub(super) fitted: (f64, f64),
    /// On the held-out rows, without and with `b`.
    pub(super) held_out: (f64, f64),
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

    /// The mean, and the errors of these rows and of others without and with it.
    pub(super) fn solve(&self, held_out: &Self) -> Mean {
        let scale = 1.0 / self.weight.max(f64::MIN_POSITIVE);
        let bias: Vec<f64> = self.total.iter().map(|total| total * scale).collect();
        let (fitted, others) = (self.errors(&bias), held_out.errors(&bias));
        let bias = bias.into_iter().map(|value| value as f32).collect();
        // Not so for NaN either.
        if others.1 < others.0 {
            return Mean { bias: Some(bias), fitted, held_out: others };
        }
        Mean { bias: None, fitted: (fitted.0, fitted.0), held_out: (others.0, others.0) }
    }

    /// Weighted mean squared errors of the rows without and with a bias:
    /// `Σ w·‖E − b‖² = Σ w·‖E‖² − 2·⟨b, Σ w·E⟩ + ‖b‖²·Σ w`.
    fn errors(&self, bias: &[f64]) -> (f64, f64) {
        let scale = 1.0 / self.weight.max(f64::MIN_POSITIVE);
        let inner: f64 = bias.iter().zip(&self.total).map(|(b, total)| b * total).sum();
        let square: f64 = bias.iter().map(|b| b * b).sum();
        let with = self.error - 2.0 * inner + square * self.weight;
        (self.error * scale, with.max(0.0) * scale)
    }
}
