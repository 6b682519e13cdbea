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
//! input in the low half. Sides that are no multiple of 32 are filled with zeros.
//! All ways to multiply bf16 read this layout:
//!
//! | arithmetic | activations | a step | error of `y = Σ x·w`, at most |
//! |---|---|---|---|
//! | [`Arithmetic::Widen`] | f32 | weights widened, f32 fused multiply-add | `γ · Σ abs(x·w)` |
//! | [`Arithmetic::Dot`] | rounded to bf16 | AVX512-BF16 dot product of pairs | `(2⁻⁸ + γ) · Σ abs(x·w)` |
//! | [`Arithmetic::Tiles`] | split into bf16 parts | f32 weights too; AMX products of tiles | see `packed/tiles` and [`Arithmetic::error`] |
//! | [`Arithmetic::Int16`] | 16-bit integers | weights too; VNNI dot product of pairs, exact | `(‖x‖₁·‖w‖ + ‖x‖·‖w‖₁) / 65 534 + n·‖x‖·‖w‖ / 65 534² + γ · Σ abs(x·w)` |
//!
//! with `γ = (n + 2)·u / (1 − (n + 2)·u)`, `u = 2⁻²⁴` for `Widen` (so too for f32) and, as its
//! products and sums are rounded one by one and numbers below 2⁻¹²⁶ are taken as zero,
//! `n·2⁻¹²⁶` more for `Dot`. Which of them is fastest depends on the processor: Zen 4 makes a
//! dot product a cycle and a fused multiply-add a cycle, Zen 5 two and two, Sapphire and
//! Emerald Rapids half a dot product and two fused multiply-adds, and besides half a product of
//! tiles, which is 16 times as much. So [`Arithmetic::of`] goes by the processor, never by
//! timing: the same machine always gives the same numbers.
//!
//! | precision | with AMX | without |
//! |---|---|---|
//! | highest | `Tiles`, three parts, with bf16 weights; with f32 `Widen`, as fast as six products | `Widen` |
//! | high | `Tiles`, two parts | `Int16`, else `Widen` |
//! | medium | `Tiles`, one part | `Dot` with bf16 weights where it is fast, else as high |
//!
//! Gradients are never rounded to bf16 but by `Tiles`.
//!
//! Sums run over the inputs in slabs of at most 256 (of pairs 512), each slab in order and from
//! zero, the slabs' sums in order. That does not depend on how a product is split into parts,
//! so neither on the number of threads nor on that of rows.

mod activations;
mod cache;
mod instructions;
mod int16;
mod integers;
mod pairs;
mod panel;
mod prefetch;
mod product;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod tiles;
mod transpose;

use std::{fmt, ops::Range, sync::LazyLock};

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) use self::cache::Laid;
pub(crate) use self::{
    activations::Activations,
    product::{Product, Right, forward, forward_onto, multiply_words, write_all},
    source::Source,
};
pub use self::{
    cache::{Packed, PackedBytes},
    instructions::{
        InstructionSet, SWITCHED_OFF, instruction_flags, instruction_sets, switch_off, switched_off,
    },
    tiles::Parts,
};
use self::{instructions::Kernel, step::Panel};
use crate::{
    MatmulPrecision,
    buffer::{Held, Weight},
    gemm,
    view::View,
};

/// Outputs of a panel.
pub(crate) const COLS: usize = 32;
/// Words of a row of a slab, at most.
const DEPTH: usize = 256;
/// Products of at most so many rows, one strip, wait for the panels: these are read as pairs
/// rather than widened, and not rounded.
pub(crate) const NARROW: usize = 12;

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

