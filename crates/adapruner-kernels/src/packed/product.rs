//! Products, split into parts for all threads.
//!
//! A part is a block of rows times some panels. Its rows are written to scratch, as many slabs
//! as stay in the second-level cache; then, panel by panel, each slab of the panel is packed
//! (it stays in the first-level cache) unless it was packed before, and multiplied with all
//! strips, while the panel's results stay in the second-level cache and the next panel's source
//! is prefetched.

use std::{cell::RefCell, ops::Range};

use super::{
    Arithmetic, COLS, DEPTH, Line, NARROW,
    activations::{Activations, ROW_LINES, write},
    prefetch::{Prefetch, Runs},
    slabs,
    source::Source,
    step::{Panel, Place, Step},
};
use crate::{
    buffer::{Unwritten, build},
    threads::{self, PARTS_OF_A_THREAD, side_by_side},
    view::{Target, View, share},
};

/// Rows of a part, at most: a slab of them takes 3/8 MiB.
const PART_ROWS: usize = 384;
/// Rows of a part, at least, where there are several: as many make laying out a
/// panel cheap.
const FEW_ROWS: usize = 96;
/// The same if panels are packed.
const FEW_ROWS_LAID_OUT: usize = 48;
/// Panels of a part, at least, where there are several: as many make writing the
/// activations cheap.
const FEW_PANELS: usize = 8;
/// Weights of a part, at least, where there are several.
const PART_WEIGHTS: usize = 64 * 1024;
/// Words of the slabs that are written at a time: a megabyte.
const HELD: usize = 256 * 1024;

thread_local! {
    /// What rows are written to; kept from one product to the next.
    static ACTIVATIONS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// `x · Wᵀ` on all threads.
pub(crate) fn forward(
    arithmetic: Arithmetic,
    x: &[f32],
    weight: Source<'_>,
    rows: usize,
) -> Vec<f32> {
    let (_, outputs) = weight.sides();
    // SAFETY: the product writes everything.
    unsafe { build(rows * outputs, |to| write_all(arithmetic, x, &[weight], &mut [to], rows)) }
}

/// `x · Wᵀ` of some weights with as many inputs on all threads; writes all of `to`.
///
/// # Shapes
/// `[rows, in]`, `[out, in]` each → `[rows, out]` each.
pub(crate) fn write_all(
    arithmetic: Arithmetic,
    x: &[f32],
    weights: &[Source<'_>],
    to: &mut [&mut Unwritten],
    rows: usize,
) {
    let Some(first) = weights.first() else { return };
    let (inputs, _) = first.sides();
    let rights = weights.iter().zip(to).map(|(&source, to)| {
        let (_, outputs) = source.sides();
        assert_eq!(to.len(), rows * outputs, "rows of a product");
        Right { source, to: Target { start: to.as_mut_ptr().cast(), stride: outputs } }
    });
    let rights: Vec<_> = rights.collect();
    assert_eq!(rights.len(), weights.len(), "targets of products");
    let left = View::dense(x, rows, inputs);
    // SAFETY: the targets are borrowed for us alone and have all rows.
    unsafe { Product { arithmetic, left, rights: &rights, scale: 1.0, add: false }.run() };
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
    let to = Target { start: y.as_mut_ptr(), stride: outputs };
    let product = Product {
        arithmetic,
        left: View::dense(x, rows, inputs),
        rights: &[Right { source: weight, to }],
        scale: 1.0,
        add: true,
    };
    // SAFETY: the target is borrowed for us alone, has all rows and holds numbers.
    unsafe { product.run() };
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
    let kernel = x.arithmetic.kernel();
    let multiply = |scratch: &mut Panel| {
        let slabs = slabs(x.arithmetic, inputs).zip(x.slabs());
        for (at, (slab, activations)) in slabs.enumerate() {
            for start in words.clone().step_by(COLS) {
                let step = Step {
                    arithmetic: x.arithmetic,
                    kernel,
                    right: weight,
                    panel: start / COLS,
                    slab: slab.clone(),
                    cols: (words.end - start).min(COLS),
                    scale: 1.0,
                    add: at > 0,
                    place: Place::ONLY,
                    prefetch: Prefetch::NONE,
                };
                let to = to.offset(start - words.start);
                // SAFETY: the target is borrowed for us alone and has all rows and
                // words; what is added to was written with the first slab.
                unsafe { step.run(activations, x.rows, scratch, to) };
            }
        }
    };
    Panel::with(x.rows, |scratch| kernel.session(|| multiply(scratch)));
}

/// How many parts rows and panels are cut into. Sums do not depend on it.
fn grid(rows: usize, strip: usize, panels: usize, inputs: usize, laid_out: bool) -> (usize, usize) {
    let weights = panels.saturating_mul(COLS).saturating_mul(inputs);
    let worth = weights.saturating_mul(rows.div_ceil(strip)) / PART_WEIGHTS;
    let threads = threads::available();
    let most = if threads == 1 { 1 } else { PARTS_OF_A_THREAD * threads };
    let parts = worth.clamp(1, most);
    let by_row = rows.div_ceil(PART_ROWS);
    if laid_out {
        // Nothing is done twice where rows alone are cut; threads get as many parts each.
        let most = (rows / FEW_ROWS_LAID_OUT).min(parts);
        let even = if most > threads { most / threads * threads } else { most };
        let by_row = even.max(by_row);
        return (by_row, parts.div_ceil(by_row).min(panels / FEW_PANELS).max(1));
    }
    let most = if rows <= NARROW { panels } else { panels / FEW_PANELS };
    let by_panel = parts.div_ceil(by_row).min(most).max(1);
    let by_row = parts.div_ceil(by_panel).min(rows / FEW_ROWS).max(by_row);
    (by_row, by_panel)
}

/// A right side, and where its product goes.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) to: Target,
}

impl Right<'_> {
    fn panels(&self) -> usize {
        let (_, outputs) = self.source.sides();
        outputs.div_ceil(COLS)
    }
}

