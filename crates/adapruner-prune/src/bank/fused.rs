//! Weight gradients made tile by tile on the CPU and consumed at once.
//!
//! For one projection of one micro-batch, `G_s = dY_sᵀ · X_s` is the weight
//! gradient of sample `s`. It is never stored: a tile of it is made for a few
//! samples at a time, small enough for the cache, and the sums over its rows or
//! columns are taken at once.
//!
//! The vectors are cut into strips, which threads take independently; within a
//! strip, tiles run along the vectors and samples within a tile. A vector is summed
//! by one strip in a fixed order, so the numbers do not depend on how many
//! threads there are.
//!
//! Axes: `S` samples, `T` tokens, `out` and `in` sides of the weight. Sums over
//! a tile are made in f32 (at most [`ROW_TILE`] or [`COLUMN_TILE`] elements long, in
//! lanes along rows), sums over tiles in f64.

use std::ops::Range;

use candle_core::{Result, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use rayon::prelude::*;

/// Vectors of a strip and reach of its tiles where the vectors are rows.
const ROW_TILE: (usize, usize) = (32, 256);
/// Vectors of a strip and reach of its tiles where the vectors are columns.
const COLUMN_TILE: (usize, usize) = (64, 128);
/// Samples whose tiles are made by one call: 512 KiB of tiles, for a second-level
/// cache, and the cost of the call shared.
const SAMPLES: usize = 16;

/// A weight matrix as it is held.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// What a projection saw in one micro-batch, row-major.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// `S` of the micro-batch.
    pub samples: usize,
    /// `T`.
    pub tokens: usize,
    /// `out`.
    pub outputs: usize,
    /// `in`.
    pub inputs: usize,
    /// `X`, `[S·T, in]`, f32 on the CPU.
    pub input: &'a Tensor,
    /// `dY`, `[S·T, out]`, f32 on the CPU.
    pub grad_output: &'a Tensor,
    /// `W`, `[out, in]`.
    pub weight: Weight<'a>,
    /// Whether the vectors are the weight's columns rather than its rows.
    pub columns: bool,
}

/// `Σ w·g_s` and `Σ (w·g_s)²` over samples for the elements of one strip, tile
/// after tile.
#[derive(Default, Clone)]
pub(super) struct StripElements {
    first: Vec<f32>,
    square: Vec<f32>,
}

/// What is taken for the set of all samples.
pub(super) enum SetTerms<'a> {
    /// Nothing.
    None,
    /// All samples are in this micro-batch.
    Whole,
    /// Samples come in several micro-batches; elements are kept in between.
    /// `last` says that this is the last one.
    Part { strips: &'a mut Vec<StripElements>, last: bool },
}

/// The sums of the vectors of one strip.
pub(super) struct StripSums {
    /// Which vectors.
    pub vectors: Range<usize>,
    /// Signed, element and Fisher sum per sample and vector,
    /// `[S, vectors]`.
    pub sums: Vec<[f64; 3]>,
    /// `Σ |Σ_s w·g_s|` and `Σ |Σ_s (w·g_s − ½·(w·g_s)²)|` per vector, where the set
    /// of samples is complete.
    pub set: Option<Vec<[f64; 2]>>,
}

/// The sums of all vectors of a projection, strip by strip.
///
/// # Errors
/// Tensors of other shapes or types than [`Operands`] says.
pub(super) fn vector_sums(operands: &Operands<'_>, set: SetTerms<'_>) -> Result<Vec<StripSums>> {
    let vectors = if operands.columns { operands.inputs } else { operands.outputs };
    let (width, _) = operands.tile();
    let strips: Vec<Range<usize>> =
        (0..vectors).step_by(width).map(|at| at..(at + width).min(vectors)).collect();
    match set {
        SetTerms::None => strips
            .into_par_iter()
            .map(|vectors| Strip::new(operands, vectors).run::<false>(None, false))
            .collect(),
        SetTerms::Whole => strips
            .into_par_iter()
            .map(|vectors| Strip::new(operands, vectors).run::<true>(None, true))
            .collect(),
        SetTerms::Part { strips: kept, last } => {
            kept.resize(strips.len(), StripElements::default());
            strips
                .into_par_iter()
                .zip(kept.par_iter_mut())
                .map(|(vectors, kept)| Strip::new(operands, vectors).run::<true>(Some(kept), last))
                .collect()
        }
    }
}

