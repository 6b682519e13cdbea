//! The normal equations of one refit, summed batch by batch.
//!
//! Notation: `X` features `[R, F]`, `E` the residual of the target `[R, H]` with the present
//! weight `W₀`, `w` a weight for each of the `R` rows. The change `Δ = argmin Σ w·‖E − X·Δᵀ‖² +
//! λ·‖Δ‖²` solves `(XᵀwX + λ·I) · Δᵀ = XᵀwE`, with `λ` = ridge · mean diagonal of `XᵀwX`. A
//! change lowers `Σ w·‖E − X·Δᵀ‖²` by its gain `2·⟨Δ, EᵀwX⟩ − ⟨Δ, Δ·XᵀwX⟩`, on these rows or,
//! by the sums of other rows, on those. Products are f32 within a batch, sums over batches and
//! the solution f64.

use adapruner_kernels::matmul;
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::{
    Ridge,
    cholesky::{Cholesky, TOGETHER},
};

/// Ridges to try beyond the requested one, each ten times the last.
const RAISES: usize = 12;
/// Where raising a ridge of 0 begins: the rounding of f32 products.
const SMALLEST: f64 = 1e-7;
/// The ridges that held-out rows choose from.
const LADDER: [f64; 6] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];
/// Where the choice begins; it continues in the direction that lowers the error.
const START: usize = 3;

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

/// The result. Errors are weighted means of squares.
pub(super) struct Solution {
    /// `Δ`, `[H, F]`; `None` where no ridge gave one that lowers the held-out error.
    pub(super) change: Option<Vec<f32>>,
    /// The ridge that was used.
    pub(super) ridge: f64,
    /// Whether the requested ridge left the system singular.
    pub(super) raised: bool,
    /// On the fitted rows, before and with `Δ`.
    pub(super) fitted: (f64, f64),
    /// On the held-out rows, before and with `Δ`.
    pub(super) held_out: (f64, f64),
}

/// A change at some ridge.
struct Candidate {
    change: Vec<f64>,
    ridge: f64,
    /// Held-out error.
    error: f64,
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

    /// Weighted mean squared error with the present weight.
    fn present(&self) -> f64 {
        self.error / self.weight.max(f64::MIN_POSITIVE)
    }

    /// The same with a change of this gain.
    fn with_gain(&self, gain: f64) -> f64 {
        (self.error - gain).max(0.0) / self.weight.max(f64::MIN_POSITIVE)
    }

    /// Solves for the change, at a ridge of which `held_out`, the sums of other rows,
    /// approve.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn solve(&self, ridge: Ridge, held_out: &Self) -> CandleResult<Solution> {
        let gram = held_out.single()?;
        let judge = |change: Vec<f64>, ridge| -> CandleResult<Candidate> {
            let error = held_out.with_gain(held_out.gain_by(&gram, &change)?);
            Ok(Candidate { change, ridge, error })
        };
        let (found, asked) = match ridge {
            Ridge::Share(asked) => {
                let found = self.least(asked).map(|(change, ridge)| judge(change, ridge));
                (found.transpose()?, asked)
            }
            Ridge::HeldOut => (self.best(judge)?, LADDER[START]),
        };
        let before = (self.present(), held_out.present());
        // Not so for NaN either.
        let found = found.filter(|found| found.error < before.1);
        Ok(match found {
            None => Solution {
                change: None,
                ridge: asked,
                raised: false,
                fitted: (before.0, before.0),
                held_out: (before.1, before.1),
            },
            Some(Candidate { change, ridge: used, error }) => Solution {
                ridge: used,
                raised: ridge == Ridge::Share(asked) && used > asked,
                fitted: (before.0, self.with_gain(self.gain(&change))),
                held_out: (before.1, error),
                change: Some(change.into_iter().map(|c| c as f32).collect()),
            },
        })
    }

    /// The change at the least ridge of at least `asked` that leaves the system regular,
    /// and that ridge.
    fn least(&self, asked: f64) -> Option<(Vec<f64>, f64)> {
        let mut tried = asked;
        for _ in 0..=RAISES {
            // A solution that rounding spoilt gains nothing; nor does NaN.
            if let Some(change) = self.change(tried).filter(|change| self.gain(change) >= 0.0) {
                return Some((change, tried));
            }
            tried = (tried * 10.0).max(SMALLEST);
        }
        None
    }

    /// The best of the ladder's changes: down from its start while that helps, else up.
    fn best(
        &self,
        judge: impl Fn(Vec<f64>, f64) -> CandleResult<Candidate>,
    ) -> CandleResult<Option<Candidate>> {
        let at = |rung: usize| -> CandleResult<Option<Candidate>> {
            let ridge = LADDER[rung];
            self.change(ridge).map(|change| judge(change, ridge)).transpose()
        };
        let better = |found: &Option<Candidate>, best: &Option<Candidate>| match (found, best) {
            (Some(found), Some(best)) => found.error < best.error,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let mut best = at(START)?;
        let mut moved = false;
        for rung in (0..START).rev() {
            let found = at(rung)?;
            if !better(&found, &best) {
                break;
            }
            (best, moved) = (found, true);
        }
        for rung in START + 1..LADDER.len() {
            if moved {
                break;
            }
            let found = at(rung)?;
            if best.is_some() && !better(&found, &best) {
                break;
            }
            best = found;
        }
        Ok(best)
    }

    /// `Δ` at a ridge, `[H, F]`; `None` where the system is singular.
    fn change(&self, ridge: f64) -> Option<Vec<f64>> {
        let features = self.features;
        let diagonal = self.gram.iter().step_by(features + 1).sum::<f64>();
        let lambda = ridge * diagonal / features.max(1) as f64;
        let mut matrix = self.gram.clone();
        matrix.iter_mut().step_by(features + 1).for_each(|value| *value += lambda);
        let mut change = self.cross.clone();
        Cholesky::new(matrix, features)?.solve(&mut change);
        Some(change)
    }

    /// By how much a change lowers the error of these rows, in f64.
    fn gain(&self, change: &[f64]) -> f64 {
        let features = self.features.max(1);
        let some = TOGETHER * features;
        let gains: Vec<f64> = change
            .par_chunks(some)
            .zip(self.cross.par_chunks(some))
            .map(|(change, cross)| {
                let mut images = vec![0.0; change.len()];
                for (at, row) in self.gram.chunks(features).enumerate() {
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
        gains.into_iter().sum()
    }

    /// `XᵀwX` in f32.
    fn single(&self) -> CandleResult<Tensor> {
        let values: Vec<f32> = self.gram.iter().map(|&value| value as f32).collect();
        Tensor::from_vec(values, (self.features, self.features), &Device::Cpu)
    }

    /// [`Self::gain`] with the product `Δ·XᵀwX` in f32, which suffices to compare ridges.
    fn gain_by(&self, gram: &Tensor, change: &[f64]) -> CandleResult<f64> {
        let features = self.features.max(1);
        let values: Vec<f32> = change.iter().map(|&value| value as f32).collect();
        let shape = (values.len() / features, self.features);
        let images = matmul(&Tensor::from_vec(values, shape, &Device::Cpu)?, gram)?;
        let images = images.flatten_all()?.to_vec1::<f32>()?;
        let terms = change.iter().zip(&self.cross).zip(images);
        Ok(terms.map(|((change, cross), image)| change * (2.0 * cross - f64::from(image))).sum())
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
