//! The linear map `y = x · Wᵀ`; backward is `dx = dy · W`, `dW = dyᵀ · x`.
//!
//! Axes: `R` rows, `in` and `out` sides of the weight.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, D, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::{
    LowRankGrad,
    buffer::{Held, Unwritten, Weight, build, fused, slice, written},
    composition,
    gemm::{par_multiply, par_multiply_add},
    packed::{self, Arithmetic, Laid, Source},
    view::View,
};

/// Elements of a weight that are converted to f32 at a time.
const CONVERTED: usize = 1024 * 1024;

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
        let y = forward(slice(x, x_layout)?, (weight, self.packed.as_ref(), sizes));
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
            let values =
                grad_input(grad_output.slice()?, (Held::new(weight).weight()?, None, sizes));
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

/// The axes of a product.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// How many of the weight's rows are held as f32 at a time.
fn rows_at_once(weight: Weight<'_>, Sizes { inputs, outputs, .. }: Sizes) -> usize {
    match weight {
        Weight::F32(_) => outputs.max(1),
        Weight::Bf16(_) | Weight::F16(_) => (CONVERTED / inputs.max(1)).max(1),
    }
}

/// A weight as the right side of `x · Wᵀ`, where our own kernels take it; `packed` is
/// the same weight.
fn right<'a>(
    weight: Weight<'a>,
    packed: Option<&'a Laid>,
    Sizes { rows, inputs, outputs }: Sizes,
) -> Option<(Arithmetic, Source<'a>)> {
    let arithmetic = Arithmetic::of_weight(weight.dtype(), rows, inputs, outputs)?;
    let packed = packed.and_then(|packed| packed.source(arithmetic));
    let source = match (packed, weight) {
        (Some(packed), _) => packed,
        (None, Weight::Bf16(values)) => Source::Bf16(View::dense(values, outputs, inputs).t()),
        (None, Weight::F32(values)) => Source::F32(View::dense(values, outputs, inputs).t()),
        (None, Weight::F16(_)) => return None,
    };
    Some((arithmetic, source))
}

/// A weight as the right side of `dy · W`, as [`right`]; the gradient is not rounded to
/// bf16.
fn backward_right<'a>(
    weight: Weight<'a>,
    packed: Option<&'a Laid>,
    Sizes { rows, inputs, outputs }: Sizes,
) -> Option<(Arithmetic, Source<'a>)> {
    let arithmetic = Arithmetic::of_weight(DType::F32, rows, outputs, inputs)?;
    let packed = packed.and_then(|packed| packed.source(arithmetic));
    let source = match (packed, weight) {
        (Some(packed), _) => packed,
        (None, Weight::Bf16(values)) => Source::Bf16(View::dense(values, outputs, inputs)),
        (None, Weight::F32(values)) => Source::F32(View::dense(values, outputs, inputs)),
        (None, Weight::F16(_)) => return None,
    };
    Some((arithmetic, source))
}

/// A weight as it is held and as it is packed, and the axes of all products with it, of
/// which some rows may be made at a time: how they are made goes by all rows.
pub(crate) type Map<'a> = (Weight<'a>, Option<&'a Laid>, Sizes);

/// `y = x · Wᵀ`.
fn forward(x: &[f32], map: Map<'_>) -> Vec<f32> {
    let (_, _, Sizes { rows, outputs, .. }) = map;
    // SAFETY: `write` writes everything.
    unsafe { build(rows * outputs, |y| write(x, map, y)) }
}

/// `y = x · Wᵀ` of some rows; writes all of `y`.
fn write(x: &[f32], map: Map<'_>, y: &mut Unwritten) {
    let (weight, packed, sizes) = map;
    let Sizes { inputs, outputs, .. } = sizes;
    let rows = y.len() / outputs.max(1);
    if let Some((arithmetic, weight)) = right(weight, packed, sizes) {
        return packed::write_all(arithmetic, x, &[weight], &mut [y], rows);
    }
    let step = rows_at_once(weight, sizes);
    let mut scratch = Vec::new();
    for start in (0..outputs).step_by(step) {
        let end = (start + step).min(outputs);
        let part = weight.part(start * inputs..end * inputs, &mut scratch);
        let part = View::dense(part, end - start, inputs);
        let y = y.get_mut(start..).unwrap_or_default();
        par_multiply(View::dense(x, rows, inputs), part.t(), y, outputs);
    }
}

