//! Right sides of products in any storage.

use std::ops::Range;

use half::bf16;

use super::{
    COLS, Line, PackedWeight, integers::Integers, pairs::pairs, panel, prefetch::Runs, tiles, widen,
};
use crate::view::View;

/// The right side of a product, `[in, out]`.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Packed before as pairs of bf16.
    Packed(&'a PackedWeight),
    /// Rounded before; only products of integers read it.
    Integers(&'a Integers),
    Bf16(View<'a, bf16>),
    F32(View<'a>),
}

impl<'a> Source<'a> {
    /// Inputs and outputs.
    pub(super) fn sides(self) -> (usize, usize) {
        match self {
            Self::Packed(weight) => (weight.inputs, weight.outputs),
            Self::Integers(integers) => integers.sides(),
            Self::Bf16(weight) => (weight.rows, weight.cols),
            Self::F32(weight) => (weight.rows, weight.cols),
        }
    }

    /// The columns of a panel.
    pub(super) fn cols(self, panel: usize) -> Range<usize> {
        let (_, outputs) = self.sides();
        panel * COLS..(panel * COLS + COLS).min(outputs)
    }

    /// What a panel is made of.
    pub(super) fn runs(self, panel: usize, slab: Range<usize>) -> Runs {
        match self {
            Self::Packed(weight) => Runs::lines(weight.blocks(panel, slab)),
            Self::Integers(integers) => Runs::lines(integers.panel(panel, &slab)),
            Self::Bf16(weight) => Runs::of(weight, slab, self.cols(panel)),
            Self::F32(weight) => Runs::of(weight, slab, self.cols(panel)),
        }
    }

    /// Whether panels are held as they are read, or cheap to widen.
    pub(super) fn laid_out(self) -> bool {
        match self {
            Self::Packed(_) | Self::Integers(_) => true,
            Self::Bf16(_) | Self::F32(_) => false,
        }
    }

    /// Whether all numbers are bf16.
    pub(super) fn of_bf16(self) -> bool {
        match self {
            Self::Packed(weight) => weight.exact,
            Self::Bf16(_) => true,
            Self::Integers(_) | Self::F32(_) => false,
        }
    }

    /// Whether this is a bf16 weight transposed, whose pairs lie together.
    pub(super) fn has_pairs(self) -> bool {
        match self {
            Self::Packed(weight) => weight.exact,
            Self::Bf16(weight) => weight.transposed,
            Self::Integers(_) | Self::F32(_) => false,
        }
    }

    /// The pairs of a panel, which [`Self::has_pairs`]; those of a row-major weight are
    /// made in `scratch`.
    pub(super) fn pairs<'s>(
        self,
        panel: usize,
        slab: Range<usize>,
        scratch: &'s mut [Line],
    ) -> &'s [Line]
    where
        'a: 's,
    {
        match self {
            Self::Packed(weight) => weight.pairs(panel, slab),
            Self::Bf16(weight) if weight.transposed => {
                let to = &mut scratch[..slab.len().div_ceil(2) * Line::OF_COLS];
                pairs(weight.data, weight.cols, weight.stride, panel, slab, to);
                to
            }
            Self::Bf16(_) | Self::Integers(_) | Self::F32(_) => {
                unreachable!("what is not bf16, its inputs together, is not read in pairs")
            }
        }
    }

    /// The blocks of a panel for products of tiles, and how many parts they hold; made in `to`
    /// where they are not held so. `block_done` as for [`Self::widened`].
    pub(super) fn blocks<'s>(
        self,
        panel: usize,
        slab: Range<usize>,
        parts: usize,
        [pairs, widened]: [&mut [Line]; 2],
        to: &'s mut [Line],
        block_done: impl FnMut(),
    ) -> (&'s [Line], usize)
    where
        'a: 's,
    {
        if let Self::Packed(weight) = self {
            return (weight.blocks(panel, slab), weight.parts);
        }
        let parts = if self.of_bf16() { 1 } else { parts };
        let to = &mut to[..slab.len().div_ceil(tiles::BLOCK) * parts * tiles::BLOCK_LINES];
        match self {
            Self::Bf16(weight) if weight.transposed => {
                self::pairs(weight.data, weight.cols, weight.stride, panel, slab, to);
            }
            Self::Packed(_) | Self::Integers(_) | Self::Bf16(_) | Self::F32(_) => {
                tiles::panel(self.widened(panel, slab, pairs, widened, block_done), parts, to);
            }
        }
        (to, parts)
    }

    /// The rows of a panel as f32, made in `to`; `block_done` is called between blocks of
    /// [`panel::BLOCK`] of them.
    pub(super) fn widened<'s>(
        self,
        panel: usize,
        slab: Range<usize>,
        scratch: &mut [Line],
        to: &'s mut [Line],
        mut block_done: impl FnMut(),
    ) -> &'s [Line] {
        if self.has_pairs() {
            let to = &mut to[..slab.len().next_multiple_of(2) * Line::OF_COLS];
            widen(self.pairs(panel, slab, scratch), to);
            return to;
        }
        let cols = self.cols(panel);
        let blocks = to.chunks_exact_mut(panel::BLOCK * Line::OF_COLS);
        for (start, to) in slab.clone().step_by(panel::BLOCK).zip(blocks) {
            let rows = start..(start + panel::BLOCK).min(slab.end);
            match self {
                Self::F32(from) => panel::write(from, rows, cols.clone(), to),
                Self::Bf16(from) => panel::widen_rows(from, rows, cols.clone(), to),
                Self::Packed(_) => unreachable!("packed weights are pairs"),
                Self::Integers(_) => unreachable!("integers are not widened"),
            }
            block_done();
        }
        &to[..slab.len() * Line::OF_COLS]
    }
}
