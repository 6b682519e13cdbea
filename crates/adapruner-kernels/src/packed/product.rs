//! Products, cut into parts for all threads.
//!
//! A part is a block of rows times some panels. Its rows are written to scratch,
//! as many slabs as stay in the second-level cache; then, panel by panel, each
//! slab of the panel is laid out as f32 (it stays in the first) and multiplied with
//! all strips, while the results of the panel stay in the second and what the next
//! panel is made of is asked for.

use std::{
    cell::RefCell,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    Arithmetic, COLS, DEPTH, Line, NARROW,
    activations::{Activations, ROW_LINES, ROWS, write},
    ahead::{Ahead, Runs},
    fixed,
    micro::{self, Tile},
    panel, slabs,
    source::Source,
    widen,
};
use crate::{
    buffer::{Unwritten, build},
    view::{Target, View, share},
};

/// Rows of a part, at most: a slab of them takes 3/8 MiB.
const PART_ROWS: usize = 384;
/// Rows of a part, at least, where there are several: as many make widening a
/// panel cheap.
const FEW_ROWS: usize = 96;
/// Panels of a part, at least, where there are several: as many make writing the
/// activations cheap.
const FEW_PANELS: usize = 8;
/// Weights of a part, at least, where there are several.
const PART_WEIGHTS: usize = 64 * 1024;
/// Words of the slabs that are written at a time: a megabyte.
const HELD: usize = 256 * 1024;
/// Parts for each thread, so that they end together.
const PARTS_OF_A_THREAD: usize = 4;

/// What a thread works in; kept from one product to the next.
struct Scratch {
    activations: Vec<Line>,
    panel: Panel,
}

impl Scratch {
    const fn new() -> Self {
        let panel = Panel {
            pairs: Vec::new(),
            widened: Vec::new(),
            integers: Vec::new(),
            sums: Vec::new(),
        };
        Self { activations: Vec::new(), panel }
    }
}

struct Panel {
    pairs: Vec<Line>,
    widened: Vec<Line>,
    integers: Vec<Line>,
    /// Sums of the slabs so far, side by side rather than where the result goes:
    /// its rows may be a page apart.
    sums: Vec<Line>,
}

impl Panel {
    /// Room for a panel of one slab and the sums of some rows.
    fn reserve(&mut self, rows: usize) {
        let inputs = Arithmetic::Fixed.depth();
        self.pairs.resize(inputs / 2 * Line::OF_COLS, Line::ZERO);
        self.widened.resize(inputs * Line::OF_COLS, Line::ZERO);
        self.integers.resize(fixed::panel_lines(inputs), Line::ZERO);
        if self.sums.len() < rows * Line::OF_COLS {
            self.sums.resize(rows * Line::OF_COLS, Line::ZERO);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch::new()) };
}

/// `x · Wᵀ` on all threads.
pub(crate) fn forward(
    arithmetic: Arithmetic,
    x: &[f32],
    weight: Source<'_>,
    rows: usize,
) -> Vec<f32> {
    let (inputs, outputs) = weight.sides();
    let product = Product {
        arithmetic,
        left: View::dense(x, rows, inputs),
        right: weight,
        scale: 1.0,
        add: false,
    };
    // SAFETY: the product writes everything.
    unsafe {
        build(rows * outputs, |to| {
            product.run(Target { start: to.as_mut_ptr().cast(), stride: outputs });
        })
    }
}

/// `y += x · Wᵀ` on all threads.
pub(crate) fn forward_onto(
    arithmetic: Arithmetic,
    x: &[f32],
    weight: Source<'_>,
    rows: usize,
    y: &mut [f32],
) {
    let (inputs, outputs) = weight.sides();
    assert_eq!(y.len(), rows * outputs, "rows of a product");
    let product = Product {
        arithmetic,
        left: View::dense(x, rows, inputs),
        right: weight,
        scale: 1.0,
        add: true,
    };
    // SAFETY: the target is borrowed for us alone, has all rows and holds numbers.
    unsafe { product.run(Target { start: y.as_mut_ptr(), stride: outputs }) };
}

/// `x · Wᵀ` for outputs `words` of the weight, which start at a multiple of 32, on
/// this thread: `to` has `rows × words`.
pub(crate) fn multiply_words(
    x: &Activations,
    weight: Source<'_>,
    words: Range<usize>,
    to: &mut Unwritten,
) {
    let (inputs, outputs) = weight.sides();
    assert!(words.start.is_multiple_of(COLS) && words.end <= outputs && inputs > 0);
    assert_eq!(to.len(), x.rows * words.len(), "elements of a product");
    let stride = words.len();
    let to = Target { start: to.as_mut_ptr().cast(), stride };
    SCRATCH.with_borrow_mut(|Scratch { panel: scratch, .. }| {
        scratch.reserve(x.rows);
        let slabs = slabs(x.arithmetic, inputs).zip(x.slabs());
        for (at, (slab, activations)) in slabs.enumerate() {
            for start in words.clone().step_by(COLS) {
                let step = Step {
                    arithmetic: x.arithmetic,
                    right: weight,
                    panel: start / COLS,
                    slab: slab.clone(),
                    cols: (words.end - start).min(COLS),
                    scale: 1.0,
                    add: at > 0,
                    place: Place::ONLY,
                    ahead: Ahead::NONE,
                };
                let to = to.offset(start - words.start);
                // SAFETY: the target is borrowed for us alone and has all rows and
                // words; what is added to was written with the first slab.
                unsafe { step.run(activations, x.rows, scratch, to) };
            }
        }
    });
}

