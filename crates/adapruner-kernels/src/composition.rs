//! The same operations as compositions of candle's, for other devices and number types, and as
//! the reference that tests compare the fused kernels with.
//!
//! Every operation used here has a backward pass, so gradients flow through.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, Layout, MetalStorage, Result, Shape, Tensor,
    backend::BackendStorage, bail,
};

use crate::{Gate, GradTap, Head, LowRank, Scores};

/// The identity, whose backward shows the gradient to a tap.
struct Tapped {
    input: Tensor,
    tap: Arc<dyn GradTap>,
    behind: Behind,
}

/// What the gradient that a tap is shown lies behind.
enum Behind {
    /// A linear map of the input.
    Map { weight: Tensor, adapter: Option<LowRank> },
    /// The mask of the input.
    Mask,
}

impl CustomOp1 for Tapped {
    fn name(&self) -> &'static str {
        "tapped"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        whole(layout)?;
        Ok((storage.clone(), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        whole(layout)?;
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(&self, storage: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        whole(layout)?;
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        match &self.behind {
            Behind::Map { weight, adapter } => {
                show(self.tap.as_ref(), &self.input, weight, grad)?;
                if let Some(adapter) = adapter {
                    let gradients =
                        adapter.composed_gradients(&rows(&self.input)?, &rows(grad)?)?;
                    self.tap.low_rank(gradients)?;
                }
            }
            Behind::Mask => self.tap.mask(&rows(&self.input)?, &rows(grad)?)?,
        }
        Ok(Some(grad.clone()))
    }
}

/// Refuses a view into a part of a storage.
fn whole(layout: &Layout) -> Result<()> {
    if layout.is_contiguous() && layout.start_offset() == 0 {
        return Ok(());
    }
    bail!("expected a whole contiguous storage, found a view: {layout:?}")
}

/// Shows a tap what a linear map saw, as matrices of rows.
pub(crate) fn show(
    tap: &dyn GradTap,
    input: &Tensor,
    weight: &Tensor,
    grad_output: &Tensor,
) -> Result<()> {
    tap.observe(&rows(input)?, weight, &rows(grad_output)?)
}

/// `[.., width]` as `[R, width]`.
pub(crate) fn rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    x.reshape(((), width))?.contiguous()
}

/// `y`, whose gradient a tap is shown.
pub(crate) fn tapped(
    y: &Tensor,
    input: &Tensor,
    weight: &Tensor,
    tap: Arc<dyn GradTap>,
    adapter: Option<LowRank>,
) -> Result<Tensor> {
    let (input, weight) = (input.clone(), weight.clone());
    y.contiguous()?.apply_op1(Tapped { input, tap, behind: Behind::Map { weight, adapter } })
}

/// The inputs of a map, each column times its factor of the mask.
///
/// # Shapes
/// `[.., in]`, `[in]` → `[.., in]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn masked(x: &Tensor, mask: &Tensor, tap: Option<Arc<dyn GradTap>>) -> Result<Tensor> {
    if mask.dims() != [x.dim(D::Minus1)?] {
        bail!("a mask of {:?} does not fit input {:?}", mask.shape(), x.shape());
    }
    let y = x.broadcast_mul(&mask.to_dtype(x.dtype())?)?;
    match tap {
        None => Ok(y),
        Some(tap) => {
            y.contiguous()?.apply_op1(Tapped { input: x.clone(), tap, behind: Behind::Mask })
        }
    }
}

/// [`crate::linear`], composed.
///
/// # Shapes
/// `[.., in]`, `[out, in]` → `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, tap: Option<Arc<dyn GradTap>>) -> Result<Tensor> {
    let y = match x.rank() {
        1 => x.unsqueeze(0)?.matmul(&weight.to_dtype(x.dtype())?.t()?)?.squeeze(0)?,
        _ => x.broadcast_matmul(&weight.to_dtype(x.dtype())?.t()?)?,
    };
    match tap {
        None => Ok(y),
        Some(tap) => tapped(&y, x, weight, tap, None),
    }
}

/// [`crate::rms_norm`], composed.
///
/// # Shapes
/// `[.., H]`, `[H]` → `[.., H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(&weight.to_dtype(x.dtype())?)
}

/// [`crate::layer_norm`], composed.
///
/// # Shapes
/// `[.., H]`, `[H]`, `[H]` → `[.., H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let apart = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let scale = (apart.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let y = apart.broadcast_div(&scale)?.broadcast_mul(&weight.to_dtype(x.dtype())?)?;
    y.broadcast_add(&bias.to_dtype(x.dtype())?)
}

