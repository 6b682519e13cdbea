//! The gate of the feed-forward: `y = a(g) · u` with an activation `a(g) = g · σ(z(g))`:
//! SiLU has `z(g) = g`, GELU in its tanh form (Hendrycks and Gimpel, arXiv 1606.08415)
//! `z(g) = √(8/π) · (g + 0.044715 · g³)`. GELU itself and ReLU are not of this form.
//!
//! Backward: `dg = dy · u · σ(z) · (1 + g · (1 − σ(z)) · z'(g))`, `du = dy · a(g)`.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;

use crate::{
    activation,
    buffer::{GRAIN, Held, Sheets, Unwritten, build, fill_rows, fused, slice},
    composition,
    exp::sigmoid,
    threads::{self, Blocks},
};

/// The activation of a feed-forward, of its gate where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `g · σ(g)`.
    Silu,
    /// GELU, approximated with tanh.
    GeluTanh,
    /// GELU, `g · Φ(g)`.
    Gelu,
    /// `max(g, 0)`.
    Relu,
}

/// `a(gate) · up`.
///
/// # Shapes
/// `[..]`, `[..]` → `[..]`.
///
/// # Errors
/// Shapes that differ.
pub fn gated(kind: Gate, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    if !fused(&[gate, up]) {
        return composition::gated(kind, gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(kind))
}

struct Gated(Gate);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up): (&[f32], &[f32]) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        Ok((CpuStorage::F32(forward(self.0, gate, up)), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (of_gate, of_up, of_grad) = (Held::new(gate), Held::new(up), Held::new(&grad));
        let (gate_values, up_values) = (of_gate.slice()?, of_up.slice()?);
        let (grad_gate, grad_up) = backward(self.0, gate_values, up_values, of_grad.slice()?);
        Ok((
            Some(Tensor::from_vec(grad_gate, gate.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(grad_up, up.shape(), &Device::Cpu)?),
        ))
    }
}

/// `a(gate) · up`.
pub(crate) fn forward(kind: Gate, gate: &[f32], up: &[f32]) -> Vec<f32> {
    // SAFETY: `write` writes as many elements as there are.
    unsafe { build(gate.len(), |out| write(kind, gate, up, out)) }
}

/// [`forward`] into `out`, all of which is written.
pub(crate) fn write(kind: Gate, gate: &[f32], up: &[f32], out: &mut Unwritten) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "elements of a gate");
    fill_rows(out, 1, |range, out| {
        let (gate, up) = (&gate[range.clone()], &up[range]);
        match kind {
            Gate::Silu => silu(gate, up, out),
            Gate::GeluTanh => gelu_tanh(gate, up, out),
            Gate::Gelu | Gate::Relu => {
                for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    out.write(activation::value(kind, g) * u);
                }
            }
        }
    });
}

/// Gradients of gate and up.
fn backward(kind: Gate, gate: &[f32], up: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut both = Sheets::new(gate.len(), [1, 1]);
    for [grad_gate, grad_up] in both.blocks(Blocks::one(gate.len())) {
        write_gradients(kind, [gate, up, grad], grad_gate, grad_up);
    }
    // SAFETY: `write_gradients` writes all of both.
    let [grad_gate, grad_up] = unsafe { both.written() };
    (grad_gate, grad_up)
}

/// The gradients of gate and up into `grad_gate` and `grad_up`, all of which are written.
pub(crate) fn write_gradients(
    kind: Gate,
    [gate, up, grad]: [&[f32]; 3],
    grad_gate: &mut Unwritten,
    grad_up: &mut Unwritten,
) {
    let lengths = [up.len(), grad.len(), grad_gate.len(), grad_up.len()];
    assert!(lengths.iter().all(|&len| len == gate.len()), "elements of a gate");
    let parts = grad_gate.chunks_mut(GRAIN).zip(grad_up.chunks_mut(GRAIN)).collect();
    threads::each(parts, |at, (grad_gate, grad_up)| {
        let range = at * GRAIN..at * GRAIN + grad_gate.len();
        let of = [gate, up, grad].map(|values| &values[range.clone()]);
        match kind {
            Gate::Silu => silu_gradients(of, grad_gate, grad_up),
            Gate::GeluTanh => gelu_tanh_gradients(of, grad_gate, grad_up),
            Gate::Gelu | Gate::Relu => {
                let [gate, up, grad] = of;
                let outputs = grad_gate.iter_mut().zip(grad_up);
                for ((((to_gate, to_up), &g), &u), &dy) in outputs.zip(gate).zip(up).zip(grad) {
                    to_gate.write(dy * u * activation::slope(kind, g));
                    to_up.write(dy * activation::value(kind, g));
                }
            }
        }
    });
}

/// `√(8/π)`.
const TANH_SCALE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
const CUBIC: f32 = 0.044_715;

/// `z` of the tanh form.
#[inline(always)]
pub(crate) fn gelu_argument(g: f32) -> f32 {
    TANH_SCALE * (g + CUBIC * g * g * g)
}

/// Its derivative.
#[inline(always)]
pub(crate) fn gelu_slope(g: f32) -> f32 {
    TANH_SCALE * (1.0 + 3.0 * CUBIC * g * g)
}

/// `g · σ(z(g)) · u`.
#[inline(always)]
fn forward_part(gate: &[f32], up: &[f32], out: &mut Unwritten, z: impl Fn(f32) -> f32) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        out.write(g * sigmoid(z(g)) * u);
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn silu(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
    forward_part(gate, up, out, |g| g);
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn gelu_tanh(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
    forward_part(gate, up, out, gelu_argument);
}

/// The gradients, with `z` and its derivative.
#[inline(always)]
fn backward_part(
    [gate, up, grad]: [&[f32]; 3],
    grad_gate: &mut Unwritten,
    grad_up: &mut Unwritten,
    z: impl Fn(f32) -> f32,
    slope: impl Fn(f32) -> f32,
) {
    let outputs = grad_gate.iter_mut().zip(grad_up);
    for ((((to_gate, to_up), &g), &u), &dy) in outputs.zip(gate).zip(up).zip(grad) {
        let s = sigmoid(z(g));
        // Where the slope grows beyond all bounds, `s` is 0 or 1.
        let bend = g * (1.0 - s) * slope(g);
        to_gate.write(dy * u * s * (1.0 + bend));
        to_up.write(dy * g * s);
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn silu_gradients(
    of: [&[f32]; 3],
    grad_gate: &mut [MaybeUninit<f32>],
    grad_up: &mut [MaybeUninit<f32>],
) {
    backward_part(of, grad_gate, grad_up, |g| g, |_| 1.0);
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn gelu_tanh_gradients(
    of: [&[f32]; 3],
    grad_gate: &mut [MaybeUninit<f32>],
    grad_up: &mut [MaybeUninit<f32>],
) {
    backward_part(of, grad_gate, grad_up, gelu_argument, gelu_slope);
}
