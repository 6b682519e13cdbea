//! The output projection of a language model: logits `z = x · Wᵀ`, or `c · tanh(z/c)` if they
//! are capped.
//!
//! Axes: `R` rows, `H` hidden, `V` vocabulary.

use candle_core::{D, Result, Tensor};

use crate::{composition, linear, map::Way, packed::Packed};

/// A weight `[V, H]`, and its packed forms; clones share both.
#[derive(Debug, Clone)]
pub struct Head {
    /// `[V, H]`.
    pub weight: Tensor,
    /// The weight as products on the CPU read it, where that pays.
    pub packed: Packed,
    /// `c`, where logits are capped.
    pub cap: Option<f64>,
}

impl From<&Tensor> for Head {
    fn from(weight: &Tensor) -> Self {
        Self { weight: weight.clone(), packed: Packed::default(), cap: None }
    }
}

impl Head {
    /// An output projection whose logits are capped, where there is a cap.
    ///
    /// # Shapes
    /// `[V, H]`.
    pub fn new(weight: &Tensor, cap: Option<f64>) -> Self {
        Self { cap, ..Self::from(weight) }
    }

    /// The logits.
    ///
    /// # Shapes
    /// `[.., H]` → `[.., V]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        let packed = self.packed.of(&self.weight, Way::Forward, rows)?;
        composition::capped(linear::with_packed(x, &self.weight, None, packed)?, self.cap)
    }
}
