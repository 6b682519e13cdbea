//! The feed-forward sublayer: `W_down · (m · a(W_gate · h) · W_up · h)`, or without a gate
//! `W_down · (m · a(W_up · h))`, added to `x`, with `h` the norm of `x`, or `x` where there is
//! none before it, `a` the activation and `m` the mask of the channels, 1 where there is none.
//!
//! Fused is the gated one that reads what it is added to.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `F` feed-forward width, `R` rows.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor, bail};

use super::{
    Affine, Norm, Residual, Running, add, by_map, matrix, rows_of, running, scale_columns,
    write_norm, write_norm_gradient,
};
use crate::{
    Gate,
    activation::activated,
    buffer::{Held, Sheets, Unwritten, fused, room, slice, written},
    composition::rows,
    gate::{self, gated},
    map::Way,
    threads::{self, Blocks},
};

/// The weights of a feed-forward sublayer.
#[derive(Clone)]
pub struct FeedForward {
    /// Norm before it, `[H]`, where there is one.
    pub norm: Option<Norm>,
    /// Activation of the gate, or of the channels where there is none.
    pub activation: Gate,
    /// `[F, H]`, where there is one.
    pub gate: Option<Affine>,
    /// `[F, H]`.
    pub up: Affine,
    /// `[H, F]`; its mask is that of the channels.
    pub down: Affine,
    /// How it is added to its input.
    pub residual: Residual,
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
        let Some(gate) = &self.gate else { return self.onto(x, x) };
        let maps = [gate, &self.up, &self.down];
        let norms = self.norms();
        let weights = maps.iter().all(|map| map.fused()) && norms.flatten().all(Norm::fused);
        let others_masked = gate.mask.is_some() || self.up.mask.is_some();
        if !weights || others_masked || !fused(&[x]) || x.elem_count() == 0 {
            return self.onto(x, x);
        }
        let hidden = x.dim(D::Minus1)?;
        let inner = gate.outputs(hidden)?;
        let fits = |norm: &Norm| norm.fits(hidden);
        if !self.norms().flatten().all(fits)
            || self.up.outputs(hidden)? != inner
            || self.down.outputs(inner)? != hidden
        {
            bail!("feed-forward: the weights do not fit each other or input {:?}", x.shape());
        }
        let saved = x.track_op().then(OnceLock::new);
        x.contiguous()?.apply_op1(Fused { weights: self.clone(), gate: gate.clone(), saved })
    }

    /// The norms before and after it.
    fn norms(&self) -> impl Iterator<Item = Option<&Norm>> {
        [&self.norm, &self.residual.norm].into_iter().map(Option::as_ref)
    }

    /// What the last map reads: the channels.
    ///
    /// # Shapes
    /// `[.., H]` → `[.., F]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn channels(&self, x: &Tensor) -> Result<Tensor> {
        let h = match &self.norm {
            Some(norm) => &norm.apply(x)?,
            None => x,
        };
        match &self.gate {
            Some(gate) => gated(self.activation, &gate.apply(h)?, &self.up.apply(h)?),
            None => activated(self.activation, &self.up.apply(h)?),
        }
    }

    /// The sublayer of `x`, added to another stream, operation by operation.
    ///
    /// # Shapes
    /// `[.., H]`, `[.., H]` → `[.., H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a tap's own.
    pub fn onto(&self, stream: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.residual.add(stream, &self.down.apply(&self.channels(x)?)?)
    }
}

struct Fused {
    weights: FeedForward,
    gate: Affine,
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
    /// Input of the last map, behind the mask, `[R, F]`.
    inner: Tensor,
    /// Output of the last map, `[R, H]`, where a norm reads it.
    z: Vec<f32>,
}