/// How products are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// bf16 dot products of pairs (AVX512-BF16); activations are rounded to bf16.
    Dot,
    /// Weights are f32, or widened to f32 in cache; activations stay f32 (AVX-512, or AVX2 with FMA).
    Widen,
    /// Both sides are rounded to 16-bit integers with a scale for each row and slab, whose
    /// products are summed exactly (AVX512-VNNI or AVX-VNNI).
    Int16,
    /// Products of tiles of bf16 (AMX), into as many of which numbers are split.
    Tiles(Parts),
    /// [`Arithmetic::Widen`] number by number, to the same bits: what tests hold
    /// it to.
    Scalar,
    /// [`Arithmetic::Tiles`] with the unit in software, to the same bits: what tests hold it
    /// to, and run where there is none.
    Emulated(Parts),
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dot => "bf16 dot products",
            Self::Widen | Self::Scalar => "f32",
            Self::Int16 => "16-bit integers",
            Self::Tiles(parts) | Self::Emulated(parts) => match parts {
                Parts::One => "bf16, by tiles",
                Parts::Two => "two bf16 parts of every number, by tiles",
                Parts::Three => "three bf16 parts of every number, by tiles",
            },
        })
    }
}

/// What enters a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entering {
    /// Activations.
    Activations,
    /// Gradients, which are not rounded to bf16 by [`Arithmetic::Dot`].
    Gradients,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Dot,
        Self::Widen,
        Self::Int16,
        Self::Tiles(Parts::One),
        Self::Tiles(Parts::Two),
        Self::Tiles(Parts::Three),
        Self::Scalar,
        Self::Emulated(Parts::One),
        Self::Emulated(Parts::Two),
        Self::Emulated(Parts::Three),
    ];

    /// The fastest here that rounds no more than the precision that is set allows
    /// ([`MatmulPrecision`]), for so many rows and weights of a type; none where none is to be
    /// had. With few rows, where reading the weight is what takes time, nothing is rounded.
    pub fn of(dtype: DType, rows: usize, entering: Entering) -> Option<Self> {
        let first = |of: &[Self]| {
            of.iter().find(|arithmetic| instructions::preferred(**arithmetic)).copied()
        };
        if rows <= NARROW {
            return Self::exact();
        }
        match MatmulPrecision::current() {
            MatmulPrecision::Highest if dtype == DType::BF16 => {
                first(&[Self::Tiles(Parts::Three), Self::Widen])
            }
            MatmulPrecision::Highest => Self::exact(),
            MatmulPrecision::High => first(&[Self::Tiles(Parts::Two), Self::Int16, Self::Widen]),
            MatmulPrecision::Medium
                if dtype == DType::BF16 && entering == Entering::Activations =>
            {
                first(&[Self::Tiles(Parts::One), Self::Dot, Self::Int16, Self::Widen])
            }
            MatmulPrecision::Medium => first(&[Self::Tiles(Parts::One), Self::Int16, Self::Widen]),
        }
    }

    /// Of products of `rows` with the `[inputs, outputs]` of a weight, if our own kernels
    /// make them.
    pub(crate) fn of_weight(
        dtype: DType,
        rows: usize,
        inputs: usize,
        outputs: usize,
        entering: Entering,
    ) -> Option<Self> {
        if dtype == DType::BF16 {
            return Self::of(dtype, rows, entering);
        }
        if dtype == DType::F32 { gemm::arithmetic(rows, inputs, outputs, entering) } else { None }
    }

    /// In f32, where there are instructions for it.
    pub(crate) fn exact() -> Option<Self> {
        Self::Widen.runs_here().then_some(Self::Widen)
    }

    /// Whether this processor has the instructions.
    pub fn runs_here(self) -> bool {
        instructions::kernel(self).is_some()
    }

    /// How it is made here.
    ///
    /// # Panics
    /// Where it does not run.
    fn kernel(self) -> &'static Kernel {
        let Some(kernel) = instructions::kernel(self) else {
            unreachable!("no instructions for {self:?}")
        };
        kernel
    }

    /// Whether activations are rounded to 16 bits or fewer.
    pub const fn rounds_activations(self) -> bool {
        match self {
            Self::Dot | Self::Int16 => true,
            Self::Tiles(parts) | Self::Emulated(parts) => parts.count() < 3,
            Self::Widen | Self::Scalar => false,
        }
    }

    /// Parts that numbers are split into.
    const fn parts(self) -> Option<Parts> {
        match self {
            Self::Tiles(parts) | Self::Emulated(parts) => Some(parts),
            Self::Dot | Self::Int16 | Self::Widen | Self::Scalar => None,
        }
    }

    /// What a product `y = Σ x · w` of numbers can be off by, at most; `exact` is whether the
    /// weight is bf16.
    ///
    /// # Shapes
    /// `x` and `w` have as many numbers.
    pub fn error(self, x: &[f32], w: &[f32], exact: bool) -> f64 {
        let terms = x.iter().zip(w).map(|(&x, &w)| (f64::from(x) * f64::from(w)).abs());
        let size: f64 = terms.sum();
        let gamma = |roundings: usize| {
            let nu = roundings as f64 * 2_f64.powi(-24);
            nu / (1.0 - nu)
        };
        let n = x.len();
        let of_f32 = gamma(n + 2) * size;
        match self {
            Self::Widen | Self::Scalar => of_f32,
            Self::Dot => 2_f64.powi(-8) * size + of_f32 + n as f64 * 2_f64.powi(-126),
            Self::Int16 => int16::error(x, w) + of_f32,
            Self::Tiles(parts) | Self::Emulated(parts) => {
                let (left_out, products) = tiles::left_out(parts, exact);
                let roundings = 18 + products * n.div_ceil(tiles::BLOCK);
                let largest = |of: &[f32]| of.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
                let most = 1.0 + f64::from(largest(x)) + f64::from(largest(w));
                let least = (4 * products * n) as f64 * 2_f64.powi(-126) * most;
                (left_out + 1.02 * gamma(roundings)) * size + least
            }
        }
    }

    /// Inputs of a slab, at most: as many as have room in the words of a row.
    const fn depth(self) -> usize {
        match self {
            Self::Widen | Self::Scalar => DEPTH,
            Self::Dot | Self::Int16 => 2 * DEPTH,
            Self::Tiles(parts) | Self::Emulated(parts) => {
                2 * DEPTH / parts.count() / tiles::BLOCK * tiles::BLOCK
            }
        }
    }

    /// Steps of so many inputs: a step is a pair where numbers are rounded, and an input
    /// where they are not.
    fn steps(self, inputs: usize) -> usize {
        match self {
            Self::Dot | Self::Int16 => inputs.div_ceil(2),
            Self::Widen | Self::Scalar | Self::Tiles(_) | Self::Emulated(_) => inputs,
        }
    }

    /// Rows that are kept for so many: of tiles whole ones.
    fn rows_kept(self, rows: usize) -> usize {
        if self.parts().is_some() { rows.next_multiple_of(tiles::SIDE) } else { rows }
    }
}

