//! A block of rows times one panel, over one slab.

use std::{cell::RefCell, ops::Range};

use super::{
    Arithmetic, Line, NARROW,
    activations::ROW_LINES,
    instructions::{Kernel, Tile},
    int16, panel,
    prefetch::Prefetch,
    source::Source,
    tiles::{self, unit::Counts},
};
use crate::{packed::COLS, view::Target};

/// Scratch for packing panels; kept from one product to the next.
pub(super) struct Panel {
    pairs: Vec<Line>,
    widened: Vec<Line>,
    /// Integers, or blocks of bf16 parts.
    packed: Vec<Line>,
    /// Sums of the slabs so far, side by side rather than where the result goes:
    /// its rows may be a page apart.
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Panel> = const {
        RefCell::new(Panel {
            pairs: Vec::new(),
            widened: Vec::new(),
            packed: Vec::new(),
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
        // As many lines hold the blocks of a slab's parts.
        self.packed.resize(int16::panel_lines(inputs), Line::ZERO);
        let rows = rows.next_multiple_of(tiles::SIDE);
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

impl Panel {
    /// Splits a panel of one slab into bf16 parts.
    pub(super) fn split(
        &mut self,
        right: Source<'_>,
        panel: usize,
        slab: Range<usize>,
        parts: usize,
        to: &mut [Line],
    ) {
        let scratch: [&mut [Line]; 2] = [&mut self.pairs, &mut self.widened];
        right.blocks(panel, slab, parts, scratch, to, || {});
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
    pub(super) kernel: &'static Kernel,
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
        let Self { arithmetic, kernel, right, panel, cols, scale, add, place, .. } = self;
        let (slab, narrow) = (self.slab.clone(), rows <= NARROW);
        let Panel { pairs, widened, packed, sums } = scratch;
        // With few rows, where this takes most of the time, what comes next is asked
        // for on the way.
        let block_done = || {
            if narrow {
                (0..panel::BLOCK).for_each(|_| self.prefetch.step());
            }
        };
        let by_pairs = kernel.pairs.filter(|_| narrow && right.has_pairs());
        let (mut counts, mut held) = (Counts { left: 1, right: 1 }, 1);
        let steps = arithmetic.steps(slab.len());
        let (b, steps) = match arithmetic {
            Arithmetic::Dot => (right.pairs(panel, slab, pairs), steps),
            Arithmetic::Widen if by_pairs.is_some() => {
                (right.pairs(panel, slab.clone(), pairs), slab.len().div_ceil(2))
            }
            Arithmetic::Widen | Arithmetic::Scalar => {
                (right.widened(panel, slab, pairs, widened, block_done), steps)
            }
            Arithmetic::Int16 => match right {
                Source::Integers(right) => (right.panel(panel, &slab), steps),
                Source::Packed(_) | Source::Bf16(_) | Source::F32(_) => {
                    int16::panel(right.widened(panel, slab, pairs, widened, block_done), packed);
                    (&packed[..], steps)
                }
            },
            Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts) => {
                let blocks = slab.len().div_ceil(tiles::BLOCK);
                let left = parts.count();
                let b;
                (b, held) = right.blocks(panel, slab, left, [pairs, widened], packed, block_done);
                counts = Counts { left, right: left.min(held) };
                (b, blocks)
            }
        };
        let strip = kernel.strip;
        for (at, a) in activations.chunks(strip * ROW_LINES).enumerate() {
            let to = to.offset(at * strip * to.stride);
            let rows = (rows - at * strip).min(strip);
            let sums = sums[at * strip * Line::OF_COLS..].as_mut_ptr();
            let sums = Target { start: sums.cast(), stride: COLS };
            let onto = if place.first { to } else { sums };
            let onto = add.then_some((onto.start.cast_const(), onto.stride));
            let Target { start: to, stride } = if place.last { to } else { sums };
            let tile = Tile { a, b, steps, rows, cols, to, stride, scale, onto, counts, held };
            // SAFETY: the caller's promise.
            unsafe {
                match by_pairs {
                    Some(product) => product(tile),
                    None => (kernel.run)(tile, &mut self.prefetch),
                }
            }
        }
    }
}
