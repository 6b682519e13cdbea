//! Whole sublayers of a decoder as one operation each: fewer passes over the
//! activations than operation by operation, in both directions.
//!
//! On the CPU, and where no weight is tracked, forward adds the sublayer to its
//! input in place and backward is written out by hand; otherwise a sublayer is
//! the composition of this crate's operations. Taps see the same either way.

mod attention;
mod experts;
mod feed_forward;
mod residual;

use std::{ops::Range, sync::Arc};

use candle_core::{D, DType, Device, Result, Tensor, bail};

pub use self::{
    attention::{Rotation, SelfAttention},
    experts::{Expertise, Experts, ShowExpert},
    feed_forward::FeedForward,
    residual::Residual,
};
use crate::{
    GradTap, LowRank,
    buffer::{GRAIN, Held, Unwritten, Weight, rows_of_a_task, written},
    composition, layer_norm, linear,
    low_rank::{self, Parts},
    map::{Map, Sizes, Way},
    norm,
    packed::{Laid, Packed},
    threads::{self, Blocks},
};

/// A norm: root mean square, or with a bias layer normalisation.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Factor of every column.
    pub weight: Tensor,
    /// What is added to every column, of a layer norm.
    pub bias: Option<Tensor>,
    /// Added to the mean square or variance.
    pub eps: f64,
}

impl Norm {
    /// The norm of `x`: of whole rows, or of as wide a part of each as the weight is.
    ///
    /// # Shapes
    /// `[.., n · w]`, a weight of `[w]` → `[.., n · w]`.
    ///
    /// # Errors
    /// A weight that does not divide the rows.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (whole, part) = (x.dim(D::Minus1)?, self.weight.elem_count());
        let of = |x: &Tensor| match &self.bias {
            None => norm::rms_norm(x, &self.weight, self.eps),
            Some(bias) => layer_norm(x, &self.weight, bias, self.eps),
        };
        if whole == part {
            return of(x);
        }
        self.check(whole)?;
        of(&x.reshape(((), part))?)?.reshape(x.shape())
    }

    /// Whether the fused path takes it.
    fn fused(&self) -> bool {
        fused_vector(&self.weight) && self.bias.as_ref().is_none_or(fused_vector)
    }

    /// Whether it is of whole rows of `width`.
    fn fits(&self, width: usize) -> bool {
        self.weight.dims() == [width] && self.bias.as_ref().is_none_or(|b| b.dims() == [width])
    }

    /// Checks that rows of `width` are made of whole parts.
    fn check(&self, width: usize) -> Result<()> {
        let part = self.weight.dims1()?;
        if part == 0 || !width.is_multiple_of(part) {
            bail!("a norm of {part} does not fit rows of {width}");
        }
        Ok(())
    }

    /// The weights while they are read.
    fn held(norm: Option<&Self>) -> Option<HeldNorm<'_>> {
        norm.map(|norm| HeldNorm {
            weight: Held::new(&norm.weight),
            bias: norm.bias.as_ref().map(Held::new),
            eps: norm.eps,
        })
    }
}

/// A norm's tensors while they are read.
struct HeldNorm<'a> {
    weight: Held<'a>,
    bias: Option<Held<'a>>,
    eps: f64,
}

/// A norm while rows go through it: weight, bias and epsilon.
type RunningNorm<'a> = Option<(&'a [f32], Option<&'a [f32]>, f64)>;

/// What [`Norm::held`] holds.
fn running<'a>(held: &'a Option<HeldNorm<'_>>) -> Result<RunningNorm<'a>> {
    let of = |held: &'a HeldNorm<'_>| {
        let bias: Option<&[f32]> = held.bias.as_ref().map(Held::slice).transpose()?;
        Ok((held.weight.slice()?, bias, held.eps))
    };
    held.as_ref().map(of).transpose()
}

