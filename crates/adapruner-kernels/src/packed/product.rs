//! Products of packed or unpacked bf16 weights, cut into parts for all threads.
//!
//! A part is a block of rows times some panels. Its rows are written to scratch,
//! as many slabs as stay in the second-level cache; then, panel by panel, each
//! slab of the panel is widened (it stays in the first) and multiplied with all
//! strips, while the results of the panel stay in the second.

use std::{cell::RefCell, ops::Range};

use half::bf16;
use rayon::prelude::*;

use super::{
    Arithmetic, COLS, DEPTH, Line, PackedWeight,
    activations::{Activations, ROW_LINES, ROWS, write_slab},
    micro::{self, Tile},
    pairs::pairs,
    slabs, widen,
};
use crate::{
    buffer::{Unwritten, build},
    gemm::{Target, share},
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
/// Strips of at most so many rows read pairs rather than a widened panel.
const NARROW: usize = 12;

/// A bf16 weight `[out, in]`.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Packed(&'a PackedWeight),
    /// Row-major.
    Rows {
        values: &'a [bf16],
        outputs: usize,
        inputs: usize,
    },
}

impl Source<'_> {
    fn sides(self) -> (usize, usize) {
        match self {
            Self::Packed(weight) => (weight.outputs, weight.inputs),
            Self::Rows { outputs, inputs, .. } => (outputs, inputs),
        }
    }

    /// The pairs of a panel; those of a row-major weight are made in `scratch`.
    fn pairs<'s>(self, panel: usize, slab: Range<usize>, scratch: &'s mut [Line]) -> &'s [Line]
    where
        Self: 's,
    {
        match self {
            Self::Packed(weight) => weight.pairs(panel, slab),
            Self::Rows { values, outputs, inputs } => {
                let to = &mut scratch[..slab.len().div_ceil(2) * Line::OF_COLS];
                pairs(values, outputs, inputs, panel, slab, to);
                to
            }
        }
    }
}

/// What a thread works in; kept from one product to the next.
struct Scratch {
    activations: Vec<Line>,
    panel: Panel,
}

impl Scratch {
    const fn new() -> Self {
        let panel = Panel { pairs: Vec::new(), widened: Vec::new() };
        Self { activations: Vec::new(), panel }
    }
}

struct Panel {
    pairs: Vec<Line>,
    widened: Vec<Line>,
}

