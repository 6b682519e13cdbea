//! A block of rows times one panel, over one slab.

use std::{cell::RefCell, ops::Range};

use super::{
    Arithmetic, Line, NARROW,
    activations::{ROW_LINES, ROWS},
    int16,
    micro::{self, Tile},
    panel,
    prefetch::Prefetch,
    source::Source,
};
use crate::{packed::COLS, view::Target};

/// Scratch for packing panels; kept from one product to the next.
pub(super) struct Panel {
    pairs: Vec<Line>,
    widened: Vec<Line>,
    integers: Vec<Line>,
    /// Sums of the slabs so far, side by side rather than where the result goes:
    /// its rows may be a page apart.
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Panel> = const {
        RefCell::new(Panel {
            pairs: Vec::new(),
            widened: Vec::new(),
            integers: Vec::new(),
            sums: Vec::new(),
        })
    };
}

impl Panel {
    /// Works in this thread's, with room for a panel of one slab and the sums of some rows.
    pub(super) fn with(rows: usize, work: impl FnOnce(&mut Self)) {
        SCRATCH.with_borrow_mut(|panel| {
            panel.reserve(rows);
            work(panel);
        });
    }

    fn reserve(&mut self, rows: usize) {
        let inputs = Arithmetic::Int16.depth();
        self.pairs.resize(inputs / 2 * Line::OF_COLS, Line::ZERO);
        self.widened.resize(inputs * Line::OF_COLS, Line::ZERO);
        self.integers.resize(int16::panel_lines(inputs), Line::ZERO);
        if self.sums.len() < rows * Line::OF_COLS {
            self.sums.resize(rows * Line::OF_COLS, Line::ZERO);
        }
    }

    /// Rounds a panel of one slab to integers.
    pub(super) fn round(
        &mut self,
        right: Source<'_>,
        panel: usize,
        slab: Range<usize>,
        to: &mut [Line],
    ) {
        int16::panel(right.widened(panel, slab, &mut self.pairs, &mut self.widened, || {}), to);
    }
}

/// Which of the slabs that follow each other one is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Place {
    pub(super) const ONLY: Self = Self { first: true, last: true };
}

/// A block of rows times one panel, over one slab.
pub(super) struct Step<'a> {
    pub(super) arithmetic: Arithmetic,
    pub(super) right: Source<'a>,
    pub(super) panel: usize,
    pub(super) slab: Range<usize>,
    pub(super) cols: usize,
    pub(super) scale: f32,
    pub(super) add: bool,
    pub(super) place: Place,
    /// What the next step reads.
    pub(super) prefetch: Prefetch,
}

impl Step<'_> {
    /// # Safety
    /// As [`Product::run`](super::Product::run), for the rows and columns of this step.
    pub(super) unsafe fn run(
        mut self,
        activations: &[Line],
        rows: usize,
        scratch: &mut Panel,
        to: Target,
    ) {
        let Self { arithmetic, right, panel, cols, scale, add, place, .. } = self;
        let (slab, narrow) = (self.slab.clone(), rows <= NARROW);
        let Panel { pairs, widened, integers, sums } = scratch;
        // With few rows, where this takes most of the time, what comes next is asked
        // for on the way.
        let block_done = || {
            if narrow {
                (0..panel::BLOCK).for_each(|_| self.prefetch.step());
            }
        };
        let by_pairs = match arithmetic {
            Arithmetic::Dot => true,
            Arithmetic::Widen => narrow && right.has_pairs(),
            Arithmetic::Int16 | Arithmetic::Scalar => false,
        };
        let b = match (arithmetic, right) {
            _ if by_pairs => right.pairs(panel, slab.clone(), pairs),
            (Arithmetic::Int16, Source::Integers(right)) => right.panel(panel, &slab),
            (Arithmetic::Int16, _) => {
                int16::panel(
                    right.widened(panel, slab.clone(), pairs, widened, block_done),
                    integers,
                );
                integers
            }
            _ => right.widened(panel, slab.clone(), pairs, widened, block_done),
        };
        let steps = if by_pairs { slab.len().div_ceil(2) } else { arithmetic.steps(slab.len()) };
        for (at, a) in activations.chunks(ROWS * ROW_LINES).enumerate() {
            let to = to.offset(at * ROWS * to.stride);
            let rows = (rows - at * ROWS).min(ROWS);
            let sums = &mut sums[at * ROWS * Line::OF_COLS..][..rows * Line::OF_COLS];
            let sums = Target { start: sums.as_mut_ptr().cast(), stride: COLS };
            let onto = if place.first { to } else { sums };
            let onto = add.then_some((onto.start.cast_const(), onto.stride));
            let Target { start: to, stride } = if place.last { to } else { sums };
            let tile = Tile { a, b, steps, rows, cols, to, stride, scale, onto };
            // SAFETY: the caller's promise.
            unsafe {
                match arithmetic {
                    Arithmetic::Dot => micro::dot(tile, &mut self.prefetch),
                    Arithmetic::Widen if by_pairs => micro::fused_pairs(tile),
                    Arithmetic::Widen => micro::fused(tile, &mut self.prefetch),
                    Arithmetic::Int16 => micro::int16(tile, &mut self.prefetch),
                    Arithmetic::Scalar => micro::scalar(tile),
                }
            }
        }
    }
}
