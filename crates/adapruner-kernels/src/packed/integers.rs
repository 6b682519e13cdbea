//! Right sides of products as integers, packed once for all products.

use std::ops::Range;

use rayon::prelude::*;

use super::{Arithmetic, COLS, Line, int16::panel_lines, slabs, source::Source, step::Panel};

/// The right side of products, `[in, out]`: for every panel the pairs and scales of one
/// slab after another, as [`super::int16::panel`] writes them. Two bytes a number.
#[derive(Debug)]
pub(crate) struct Integers {
    lines: Vec<Line>,
    inputs: usize,
    outputs: usize,
}

impl Integers {
    /// Rounds and packs on all threads, with the same bits as products that pack on the fly.
    pub(crate) fn of(right: Source<'_>) -> Self {
        let (inputs, outputs) = right.sides();
        let of_panel = lines(inputs, |_| true);
        let mut lines = vec![Line::ZERO; outputs.div_ceil(COLS) * of_panel];
        lines.par_chunks_mut(of_panel.max(1)).enumerate().for_each(|(panel, mut to)| {
            Panel::with(0, |scratch| {
                for slab in slabs(Arithmetic::Int16, inputs) {
                    let lines = to.split_off_mut(..panel_lines(slab.len())).unwrap_or_default();
                    scratch.round(right, panel, slab, lines);
                }
            });
        });
        Self { lines, inputs, outputs }
    }

    /// Inputs and outputs.
    pub(super) fn sides(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }

    /// Pairs and scales of a panel's slab.
    pub(super) fn panel(&self, panel: usize, slab: &Range<usize>) -> &[Line] {
        let of_panel = lines(self.inputs, |_| true);
        let start = panel * of_panel + lines(self.inputs, |other| other.start < slab.start);
        &self.lines[start..start + panel_lines(slab.len())]
    }
}

/// Lines of some of a panel's slabs.
fn lines(inputs: usize, some: impl Fn(&Range<usize>) -> bool) -> usize {
    slabs(Arithmetic::Int16, inputs).filter(some).map(|slab| panel_lines(slab.len())).sum()
}
