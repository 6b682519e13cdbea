//! Weight gradients made tile by tile on the CPU and consumed at once.
//!
//! For one projection of one micro-batch, `G_s = dY_sᵀ · X_s` is the weight
//! gradient of sample `s`. It is never stored: a tile of it is made for one sample
//! at a time, small enough for a core's own caches, and the sums over its rows or
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

use adapruner_kernels::{Columns, transposed_product};
use half::{bf16, f16};
use multiversion::multiversion;
use rayon::prelude::*;

/// Vectors of a strip and reach of its tiles where the vectors are rows.
const ROW_TILE: (usize, usize) = (36, 256);
/// Vectors of a strip and reach of its tiles where the vectors are columns.
const COLUMN_TILE: (usize, usize) = (64, 128);

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
    /// The rows of each of the `S` samples of the micro-batch.
    pub samples: &'a [Range<usize>],
    /// `out`.
    pub outputs: usize,
    /// `in`.
    pub inputs: usize,
    /// `X`, `[R, in]`.
    pub input: &'a [f32],
    /// `dY`, `[R, out]`.
    pub grad_output: &'a [f32],
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
pub(super) fn vector_sums(operands: &Operands<'_>, set: SetTerms<'_>) -> Vec<StripSums> {
    let vectors = if operands.columns { operands.inputs } else { operands.outputs };
    let (width, _) = operands.tile();
    let strips: Vec<Range<usize>> =
        (0..vectors).step_by(width).map(|at| at..(at + width).min(vectors)).collect();
    let strip = |vectors| Strip::new(operands, vectors);
    match set {
        SetTerms::None => {
            strips.into_par_iter().map(|vectors| strip(vectors).run(None, false)).collect()
        }
        SetTerms::Whole => strips
            .into_par_iter()
            .map(|vectors| strip(vectors).run(Some(&mut StripElements::default()), true))
            .collect(),
        SetTerms::Part { strips: kept, last } => {
            kept.resize(strips.len(), StripElements::default());
            strips
                .into_par_iter()
                .zip(kept.par_iter_mut())
                .map(|(vectors, kept)| strip(vectors).run(Some(kept), last))
                .collect()
        }
    }
}

impl<'a> Operands<'a> {
    fn tile(&self) -> (usize, usize) {
        if self.columns { COLUMN_TILE } else { ROW_TILE }
    }

    /// A tile of a sample's weight gradient, row-major.
    fn gradient(&self, sample: usize, rows: &Range<usize>, cols: &Range<usize>, to: &mut [f32]) {
        let own = &self.samples[sample];
        // No token of the sample took the expert.
        if own.is_empty() {
            return to.fill(0.0);
        }
        let of = |all: &'a [f32], width: usize, range: &Range<usize>| {
            let values = &all[own.start * width..own.end * width];
            Columns { values, width, range: range.clone() }
        };
        let Self { outputs, inputs, input, grad_output, .. } = *self;
        let grad_output = of(grad_output, outputs, rows);
        transposed_product(&grad_output, &of(input, inputs, cols), to);
    }
}

/// One strip at work.
struct Strip<'a> {
    operands: &'a Operands<'a>,
    vectors: Range<usize>,
    /// Room for a tile of the weight.
    weight: Vec<f32>,
    /// Room for a tile of a gradient.
    gradient: Vec<f32>,
}

impl<'a> Strip<'a> {
    fn new(operands: &'a Operands<'a>, vectors: Range<usize>) -> Self {
        let (width, reach) = operands.tile();
        let [weight, gradient] = [(); 2].map(|()| vec![0.0; width * reach]);
        Self { operands, vectors, weight, gradient }
    }

    /// Runs all tiles; elements are summed over samples into `kept`, and reduced to
    /// vectors if `finish`.
    fn run(mut self, mut kept: Option<&mut StripElements>, finish: bool) -> StripSums {
        let Operands { outputs, inputs, columns, .. } = *self.operands;
        let samples = self.operands.samples.len();
        let width = self.vectors.len();
        let along = if columns { outputs } else { inputs };
        let (_, reach) = self.operands.tile();
        let mut sums = vec![[0.0_f64; 3]; samples * width];
        let mut set = finish.then(|| vec![[0.0_f64; 2]; width]);
        if let Some(kept) = &mut kept {
            kept.first.resize(width * along, 0.0);
            kept.square.resize(width * along, 0.0);
        }
        for start in (0..along).step_by(reach) {
            let part = start..(start + reach).min(along);
            let size = width * part.len();
            let (rows, cols) =
                if columns { (part, self.vectors.clone()) } else { (self.vectors.clone(), part) };
            self.load_weight(&rows, &cols);
            let mut elements = match &mut kept {
                Some(kept) => {
                    let tile = width * start..width * start + size;
                    Elements {
                        first: &mut kept.first[tile.clone()],
                        square: &mut kept.square[tile],
                    }
                }
                None => Elements { first: &mut [], square: &mut [] },
            };
            for (sample, sums) in sums.chunks_exact_mut(width).enumerate() {
                let gradient = &mut self.gradient[..size];
                self.operands.gradient(sample, &rows, &cols, gradient);
                let tile = Tile { weight: &self.weight[..size], gradient, cols: cols.len() };
                if columns {
                    column_sums(tile, sums, &mut elements);
                } else {
                    row_sums(tile, sums, &mut elements);
                }
            }
            if let Some(set) = &mut set {
                reduce_elements(&elements, cols.len(), columns, set);
            }
        }
        for [_, _, fisher] in &mut sums {
            *fisher *= 0.5;
        }
        StripSums { vectors: self.vectors, sums, set }
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
#[derive(Clone, Copy)]
struct Tile<'a> {
    weight: &'a [f32],
    gradient: &'a [f32],
    cols: usize,
}

/// Sums over samples of the elements of a tile; empty where they are not wanted.
struct Elements<'a> {
    first: &'a mut [f32],
    square: &'a mut [f32],
}

