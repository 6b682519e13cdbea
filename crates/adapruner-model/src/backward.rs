//! Backward through one part of a model at a time: what was made of a variable is
//! pulled back to it from a gradient that is known.

use candle_core::{Result as CandleResult, Tensor, Var, backprop::GradStore};

use crate::{
    block::{Block, Pass},
    error::{Error, Result},
};

/// A block that was run on a variable.
pub(crate) struct Ran {
    layer: usize,
    x: Var,
    y: Tensor,
}

impl Ran {
    /// Runs the block of layer `layer`.
    ///
    /// # Shapes
    /// `[B, T, H]`.
    pub(crate) fn new(layer: usize, block: &Block, x: &Tensor, pass: &Pass<'_>) -> Result<Self> {
        let x = Var::from_tensor(x)?;
        let y = block.forward(x.as_tensor(), pass, None)?;
        Ok(Self { layer, x, y })
    }

    /// What the block made.
    pub(crate) fn output(&self) -> Tensor {
        self.y.detach()
    }

    /// The gradient of the block's input, and those of the variables on the way.
    pub(crate) fn pull_back(self, upstream: &Tensor) -> Result<(Tensor, GradStore)> {
        let grads = pull_back(&self.y, upstream)?;
        let input = gradient_of(&grads, &self.x, &format!("the input of layer {}", self.layer))?;
        Ok((input, grads))
    }
}

/// The derivative of `Σ y · upstream` for every variable `y` was made from.
fn pull_back(y: &Tensor, upstream: &Tensor) -> CandleResult<GradStore> {
    adapruner_kernels::with_gradient(y, upstream)?.backward()
}

/// Gradient of a variable, which must have one.
pub(crate) fn gradient_of(grads: &GradStore, variable: &Var, name: &str) -> Result<Tensor> {
    Ok(grads.get(variable).ok_or_else(|| Error::NoGradient(name.to_owned()))?.detach())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_parameter_without_a_gradient_is_named() {
        let of = || Var::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let (used, cut) = (of(), of());
        let y = (used.as_tensor() + cut.as_tensor().detach()).unwrap();
        let grads = pull_back(&y, &y.ones_like().unwrap()).unwrap();
        assert!(gradient_of(&grads, &used, "model.norm.weight").is_ok());
        let error = gradient_of(&grads, &cut, "model.layers.3.mlp.up_proj.weight").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("parameter model.layers.3.mlp.up_proj.weight has no gradient"));
    }
}
