//! Whole sublayers of a decoder as one operation each: fewer passes over the
//! activations than operation by operation, in both directions.
//!
//! On the CPU, and where no weight is tracked, forward adds the sublayer to its
//! input in place and backward is written out by hand; otherwise a sublayer is
//! the composition of this crate's operations. Taps see the same either way.

mod attention;
mod feed_forward;

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

pub use self::{attention::SelfAttention, feed_forward::FeedForward};
use crate::{
    GradTap, LowRank,
    buffer::{Held, Unwritten, Weight, rows_of_a_task, written},
    composition,
    linear::{self, Sizes},
    packed::{Laid, Packed},
    threads,
};

/// A linear map with its optional bias and tap.
#[derive(Clone)]
pub struct Affine {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// Holds the weight as products with bf16 weights read it, where that pays.
    pub packed: Packed,
    /// What is added to the map, of low rank.
    pub adapter: Option<LowRank>,
    /// Sees what the map saw, in the backward pass.
    pub tap: Option<Arc<dyn GradTap>>,
}

impl Affine {
    /// `x · Wᵀ + b`, with the update.
    ///
    /// # Shapes
    /// `[.., in]` → `[.., out]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        let packed = self.packed.of(&self.weight, rows)?;
        let y = match &self.adapter {
            None => linear::with_packed(x, &self.weight, self.tap.clone(), packed)?,
            Some(adapter) => {
                let y = linear::with_packed(x, &self.weight, None, packed)?;
                let y = (y + adapter.composed(x)?)?;
                match self.tap.clone() {
                    None => y,
                    Some(tap) => {
                        composition::tapped(&y, x, &self.weight, tap, Some(adapter.clone()))?
                    }
                }
            }
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// Whether the fused path takes the weights.
    fn fused(&self) -> bool {
        let bias = self.bias.as_ref();
        constant(&self.weight)
            && Weight::takes(self.weight.dtype())
            && self.weight.is_contiguous()
            && self.adapter.as_ref().is_none_or(LowRank::fused)
            && bias.is_none_or(|b| constant(b) && b.dtype() == DType::F32 && b.is_contiguous())
    }

    /// Checks the sides against what goes in; returns how many go out.
    fn outputs(&self, inputs: usize) -> Result<usize> {
        let (outputs, found) = self.weight.dims2()?;
        if found != inputs {
            bail!("a weight of {:?} does not take {inputs} inputs", self.weight.shape());
        }
        if let Some(bias) = &self.bias
            && bias.dims() != [outputs]
        {
            bail!("a bias of {:?} does not fit {outputs} outputs", bias.shape());
        }
        if let Some(adapter) = &self.adapter {
            adapter.check(outputs, inputs)?;
        }
        Ok(outputs)
    }

    fn sizes(&self, rows: usize) -> Result<Sizes> {
        let (outputs, inputs) = self.weight.dims2()?;
        Ok(Sizes { rows, inputs, outputs })
    }

    /// The map while so many rows go through it.
    fn running(&self, rows: usize) -> Result<Running<'_>> {
        let packed = self.packed.of(&self.weight, rows)?;
        let bias = self.bias.as_ref().map(Held::new);
        let (weight, sizes) = (Held::new(&self.weight), self.sizes(rows)?);
        Ok(Running { map: self, weight, bias, packed, sizes })
    }

