//! The gated feed-forward sublayer: `x + W_down · (silu(W_gate · h) · W_up · h)` with
//! `h` the norm of `x`.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `F` feed-forward width, `R` rows.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor, bail};

use super::{Affine, Running, add, fused_norm, matrix};
use crate::{
    buffer::{Held, Sheets, Unwritten, fused, slice, written},
    composition::rows,
    norm, swiglu, threads,
};

/// The weights of a gated feed-forward sublayer.
#[derive(Clone)]
pub struct FeedForward {
    /// Weight of the norm before it, `[H]`.
    pub norm: Tensor,
    /// Of the norm.
    pub eps: f64,
    /// `[F, H]`.
    pub gate: Affine,
    /// `[F, H]`.
    pub up: Affine,
    /// `[H, F]`.
    pub down: Affine,
}

impl FeedForward {
    /// The sublayer added to its input.
    ///
    /// # Shapes
    /// `[.., H]` → `[.., H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a tap's own.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let maps = [&self.gate, &self.up, &self.down];
        let weights = maps.iter().all(|map| map.fused()) && fused_norm(&self.norm);
        if !weights || !fused(&[x]) || x.elem_count() == 0 {
            return self.composed(x);
        }
        let hidden = x.dim(D::Minus1)?;
        let inner = self.gate.outputs(hidden)?;
        if self.norm.dims() != [hidden]
            || self.up.outputs(hidden)? != inner
            || self.down.outputs(inner)? != hidden
        {
            bail!("feed-forward: the weights do not fit each other or input {:?}", x.shape());
        }
        let saved = x.track_op().then(OnceLock::new);
        x.contiguous()?.apply_op1(Fused { weights: self.clone(), saved })
    }

    /// Operation by operation.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let h = norm::rms_norm(x, &self.norm, self.eps)?;
        let inner = swiglu(&self.gate.apply(&h)?, &self.up.apply(&h)?)?;
        x + self.down.apply(&inner)?
    }
}

struct Fused {
    weights: FeedForward,
    /// What backward needs, where there will be one.
    saved: Option<OnceLock<Saved>>,
}

struct Saved {
    /// The normed input, `[R, H]`.
    h: Tensor,
    /// Output of the gate's map, `[R, F]`.
    gate: Vec<f32>,
    /// `[R, F]`.
    up: Vec<f32>,
    /// Input of the last map, `[R, F]`.
    inner: Tensor,
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let FeedForward { norm, eps, gate, up, down } = &self.weights;
        let x: &[f32] = slice(x, layout)?;
        let hidden = norm.elem_count();
        let rows = x.len() / hidden;
        let (gate, up, down) = (gate.running(rows)?, up.running(rows)?, down.running(rows)?);
        let norm = Held::new(norm);
        let norm: &[f32] = norm.slice()?;
        let width = gate.sizes.outputs;
        let widths = [hidden, width, width, width];

        let step = Running::rows_of_a_block(&[&gate, &up, &down]);
        let run =
            |at: usize, [h, to_gate, to_up, inner]: [&mut Unwritten; 4], y: &mut Unwritten| {
                let first = at * step;
                let x = &x[first * hidden..][..y.len()];
                norm::write(x, norm, *eps, h);
                // SAFETY: written above.
                let h = unsafe { written(h) };
                let [of_gate, of_up] = Running::write([&gate, &up], h, first, [to_gate, to_up])?;
                swiglu::write(of_gate, of_up, inner);
                // SAFETY: written above.
                let inner = unsafe { written(inner) };
                down.add(inner, first, y.write_copy_of_slice(x))
            };
        let mut y = Sheets::new(rows, [hidden]);
        let of_y = y.blocks(step);
        match &self.saved {
            // What a block leaves goes with it.
            None => threads::blocks(of_y, |at, [y]| {
                let mut of_block = Sheets::new(y.len() / hidden, widths);
                of_block.blocks(step).into_iter().try_for_each(|of_block| run(at, of_block, y))
            })?,
            Some(saved) => {
                let mut all = Sheets::new(rows, widths);
                let blocks = all.blocks(step).into_iter().zip(of_y).collect();
                threads::blocks(blocks, |at, (of_block, [y])| run(at, of_block, y))?;
                // SAFETY: all blocks were run.
                let [h, gate, up, inner] = unsafe { all.written() };
                let (h, inner) = (matrix(h, hidden)?, matrix(inner, width)?);
                saved.get_or_init(|| Saved { h, gate, up, inner });
            }
        }
        // SAFETY: all blocks were run.
        let [y] = unsafe { y.written() };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(Saved { h, gate, up, inner }) = self.saved.as_ref().and_then(OnceLock::get) else {
            bail!("feed-forward: backward of an input that was not tracked")
        };
        let FeedForward { norm, eps, gate: gate_map, up: up_map, down } = &self.weights;
        let grad = rows(grad)?;
        let grad_inner = down.backward(inner, &grad, None)?;
        let (grad_gate, grad_up) = swiglu::backward(gate, up, &grad_inner);
        drop(grad_inner);
        let width = inner.dim(1)?;
        let grad_up = matrix(grad_up, width)?;
        let grad_h = up_map.backward(h, &grad_up, None)?;
        drop(grad_up);
        let grad_h = gate_map.backward(h, &matrix(grad_gate, width)?, Some(grad_h))?;
        let (of_x, of_norm, of_grad) = (Held::new(x), Held::new(norm), Held::new(&grad));
        let mut grad_x = norm::grad_input(of_x.slice()?, of_norm.slice()?, &grad_h, *eps);
        add(&mut grad_x, of_grad.slice()?);
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), &Device::Cpu)?))
    }
}