/// The rows' norm, or the rows, into `to`, all of which is written.
fn write_norm(norm: RunningNorm<'_>, x: &[f32], to: &mut Unwritten) {
    match norm {
        Some((weight, None, eps)) => norm::write(x, weight, eps, to),
        Some((weight, Some(bias), eps)) => layer_norm::write(x, weight, bias, eps, to),
        None => {
            to.write_copy_of_slice(x);
        }
    }
}

/// The gradient of what a norm reads from that of what it gives.
fn write_norm_gradient(norm: RunningNorm<'_>, x: &[f32], grad: &[f32], to: &mut Unwritten) {
    match norm {
        Some((weight, None, eps)) => norm::write_grad_input(x, weight, grad, eps, to),
        Some((weight, Some(_), eps)) => layer_norm::write_grad_input(x, weight, grad, eps, to),
        None => {
            to.write_copy_of_slice(grad);
        }
    }
}

/// A linear map with its optional bias, mask and tap.
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
    /// Factors of the map's inputs, `[in]`; the map and its update read the products.
    pub mask: Option<Tensor>,
    /// Sees what the map saw, in the backward pass.
    pub tap: Option<Arc<dyn GradTap>>,
}

impl Affine {
    /// `x · Wᵀ + b`, with the update; of `x` times the mask, where there is one.
    ///
    /// # Shapes
    /// `[.., in]` → `[.., out]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        let packed = self.packed.of(&self.weight, Way::Forward, rows)?;
        let x = &match &self.mask {
            None => x.clone(),
            Some(mask) => composition::masked(x, mask, self.tap.clone())?,
        };
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
        let (bias, mask) = (self.bias.as_ref(), self.mask.as_ref());
        constant(&self.weight)
            && Weight::takes(self.weight.dtype())
            && self.weight.is_contiguous()
            && self.adapter.as_ref().is_none_or(LowRank::fused)
            && bias.is_none_or(fused_vector)
            && mask.is_none_or(fused_vector)
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
        if let Some(mask) = &self.mask
            && mask.dims() != [inputs]
        {
            bail!("a mask of {:?} does not fit {inputs} inputs", mask.shape());
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

    /// The map while so many rows, or their gradients, go through it.
    fn running(&self, way: Way, rows: usize) -> Result<Running<'_>> {
        let packed = self.packed.of(&self.weight, way, rows)?;
        let bias = self.bias.as_ref().map(Held::new);
        let (weight, sizes) = (Held::new(&self.weight), self.sizes(rows)?);
        Ok(Running { map: self, weight, bias, packed, way, sizes })
    }

    /// Shows the tap what it waits for: `input` is `[R, in]`, `grad` `[R, out]`, and
    /// `parts` those of the update's gradients.
    fn show(&self, input: &Tensor, grad: &Tensor, parts: Parts) -> Result<()> {
        let Some(tap) = &self.tap else { return Ok(()) };
        composition::show(tap.as_ref(), input, &self.weight, grad)?;
        if let Some(adapter) = &self.adapter {
            tap.low_rank(adapter.gradients(parts)?)?;
        }
        Ok(())
    }
}

/// A map while rows go through it, some at a time.
struct Running<'a> {
    map: &'a Affine,
    weight: Held<'a>,
    bias: Option<Held<'a>>,
    packed: Option<Laid>,
    way: Way,
    /// Of all rows.
    sizes: Sizes,
}

