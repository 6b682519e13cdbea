//! The activation of a feed-forward without a gate: `y = a(x)`, `dx = dy · a'(x)`.
//!
//! | | `a(x)` | `a'(x)` |
//! |---|---|---|
//! | SiLU | `x · σ(x)` | `σ(x) · (1 + x · (1 − σ(x)))` |
//! | GELU (Hendrycks and Gimpel, arXiv 1606.08415) | `x · Φ(x)` | `Φ(x) + x · φ(x)` |
//! | its tanh form | `x · σ(z(x))` | `σ(z) · (1 + x · (1 − σ(z)) · z'(x))` |
//! | ReLU | `max(x, 0)` | 1 above 0, else 0 |

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

use crate::{
    buffer::{Held, build, fill_rows, fused, slice},
    composition,
    exp::sigmoid,
    gate::{Gate, gelu_argument, gelu_slope},
};

/// `a(x)`.
///
/// # Shapes
/// `[..]` → `[..]`.
///
/// # Errors
/// No memory.
pub fn activated(kind: Gate, x: &Tensor) -> Result<Tensor> {
    if !fused(&[x]) {
        return composition::activated(kind, x);
    }
    x.contiguous()?.apply_op1(Activated(kind))
}

struct Activated(Gate);

impl CustomOp1 for Activated {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x: &[f32] = slice(x, layout)?;
        let y = match self.0 {
            Gate::Silu => each(x, |_, x| value(Gate::Silu, x)),
            Gate::GeluTanh => each(x, |_, x| value(Gate::GeluTanh, x)),
            Gate::Gelu => each(x, |_, x| value(Gate::Gelu, x)),
            Gate::Relu => each(x, |_, x| value(Gate::Relu, x)),
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (of_x, of_grad) = (Held::new(x), Held::new(&grad));
        let (x_values, dy): (&[f32], &[f32]) = (of_x.slice()?, of_grad.slice()?);
        let values = each(x_values, |at, x| dy[at] * slope(self.0, x));
        Ok(Some(Tensor::from_vec(values, x.shape(), &Device::Cpu)?))
    }
}

/// A number for each number, from its place and itself.
fn each(x: &[f32], of: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
    // SAFETY: all of each range is written.
    unsafe {
        build(x.len(), |out| {
            fill_rows(out, 1, |range, out| {
                for (out, at) in out.iter_mut().zip(range) {
                    out.write(of(at, x[at]));
                }
            });
        })
    }
}

/// `Φ(x)`, the normal distribution.
fn normal(x: f32) -> f64 {
    0.5 * (1.0 + libm::erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))
}

/// `a(x)`.
#[inline(always)]
pub(crate) fn value(kind: Gate, x: f32) -> f32 {
    match kind {
        Gate::Silu => x * sigmoid(x),
        Gate::GeluTanh => x * sigmoid(gelu_argument(x)),
        Gate::Gelu => (f64::from(x) * normal(x)) as f32,
        Gate::Relu => x.max(0.0),
    }
}

/// `a'(x)`.
#[inline(always)]
pub(crate) fn slope(kind: Gate, x: f32) -> f32 {
    match kind {
        Gate::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Gate::GeluTanh => {
            let s = sigmoid(gelu_argument(x));
            s * (1.0 + x * (1.0 - s) * gelu_slope(x))
        }
        Gate::Gelu => {
            let wide = f64::from(x);
            let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (normal(x) + wide * density) as f32
        }
        Gate::Relu => f32::from(x > 0.0),
    }
}