/// Adds the sums over each row of a tile to `sums` (the Fisher sum without its ½).
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn row_sums(tile: Tile<'_>, sums: &mut [[f64; 3]], elements: &mut Elements<'_>) {
    let Tile { weight, gradient, cols } = tile;
    let rows = weight.chunks_exact(cols).zip(gradient.chunks_exact(cols));
    for ((w, g), sums) in rows.zip(sums) {
        let mut lanes = [[0.0_f32; LANES]; 3];
        let [signed, element, fisher] = &mut lanes;
        let mut add = |lane: usize, w: f32, g: f32| {
            let p = w * g;
            signed[lane] += p;
            element[lane] += p.abs();
            fisher[lane] += p * p;
        };
        let ((w, last_w), (g, last_g)) = (w.as_chunks::<LANES>(), g.as_chunks::<LANES>());
        for (w, g) in w.iter().zip(g) {
            (0..LANES).for_each(|lane| add(lane, w[lane], g[lane]));
        }
        last_w.iter().zip(last_g).enumerate().for_each(|(lane, (&w, &g))| add(lane, w, g));
        for (sum, lanes) in sums.iter_mut().zip(&lanes) {
            *sum += lanes_sum(lanes);
        }
    }
    add_elements(tile, elements);
}

/// The sum of all lanes, halves against halves.
#[inline(always)]
fn lanes_sum(lanes: &[f32; LANES]) -> f64 {
    let mut sums = lanes.map(f64::from);
    for half in [8, 4, 2, 1] {
        for at in 0..half {
            sums[at] += sums[at + half];
        }
    }
    sums[0]
}

/// Adds the sums over each column of a tile to `sums` (the Fisher sum without its ½).
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn column_sums(tile: Tile<'_>, sums: &mut [[f64; 3]], elements: &mut Elements<'_>) {
    let Tile { weight, gradient, cols } = tile;
    let mut partial = [[0.0_f32; COLUMN_TILE.0]; 3];
    let [signed, element, fisher] = partial.each_mut().map(|sums| &mut sums[..cols]);
    for (w, g) in weight.chunks_exact(cols).zip(gradient.chunks_exact(cols)) {
        for j in 0..cols {
            let p = w[j] * g[j];
            signed[j] += p;
            element[j] += p.abs();
            fisher[j] += p * p;
        }
    }
    for (j, sums) in sums.iter_mut().enumerate() {
        for (sum, partial) in sums.iter_mut().zip(&partial) {
            *sum += f64::from(partial[j]);
        }
    }
    add_elements(tile, elements);
}

/// Adds a sample's elements, `w·g` and its square.
#[inline(always)]
fn add_elements(Tile { weight, gradient, .. }: Tile<'_>, elements: &mut Elements<'_>) {
    let Elements { first, square } = elements;
    let sums = first.iter_mut().zip(square.iter_mut());
    for ((first, square), (w, g)) in sums.zip(weight.iter().zip(gradient)) {
        let p = w * g;
        *first += p;
        *square += p * p;
    }
}

/// Adds a tile's elements, summed over samples, to the set terms of its vectors.
fn reduce_elements(elements: &Elements<'_>, cols: usize, columns: bool, set: &mut [[f64; 2]]) {
    let rows = elements.first.chunks_exact(cols).zip(elements.square.chunks_exact(cols));
    for (row, (first, square)) in rows.enumerate() {
        for (col, (&p, &q)) in first.iter().zip(square).enumerate() {
            let [set_first, set_mix] = &mut set[if columns { col } else { row }];
            *set_first += f64::from(p.abs());
            *set_mix += f64::from((p - 0.5 * q).abs());
        }
    }
}