impl Running<'_> {
    fn weight(&self) -> Result<Map<'_>> {
        let Self { way, sizes, .. } = *self;
        Ok(Map { weight: self.weight.weight()?, packed: self.packed.as_ref(), way, sizes })
    }

    /// How rows go through maps, each block through all of them.
    fn blocks(maps: &[&Self]) -> Blocks {
        let rows = maps.first().map_or(0, |map| map.sizes.rows);
        let laid_out = maps.iter().all(|map| map.packed.is_some());
        let blocks = Blocks::side_by_side(rows, laid_out);
        // Sums of gradients of updates do not depend on the number of threads.
        let updated = maps.iter().any(|map| map.map.adapter.is_some());
        if updated && blocks.count() > 1 { low_rank::blocks(rows) } else { blocks }
    }

    /// The gradient of the input from that of the output; `first` is which of all rows
    /// they begin at, `input` what was read of these.
    fn pull<'y>(
        &self,
        input: &[f32],
        grad: &[f32],
        first: usize,
        to: &'y mut Unwritten,
    ) -> Result<(&'y mut [f32], Parts)> {
        self.weight()?.write(grad, to);
        // SAFETY: all of it was written.
        let to = unsafe { written(to) };
        let parts = self.pull_update(input, grad, first, to)?;
        Ok((to, parts))
    }

    /// [`Self::pull`], added to the output.
    fn pull_onto(
        &self,
        input: &[f32],
        grad: &[f32],
        first: usize,
        to: &mut [f32],
    ) -> Result<Parts> {
        self.weight()?.add(grad, to);
        self.pull_update(input, grad, first, to)
    }

    fn pull_update(
        &self,
        input: &[f32],
        grad: &[f32],
        first: usize,
        to: &mut [f32],
    ) -> Result<Parts> {
        let Affine { adapter: Some(adapter), tap, .. } = self.map else { return Ok(Vec::new()) };
        adapter.backward_onto(input, first, grad, to, self.sizes, tap.is_some())
    }

    /// `x · Wᵀ + b` with the update, of several maps that read `x` once where they can;
    /// `first` is which of all rows `x` begins at.
    fn write<'y, const N: usize>(
        maps: [&Self; N],
        x: &[f32],
        first: usize,
        mut y: [&'y mut Unwritten; N],
    ) -> Result<[&'y mut [f32]; N]> {
        let weights = maps.iter().map(|map| map.weight()).collect::<Result<Vec<_>>>()?;
        Map::write_all(&weights, x, &mut y);
        // SAFETY: all of them were written.
        let mut y = y.map(|y| unsafe { written(y) });
        for (map, y) in maps.iter().zip(&mut y) {
            map.finish(x, first, y)?;
        }
        Ok(y)
    }

    /// `y += x · Wᵀ + b` with the update.
    fn add(&self, x: &[f32], first: usize, y: &mut [f32]) -> Result<()> {
        self.weight()?.add(x, y);
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

/// Whether the fused path takes a norm's weight, a bias or a mask.
fn fused_vector(values: &Tensor) -> bool {
    constant(values) && values.dtype() == DType::F32 && values.is_contiguous()
}

/// Numbers as a matrix of rows `width` wide.
fn matrix(values: Vec<f32>, width: usize) -> Result<Tensor> {
    let rows = values.len() / width.max(1);
    Tensor::from_vec(values, (rows, width), &Device::Cpu)
}

/// Adds `other` to `values`.
fn add(values: &mut [f32], other: &[f32]) {
    threads::chunks(values, GRAIN, |at, values| {
        values.iter_mut().zip(&other[at * GRAIN..]).for_each(|(v, o)| *v += o);
    });
}

/// Multiplies each column of a matrix by its factor.
fn scale_columns(values: &mut [f32], factors: &[f32]) {
    let width = factors.len().max(1);
    threads::chunks(values, rows_of_a_task(width) * width, |_, rows| {
        for row in rows.chunks_exact_mut(width) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
    });
}

/// Rows of a matrix of rows `width` wide.
fn rows_of(values: &[f32], rows: Range<usize>, width: usize) -> &[f32] {
    &values[rows.start * width..rows.end * width]
}

/// What blocks of rows give, each for some maps, as what they give for each map.
fn by_map<const N: usize>(blocks: Vec<[Parts; N]>) -> [Parts; N] {
    let mut all = [const { Parts::new() }; N];
    for block in blocks {
        all.iter_mut().zip(block).for_each(|(all, parts)| all.extend(parts));
    }
    all
}