/// [`write`] of several weights, which read `x` once where our own kernels make all
/// products alike.
pub(crate) fn write_all(x: &[f32], maps: &[Map<'_>], y: &mut [&mut Unwritten]) {
    let rights = maps.iter().map(|&(weight, packed, sizes)| right(weight, packed, sizes));
    if let Some(rights) = rights.collect::<Option<Vec<_>>>()
        && let [(arithmetic, _), rest @ ..] = &rights[..]
        && rest.iter().all(|(other, _)| other == arithmetic)
        && let ([(_, _, sizes), ..], [first, ..]) = (maps, &*y)
    {
        let sources: Vec<_> = rights.iter().map(|&(_, source)| source).collect();
        let rows = first.len() / sizes.outputs.max(1);
        return packed::write_all(*arithmetic, x, &sources, y, rows);
    }
    maps.iter().zip(y).for_each(|(&map, y)| write(x, map, y));
}

/// `y += x · Wᵀ` of some rows.
pub(crate) fn forward_onto(x: &[f32], map: Map<'_>, y: &mut [f32]) {
    let (weight, packed, sizes) = map;
    let Sizes { inputs, outputs, .. } = sizes;
    let rows = y.len() / outputs.max(1);
    if let Some((arithmetic, weight)) = right(weight, packed, sizes) {
        return packed::forward_onto(arithmetic, x, weight, rows, y);
    }
    let step = rows_at_once(weight, sizes);
    let mut scratch = Vec::new();
    for start in (0..outputs).step_by(step) {
        let end = (start + step).min(outputs);
        let part = weight.part(start * inputs..end * inputs, &mut scratch);
        let part = View::dense(part, end - start, inputs);
        let y = y.get_mut(start..).unwrap_or_default();
        par_multiply_add(View::dense(x, rows, inputs), part.t(), y, outputs);
    }
}

/// `dx = dy · W`.
fn grad_input(grad: &[f32], map: Map<'_>) -> Vec<f32> {
    let (_, _, Sizes { rows, inputs, .. }) = map;
    // SAFETY: `write_grad_input` writes everything.
    unsafe { build(rows * inputs, |to| write_grad_input(grad, map, to)) }
}

/// `dx = dy · W` of some rows; writes all of `to`.
pub(crate) fn write_grad_input(grad: &[f32], map: Map<'_>, to: &mut Unwritten) {
    let (weight, packed, sizes) = map;
    let Sizes { inputs, outputs, .. } = sizes;
    let rows = to.len() / inputs.max(1);
    if let Some((arithmetic, weight)) = backward_right(weight, packed, sizes) {
        return packed::write_all(arithmetic, grad, &[weight], &mut [to], rows);
    }
    let first = rows_at_once(weight, sizes).min(outputs);
    let mut scratch = Vec::new();
    let part = weight.part(0..first * inputs, &mut scratch);
    let of_first = View::new(grad, rows, first, outputs);
    par_multiply(of_first, View::dense(part, first, inputs), to, inputs);
    // SAFETY: the product has written everything.
    let to = unsafe { written(to) };
    grad_input_from(first, grad, weight, Sizes { rows, ..sizes }, to);
}

/// `dx += dy · W` of some rows.
pub(crate) fn grad_input_onto(grad: &[f32], map: Map<'_>, grad_x: &mut [f32]) {
    let (weight, packed, sizes) = map;
    let rows = grad_x.len() / sizes.inputs.max(1);
    if let Some((arithmetic, weight)) = backward_right(weight, packed, sizes) {
        return packed::forward_onto(arithmetic, grad, weight, rows, grad_x);
    }
    grad_input_from(0, grad, weight, Sizes { rows, ..sizes }, grad_x);
}

/// `dx += dy · W` over the outputs from `first` on.
fn grad_input_from(
    first: usize,
    grad: &[f32],
    weight: Weight<'_>,
    sizes: Sizes,
    grad_x: &mut [f32],
) {
    let Sizes { rows, inputs, outputs } = sizes;
    let step = rows_at_once(weight, sizes);
    let mut scratch = Vec::new();
    for start in (first..outputs).step_by(step) {
        let end = (start + step).min(outputs);
        let part = weight.part(start * inputs..end * inputs, &mut scratch);
        let grad = View::new(grad.get(start..).unwrap_or_default(), rows, end - start, outputs);
        par_multiply_add(grad, View::dense(part, end - start, inputs), grad_x, inputs);
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
