//! The gate of the feed-forward: `y = silu(g) · u` with `silu(g) = g · σ(g)`.
//!
//! Backward: `dg = dy · u · σ(g) · (1 + g · (1 − σ(g)))`, `du = dy · silu(g)`.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;

use crate::{
    buffer::{GRAIN, Held, Sheets, Unwritten, build, fill_rows, fused, slice},
    composition,
    exp::sigmoid,
    threads::{self, Blocks},
};

/// `silu(gate) · up`.
///
/// # Shapes
/// `[..]`, `[..]` → `[..]`.
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("swiglu: gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    if !fused(&[gate, up]) {
        return composition::swiglu(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up): (&[f32], &[f32]) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        Ok((CpuStorage::F32(forward(gate, up)), gate_layout.shape().clone()))
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
        let (grad_gate, grad_up) = backward(of_gate.slice()?, of_up.slice()?, of_grad.slice()?);
        Ok((
            Some(Tensor::from_vec(grad_gate, gate.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(grad_up, up.shape(), &Device::Cpu)?),
        ))
    }
}

/// `silu(gate) · up`.
pub(crate) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    // SAFETY: `write` writes as many elements as there are.
    unsafe { build(gate.len(), |out| write(gate, up, out)) }
}

/// [`forward`] into `out`, all of which is written.
pub(crate) fn write(gate: &[f32], up: &[f32], out: &mut Unwritten) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "elements of a gate");
    fill_rows(out, 1, |range, out| forward_part(&gate[range.clone()], &up[range], out));
}

/// Gradients of gate and up.
fn backward(gate: &[f32], up: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut both = Sheets::new(gate.len(), [1, 1]);
    for [grad_gate, grad_up] in both.blocks(Blocks::one(gate.len())) {
        write_gradients(gate, up, grad, grad_gate, grad_up);
    }
    // SAFETY: `write_gradients` writes all of both.
    let [grad_gate, grad_up] = unsafe { both.written() };
    (grad_gate, grad_up)
}

/// The gradients of gate and up into `grad_gate` and `grad_up`, all of which are written.
pub(crate) fn write_gradients(
    gate: &[f32],
    up: &[f32],
    grad: &[f32],
    grad_gate: &mut Unwritten,
    grad_up: &mut Unwritten,
) {
    let lengths = [up.len(), grad.len(), grad_gate.len(), grad_up.len()];
    assert!(lengths.iter().all(|&len| len == gate.len()), "elements of a gate");
    let parts = grad_gate.chunks_mut(GRAIN).zip(grad_up.chunks_mut(GRAIN)).collect();
    threads::each(parts, |at, (grad_gate, grad_up)| {
        let range = at * GRAIN..at * GRAIN + grad_gate.len();
        let (gate, up) = (&gate[range.clone()], &up[range.clone()]);
        backward_part(gate, up, &grad[range], grad_gate, grad_up);
    });
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn forward_part(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        out.write(g * sigmoid(g) * u);
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn backward_part(
    gate: &[f32],
    up: &[f32],
    grad: &[f32],
    grad_gate: &mut [MaybeUninit<f32>],
    grad_up: &mut [MaybeUninit<f32>],
) {
    let outputs = grad_gate.iter_mut().zip(grad_up);
    for ((((to_gate, to_up), &g), &u), &dy) in outputs.zip(gate).zip(up).zip(grad) {
        let s = sigmoid(g);
        to_gate.write(dy * u * s * (1.0 + g * (1.0 - s)));
        to_up.write(dy * g * s);
    }
}