impl Operands<'_> {
    fn tile(&self) -> (usize, usize) {
        if self.columns { COLUMN_TILE } else { ROW_TILE }
    }

    /// A tile of some samples' weight gradients, `[samples, rows, cols]`.
    fn gradient(
        &self,
        samples: &Range<usize>,
        rows: &Range<usize>,
        cols: &Range<usize>,
    ) -> Result<Tensor> {
        let part = |of: &Tensor, width: usize, along: &Range<usize>| {
            of.reshape((self.samples, self.tokens, width))?
                .narrow(0, samples.start, samples.len())?
                .narrow(2, along.start, along.len())
        };
        let grad_output = part(self.grad_output, self.outputs, rows)?;
        grad_output.transpose(1, 2)?.matmul(&part(self.input, self.inputs, cols)?)
    }
}

/// Part of a tensor's storage, which must be on the CPU and of type `T`.
pub(super) fn slice<T: WithDType>(storage: &Storage, start: usize, len: usize) -> Result<&[T]> {
    match storage {
        Storage::Cpu(values) => Ok(&values.as_slice::<T>()?[start..start + len]),
        Storage::Cuda(_) | Storage::Metal(_) => bail!("expected a tensor on the CPU"),
    }
}

/// One strip at work.
struct Strip<'a> {
    operands: &'a Operands<'a>,
    vectors: Range<usize>,
    weight: Vec<f32>,
}

impl<'a> Strip<'a> {
    fn new(operands: &'a Operands<'a>, vectors: Range<usize>) -> Self {
        let (width, reach) = operands.tile();
        Self { operands, vectors, weight: vec![0.0; width * reach] }
    }

    /// Runs all tiles; with `SET`, elements are summed over samples, into `kept`
    /// or a buffer of one tile, and reduced to vectors if `finish`.
    fn run<const SET: bool>(
        mut self,
        mut kept: Option<&mut StripElements>,
        finish: bool,
    ) -> Result<StripSums> {
        let Operands { samples, outputs, inputs, columns, .. } = *self.operands;
        let width = self.vectors.len();
        let along = if columns { outputs } else { inputs };
        let (_, reach) = self.operands.tile();
        let mut sums = vec![[0.0_f64; 3]; samples * width];
        let mut set = (SET && finish).then(|| vec![[0.0_f64; 2]; width]);
        let mut one_tile = StripElements::default();
        if let Some(kept) = kept.as_deref_mut()
            && SET
        {
            kept.first.resize(width * along, 0.0);
            kept.square.resize(width * along, 0.0);
        }
        for start in (0..along).step_by(reach) {
            let part = start..(start + reach).min(along);
            let size = width * part.len();
            let (rows, cols) =
                if columns { (part, self.vectors.clone()) } else { (self.vectors.clone(), part) };
            self.load_weight(&rows, &cols);
            let elements = match kept.as_deref_mut() {
                Some(kept) => {
                    let at = width * start;
                    Some((&mut kept.first[at..at + size], &mut kept.square[at..at + size]))
                }
                None if SET => {
                    for values in [&mut one_tile.first, &mut one_tile.square] {
                        values.clear();
                        values.resize(size, 0.0);
                    }
                    Some((&mut one_tile.first[..], &mut one_tile.square[..]))
                }
                None => None,
            };
            let (first, square): (&mut [f32], &mut [f32]) = elements.unwrap_or((&mut [], &mut []));
            for first_sample in (0..samples).step_by(SAMPLES) {
                let chunk = first_sample..(first_sample + SAMPLES).min(samples);
                let gradient = self.operands.gradient(&chunk, &rows, &cols)?;
                let (storage, layout) = gradient.storage_and_layout();
                let gradient = slice(&storage, layout.start_offset(), chunk.len() * size)?;
                let sums = sums[chunk.start * width..].chunks_exact_mut(width);
                for (gradient, sums) in gradient.chunks_exact(size).zip(sums) {
                    let tile = Tile { weight: &self.weight[..size], gradient, cols: cols.len() };
                    if columns {
                        tile.column_sums::<SET>(sums, first, square);
                    } else {
                        tile.row_sums::<SET>(sums, first, square);
                    }
                }
            }
            if let Some(set) = &mut set {
                reduce_elements(first, square, cols.len(), columns, set);
            }
        }
        for [_, _, fisher] in &mut sums {
            *fisher *= 0.5;
        }
        Ok(StripSums { vectors: self.vectors, sums, set })
    }

    /// Copies a tile of the weight, as f32.
    fn load_weight(&mut self, rows: &Range<usize>, cols: &Range<usize>) {
        let inputs = self.operands.inputs;
        for (row, to) in rows.clone().zip(self.weight.chunks_exact_mut(cols.len())) {
            let from = row * inputs + cols.start..row * inputs + cols.end;
            match self.operands.weight {
                Weight::F32(w) => to.copy_from_slice(&w[from]),
                Weight::Bf16(w) => {
                    to.iter_mut().zip(&w[from]).for_each(|(to, w)| *to = w.to_f32());
                }
                Weight::F16(w) => {
                    to.iter_mut().zip(&w[from]).for_each(|(to, w)| *to = w.to_f32());
                }
            }
        }
    }
}

