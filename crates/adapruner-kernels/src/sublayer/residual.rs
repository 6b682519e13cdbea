//! How what a sublayer gives is added to what entered it: `y = x + c · norm(z)`.
//!
//! Axes: `R` rows, `H` hidden.

use candle_core::{Result, Tensor};

use super::{Norm, RunningNorm, matrix, write_norm, write_norm_gradient};
use crate::{
    buffer::{GRAIN, Held, Unwritten, build, written},
    threads,
};

/// What is done to a sublayer's output before it is added to the sublayer's input.
#[derive(Debug, Clone)]
pub struct Residual {
    /// Norm of the output, `[H]`, where there is one.
    pub norm: Option<Norm>,
    /// `c`, the output's factor.
    pub scale: f64,
}

impl Default for Residual {
    fn default() -> Self {
        Self { norm: None, scale: 1.0 }
    }
}

impl Residual {
    /// Whether the output is added as it is.
    pub(super) fn plain(&self) -> bool {
        self.norm.is_none() && self.scale == 1.0
    }

    /// `x + c · norm(z)`.
    ///
    /// # Shapes
    /// `[.., H]`, `[.., H]` → `[.., H]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, x: &Tensor, z: &Tensor) -> Result<Tensor> {
        let z = match &self.norm {
            Some(norm) => norm.apply(z)?,
            None => z.clone(),
        };
        x + if self.scale == 1.0 { z } else { (z * self.scale)? }
    }

    /// [`Residual::add`] of rows into `y`, all of which is written.
    pub(super) fn write(&self, norm: RunningNorm<'_>, x: &[f32], z: &[f32], y: &mut Unwritten) {
        write_norm(norm, z, y);
        // SAFETY: written above.
        let y = unsafe { written(y) };
        let scale = self.scale as f32;
        threads::chunks(y, GRAIN, |at, y| {
            y.iter_mut().zip(&x[at * GRAIN..]).for_each(|(y, x)| *y = x + scale * *y);
        });
    }

    /// The gradient of `z` from that of the sum, `[R, H]`; `z` is what [`Residual::write`]
    /// was given, of which a plain one reads nothing.
    pub(super) fn pull(&self, z: Option<&[f32]>, grad: &Tensor) -> Result<Tensor> {
        if self.plain() {
            return Ok(grad.clone());
        }
        let (rows, hidden) = grad.dims2()?;
        let held = Norm::held(self.norm.as_ref());
        let norm = super::running(&held)?;
        let of_grad = Held::new(grad);
        let grad: &[f32] = of_grad.slice()?;
        let scaled: Vec<f32> = grad.iter().map(|value| value * self.scale as f32).collect();
        let z = z.unwrap_or(&scaled);
        // SAFETY: `write_norm_gradient` writes all.
        let values =
            unsafe { build(rows * hidden, |to| write_norm_gradient(norm, z, &scaled, to)) };
        matrix(values, hidden)
    }
}