/// How many parts rows and panels are cut into. Sums do not depend on it.
fn grid(rows: usize, panels: usize, inputs: usize) -> (usize, usize) {
    let weights = panels.saturating_mul(COLS).saturating_mul(inputs);
    let worth = weights.saturating_mul(rows.div_ceil(ROWS)) / PART_WEIGHTS;
    let most = match rayon::current_num_threads() {
        1 => 1,
        threads => PARTS_OF_A_THREAD * threads,
    };
    let parts = worth.clamp(1, most);
    let by_row = rows.div_ceil(PART_ROWS);
    let most = if rows <= NARROW { panels } else { panels / FEW_PANELS };
    let by_panel = parts.div_ceil(by_row).min(most).max(1);
    let by_row = parts.div_ceil(by_panel).min(rows / FEW_ROWS).max(by_row);
    (by_row, by_panel)
}

/// Runs all parts on all threads, each thread taking the next when it is done. The
/// calling thread is one of them: others may be slow to wake, or have other work.
fn side_by_side(parts: usize, one: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && at < parts
        {
            one(at);
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..rayon::current_num_threads().min(parts) {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// `scale · left · right`, or that added to what is there.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) left: View<'a>,
    pub(crate) right: Source<'a>,
    pub(crate) scale: f32,
    pub(crate) add: bool,
}

impl Product<'_> {
    /// On all threads.
    ///
    /// # Safety
    /// The target must be writable for all rows and columns by this call alone, and
    /// hold numbers if they are added to; the processor must have the instructions.
    pub(crate) unsafe fn run(self, to: Target) {
        let (inputs, outputs) = self.right.sides();
        let (rows, panels) = (self.left.rows, outputs.div_ceil(COLS));
        if rows == 0 || panels == 0 {
            return;
        }
        let (by_row, by_panel) = grid(rows, panels, inputs);
        let one = |at: usize| {
            let rows = share(rows, ROWS, by_row, at / by_panel);
            let panels = share(panels, 1, by_panel, at % by_panel);
            // SAFETY: the caller's promise; parts do not overlap.
            unsafe { self.part(rows, panels, to) };
        };
        side_by_side(by_row * by_panel, one);
    }

    /// On this thread.
    ///
    /// # Safety
    /// As [`Self::run`].
    pub(crate) unsafe fn run_here(self, to: Target) {
        let (_, outputs) = self.right.sides();
        let (rows, panels) = (self.left.rows, outputs.div_ceil(COLS));
        let by_row = rows.div_ceil(PART_ROWS).max(1);
        for at in 0..by_row {
            // SAFETY: the caller's promise.
            unsafe { self.part(share(rows, ROWS, by_row, at), 0..panels, to) };
        }
    }

    /// Some rows times some panels; `to` is where all of the product goes.
    ///
    /// # Safety
    /// As [`Self::run`], for these rows and panels.
    unsafe fn part(self, rows: Range<usize>, panels: Range<usize>, to: Target) {
        let Self { arithmetic, left, right, scale, add } = self;
        let (inputs, _) = right.sides();
        assert_eq!(left.cols, inputs, "the inner sides of a product");
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        let all: Vec<_> = slabs(arithmetic, inputs).collect();
        SCRATCH.with_borrow_mut(|Scratch { activations, panel: scratch }| {
            scratch.reserve(rows.len());
            for slabs in all.chunks((HELD / (DEPTH * rows.len())).max(1)) {
                let activations = write(arithmetic, left, rows.clone(), slabs, activations);
                let steps = panels.clone().flat_map(|panel| {
                    let blocks = activations.chunks_exact(rows.len() * ROW_LINES);
                    let slabs = slabs.iter().zip(blocks).enumerate();
                    slabs.map(move |(at, (slab, block))| (panel, at, slab, block))
                });
                let mut steps = steps.peekable();
                while let Some((panel, at, slab, block)) = steps.next() {
                    let to = to.offset(rows.start * to.stride + panel * COLS);
                    // With few rows, laying out panels is what takes time.
                    let strips = if rows.len() <= NARROW { 1 } else { rows.len().div_ceil(ROWS) };
                    let now = steps.peek().map_or(Runs::NONE, |(panel, _, slab, _)| {
                        right.runs(*panel, (*slab).clone())
                    });
                    // Each slab asks for its share of the results.
                    let then = if panel + 1 < panels.end {
                        let rows = share(rows.len(), 1, slabs.len(), at);
                        Runs::to(to.offset(COLS), rows, right.cols(panel + 1).len())
                    } else {
                        Runs::NONE
                    };
                    let ahead = Ahead::new(now, then, strips * arithmetic.steps(slab.len()));
                    let step = Step {
                        arithmetic,
                        right,
                        panel,
                        slab: slab.clone(),
                        cols: right.cols(panel).len(),
                        scale,
                        add: add || slab.start > 0,
                        place: Place { first: at == 0, last: at + 1 == slabs.len() },
                        ahead,
                    };
                    // SAFETY: parts do not overlap and lie within the target; what
                    // is added to was written with the first slab.
                    unsafe { step.run(block, rows.len(), scratch, to) };
                }
            }
        });
    }
}

/// Which of the slabs that follow each other one is.
#[derive(Clone, Copy)]
struct Place {
    first: bool,
    last: bool,
}

impl Place {
    const ONLY: Self = Self { first: true, last: true };
}

/// A block of rows times one panel, over one slab.
struct Step<'a> {
    arithmetic: Arithmetic,
    right: Source<'a>,
    panel: usize,
    slab: Range<usize>,
    cols: usize,
    scale: f32,
    add: bool,
    place: Place,
    /// What the next step reads.
    ahead: Ahead,
}

