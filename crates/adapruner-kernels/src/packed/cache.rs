//! Cache of a weight's packed forms, each made when it pays off.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor, TensorId, bail};
use half::bf16;

use super::{Arithmetic, PackedWeight, Parts, Source, integers::Integers};
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
/// product of integers. So are the bf16 parts that products of tiles read: two bytes a number
/// and part, of which bf16 weights have one. The pairs that a bf16 weight has forward, which
/// dot products and products of few rows (generation, short batches) read too, take as many
/// bytes as the weight: where neither they nor tiles are used, as when evaluating large
/// batches, nothing is held.
///
/// Clones share them. They are only made of weights on the CPU that are not tracked, on
/// processors that have the [`Arithmetic`], and never used for another tensor than
/// the one they were made of: a weight that is replaced is laid out on the way.
#[derive(Debug, Clone, Default)]
pub struct Packed(Arc<Forms>);

#[derive(Debug, Default)]
struct Forms {
    /// Of a bf16 weight, as all arithmetics read it forward.
    pairs: Form<PackedWeight>,
    forward: OneWay,
    back: OneWay,
}

/// The forms that one way reads.
#[derive(Debug, Default)]
struct OneWay {
    integers: Form<Integers>,
    one: Form<PackedWeight>,
    two: Form<PackedWeight>,
    three: Form<PackedWeight>,
}

impl OneWay {
    /// Those of so many parts.
    fn split(&self, parts: Parts) -> &Form<PackedWeight> {
        match parts {
            Parts::One => &self.one,
            Parts::Two => &self.two,
            Parts::Three => &self.three,
        }
    }
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
            Self::Pairs(pairs) => pairs.serves(arithmetic).then_some(Source::Packed(pairs)),
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
        let bytes = |way| of(way).map_or(0, |arithmetic| bytes_laid_out(arithmetic, dtype));
        let (forward, back) = (bytes(Way::Forward), bytes(Way::Back));
        let pairs_alone = dtype == DType::BF16
            && match of(Way::Forward) {
                Some(Arithmetic::Dot | Arithmetic::Tiles(_) | Arithmetic::Emulated(_)) => false,
                Some(Arithmetic::Int16 | Arithmetic::Widen | Arithmetic::Scalar) | None => true,
            };
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
        let Forms { pairs, forward, back } = &*self.0;
        let of_way = match way {
            Way::Forward => forward,
            Way::Back => back,
        };
        let bf16 = weight.dtype() == DType::BF16;
        let forward_pairs =
            || Ok(pairs.of(weight, || PackedWeight::pack(weight))?.map(Laid::Pairs));
        match (way.arithmetic(weight.dtype(), sizes), way) {
            (Some(Arithmetic::Int16), _) => {
                let made =
                    of_way.integers.of(weight, || laid_out(weight, way, sizes, Integers::of));
                Ok(made?.map(Laid::Integers))
            }
            (
                Some(Arithmetic::Tiles(_) | Arithmetic::Emulated(_) | Arithmetic::Dot),
                Way::Forward,
            ) if bf16 => forward_pairs(),
            (Some(Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts)), _) => {
                // A bf16 weight has one part whatever is asked for.
                let form = if bf16 { &of_way.one } else { of_way.split(parts) };
                let split = |source: Source<'_>| PackedWeight::of(source, parts);
                let made = form.of(weight, || laid_out(weight, way, sizes, split));
                Ok(made?.map(Laid::Pairs))
            }
            (Some(Arithmetic::Widen | Arithmetic::Scalar), Way::Forward)
                if bf16 && (rows < MANY_ROWS || pairs.0.get().is_some()) =>
            {
                forward_pairs()
            }
            (Some(Arithmetic::Widen | Arithmetic::Scalar | Arithmetic::Dot) | None, _) => Ok(None),
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

/// Bytes of a number of this type in the form that products of many rows read, if there is
/// one.
fn bytes_laid_out(arithmetic: Arithmetic, dtype: DType) -> usize {
    match arithmetic {
        Arithmetic::Int16 => size_of::<i16>(),
        Arithmetic::Dot => size_of::<bf16>(),
        Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts) => {
            size_of::<bf16>() * if dtype == DType::BF16 { 1 } else { parts.count() }
        }
        Arithmetic::Widen | Arithmetic::Scalar => 0,
    }
}

fn packable(weight: &Tensor) -> bool {
    let dtypes = [DType::F32, DType::BF16];
    weight.device().is_cpu() && !weight.track_op() && dtypes.contains(&weight.dtype())
}

/// A weight packed for one of the ways.
fn laid_out<T>(
    weight: &Tensor,
    way: Way,
    sizes: Sizes,
    pack: impl FnOnce(Source<'_>) -> T,
) -> Result<T> {
    let weight = weight.contiguous()?;
    let held = Held::new(&weight);
    let source = match held.weight()? {
        Weight::F32(values) => Source::F32(way.view(values, sizes)),
        Weight::Bf16(values) => Source::Bf16(way.view(values, sizes)),
        Weight::F16(_) => bail!("packed products need f32 or bf16 weights, found f16"),
    };
    Ok(pack(source))
}