/// Rows of a strip of products with weights here: what rows are best cut at.
pub(crate) fn strip() -> usize {
    static STRIP: LazyLock<usize> = LazyLock::new(|| {
        let tiles = instructions::preferred(Arithmetic::Tiles(Parts::One));
        if tiles { tiles::ROWS } else { NARROW }
    });
    *STRIP
}

/// The slabs of the inputs: whole squares of pairs, but for the last, and almost
/// equal; without inputs, an empty one.
fn slabs(arithmetic: Arithmetic, inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let (unit, most) = (2 * transpose::SIDE, arithmetic.depth());
    let depth = inputs.div_ceil(inputs.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (0..inputs.max(1)).step_by(depth).map(move |start| start..(start + depth).min(inputs))
}

/// The right side of products `[in, out]`, such as a weight `[out, in]` transposed, packed as
/// pairs of bf16.
#[derive(Debug)]
pub struct PackedWeight {
    lines: Vec<Line>,
    outputs: usize,
    inputs: usize,
    /// Bf16 parts of every number.
    parts: usize,
    /// Whether these are all of the number, so that any arithmetic may read them.
    exact: bool,
}

impl PackedWeight {
    /// Packs a bf16 weight for products `x · Wᵀ`.
    ///
    /// # Shapes
    /// bf16 `[out, in]`.
    ///
    /// # Errors
    /// Weights that are no matrix, not bf16 or not on the CPU.
    pub fn pack(weight: &Tensor) -> Result<Self> {
        if weight.dtype() != DType::BF16 {
            bail!("packing takes bf16 weights, found {:?}", weight.dtype());
        }
        Self::split(weight, Parts::One)
    }

    /// Packs a weight for products of tiles `x · Wᵀ`; one of f32 is split into parts.
    ///
    /// # Shapes
    /// bf16 or f32 `[out, in]`.
    ///
    /// # Errors
    /// Weights that are no matrix, of another type or not on the CPU.
    pub fn split(weight: &Tensor, parts: Parts) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let held = Held::new(&weight);
        let source = match held.weight()? {
            Weight::F32(values) => Source::F32(View::dense(values, outputs, inputs).t()),
            Weight::Bf16(values) => Source::Bf16(View::dense(values, outputs, inputs).t()),
            Weight::F16(_) => bail!("packing takes f32 or bf16 weights, found f16"),
        };
        Ok(Self::of(source, parts))
    }

    /// Packs on all threads, with the same bits as products that pack on the fly.
    pub(crate) fn of(right: Source<'_>, parts: Parts) -> Self {
        let (inputs, outputs) = right.sides();
        let exact = right.of_bf16();
        let parts = if exact { 1 } else { parts.count() };
        let of_panel = inputs.div_ceil(tiles::BLOCK) * parts * tiles::BLOCK_LINES;
        let mut lines = vec![Line::ZERO; outputs.div_ceil(COLS) * of_panel];
        lines.par_chunks_mut(of_panel.max(1)).enumerate().for_each(|(panel, mut to)| {
            Panel::with(0, |scratch| {
                for start in (0..inputs).step_by(2 * DEPTH) {
                    let slab = start..(start + 2 * DEPTH).min(inputs);
                    let of_slab = slab.len().div_ceil(tiles::BLOCK) * parts * tiles::BLOCK_LINES;
                    let to = to.split_off_mut(..of_slab).unwrap_or_default();
                    scratch.split(right, panel, slab, parts, to);
                }
            });
        });
        Self { lines, outputs, inputs, parts, exact }
    }

    /// The weight as it was packed, `[out, in]`.
    ///
    /// # Errors
    /// A weight of several parts.
    pub fn unpack(&self) -> Result<Tensor> {
        if self.parts > 1 {
            bail!("a weight of {} parts is not unpacked", self.parts);
        }
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

    /// Whether an arithmetic can read it.
    fn serves(&self, arithmetic: Arithmetic) -> bool {
        self.exact || arithmetic.parts().is_some_and(|parts| parts.count() <= self.parts)
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
    /// Shapes that do not fit, or an arithmetic that this processor does not have or that
    /// does not read parts.
    pub fn multiply(&self, x: &Tensor, arithmetic: Arithmetic) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        if inputs != self.inputs {
            bail!("input {:?} does not fit a weight of {} inputs", x.shape(), self.inputs);
        }
        if !arithmetic.runs_here() {
            bail!("this processor does not have the instructions of {arithmetic:?}");
        }
        if !self.serves(arithmetic) {
            bail!("{arithmetic:?} does not read weights of {} parts", self.parts);
        }
        let x = x.contiguous()?;
        let held = Held::new(&x);
        let y = forward(arithmetic, held.slice()?, Source::Packed(self), rows);
        Tensor::from_vec(y, (rows, self.outputs), &Device::Cpu)
    }

    /// Lines of a panel.
    fn panel_lines(&self) -> usize {
        self.inputs.div_ceil(tiles::BLOCK) * self.parts * tiles::BLOCK_LINES
    }

    /// Pairs of a panel that hold inputs `range`, which starts at an even one; of weights of
    /// one part.
    fn pairs(&self, panel: usize, range: Range<usize>) -> &[Line] {
        let first = panel * self.panel_lines();
        let pair = |input: usize| first + input / 2 * Line::OF_COLS;
        &self.lines[pair(range.start)..pair(range.end.next_multiple_of(2))]
    }

    /// Blocks of a panel that hold inputs `range`, which starts at a block, part after part.
    fn blocks(&self, panel: usize, range: Range<usize>) -> &[Line] {
        let first = panel * self.panel_lines();
        let of_block = self.parts * tiles::BLOCK_LINES;
        let block = |input: usize| first + input.div_ceil(tiles::BLOCK) * of_block;
        &self.lines[block(range.start)..block(range.end)]
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