impl Step<'_> {
    /// # Safety
    /// As [`Product::run`], for the rows and columns of this step.
    unsafe fn run(mut self, activations: &[Line], rows: usize, scratch: &mut Panel, to: Target) {
        let Self { arithmetic, cols, scale, add, place, .. } = self;
        let narrow = rows <= NARROW;
        let Panel { pairs, widened, integers, sums } = scratch;
        let packed = self.right.pairs(self.panel, self.slab.clone(), pairs);
        let by_pairs = arithmetic == Arithmetic::Dot || narrow && arithmetic == Arithmetic::Widen;
        let (b, steps) = match packed {
            Some(packed) if by_pairs => (packed, self.slab.len().div_ceil(2)),
            _ => (self.widened(packed, narrow, widened), arithmetic.steps(self.slab.len())),
        };
        let b = if arithmetic == Arithmetic::Fixed {
            fixed::panel(b, integers);
            integers
        } else {
            b
        };
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
                    Arithmetic::Dot => micro::dot(tile),
                    Arithmetic::Widen if packed.is_some() && narrow => micro::fused_pairs(tile),
                    Arithmetic::Widen => micro::fused(tile, &mut self.ahead),
                    Arithmetic::Fixed => micro::fixed(tile, &mut self.ahead),
                    Arithmetic::Scalar => micro::scalar(tile),
                }
            }
        }
    }

    /// The panel as f32; with few rows, where this takes most of the time, what
    /// comes next is asked for on the way.
    fn widened<'s>(
        &mut self,
        packed: Option<&[Line]>,
        narrow: bool,
        to: &'s mut [Line],
    ) -> &'s [Line] {
        assert!(self.arithmetic != Arithmetic::Dot, "what is not bf16 is not multiplied in pairs");
        let (slab, cols) = (self.slab.clone(), self.right.cols(self.panel));
        if let Some(packed) = packed {
            let to = &mut to[..slab.len().next_multiple_of(2) * Line::OF_COLS];
            widen(packed, to);
            return to;
        }
        let blocks = slab.len().div_ceil(panel::BLOCK);
        let of_blocks = to.chunks_exact_mut(panel::BLOCK * Line::OF_COLS).take(blocks);
        for (at, to) in of_blocks.enumerate() {
            let start = slab.start + at * panel::BLOCK;
            let rows = start..(start + panel::BLOCK).min(slab.end);
            match self.right {
                Source::F32(from) => panel::write(from, rows, cols.clone(), to),
                Source::Bf16(from) => panel::widen_rows(from, rows, cols.clone(), to),
                Source::Packed(_) => unreachable!("packed weights are pairs"),
            }
            if narrow {
                (0..panel::BLOCK).for_each(|_| self.ahead.step());
            }
        }
        &to[..slab.len() * Line::OF_COLS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_product_once() {
        for rows in [1, 2, 12, 13, 95, 191, 640, 1000, 5000] {
            for outputs in [1, 31, 65, 192, 576, 50_000] {
                let panels = outputs_to_panels(outputs);
                let (by_row, by_panel) = grid(rows, panels, 576);
                for (len, unit, parts) in [(rows, ROWS, by_row), (panels, 1, by_panel)] {
                    let mut end = 0;
                    for at in 0..parts {
                        let part = share(len, unit, parts, at);
                        assert_eq!(part.start, end);
                        assert!(!part.is_empty(), "{rows} × {outputs}: part {at} of {parts}");
                        end = part.end;
                    }
                    assert_eq!(end, len);
                }
            }
        }
    }

    fn outputs_to_panels(outputs: usize) -> usize {
        outputs.div_ceil(COLS)
    }

    #[test]
    fn slabs_are_even_and_cover_all_inputs() {
        for inputs in [0, 1, 2, 3, 255, 256, 257, 513, 576, 1535, 11_008] {
            let mut end = 0;
            for slab in slabs(Arithmetic::Widen, inputs) {
                assert!(slab.start == end && slab.start % 2 == 0 && slab.len() <= DEPTH);
                end = slab.end;
            }
            assert_eq!(end, inputs);
        }
    }
}
