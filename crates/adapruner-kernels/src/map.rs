//! The weight of a linear map during a forward or backward pass.
//!
//! Axes: `R` rows, `in` and `out` sides of the weight.

use candle_core::DType;

use crate::{
    buffer::{Unwritten, Weight, build, rewritten, written},
    gemm::{par_multiply, par_multiply_add},
    packed::{self, Arithmetic, Entering, Laid, Source},
    view::View,
};

/// Elements of a weight that are converted to f32 at a time.
const CONVERTED: usize = 1024 * 1024;

/// The axes of a product.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// Which way rows go through a weight `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `y = x · Wᵀ`.
    Forward,
    /// `dx = dy · W`.
    Back,
}

impl Sizes {
    /// So large that it does not matter how large.
    pub(crate) const MANY: Self = Self { rows: 1 << 20, inputs: 1 << 20, outputs: 1 << 20 };
}

impl Way {
    /// Numbers of a row that enters and of one that leaves.
    fn sides(self, Sizes { inputs, outputs, .. }: Sizes) -> (usize, usize) {
        match self {
            Self::Forward => (inputs, outputs),
            Self::Back => (outputs, inputs),
        }
    }

    /// How products with a weight are made, if by our own kernels.
    pub(crate) fn arithmetic(self, dtype: DType, sizes: Sizes) -> Option<Arithmetic> {
        let (entering, leaving) = self.sides(sizes);
        let what = match self {
            Self::Forward => Entering::Activations,
            Self::Back => Entering::Gradients,
        };
        Arithmetic::of_weight(dtype, sizes.rows, entering, leaving, what)
    }

    /// A weight as the right side of products, `[entering, leaving]`.
    pub(crate) fn view<T>(self, values: &[T], Sizes { inputs, outputs, .. }: Sizes) -> View<'_, T> {
        let weight = View::dense(values, outputs, inputs);
        match self {
            Self::Forward => weight.t(),
            Self::Back => weight,
        }
    }
}

/// A weight as it is held and as it is packed for one of the ways, and the axes of all
/// products with it, of which some rows may be made at a time: how they are made goes by
/// all rows.
#[derive(Clone, Copy)]
pub(crate) struct Map<'a> {
    pub(crate) weight: Weight<'a>,
    /// The same weight.
    pub(crate) packed: Option<&'a Laid>,
    pub(crate) way: Way,
    pub(crate) sizes: Sizes,
}

impl<'a> Map<'a> {
    /// What leaves when all rows enter.
    pub(crate) fn product(&self, entering: &[f32]) -> Vec<f32> {
        let (_, width) = self.way.sides(self.sizes);
        // SAFETY: `write` writes everything.
        unsafe { build(self.sizes.rows * width, |to| self.write(entering, to)) }
    }

    /// What leaves when some rows enter; writes all of `to`.
    pub(crate) fn write(&self, entering: &[f32], to: &mut Unwritten) {
        match self.right() {
            Some((arithmetic, right)) => {
                let rows = self.rows(to.len());
                packed::write_all(arithmetic, entering, &[right], &mut [to], rows);
            }
            // SAFETY: nothing is added to.
            None => unsafe { self.by_parts(entering, to, false) },
        }
    }

    /// [`Self::write`] of several maps that go one way, which read the rows once where our
    /// own kernels make all products alike.
    pub(crate) fn write_all(maps: &[Self], entering: &[f32], to: &mut [&mut Unwritten]) {
        let rights = maps.iter().map(Self::right);
        if let Some(rights) = rights.collect::<Option<Vec<_>>>()
            && let [(arithmetic, _), rest @ ..] = &rights[..]
            && rest.iter().all(|(other, _)| other == arithmetic)
            && let ([map, ..], [first, ..]) = (maps, &*to)
        {
            let sources: Vec<_> = rights.iter().map(|&(_, source)| source).collect();
            let rows = map.rows(first.len());
            return packed::write_all(*arithmetic, entering, &sources, to, rows);
        }
        maps.iter().zip(to).for_each(|(map, to)| map.write(entering, to));
    }

    /// What leaves when some rows enter, added to `to`.
    pub(crate) fn add(&self, entering: &[f32], to: &mut [f32]) {
        match self.right() {
            Some((arithmetic, right)) => {
                packed::forward_onto(arithmetic, entering, right, self.rows(to.len()), to);
            }
            // SAFETY: numbers are added to numbers.
            None => unsafe { self.by_parts(entering, rewritten(to), true) },
        }
    }

    /// Rows of so many numbers that leave.
    fn rows(&self, len: usize) -> usize {
        let (_, width) = self.way.sides(self.sizes);
        len / width.max(1)
    }

    /// The weight as the right side of products, where our own kernels take it.
    fn right(&self) -> Option<(Arithmetic, Source<'a>)> {
        let Self { weight, packed, way, sizes } = *self;
        let arithmetic = way.arithmetic(weight.dtype(), sizes)?;
        let packed = packed.and_then(|packed| packed.source(arithmetic));
        let source = match (packed, weight) {
            (Some(packed), _) => packed,
            (None, Weight::Bf16(values)) => Source::Bf16(way.view(values, sizes)),
            (None, Weight::F32(values)) => Source::F32(way.view(values, sizes)),
            (None, Weight::F16(_)) => return None,
        };
        Some((arithmetic, source))
    }

    /// The product with one part of the weight's rows after another, as f32.
    ///
    /// # Safety
    /// `to` must hold numbers if they are added to.
    unsafe fn by_parts(&self, entering: &[f32], to: &mut Unwritten, add: bool) {
        let Sizes { inputs, outputs, .. } = self.sizes;
        let rows = self.rows(to.len());
        let step = match self.weight {
            Weight::F32(_) => outputs.max(1),
            Weight::Bf16(_) | Weight::F16(_) => (CONVERTED / inputs.max(1)).max(1),
        };
        let mut scratch = Vec::new();
        // Without outputs, gradients are zero.
        for start in (0..outputs.max(1)).step_by(step) {
            let end = (start + step).min(outputs);
            let part = self.weight.part(start * inputs..end * inputs, &mut scratch);
            let part = View::dense(part, end - start, inputs);
            let (entering, part, to, add, stride) = match self.way {
                Way::Forward => {
                    let to = to.get_mut(start..).unwrap_or_default();
                    (View::dense(entering, rows, inputs), part.t(), to, add, outputs)
                }
                Way::Back => {
                    let entering = entering.get(start..).unwrap_or_default();
                    let entering = View::new(entering, rows, end - start, outputs);
                    (entering, part, &mut *to, add || start > 0, inputs)
                }
            };
            if add {
                // SAFETY: the caller's promise, or written by the first part.
                par_multiply_add(entering, part, unsafe { written(to) }, stride);
            } else {
                par_multiply(entering, part, to, stride);
            }
        }
    }
}
