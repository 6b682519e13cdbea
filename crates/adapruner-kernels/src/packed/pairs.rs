//! Pairs of inputs side by side for 32 outputs, from a row-major weight.

use std::ops::Range;

use half::bf16;

use super::{
    COLS, Line,
    transpose::{SIDE, square},
};

/// Writes the pairs of a panel for inputs `range`, which starts at an even one;
/// [`SIDE`] outputs and as many pairs are transposed at a time.
pub(super) fn pairs(
    values: &[bf16],
    outputs: usize,
    inputs: usize,
    panel: usize,
    range: Range<usize>,
    to: &mut [Line],
) {
    for (at, to) in to.chunks_mut(SIDE * Line::OF_COLS).enumerate() {
        let start = range.start + at * SIDE * 2;
        let end = (start + SIDE * 2).min(range.end);
        for half in 0..Line::OF_COLS {
            let first = panel * COLS + half * SIDE;
            let whole = first + SIDE <= outputs && end - start == SIDE * 2;
            if whole {
                let (from, to) = (&values[first * inputs + start..], &mut to[half..]);
                assert!(from.len() >= (SIDE - 1) * inputs + 2 * SIDE);
                assert!(to.len() > (SIDE - 1) * Line::OF_COLS);
                let (from, stride) = (from.as_ptr().cast(), inputs * size_of::<bf16>());
                // SAFETY: the square lies within both sides.
                unsafe { square(from, stride, to.as_mut_ptr(), Line::OF_COLS) };
            } else {
                transpose(values, (outputs, inputs), first, start..end, half, to);
            }
        }
    }
}

/// Pair by pair, for at most [`SIDE`] outputs from `first` on; those that do not
/// exist are zero, as is the partner of an odd input.
fn transpose(
    values: &[bf16],
    (outputs, inputs): (usize, usize),
    first: usize,
    range: Range<usize>,
    half: usize,
    to: &mut [Line],
) {
    for lane in 0..SIDE {
        let output = first + lane;
        let row = if output < outputs {
            &values[output * inputs + range.start..output * inputs + range.end]
        } else {
            &[]
        };
        let words = row.chunks(2).map(|pair| {
            let bits = |at: usize| pair.get(at).map_or(0, |v| u32::from(v.to_bits()));
            bits(0) | bits(1) << 16
        });
        let lines = to.iter_mut().skip(half).step_by(Line::OF_COLS);
        for (line, word) in lines.zip(words.chain(std::iter::repeat(0))) {
            line.0[lane] = word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_turned_as_pair_by_pair() {
        let (outputs, inputs) = (70, 131);
        let values: Vec<bf16> =
            (0..outputs * inputs).map(|at| bf16::from_bits(at as u16)).collect();
        for panel in 0..3 {
            let range = 2..inputs;
            let lines = range.len().div_ceil(2) * Line::OF_COLS;
            let (mut found, mut expected) =
                (vec![Line([7; 16]); lines], vec![Line([9; 16]); lines]);
            pairs(&values, outputs, inputs, panel, range.clone(), &mut found);
            for half in 0..Line::OF_COLS {
                let first = panel * COLS + half * SIDE;
                transpose(&values, (outputs, inputs), first, range.clone(), half, &mut expected);
            }
            assert!(found == expected, "panel {panel}");
        }
    }
}