impl Fused {
    /// Gate, up and down.
    fn maps(&self) -> [&Affine; 3] {
        let FeedForward { up, down, .. } = &self.weights;
        [&self.gate, up, down]
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let FeedForward { norm, activation, residual, down, .. } = &self.weights;
        let x: &[f32] = slice(x, layout)?;
        let mask = down.mask.as_ref().map(Held::new);
        let mask: Option<&[f32]> = mask.as_ref().map(Held::slice).transpose()?;
        let hidden = layout.dims()[layout.dims().len() - 1];
        let rows = x.len() / hidden;
        let [gate, up, down] = self.maps().map(|map| map.running(Way::Forward, rows));
        let (gate, up, down) = (gate?, up?, down?);
        let [norm, after] = [norm, &residual.norm].map(|norm| Norm::held(norm.as_ref()));
        let (norm, after) = (running(&norm)?, running(&after)?);
        let width = gate.sizes.outputs;
        let of_z = if residual.plain() { 0 } else { hidden };
        let widths = [hidden, width, width, width, of_z];

        let blocks = Running::blocks(&[&gate, &up, &down]);
        let run =
            |at: usize, [h, to_gate, to_up, inner, z]: [&mut Unwritten; 5], y: &mut Unwritten| {
                let first = blocks.range(at).start;
                let x = &x[first * hidden..][..y.len()];
                write_norm(norm, x, h);
                // SAFETY: written above.
                let h = unsafe { written(h) };
                let [of_gate, of_up] = Running::write([&gate, &up], h, first, [to_gate, to_up])?;
                gate::write(*activation, of_gate, of_up, inner);
                // SAFETY: written above.
                let inner = unsafe { written(inner) };
                if let Some(mask) = mask {
                    scale_columns(inner, mask);
                }
                if residual.plain() {
                    return down.add(inner, first, y.write_copy_of_slice(x));
                }
                let [z] = Running::write([&down], inner, first, [z])?;
                residual.write(after, x, z, y);
                Ok(())
            };
        let mut y = Sheets::new(rows, [hidden]);
        let of_y = y.blocks(blocks);
        match &self.saved {
            // What a block leaves goes with it.
            None => {
                threads::blocks(of_y, |at, [y]| {
                    let rows = y.len() / hidden;
                    let mut of_block = Sheets::new(rows, widths);
                    let mut blocks = of_block.blocks(Blocks::one(rows)).into_iter();
                    blocks.try_for_each(|of_block| run(at, of_block, y))
                })?;
            }
            Some(saved) => {
                let mut all = Sheets::new(rows, widths);
                let of_all = all.blocks(blocks).into_iter().zip(of_y).collect();
                threads::blocks(of_all, |at, (of_block, [y])| run(at, of_block, y))?;
                // SAFETY: all blocks were run.
                let [h, gate, up, inner, z] = unsafe { all.written() };
                let (h, inner) = (matrix(h, hidden)?, matrix(inner, width)?);
                saved.get_or_init(|| Saved { h, gate, up, inner, z });
            }
        }
        // SAFETY: all blocks were run.
        let [y] = unsafe { y.written() };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(Saved { h, gate, up, inner, z }) = self.saved.as_ref().and_then(OnceLock::get)
        else {
            bail!("feed-forward: backward of an input that was not tracked")
        };
        let FeedForward { norm, activation, residual, .. } = &self.weights;
        let (hidden, width) = (h.dim(1)?, inner.dim(1)?);
        // Of what enters the sublayer beside it, and of what the last map gives.
        let grad = rows(grad)?;
        let grad_z = residual.pull(Some(z), &grad)?;
        let all = grad.dim(0)?;
        let [of_gate, of_up, of_down] = self.maps().map(|map| map.running(Way::Back, all));
        let (of_gate, of_up, of_down) = (of_gate?, of_up?, of_down?);
        let [of_x, of_grad, of_grad_z] = [x, &grad, &grad_z].map(Held::new);
        let [of_h, of_inner] = [h, inner].map(Held::new);
        let (x_values, dy): (&[f32], &[f32]) = (of_x.slice()?, of_grad.slice()?);
        let dz: &[f32] = of_grad_z.slice()?;
        let (h_values, inner_values): (&[f32], &[f32]) = (of_h.slice()?, of_inner.slice()?);
        let norm = Norm::held(norm.as_ref());
        let norm = running(&norm)?;
        let mask = self.weights.down.mask.as_ref().map(Held::new);
        let mask: Option<&[f32]> = mask.as_ref().map(Held::slice).transpose()?;

        let blocks = Running::blocks(&[&of_gate, &of_up, &of_down]);
        let behind_mask = if mask.is_some() { width } else { 0 };
        let mut made = Sheets::new(all, [width, width, hidden, behind_mask]);
        let parts =
            threads::blocks(made.blocks(blocks), |at, [to_gate, to_up, to_x, to_masked]| {
                let range = blocks.range(at);
                let first = range.start;
                let part = |values, width| rows_of(values, range.clone(), width);
                let (h, dy, dz) = (part(h_values, hidden), part(dy, hidden), part(dz, hidden));
                let (mut inner, mut normed) = (Vec::new(), Vec::new());
                let to_inner =
                    if mask.is_some() { to_masked } else { room(&mut inner, to_up.len()) };
                let (grad_inner, down) =
                    of_down.pull(part(inner_values, width), dz, first, to_inner)?;
                let of = [part(gate, width), part(up, width), grad_inner];
                gate::write_gradients(*activation, of, to_gate, to_up);
                // SAFETY: written above.
                let (grad_gate, grad_up) = unsafe { (written(to_gate), written(to_up)) };
                if let Some(mask) = mask {
                    // The gradients of both are linear in that of the channels.
                    scale_columns(grad_gate, mask);
                    scale_columns(grad_up, mask);
                }
                let (grad_h, up) = of_up.pull(h, grad_up, first, room(&mut normed, to_x.len()))?;
                let gate = of_gate.pull_onto(h, grad_gate, first, grad_h)?;
                write_norm_gradient(norm, part(x_values, hidden), grad_h, to_x);
                // SAFETY: written above.
                add(unsafe { written(to_x) }, dy);
                Ok([down, up, gate])
            })?;
        // SAFETY: all blocks were run.
        let [grad_gate, grad_up, grad_x, grad_masked] = unsafe { made.written() };
        let [down, up_parts, gate_parts] = by_map(parts);
        let [gate_map, up_map, down_map] = self.maps();
        down_map.show(inner, &grad_z, down)?;
        if let (Some(_), Some(tap)) = (mask, &down_map.tap) {
            let channels = matrix(gate::forward(*activation, gate, up), width)?;
            tap.mask(&channels, &matrix(grad_masked, width)?)?;
        }
        up_map.show(h, &matrix(grad_up, width)?, up_parts)?;
        gate_map.show(h, &matrix(grad_gate, width)?, gate_parts)?;
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), &Device::Cpu)?))
    }
}