/// Width of the partial sums along a row.
const LANES: usize = 16;

/// A tile of a weight and of its gradient, row-major.
struct Tile<'a> {
    weight: &'a [f32],
    gradient: &'a [f32],
    cols: usize,
}

impl Tile<'_> {
    /// Adds the sums over each row to `sums` (the Fisher sum without its ½).
    fn row_sums<const SET: bool>(
        &self,
        sums: &mut [[f64; 3]],
        first: &mut [f32],
        square: &mut [f32],
    ) {
        let rows = self.weight.chunks_exact(self.cols).zip(self.gradient.chunks_exact(self.cols));
        for (row, ((w, g), sums)) in rows.zip(sums).enumerate() {
            let mut lanes = [[0.0_f32; LANES]; 3];
            let at = row * self.cols;
            let (first, square) = if SET {
                (&mut first[at..at + self.cols], &mut square[at..at + self.cols])
            } else {
                (&mut [][..], &mut [][..])
            };
            let whole = self.cols / LANES * LANES;
            for start in (0..whole).step_by(LANES) {
                let end = start + LANES;
                let (first, square) = if SET {
                    (&mut first[start..end], &mut square[start..end])
                } else {
                    (&mut [][..], &mut [][..])
                };
                add_lanes::<SET>(&w[start..end], &g[start..end], &mut lanes, first, square);
            }
            let (first, square) =
                if SET { (&mut first[whole..], &mut square[whole..]) } else { (first, square) };
            add_lanes::<SET>(&w[whole..], &g[whole..], &mut lanes, first, square);
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum += lanes.iter().map(|&v| f64::from(v)).sum::<f64>();
            }
        }
    }

    /// Adds the sums over each column to `sums` (the Fisher sum without its ½).
    fn column_sums<const SET: bool>(
        &self,
        sums: &mut [[f64; 3]],
        first: &mut [f32],
        square: &mut [f32],
    ) {
        let cols = self.cols;
        let mut partial = [[0.0_f32; COLUMN_TILE.0]; 3];
        let [signed, element, fisher] = &mut partial;
        let (signed, element, fisher) =
            (&mut signed[..cols], &mut element[..cols], &mut fisher[..cols]);
        let rows = self.weight.chunks_exact(cols).zip(self.gradient.chunks_exact(cols));
        for (row, (w, g)) in rows.enumerate() {
            for j in 0..cols {
                let p = w[j] * g[j];
                signed[j] += p;
                element[j] += p.abs();
                fisher[j] += p * p;
            }
            if SET {
                let at = row * cols;
                let first = &mut first[at..at + cols];
                let square = &mut square[at..at + cols];
                for j in 0..cols {
                    let p = w[j] * g[j];
                    first[j] += p;
                    square[j] += p * p;
                }
            }
        }
        for (j, sums) in sums.iter_mut().enumerate() {
            for (sum, partial) in sums.iter_mut().zip(&partial) {
                *sum += f64::from(partial[j]);
            }
        }
    }
}

/// Adds up to [`LANES`] elements of a row to its partial sums.
#[inline(always)]
fn add_lanes<const SET: bool>(
    w: &[f32],
    g: &[f32],
    lanes: &mut [[f32; LANES]; 3],
    first: &mut [f32],
    square: &mut [f32],
) {
    let n = w.len().min(LANES);
    let g = &g[..n];
    let [signed, element, fisher] = lanes;
    for l in 0..n {
        let p = w[l] * g[l];
        signed[l] += p;
        element[l] += p.abs();
        fisher[l] += p * p;
    }
    if SET {
        let (first, square) = (&mut first[..n], &mut square[..n]);
        for l in 0..n {
            let p = w[l] * g[l];
            first[l] += p;
            square[l] += p * p;
        }
    }
}

/// Adds a tile's elements, summed over samples, to the set terms of its vectors.
fn reduce_elements(
    first: &[f32],
    square: &[f32],
    cols: usize,
    columns: bool,
    set: &mut [[f64; 2]],
) {
    let rows = first.chunks_exact(cols).zip(square.chunks_exact(cols));
    for (row, (first, square)) in rows.enumerate() {
        for (col, (&p, &q)) in first.iter().zip(square).enumerate() {
            let [set_first, set_mix] = &mut set[if columns { col } else { row }];
            *set_first += f64::from(p.abs());
            *set_mix += f64::from((p - 0.5 * q).abs());
        }
    }
}