/// `scale · left · right` for several right sides, written or added to the output.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) left: View<'a>,
    pub(crate) rights: &'a [Right<'a>],
    pub(crate) scale: f32,
    pub(crate) add: bool,
}

impl<'a> Product<'a> {
    /// On all threads.
    ///
    /// # Safety
    /// The targets must be writable for all rows and columns by this call alone, and
    /// hold numbers if they are added to; the processor must have the instructions.
    pub(crate) unsafe fn run(self) {
        let (rows, panels) = (self.left.rows, self.panels());
        if rows == 0 || panels == 0 {
            return;
        }
        let strip = self.arithmetic.kernel().strip;
        let laid_out = self.rights.iter().all(|right| right.source.laid_out());
        let (by_row, by_panel) = grid(rows, strip, panels, self.left.cols, laid_out);
        let one = |at: usize| {
            let rows = share(rows, strip, by_row, at / by_panel);
            let panels = share(panels, 1, by_panel, at % by_panel);
            // SAFETY: the caller's promise; parts do not overlap.
            unsafe { self.part(rows, panels) };
        };
        side_by_side(by_row * by_panel, one);
    }

    /// On this thread.
    ///
    /// # Safety
    /// As [`Self::run`].
    pub(crate) unsafe fn run_here(self) {
        let (rows, strip) = (self.left.rows, self.arithmetic.kernel().strip);
        let by_row = rows.div_ceil(PART_ROWS).max(1);
        for at in 0..by_row {
            // SAFETY: the caller's promise.
            unsafe { self.part(share(rows, strip, by_row, at), 0..self.panels()) };
        }
    }

    /// Panels of all right sides.
    fn panels(&self) -> usize {
        self.rights.iter().map(Right::panels).sum()
    }

    /// Which right side's a panel is, and which of it.
    fn panel(&self, mut panel: usize) -> (&'a Right<'a>, usize) {
        for right in self.rights {
            if panel < right.panels() {
                return (right, panel);
            }
            panel -= right.panels();
        }
        unreachable!("a panel beyond the last")
    }