/// [`crate::activated`], composed.
///
/// # Shapes
/// `[..]` → `[..]`.
///
/// # Errors
/// No memory.
pub fn activated(kind: Gate, x: &Tensor) -> Result<Tensor> {
    match kind {
        Gate::Silu => x.silu(),
        Gate::GeluTanh => x.gelu(),
        Gate::Gelu => x.gelu_erf(),
        Gate::Relu => x.relu(),
    }
}

/// [`crate::gated`], composed.
///
/// # Shapes
/// `[..]`, `[..]` → `[..]`.
///
/// # Errors
/// Shapes that differ.
pub fn gated(kind: Gate, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    activated(kind, gate)? * up
}

/// [`crate::rope`], composed.
///
/// # Shapes
/// `[B, T, N, D]`, `[T, R/2]`, `[T, R/2]` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (whole, half) = (x.dim(D::Minus1)?, cos.dim(D::Minus1)?);
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    if whole == 2 * half {
        return Tensor::cat(&[first, second], D::Minus1);
    }
    let rest = x.narrow(D::Minus1, 2 * half, whole - 2 * half)?;
    Tensor::cat(&[first, second, rest], D::Minus1)
}

/// Numbers bent to `c · tanh(x/c)`, where there is a cap.
///
/// # Errors
/// No memory.
pub(crate) fn capped(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(x),
        Some(cap) => (x / cap)?.tanh()? * cap,
    }
}

/// [`crate::attention`], composed; the `T × S` scores are held.
///
/// # Shapes
/// q `[B, T, N, D]`, k and v `[B, S, K, D]` with `S ≥ T` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
    let (scale, window) = (scores.scale_of(q.dim(3)?), scores.window.unwrap_or(usize::MAX));
    let cap = scores.cap;
    let (b, t, n, d) = q.dims4()?;
    let (_, s, heads, _) = k.dims4()?;
    let q = q.reshape((b, t, heads, n / heads, d))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
    let q = q.reshape((b, heads, n / heads * t, d))?;
    let k = k.transpose(1, 2)?.contiguous()?;
    let v = v.transpose(1, 2)?.contiguous()?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?;
    let scores = capped(scores, cap)?.reshape((b, heads, n / heads, t, s))?;
    let seen = |i: usize, j: usize| {
        let end = i + 1 + s - t;
        (end.saturating_sub(window)..end).contains(&j)
    };
    let mask: Vec<f32> = (0..t)
        .flat_map(|i| (0..s).map(move |j| if seen(i, j) { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    let mask = Tensor::from_vec(mask, (t, s), q.device())?.to_dtype(q.dtype())?;
    let scores = scores.broadcast_add(&mask)?;
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let e = scores.broadcast_sub(&max)?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    let y = p.reshape((b, heads, n / heads * t, s))?.matmul(&v)?;
    y.reshape((b, heads, n / heads, t, d))?
        .permute((0, 3, 1, 2, 4))?
        .contiguous()?
        .reshape((b, t, n, d))
}

/// [`crate::packed_attention`], composed.
///
/// # Shapes
/// q `[1, R, N, D]`, k and v `[1, R, K, D]`, lengths that add up to `R` →
/// `[1, R, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn packed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scores: Scores,
    lengths: &[usize],
) -> Result<Tensor> {
    let mut start = 0;
    let mut one = |&length: &usize| {
        let rows = |t: &Tensor| t.narrow(1, start, length);
        let y = attention(&rows(q)?, &rows(k)?, &rows(v)?, scores);
        start += length;
        y
    };
    Tensor::cat(&lengths.iter().map(&mut one).collect::<Result<Vec<_>>>()?, 1)
}

/// [`crate::linear_cross_entropy`], composed; the logits are held.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R]` → `[R]`, f32 or (for f64) f64.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_cross_entropy(x: &Tensor, head: &Head, targets: &Tensor) -> Result<Tensor> {
    let weights = Tensor::ones((targets.dim(0)?, 1), DType::F32, x.device())?;
    linear_soft_cross_entropy(x, head, &targets.unsqueeze(1)?, &weights, 1.0)
}

/// [`crate::linear_soft_cross_entropy`], composed; the logits are held.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R, k]`, f32 `[R, k]` → `[R]`, f32 or (for f64) f64.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_soft_cross_entropy(
    x: &Tensor,
    head: &Head,
    ids: &Tensor,
    weights: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let logits = capped(linear(x, &head.weight, None)?, head.cap)?;
    let logits = if logits.dtype() == DType::F64 { logits } else { logits.to_dtype(DType::F32)? };
    let logits = (logits / temperature)?;
    let weights = weights.to_dtype(logits.dtype())?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let picked = (logits.gather(&ids.contiguous()?, 1)? * &weights)?.sum(1)?;
    ((sum + max)?.squeeze(1)? * weights.sum(1)?)? - picked
}
