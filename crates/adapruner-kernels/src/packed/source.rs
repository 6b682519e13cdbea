//! Right sides of products, however they are held.

use std::ops::Range;

use half::bf16;

use super::{COLS, Line, PackedWeight, ahead::Runs, pairs::pairs};
use crate::view::View;

/// The right side of a product, `[in, out]`.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A bf16 weight `[out, in]`, transposed.
    Packed(&'a PackedWeight),
    Bf16(View<'a, bf16>),
    F32(View<'a>),
}

impl<'a> Source<'a> {
    /// The transpose of a row-major weight `[out, in]`.
    pub(crate) fn bf16_weight(values: &'a [bf16], outputs: usize, inputs: usize) -> Self {
        Self::Bf16(View::dense(values, outputs, inputs).t())
    }

    /// Inputs and outputs.
    pub(super) fn sides(self) -> (usize, usize) {
        match self {
            Self::Packed(weight) => (weight.inputs, weight.outputs),
            Self::Bf16(weight) => (weight.rows, weight.cols),
            Self::F32(weight) => (weight.rows, weight.cols),
        }
    }

    /// The columns of a panel.
    pub(super) fn cols(self, panel: usize) -> Range<usize> {
        let (_, outputs) = self.sides();
        panel * COLS..(panel * COLS + COLS).min(outputs)
    }

    /// What a panel is made of, where that is not held as it is read.
    pub(super) fn runs(self, panel: usize, slab: Range<usize>) -> Runs {
        match self {
            Self::Packed(_) => Runs::NONE,
            Self::Bf16(weight) => Runs::of(weight, slab, self.cols(panel)),
            Self::F32(weight) => Runs::of(weight, slab, self.cols(panel)),
        }
    }

    /// The pairs of a panel, if this is a bf16 weight transposed; those of a
    /// row-major one are made in `scratch`.
    pub(super) fn pairs<'s>(
        self,
        panel: usize,
        slab: Range<usize>,
        scratch: &'s mut [Line],
    ) -> Option<&'s [Line]>
    where
        'a: 's,
    {
        match self {
            Self::Packed(weight) => Some(weight.pairs(panel, slab)),
            Self::Bf16(weight) if weight.turned => {
                let to = &mut scratch[..slab.len().div_ceil(2) * Line::OF_COLS];
                pairs(weight.data, weight.cols, weight.stride, panel, slab, to);
                Some(to)
            }
            Self::Bf16(_) | Self::F32(_) => None,
        }
    }
}