    /// Some rows times some panels.
    ///
    /// # Safety
    /// As [`Self::run`], for these rows and panels.
    unsafe fn part(self, rows: Range<usize>, panels: Range<usize>) {
        let Self { arithmetic, left, rights, .. } = self;
        let inputs = left.cols;
        assert!(
            rights.iter().all(|r| r.source.sides().0 == inputs),
            "the inner sides of a product"
        );
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        let all: Vec<_> = slabs(arithmetic, inputs).collect();
        let kernel = arithmetic.kernel();
        ACTIVATIONS.with_borrow_mut(|activations| {
            let mut multiply = |scratch: &mut Panel| {
                for slabs in all.chunks((HELD / (DEPTH * rows.len())).max(1)) {
                    let activations = write(arithmetic, left, rows.clone(), slabs, activations);
                    // SAFETY: the caller's promise.
                    unsafe {
                        self.slabs(slabs, activations, rows.clone(), panels.clone(), scratch)
                    };
                }
            };
            Panel::with(rows.len(), |scratch| kernel.session(|| multiply(scratch)));
        });
    }

    /// Some slabs of some rows times some panels.
    ///
    /// # Safety
    /// As [`Self::run`], for these rows and panels; slabs follow each other.
    unsafe fn slabs(
        self,
        slabs: &[Range<usize>],
        activations: &[Line],
        rows: Range<usize>,
        panels: Range<usize>,
        scratch: &mut Panel,
    ) {
        let Self { arithmetic, scale, add, .. } = self;
        let kernel = arithmetic.kernel();
        let of_slab = arithmetic.rows_kept(rows.len()) * ROW_LINES;
        let to = |right: &Right<'_>, panel: usize| {
            right.to.offset(rows.start * right.to.stride + panel * COLS)
        };
        let steps = panels.clone().flat_map(|panel| {
            let blocks = activations.chunks_exact(of_slab);
            let slabs = slabs.iter().zip(blocks).enumerate();
            slabs.map(move |(at, (slab, block))| (panel, at, slab, block))
        });
        let mut steps = steps.peekable();
        while let Some((of_all, at, slab, block)) = steps.next() {
            let (right, panel) = self.panel(of_all);
            // With few rows, packing panels dominates.
            let strips = if rows.len() <= NARROW { 1 } else { rows.len().div_ceil(kernel.strip) };
            let now = steps.peek().map_or(Runs::NONE, |(panel, _, slab, _)| {
                let (right, panel) = self.panel(*panel);
                right.source.runs(panel, (*slab).clone())
            });
            // Each slab asks for its share of the results; tiles do it themselves.
            let then = if of_all + 1 < panels.end && arithmetic.parts().is_none() {
                let (right, panel) = self.panel(of_all + 1);
                let rows = share(rows.len(), 1, slabs.len(), at);
                Runs::to(to(right, panel), rows, right.source.cols(panel).len())
            } else {
                Runs::NONE
            };
            let step = Step {
                arithmetic,
                kernel,
                right: right.source,
                panel,
                slab: slab.clone(),
                cols: right.source.cols(panel).len(),
                scale,
                add: add || slab.start > 0,
                place: Place { first: at == 0, last: at + 1 == slabs.len() },
                prefetch: Prefetch::new(now, then, strips * arithmetic.steps(slab.len())),
            };
            // SAFETY: parts do not overlap and lie within the target; what is added
            // to was written with the first slab.
            unsafe { step.run(block, rows.len(), scratch, to(right, panel)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_product_once() {
        for rows in [1, 2, 12, 13, 95, 191, 640, 1000, 5000] {
            for (outputs, laid_out) in [1, 31, 65, 192, 576, 50_000]
                .into_iter()
                .flat_map(|outputs| [(outputs, false), (outputs, true)])
            {
                let panels = outputs_to_panels(outputs);
                let (by_row, by_panel) = grid(rows, 12, panels, 576, laid_out);
                for (len, unit, parts) in [(rows, 12, by_row), (panels, 1, by_panel)] {
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
