//! What the columns of `o` and `down` read: collecting its sums, and what follows from
//! them for a set of samples.
//!
//! Axes: `S` samples of a micro-batch, `T` tokens, `C` columns, `out` and `in` sides of a
//! weight.

use std::ops::Range;

use adapruner_model::wide::in_f64;
use candle_core::{DType, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::{StatsBank, collect::slice, missing, sums};
use crate::error::Result;

/// Columns that one task sums over tokens or rows.
const COLUMNS: usize = 256;
/// Rows of a weight that are read at a time.
const ROWS: usize = 64;

/// What every column reads, over the tokens of a set of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnInputs {
    /// Tokens of the samples.
    tokens: f64,
    /// `Σ x`, `[C]`.
    sum: Vec<f64>,
    /// `Σ x²`, `[C]`.
    square: Vec<f64>,
}

impl ColumnInputs {
    /// `‖x_j‖₂` of every column, `[C]`.
    pub fn norms(&self) -> Vec<f64> {
        self.square.iter().map(|square| square.sqrt()).collect()
    }

    /// `E[x_j]` over tokens of every column, `[C]`.
    pub fn means(&self) -> Vec<f64> {
        self.sum.iter().map(|sum| sum / self.tokens).collect()
    }

    /// `Var(x_j) = E[x_j²] − E[x_j]²` over tokens of every column, `[C]`; where rounding
    /// would make it negative, 0.
    pub fn variances(&self) -> Vec<f64> {
        let of = |(sum, square): (&f64, &f64)| {
            let variance = square / self.tokens - (sum / self.tokens).powi(2);
            // Not `f64::max`, which would drop a NaN.
            if variance < 0.0 { 0.0 } else { variance }
        };
        self.sum.iter().zip(&self.square).map(of).collect()
    }
}

impl StatsBank {
    /// What every column reads, over the tokens of a set of samples.
    ///
    /// # Errors
    /// A bank without activation sums, an empty set, samples that are named twice or not
    /// there.
    pub fn inputs(&self, samples: &[usize]) -> Result<ColumnInputs> {
        self.check_activations()?;
        self.check_samples(samples)?;
        let (width, arrays) = (self.columns.len(), &self.arrays);
        let tokens = samples.iter().map(|&sample| self.header.sample_tokens[sample] as f64).sum();
        Ok(ColumnInputs {
            tokens,
            sum: sums(&arrays.input_sum, width, samples),
            square: sums(&arrays.input_square, width, samples),
        })
    }

    /// `Σ_i |W_ij|` and `Σ_i W_ij²` of every column, `[C]` each.
    ///
    /// # Errors
    /// A bank without activation sums.
    pub fn column_sizes(&self) -> Result<[&[f32]; 2]> {
        self.check_activations()?;
        Ok([&self.arrays.column_abs, &self.arrays.column_square])
    }

    fn check_activations(&self) -> Result<()> {
        if self.header.has_activations() {
            return Ok(());
        }
        Err(missing("the activation sums of columns (files of earlier versions have none)"))
    }
}

/// `Σ_t x` and `Σ_t x²` of every column, for each sample of a micro-batch, whose rows are
/// `samples`.
///
/// # Shapes
/// `[R, in]` → `S` times `[in]` and `[in]`.
pub(super) fn sample_sums(
    input: &Tensor,
    samples: &[Range<usize>],
) -> CandleResult<Vec<[Vec<f64>; 2]>> {
    let (all, width) = input.dims2()?;
    if !(input.device().is_cpu() && input.dtype() == DType::F32) {
        let of = |rows: &Range<usize>| {
            if rows.is_empty() {
                return Ok([vec![0.0; width], vec![0.0; width]]);
            }
            let rows = in_f64(&input.narrow(0, rows.start, rows.len())?)?;
            Ok([rows.sum(0)?.to_vec1()?, rows.sqr()?.sum(0)?.to_vec1()?])
        };
        return samples.iter().map(of).collect();
    }
    let input = input.contiguous()?;
    let (storage, layout) = input.storage_and_layout();
    let values: &[f32] = slice(&storage, layout.start_offset(), all * width)?;
    let of = |rows: &Range<usize>| {
        column_sums(&values[rows.start * width..rows.end * width], width, |x| [x, x * x])
    };
    Ok(samples.iter().map(of).collect())
}

/// `Σ_i |W_ij|` and `Σ_i W_ij²` of every column.
///
/// # Shapes
/// `[out, in]` → `[in]` and `[in]`.
pub(super) fn weight_sizes(weight: &Tensor) -> CandleResult<[Vec<f64>; 2]> {
    let (outputs, width) = weight.dims2()?;
    let mut sizes = [vec![0.0; width], vec![0.0; width]];
    for start in (0..outputs).step_by(ROWS) {
        let rows = weight.narrow(0, start, ROWS.min(outputs - start))?;
        let rows = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let part = column_sums(&rows, width, |w| [w.abs(), w * w]);
        for (sizes, part) in sizes.iter_mut().zip(part) {
            sizes.iter_mut().zip(part).for_each(|(size, part)| *size += part);
        }
    }
    Ok(sizes)
}

/// The sums over rows of both numbers that are made of each element, column by column, the
/// first row first.
fn column_sums(rows: &[f32], width: usize, of: impl Fn(f64) -> [f64; 2] + Sync) -> [Vec<f64>; 2] {
    let [mut first, mut second] = [vec![0.0; width], vec![0.0; width]];
    let parts = first.par_chunks_mut(COLUMNS).zip(second.par_chunks_mut(COLUMNS));
    parts.enumerate().for_each(|(part, (first, second))| {
        for row in rows.chunks_exact(width) {
            let row = &row[part * COLUMNS..][..first.len()];
            for ((first, second), &x) in first.iter_mut().zip(&mut *second).zip(row) {
                let [a, b] = of(f64::from(x));
                *first += a;
                *second += b;
            }
        }
    });
    [first, second]
}
