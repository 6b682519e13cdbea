//! Matrix multiplication, and weights packed for it.
//!
//! A product runs panel by panel: 32 columns of the right side, a slab of at most 256 inputs of
//! them as f32 in the first-level cache, times the rows of the left side in strips of 12, which
//! wait in the second. Left sides are f32; right sides are f32 or bf16, and both are read as
//! stored or transposed: `x · Wᵀ` and `dy · W` read the same weight, `dyᵀ · x` no copies of its
//! operands. Two kinds of weights are packed once for all products ([`Packed`]): weights as
//! integers, and bf16 weights as pairs, for dot products and products of few rows:
//!
//! A weight `[out, in]` is held as panels of 32 outputs; a panel is a list of
//! pairs of inputs, and each pair 32 words of 32 bits, one per output, the even
//! input in the low half. Sides that are odd or no multiple of 32 are filled with
//! zeros. Both ways to multiply read this layout:
//!
//! | arithmetic | activations | a step | error of `y = Σ x·w`, at most |
//! |---|---|---|---|
//! | [`Arithmetic::Widen`] | f32 | weights widened, f32 fused multiply-add | `γ · Σ abs(x·w)` |
//! | [`Arithmetic::Dot`] | rounded to bf16 | AVX512-BF16 dot product of pairs | `(2⁻⁸ + γ) · Σ abs(x·w)` |
//! | [`Arithmetic::Int16`] | 16-bit integers | weights too; VNNI dot product of pairs, exact | `(‖x‖₁·‖w‖ + ‖x‖·‖w‖₁) / 65 534 + n·‖x‖·‖w‖ / 65 534² + γ · Σ abs(x·w)` |
//!
//! with `γ = (n + 2)·u / (1 − (n + 2)·u)`, `u = 2⁻²⁴` for `Widen` (so too for f32) and, as its
//! products and sums are rounded one by one and numbers below 2⁻¹²⁶ are taken as zero,
//! `n·2⁻¹²⁶` more for `Dot`. Which of them is fastest depends on the processor: Zen 4 makes a
//! dot product a cycle and a fused multiply-add a cycle, Zen 5 two and two, Sapphire and
//! Emerald Rapids half a dot product and two fused multiply-adds. So [`Arithmetic::of_bf16`]
//! goes by the processor, never by timing: the same machine always gives the same numbers. In
//! high precision, `Int16` is as fast as the fastest and more accurate than `Dot`. Gradients
//! are never rounded to bf16: `dy · W` uses `Widen`, or `Int16` in high precision.
//!
//! Sums run over the inputs in slabs of at most 256 (of pairs 512), each slab in order and from
//! zero, the slabs' sums in order. That does not depend on how a product is split into parts,
//! so neither on the number of threads nor on that of rows.

mod activations;
mod cache;
mod int16;
mod integers;
mod micro;
mod pairs;
mod panel;
mod prefetch;
mod product;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod transpose;

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) use self::cache::Laid;
pub use self::cache::{Packed, PackedBytes};
use self::pairs::pairs;
pub(crate) use self::{
    activations::Activations,
    product::{Product, Right, forward, forward_onto, multiply_words, write_all},
    source::Source,
};
use crate::{MatmulPrecision, buffer::Held, gemm};

/// Outputs of a panel.
pub(crate) const COLS: usize = 32;
/// Words of a row of a slab, at most.
const DEPTH: usize = 256;
/// Products of at most so many rows, one strip, wait for the panels: these are read as pairs
/// rather than widened, and not rounded.
pub(crate) const NARROW: usize = activations::ROWS;

/// Words of a cache line, aligned as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
struct Line([u32; 16]);

impl Line {
    const ZERO: Self = Self([0; 16]);
    const WORDS: usize = 16;
    /// How many make one row of a panel.
    const OF_COLS: usize = COLS / 16;
}

/// How products are made; those with bf16 weights have the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// bf16 dot products of pairs (AVX512-BF16); activations are rounded to bf16.
    Dot,
    /// Weights are f32, or widened to f32 in cache; activations stay f32 (AVX-512, or AVX2 with FMA).
    Widen,
    /// Both sides are rounded to 16-bit integers with a scale for each row and slab, whose
    /// products are summed exactly (AVX512-VNNI or AVX-VNNI).
    Int16,
    /// [`Arithmetic::Widen`] number by number, to the same bits: what tests hold
    /// it to.
    Scalar,
}

impl Arithmetic {
    /// The fastest with bf16 weights on this processor in the precision that is set
    /// ([`MatmulPrecision`]), for so many rows; none where none is to be had.
    pub fn of_bf16(rows: usize) -> Option<Self> {
        match MatmulPrecision::current() {
            MatmulPrecision::Highest if micro::fast_dot() => Some(Self::Dot),
            MatmulPrecision::Highest | MatmulPrecision::High => Self::of_f32(rows),
        }
    }

    /// The fastest that rounds no more than the precision that is set allows; none
    /// where none is to be had. With few rows, where reading the weight is what takes
    /// time, nothing is rounded.
    pub fn of_f32(rows: usize) -> Option<Self> {
        match MatmulPrecision::current() {
            MatmulPrecision::High if rows > NARROW && Self::Int16.runs_here() => Some(Self::Int16),
            MatmulPrecision::High | MatmulPrecision::Highest => Self::exact(),
        }
    }

