//! The linear map `y = x · Wᵀ`; backward is `dx = dy · W`, `dW = dyᵀ · x`.
//!
//! Axes: `R` rows, `in` and `out` sides of the weight.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, D, Device, Layout, Result, Shape, Tensor, bail};

use crate::{
    LowRankGrad,
    buffer::{Held, Weight, build, fused, slice},
    composition,
    gemm::par_multiply,
    map::{Map, Sizes, Way},
    packed::Laid,
    view::View,
};

/// Sees what a linear map saw in the backward pass.
pub trait GradTap: Send + Sync {
    /// `input` is `[R, in]`, `weight` `[out, in]`, `grad_output` `[R, out]`.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> Result<()>;

    /// The gradients of the low-rank update beside the map, where there is one;
    /// ignored if not overridden.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn low_rank(&self, gradients: LowRankGrad) -> Result<()> {
        drop(gradients);
        Ok(())
    }

    /// What the mask of the map's inputs saw, where there is one: `input` before
    /// the mask and the gradient behind it, both `[R, in]`. The gradient of factor
    /// `j` is `Σ_r input_rj · grad_rj` ([`column_dots`](crate::column_dots)), also
    /// where the factor is 0. Ignored if not overridden.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn mask(&self, input: &Tensor, grad: &Tensor) -> Result<()> {
        let _ = (input, grad);
        Ok(())
    }
}

/// `x · Wᵀ`; with `tap`, the backward pass shows it input, weight and gradient.
///
/// The gradient of the weight is made only if the weight is tracked.
///
/// # Shapes
/// `[.., in]`, `[out, in]` → `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, tap: Option<Arc<dyn GradTap>>) -> Result<Tensor> {
    with_packed(x, weight, tap, None)
}

/// [`linear`] by the packed form of the weight, if given.
pub(crate) fn with_packed(
    x: &Tensor,
    weight: &Tensor,
    tap: Option<Arc<dyn GradTap>>,
    packed: Option<Laid>,
) -> Result<Tensor> {
    let (_, inputs) = weight.dims2()?;
    if x.dim(D::Minus1)? != inputs {
        bail!("linear: input {:?} does not fit weight {:?}", x.shape(), weight.shape());
    }
    if !fused(&[x]) || !Weight::takes(weight.dtype()) {
        return composition::linear(x, weight, tap);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { tap, packed })
}

struct Linear {
    tap: Option<Arc<dyn GradTap>>,
    packed: Option<Laid>,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        let sizes = Sizes { rows, inputs, outputs };
        let weight = Weight::of(weight, weight_layout)?;
        let map = Map { weight, packed: self.packed.as_ref(), way: Way::Forward, sizes };
        let y = map.product(slice(x, x_layout)?);
        let mut dims = x_layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if let Some(tap) = &self.tap {
            composition::show(tap.as_ref(), x, weight, &grad)?;
        }
        let (outputs, inputs) = weight.dims2()?;
        let sizes = Sizes { rows: x.elem_count() / inputs.max(1), inputs, outputs };
        let grad_output = Held::new(&grad);
        let grad_x = if x.track_op() {
            let weight = Held::new(weight);
            let map = Map { weight: weight.weight()?, packed: None, way: Way::Back, sizes };
            let values = map.product(grad_output.slice()?);
            Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
        } else {
            None
        };
        let grad_weight = if weight.track_op() {
            let values = grad_weight(grad_output.slice()?, Held::new(x).slice()?, sizes);
            let values = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)?;
            Some(values.to_dtype(weight.dtype())?)
        } else {
            None
        };
        Ok((grad_x, grad_weight))
    }
}

/// `dW = dyᵀ · x`.
fn grad_weight(grad: &[f32], x: &[f32], Sizes { rows, inputs, outputs }: Sizes) -> Vec<f32> {
    // SAFETY: the product writes everything.
    unsafe {
        build(outputs * inputs, |to| {
            let grad = View::dense(grad, rows, outputs);
            par_multiply(grad.t(), View::dense(x, rows, inputs), to, inputs);
        })
    }
}
