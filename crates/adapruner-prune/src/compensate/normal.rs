//! The normal equations of one re-fit, summed batch by batch.
//!
//! Notation: `X` features `[R, F]`, `E` what the present weight `W₀` leaves of
//! the target `[R, H]`, `w` a weight for each of the `R` rows. The change
//! `Δ = argmin Σ w·‖E − X·Δᵀ‖² + λ·‖Δ‖²` solves `(XᵀwX + λ·I) · Δᵀ = XᵀwE`, with
//! `λ` = ridge · mean diagonal of `XᵀwX`. Products are f32 within a batch, sums
//! over batches and the solution f64.

use candle_core::{DType, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::cholesky::{Cholesky, TOGETHER};

/// Ridges that are tried beyond the one asked for, each ten times the last.
const RAISES: usize = 12;
/// Where raising a ridge of 0 begins: the rounding of f32 products.
const SMALLEST: f64 = 1e-7;

/// Sums of one re-fit.
pub(super) struct NormalEquations {
    features: usize,
    /// `XᵀwX`, `[F, F]`.
    gram: Vec<f64>,
    /// `EᵀwX`, `[H, F]`.
    cross: Vec<f64>,
    /// `Σ w·‖E‖²`.
    error: f64,
    /// `Σ w`.
    weight: f64,
}

/// What came of it.
pub(super) struct Solution {
    /// `Δ`, `[H, F]`; `None` where no ridge gave one that lessens the error.
    pub(super) change: Option<Vec<f32>>,
    /// The ridge that was used.
    pub(super) ridge: f64,
    /// Weighted mean squared error before.
    pub(super) before: f64,
    /// Weighted mean squared error after.
    pub(super) after: f64,
}

impl NormalEquations {
    pub(super) fn new(features: usize, outputs: usize) -> Self {
        Self {
            features,
            gram: vec![0.0; features * features],
            cross: vec![0.0; outputs * features],
            error: 0.0,
            weight: 0.0,
        }
    }

    /// Adds rows.
    ///
    /// # Shapes
    /// `x` `[R, F]`, `residual` `[R, H]`, `weights` `[R, 1]`.
    pub(super) fn add(
        &mut self,
        x: &Tensor,
        residual: &Tensor,
        weights: &Tensor,
    ) -> CandleResult<()> {
        let root = weights.sqrt()?;
        let x = x.to_dtype(DType::F32)?.broadcast_mul(&root)?;
        let residual = residual.to_dtype(DType::F32)?.broadcast_mul(&root)?;
        add_to(&mut self.gram, &x.t()?.matmul(&x)?)?;
        add_to(&mut self.cross, &residual.t()?.matmul(&x)?)?;
        self.error += sum(&residual.sqr()?)?;
        self.weight += sum(weights)?;
        Ok(())
    }

    /// Whether every sum is a finite number.
    pub(super) fn is_finite(&self) -> bool {
        let sums = self.gram.iter().chain(&self.cross).chain([&self.error, &self.weight]);
        sums.into_iter().all(|sum| sum.is_finite())
    }

    /// Solves for the change, with a larger ridge where this one leaves the
    /// system singular.
    pub(super) fn solve(self, ridge: f64) -> Solution {
        let scale = 1.0 / self.weight.max(f64::MIN_POSITIVE);
        let before = self.error * scale;
        let diagonal = self.gram.iter().step_by(self.features + 1).sum::<f64>();
        let mean = diagonal / self.features.max(1) as f64;
        let mut tried = ridge;
        for _ in 0..=RAISES {
            if let Some((change, error)) = self.attempt(tried * mean) {
                return Solution {
                    change: Some(change),
                    ridge: tried,
                    before,
                    after: error * scale,
                };
            }
            tried = (tried * 10.0).max(SMALLEST);
        }
        Solution { change: None, ridge: tried, before, after: before }
    }

    /// The change at `lambda` and the squared error it leaves.
    fn attempt(&self, lambda: f64) -> Option<(Vec<f32>, f64)> {
        let features = self.features;
        let mut matrix = self.gram.clone();
        matrix.iter_mut().step_by(features + 1).for_each(|value| *value += lambda);
        let mut change = self.cross.clone();
        Cholesky::new(matrix, features)?.solve(&mut change);
        // What the change gains is `2·⟨Δ, C⟩ − ⟨Δ, Δ·G⟩`: asked of the sums
        // themselves, so that a solution spoilt by rounding is found out.
        let some = TOGETHER * features.max(1);
        let gains: Vec<f64> = change
            .par_chunks(some)
            .zip(self.cross.par_chunks(some))
            .map(|(change, cross)| {
                let mut images = vec![0.0; change.len()];
                for (at, row) in self.gram.chunks(features.max(1)).enumerate() {
                    for (image, change) in images.chunks_mut(features).zip(change.chunks(features))
                    {
                        let value = change[at];
                        image.iter_mut().zip(row).for_each(|(image, g)| *image += value * g);
                    }
                }
                let terms = change.iter().zip(cross).zip(images);
                terms.map(|((change, cross), image)| change * (2.0 * cross - image)).sum()
            })
            .collect();
        let gain: f64 = gains.into_iter().sum();
        // Not so for NaN either.
        let lessens = gain >= 0.0;
        let error = (self.error - gain).max(0.0);
        lessens.then(|| (change.into_iter().map(|c| c as f32).collect(), error))
    }
}

fn add_to(sums: &mut [f64], product: &Tensor) -> CandleResult<()> {
    let product = product.flatten_all()?.to_vec1::<f32>()?;
    sums.iter_mut().zip(product).for_each(|(sum, value)| *sum += f64::from(value));
    Ok(())
}

fn sum(values: &Tensor) -> CandleResult<f64> {
    let values = values.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f64::from).sum())
}