    /// Of products of `rows` with the `[inputs, outputs]` of a weight, if our own kernels
    /// make them.
    pub(crate) fn of_weight(
        dtype: DType,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Option<Self> {
        if dtype == DType::BF16 {
            return Self::of_bf16(rows);
        }
        if dtype == DType::F32 { gemm::arithmetic(rows, inputs, outputs) } else { None }
    }

    /// In f32, where there are instructions for it.
    pub(crate) fn exact() -> Option<Self> {
        Self::Widen.runs_here().then_some(Self::Widen)
    }

    /// Whether [`Arithmetic::Dot`] is faster than [`Arithmetic::Widen`] here.
    pub(crate) fn fast_dot() -> bool {
        micro::fast_dot()
    }

    /// Whether this processor has the instructions.
    pub fn runs_here(self) -> bool {
        match self {
            Self::Dot => micro::has_dot(),
            Self::Widen => micro::has_fused(),
            Self::Int16 => micro::has_int16(),
            Self::Scalar => true,
        }
    }

    /// Whether activations are rounded.
    pub const fn rounds_activations(self) -> bool {
        match self {
            Self::Dot | Self::Int16 => true,
            Self::Widen | Self::Scalar => false,
        }
    }

    /// Inputs of a slab, at most: as many as have room in the words of a row.
    const fn depth(self) -> usize {
        if self.rounds_activations() { 2 * DEPTH } else { DEPTH }
    }

    /// Steps of so many inputs: a step is a pair where activations are rounded.
    fn steps(self, inputs: usize) -> usize {
        if self.rounds_activations() { inputs.div_ceil(2) } else { inputs }
    }
}

/// The slabs of the inputs: whole squares of pairs, but for the last, and almost
/// equal; without inputs, an empty one.
fn slabs(arithmetic: Arithmetic, inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let (unit, most) = (2 * transpose::SIDE, arithmetic.depth());
    let depth = inputs.div_ceil(inputs.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (0..inputs.max(1)).step_by(depth).map(move |start| start..(start + depth).min(inputs))
}

/// A bf16 weight `[out, in]`, packed for products `x · Wᵀ`.
#[derive(Debug)]
pub struct PackedWeight {
    lines: Vec<Line>,
    outputs: usize,
    inputs: usize,
}

impl PackedWeight {
    /// Packs a weight.
    ///
    /// # Shapes
    /// bf16 `[out, in]`.
    ///
    /// # Errors
    /// Weights that are no matrix, not bf16 or not on the CPU.
    pub fn pack(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if weight.dtype() != DType::BF16 {
            bail!("packing takes bf16 weights, found {:?}", weight.dtype());
        }
        let weight = weight.contiguous()?;
        let held = Held::new(&weight);
        let values: &[bf16] = held.slice()?;
        let of_panel = inputs.div_ceil(2) * Line::OF_COLS;
        let mut lines = vec![Line::ZERO; outputs.div_ceil(COLS) * of_panel];
        lines.par_chunks_mut(of_panel.max(1)).enumerate().for_each(|(panel, lines)| {
            pairs(values, outputs, inputs, panel, 0..inputs, lines);
        });
        Ok(Self { lines, outputs, inputs })
    }

    /// The weight as it was packed, `[out, in]`.
    ///
    /// # Errors
    /// No memory.
    pub fn unpack(&self) -> Result<Tensor> {
        let value = |output: usize, input: usize| {
            let line = &self.pairs(output / COLS, input..input + 1)[output % COLS / 16];
            let word = line.0[output % 16];
            bf16::from_bits((if input.is_multiple_of(2) { word } else { word >> 16 }) as u16)
        };
        let values = (0..self.outputs * self.inputs)
            .into_par_iter()
            .map(|at| value(at / self.inputs, at % self.inputs))
            .collect();
        Tensor::from_vec(values, (self.outputs, self.inputs), &Device::Cpu)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// `x · Wᵀ` by a given arithmetic; no gradients.
    ///
    /// # Shapes
    /// f32 `[R, in]` → f32 `[R, out]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or an arithmetic that this processor does not have.
    pub fn multiply(&self, x: &Tensor, arithmetic: Arithmetic) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        if inputs != self.inputs {
            bail!("input {:?} does not fit a weight of {} inputs", x.shape(), self.inputs);
        }
        if !arithmetic.runs_here() {
            bail!("this processor does not have the instructions of {arithmetic:?}");
        }
        let x = x.contiguous()?;
        let held = Held::new(&x);
        let y = forward(arithmetic, held.slice()?, Source::Packed(self), rows);
        Tensor::from_vec(y, (rows, self.outputs), &Device::Cpu)
    }

    /// Pairs of a panel that hold inputs `range`, which starts at an even one.
    fn pairs(&self, panel: usize, range: Range<usize>) -> &[Line] {
        let of_panel = self.inputs.div_ceil(2) * Line::OF_COLS;
        let start = panel * of_panel + range.start / 2 * Line::OF_COLS;
        &self.lines[start..panel * of_panel + range.end.div_ceil(2) * Line::OF_COLS]
    }
}

/// Pairs as rows of f32, one for each input.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn widen(pairs: &[Line], to: &mut [Line]) {
    let rows = to.chunks_mut(2 * Line::OF_COLS);
    for (pair, rows) in pairs.chunks_exact(Line::OF_COLS).zip(rows) {
        let (even, odd) = rows.split_at_mut(Line::OF_COLS);
        for (to, from) in even.iter_mut().zip(pair) {
            to.0 = from.0.map(|word| word << 16);
        }
        for (to, from) in odd.iter_mut().zip(pair) {
            to.0 = from.0.map(|word| word & 0xffff_0000);
        }
    }
}