impl Panel {
    /// Room for a panel of one slab.
    fn reserve(&mut self) {
        self.pairs.resize(DEPTH / 2 * Line::OF_COLS, Line::ZERO);
        self.widened.resize(DEPTH * Line::OF_COLS, Line::ZERO);
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
    let (outputs, inputs) = weight.sides();
    if inputs == 0 {
        return vec![0.0; rows * outputs];
    }
    // SAFETY: the product writes everything.
    unsafe {
        build(rows * outputs, |to| {
            let to = Target { start: to.as_mut_ptr().cast(), stride: outputs };
            product(arithmetic, x, rows, weight, to, false);
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
    let (outputs, _) = weight.sides();
    assert_eq!(y.len(), rows * outputs, "rows of a product");
    let to = Target { start: y.as_mut_ptr(), stride: outputs };
    // SAFETY: the target is borrowed for us alone, has all rows and holds numbers.
    unsafe { product(arithmetic, x, rows, weight, to, true) };
}

/// `x · Wᵀ` for outputs `words` of the weight, which start at a multiple of 32, on
/// this thread: `to` has `rows × words`.
pub(crate) fn multiply_words(
    x: &Activations,
    weight: Source<'_>,
    words: Range<usize>,
    to: &mut Unwritten,
) {
    let (outputs, inputs) = weight.sides();
    assert!(words.start.is_multiple_of(COLS) && words.end <= outputs && inputs > 0);
    assert_eq!(to.len(), x.rows * words.len(), "elements of a product");
    let stride = words.len();
    let to = Target { start: to.as_mut_ptr().cast(), stride };
    SCRATCH.with_borrow_mut(|Scratch { panel: scratch, .. }| {
        scratch.reserve();
        for (slab, activations) in slabs(inputs).zip(&x.slabs) {
            for start in words.clone().step_by(COLS) {
                let step = Step {
                    arithmetic: x.arithmetic,
                    weight,
                    panel: start / COLS,
                    slab: slab.clone(),
                    cols: (words.end - start).min(COLS),
                    add: slab.start > 0,
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
    let parts = worth.clamp(1, PARTS_OF_A_THREAD * rayon::current_num_threads());
    let by_row = rows.div_ceil(PART_ROWS);
    let most = if rows <= NARROW { panels } else { panels / FEW_PANELS };
    let by_panel = parts.div_ceil(by_row).min(most).max(1);
    let by_row = parts.div_ceil(by_panel).min(rows / FEW_ROWS).max(by_row);
    (by_row, by_panel)
}

/// # Safety
/// The target must be writable for all rows and outputs by this call alone, and
/// hold numbers if they are added to; the processor must have the instructions.
unsafe fn product(
    arithmetic: Arithmetic,
    x: &[f32],
    rows: usize,
    weight: Source<'_>,
    to: Target,
    add: bool,
) {
    let (outputs, inputs) = weight.sides();
    assert_eq!(x.len(), rows * inputs, "the inner sides of a product");
    if rows == 0 || outputs == 0 {
        return;
    }
    let panels = outputs.div_ceil(COLS);
    let (by_row, by_panel) = grid(rows, panels, inputs);
    let all: Vec<_> = slabs(inputs).collect();
    let one = |at: usize| {
        let rows = share(rows, ROWS, by_row, at / by_panel);
        let panels = share(panels, 1, by_panel, at % by_panel);
        SCRATCH.with_borrow_mut(|Scratch { activations, panel: scratch }| {
            scratch.reserve();
            for slabs in all.chunks((HELD / (DEPTH * rows.len())).max(1)) {
                activations.clear();
                for slab in slabs {
                    write_slab(arithmetic, x, inputs, rows.clone(), slab.clone(), activations);
                }
                for panel in panels.clone() {
                    let cols = (outputs - panel * COLS).min(COLS);
                    let to = to.offset(rows.start * to.stride + panel * COLS);
                    let blocks = activations.chunks_exact(rows.len() * ROW_LINES);
                    for (slab, activations) in slabs.iter().zip(blocks) {
                        let add = add || slab.start > 0;
                        let slab = slab.clone();
                        let step = Step { arithmetic, weight, panel, slab, cols, add };
                        // SAFETY: parts do not overlap and lie within the target;
                        // what is added to was written with the first slab.
                        unsafe { step.run(activations, rows.len(), scratch, to) };
                    }
                }
            }
        });
    };
    match by_row * by_panel {
        1 => one(0),
        parts => (0..parts).into_par_iter().for_each(one),
    }
}

/// A block of rows times one panel, over one slab.
struct Step<'a> {
    arithmetic: Arithmetic,
    weight: Source<'a>,
    panel: usize,
    slab: Range<usize>,
    cols: usize,
    add: bool,
}

impl Step<'_> {
    /// # Safety
    /// As [`product`], for the rows and columns of this step.
    unsafe fn run(self, activations: &[Line], rows: usize, scratch: &mut Panel, to: Target) {
        let Self { arithmetic, weight, panel, slab, cols, add } = self;
        let inputs = slab.len();
        let packed = weight.pairs(panel, slab, &mut scratch.pairs);
        let narrow = arithmetic == Arithmetic::Widen && rows <= NARROW;
        let (b, steps) = if arithmetic == Arithmetic::Dot || narrow {
            (packed, inputs.div_ceil(2))
        } else {
            widen(packed, &mut scratch.widened[..inputs.next_multiple_of(2) * Line::OF_COLS]);
            (&scratch.widened[..], arithmetic.steps(inputs))
        };
        for (at, a) in activations.chunks(ROWS * ROW_LINES).enumerate() {
            let to = to.offset(at * ROWS * to.stride);
            let rows = (rows - at * ROWS).min(ROWS);
            let tile = Tile { a, b, steps, rows, cols, to: to.start, stride: to.stride, add };
            // SAFETY: the caller's promise.
            unsafe {
                match arithmetic {
                    Arithmetic::Dot => micro::dot(tile),
                    Arithmetic::Widen if narrow => micro::fused_pairs(tile),
                    Arithmetic::Widen => micro::fused(tile),
                    Arithmetic::Scalar => micro::scalar(tile),
                }
            }
        }
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
            for slab in slabs(inputs) {
                assert!(slab.start == end && slab.start % 2 == 0 && slab.len() <= DEPTH);
                end = slab.end;
            }
            assert_eq!(end, inputs);
        }
    }
}
