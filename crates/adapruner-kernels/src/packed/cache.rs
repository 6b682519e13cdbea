//! Cache of a weight's packed forms, each made when it pays off.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor, TensorId, bail};
use half::bf16;

use super::{Arithmetic, PackedWeight, Source, integers::Integers};
use crate::{
    buffer::{Held, Weight},
    map::{Sizes, Way},
};

/// Products of at least so many rows widen bf16 weights on their way: measured, laying
/// them out costs a tenth of the time at 256 rows and a fiftieth at 1024.
const MANY_ROWS: usize = 512;

/// Holds the packed forms of one weight beside the weight.
///
/// Integers take two bytes a number, and as many again for backward; as laying them out
/// takes a tenth of the time of a product of a thousand rows, they are made at the first
/// product of integers. bf16 pairs take as many bytes as the weight: they are made at the
/// first dot product for the same reason, otherwise at the first product of few rows
/// (generation, short batches); where there is none, as when evaluating large batches,
/// nothing is held.
///
/// Clones share them. They are only made of weights on the CPU that are not tracked, on
/// processors that have the [`Arithmetic`], and never used for another tensor than
/// the one they were made of: a weight that is replaced is laid out on the way.
#[derive(Debug, Clone, Default)]
pub struct Packed(Arc<Forms>);

#[derive(Debug, Default)]
struct Forms {
    pairs: Form<PackedWeight>,
    integers: Form<Integers>,
    transposed: Form<Integers>,
}

/// A form, and which tensor it was made of.
#[derive(Debug)]
struct Form<T>(OnceLock<(TensorId, Arc<T>)>);

impl<T> Default for Form<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Form<T> {
    /// The form of `weight`; made now if there is none.
    fn of(&self, weight: &Tensor, make: impl FnOnce() -> Result<T>) -> Result<Option<Arc<T>>> {
        if self.0.get().is_none() {
            let made = Arc::new(make()?);
            self.0.get_or_init(|| (weight.id(), made));
        }
        Ok(self.0.get().filter(|(id, _)| *id == weight.id()).map(|(_, form)| form.clone()))
    }
}

/// One of the packed forms.
#[derive(Clone)]
pub(crate) enum Laid {
    Pairs(Arc<PackedWeight>),
    Integers(Arc<Integers>),
}

impl Laid {
    /// As the right side of products by an arithmetic, if it can be.
    pub(crate) fn source(&self, arithmetic: Arithmetic) -> Option<Source<'_>> {
        match self {
            Self::Pairs(pairs) => Some(Source::Packed(pairs)),
            Self::Integers(integers) => {
                (arithmetic == Arithmetic::Int16).then_some(Source::Integers(integers))
            }
        }
    }
}

impl Packed {
    /// Bytes of the forms of a weight of this type, on the CPU in the precision that is set.
    pub fn bytes(dtype: DType) -> PackedBytes {
        let of = |way: Way| way.arithmetic(dtype, Sizes::MANY);
        let forward = of(Way::Forward).map_or(0, bytes_laid_out);
        let back = of(Way::Back).map_or(0, bytes_laid_out);
        let pairs_alone = dtype == DType::BF16 && of(Way::Forward) != Some(Arithmetic::Dot);
        PackedBytes { forward, back, few: if pairs_alone { size_of::<bf16>() } else { 0 } }
    }

    /// Makes the form that products `x · Wᵀ` of many rows read, if there is one: sooner than
    /// the first of them, while the weight is still in a cache.
    ///
    /// # Errors
    /// Weights that are no matrix.
    pub fn lay_out(&self, weight: &Tensor) -> Result<()> {
        self.of(weight, Way::Forward, usize::MAX).map(drop)
    }

    /// The packed form of `weight` for so many rows that go through it, if there is one.
    ///
    /// # Errors
    /// Weights that are no matrix.
    pub(crate) fn of(&self, weight: &Tensor, way: Way, rows: usize) -> Result<Option<Laid>> {
        if !packable(weight) {
            return Ok(None);
        }
        let (outputs, inputs) = weight.dims2()?;
        let sizes = Sizes { rows, inputs, outputs };
        let Forms { pairs, integers, transposed } = &*self.0;
        match (way.arithmetic(weight.dtype(), sizes), way) {
            (Some(Arithmetic::Int16), _) => {
                let form = match way {
                    Way::Forward => integers,
                    Way::Back => transposed,
                };
                Ok(form.of(weight, || laid_out(weight, way, sizes))?.map(Laid::Integers))
            }
            (Some(arithmetic), Way::Forward)
                if weight.dtype() == DType::BF16
                    && (arithmetic == Arithmetic::Dot
                        || rows < MANY_ROWS
                        || pairs.0.get().is_some()) =>
            {
                Ok(pairs.of(weight, || PackedWeight::pack(weight))?.map(Laid::Pairs))
            }
            _ => Ok(None),
        }
    }
}

/// Bytes that the packed forms of a weight take for each of its numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackedBytes {
    /// The form that products `x · Wᵀ` of many rows read.
    pub forward: usize,
    /// The form that products `dy · W` of many rows read.
    pub back: usize,
    /// The form that products of few rows read, where it is one of its own.
    pub few: usize,
}

/// Bytes of a number in the form that products of many rows read, if there is one.
fn bytes_laid_out(arithmetic: Arithmetic) -> usize {
    match arithmetic {
        Arithmetic::Int16 => size_of::<i16>(),
        Arithmetic::Dot => size_of::<bf16>(),
        Arithmetic::Widen | Arithmetic::Scalar => 0,
    }
}

fn packable(weight: &Tensor) -> bool {
    let dtypes = [DType::F32, DType::BF16];
    weight.device().is_cpu() && !weight.track_op() && dtypes.contains(&weight.dtype())
}

/// A weight as integers, for one of the ways.
fn laid_out(weight: &Tensor, way: Way, sizes: Sizes) -> Result<Integers> {
    let weight = weight.contiguous()?;
    let held = Held::new(&weight);
    let source = match held.weight()? {
        Weight::F32(values) => Source::F32(way.view(values, sizes)),
        Weight::Bf16(values) => Source::Bf16(way.view(values, sizes)),
        Weight::F16(_) => bail!("integer products need f32 or bf16 weights, found f16"),
    };
    Ok(Integers::of(source))
}
