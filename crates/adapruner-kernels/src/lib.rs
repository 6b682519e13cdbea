//! The operations a decoder is made of, each with its backward pass.
//!
//! Axes: `B` sequences, `T` tokens, `N` query heads, `K` key-value heads, `D`
//! head width, `V` vocabulary, `R` rows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

/// Sees what a linear map saw in the backward pass.
pub trait GradTap: Send + Sync {
    /// `input` is `[R, in]`, `weight` `[out, in]`, `grad_output` `[R, out]`.
    ///
    /// # Errors
    /// The observer's own; the pass stops.
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> Result<()>;
}

/// The identity, whose backward shows the gradient to a tap.
struct Tapped {
    input: Tensor,
    weight: Tensor,
    tap: Arc<dyn GradTap>,
}

impl CustomOp1 for Tapped {
    fn name(&self) -> &'static str {
        "tapped"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("not contiguous") };
        let values = storage.as_slice::<f32>()?[start..end].to_vec();
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let rows = |x: &Tensor| x.flatten_to(x.rank() - 2)?.contiguous();
        self.tap.observe(&rows(&self.input)?, &self.weight, &rows(grad)?)?;
        Ok(Some(grad.clone()))
    }
}

/// `x · Wᵀ`; with `tap`, the backward pass shows it input, weight and gradient.
///
/// # Shapes
/// `[.., in]`, `[out, in]` → `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, tap: Option<Arc<dyn GradTap>>) -> Result<Tensor> {
    let y = x.broadcast_matmul(&weight.to_dtype(x.dtype())?.t()?)?;
    match tap {
        None => Ok(y),
        Some(tap) => {
            y.contiguous()?.apply_op1(Tapped { input: x.clone(), weight: weight.clone(), tap })
        }
    }
}

/// `x / √(mean(x²) + eps) · w` along the last axis.
///
/// # Shapes
/// `[.., H]`, `[H]` → `[.., H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)
}

/// `silu(gate) · up`.
///
/// # Shapes
/// `[..]`, `[..]` → `[..]`.
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Rotary position embedding in the half-split form.
///
/// # Shapes
/// `[B, T, N, D]`, `[T, D/2]`, `[T, D/2]` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

/// Causal grouped-query attention; the last query is aligned with the last key.
///
/// # Shapes
/// q `[B, T, N, D]`, k and v `[B, S, K, D]` with `S ≥ T` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, t, n, d) = q.dims4()?;
    let (_, s, heads, _) = k.dims4()?;
    let q = q.reshape((b, t, heads, n / heads, d))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
    let q = q.reshape((b, heads, n / heads * t, d))?;
    let k = k.transpose(1, 2)?.contiguous()?;
    let v = v.transpose(1, 2)?.contiguous()?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (d as f64).sqrt())?;
    let scores = scores.reshape((b, heads, n / heads, t, s))?;
    let mask: Vec<f32> = (0..t)
        .flat_map(|i| (0..s).map(move |j| if j > i + s - t { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (t, s), q.device())?)?;
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let e = scores.broadcast_sub(&max)?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    let y = p.reshape((b, heads, n / heads * t, s))?.matmul(&v)?;
    y.reshape((b, heads, n / heads, t, d))?
        .permute((0, 3, 1, 2, 4))?
        .contiguous()?
        .reshape((b, t, n, d))
}

/// `logsumexp(x · Wᵀ) − (x · Wᵀ)[target]` of every row.
///
/// # Shapes
/// `[R, H]`, `[V, H]`, u32 `[R]` → f32 `[R]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_cross_entropy(x: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let logits = linear(x, weight, None)?.to_dtype(DType::F32)?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let picked = logits.gather(&targets.unsqueeze(1)?, 1)?;
    ((sum + max)? - picked)?.squeeze(1)
}