    /// Shows the tap what it waits for, and returns the gradient of the input,
    /// added to `onto` if given. `input` is `[R, in]`, `grad` `[R, out]`.
    fn backward(&self, input: &Tensor, grad: &Tensor, onto: Option<Vec<f32>>) -> Result<Vec<f32>> {
        if let Some(tap) = &self.tap {
            composition::show(tap.as_ref(), input, &self.weight, grad)?;
        }
        let (weight, grad_output) = (Held::new(&self.weight), Held::new(grad));
        let (weight, grad_output) = (weight.weight()?, grad_output.slice()?);
        let sizes = self.sizes(input.dim(0)?)?;
        let packed = self.packed.backward(&self.weight, sizes.rows)?;
        let mut grad_x = match onto {
            None => linear::grad_input(grad_output, weight, packed.as_ref(), sizes),
            Some(mut grad_x) => {
                linear::grad_input_onto(grad_output, weight, packed.as_ref(), sizes, &mut grad_x);
                grad_x
            }
        };
        if let Some(adapter) = &self.adapter {
            let x = Held::new(input);
            let (x, wanted) = (x.slice()?, self.tap.is_some());
            let gradients = adapter.backward_onto(x, grad_output, &mut grad_x, sizes, wanted)?;
            if let (Some(tap), Some(gradients)) = (&self.tap, gradients) {
                tap.low_rank(gradients)?;
            }
        }
        Ok(grad_x)
    }
}

/// A map while rows go through it, some at a time.
struct Running<'a> {
    map: &'a Affine,
    weight: Held<'a>,
    bias: Option<Held<'a>>,
    packed: Option<Laid>,
    /// Of all rows.
    sizes: Sizes,
}

impl Running<'_> {
    fn parts(&self) -> Result<linear::Map<'_>> {
        Ok((self.weight.weight()?, self.packed.as_ref(), self.sizes))
    }

    /// Of some rows that may go block by block through maps, each block through all of
    /// them.
    fn rows_of_a_block(maps: &[&Self]) -> usize {
        let rows = maps.first().map_or(0, |map| map.sizes.rows);
        threads::rows_of_a_block(rows, maps.iter().all(|map| map.packed.is_some()))
    }

    /// `x · Wᵀ + b` with the update, of several maps that read `x` once where they can;
    /// `first` is which of all rows `x` begins at.
    fn write<'y, const N: usize>(
        maps: [&Self; N],
        x: &[f32],
        first: usize,
        mut y: [&'y mut Unwritten; N],
    ) -> Result<[&'y mut [f32]; N]> {
        let parts = maps.iter().map(|map| map.parts()).collect::<Result<Vec<_>>>()?;
        linear::write_all(x, &parts, &mut y);
        // SAFETY: all of them were written.
        let mut y = y.map(|y| unsafe { written(y) });
        for (map, y) in maps.iter().zip(&mut y) {
            map.finish(x, first, y)?;
        }
        Ok(y)
    }

    /// `y += x · Wᵀ + b` with the update.
    fn add(&self, x: &[f32], first: usize, y: &mut [f32]) -> Result<()> {
        linear::forward_onto(x, self.parts()?, y);
        self.finish(x, first, y)
    }

    /// Adds what is beside the weight.
    fn finish(&self, x: &[f32], first: usize, y: &mut [f32]) -> Result<()> {
        if let Some(adapter) = &self.map.adapter {
            adapter.forward_onto(x, first, y, self.sizes)?;
        }
        if let Some(bias) = &self.bias {
            let bias: &[f32] = bias.slice()?;
            let size = rows_of_a_task(bias.len()) * bias.len().max(1);
            threads::chunks(y, size, |_, rows| {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            });
        }
        Ok(())
    }
}

/// Whether a tensor is on the CPU and not tracked.
fn constant(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && !tensor.track_op()
}

/// Whether the fused path takes a norm's weight.
fn fused_norm(norm: &Tensor) -> bool {
    constant(norm) && norm.dtype() == DType::F32 && norm.is_contiguous()
}

/// Numbers as a matrix of rows `width` wide.
fn matrix(values: Vec<f32>, width: usize) -> Result<Tensor> {
    let rows = values.len() / width.max(1);
    Tensor::from_vec(values, (rows, width), &Device::Cpu)
}

/// Adds `other` to `values`.
fn add(values: &mut [f32], other: &[f32]) {
    let grain = rows_of_a_task(1);
    values.par_chunks_mut(grain).zip(other.par_chunks(grain)).for_each(|(values, other)| {
        values.iter_mut().zip(other).for_each(|(v, o)| *v += o);
    });
}
