//! [`StatsBank`]: the Taylor terms of every structural vector and the activation sums of
//! every column for every calibration sample.
//!
//! Notation: `w` weights of a vector (a row or column, see [`crate::layout`]),
//! `g_s` gradient of sample `s`'s loss, which is its mean negative log-likelihood
//! per predicted token in nats; sums run over the elements of the vector.
//!
//! | term | per sample | use |
//! |---|---|---|
//! | signed | `S = Σ w·g_s` | vector-wise first order of any set of samples: `Σ w·ḡ` is the mean of `S` |
//! | element | `A = Σ \|w·g_s\|` | element-wise first order, sample by sample |
//! | Fisher | `F = Σ ½·w²·g_s²` | second order of any set: `Σ ½·w²·F̄` is the mean of `F` |
//!
//! The mean over samples of `S` and of `F` is exact for any subset, because the
//! absolute value comes after it. Two terms do not separate by sample and are
//! kept for the whole set, on request: `Σ |w·ḡ|` and `Σ |w·ḡ − ½·w²·F̄|`, with
//! `ḡ` and `F̄` the means of `g_s` and `g_s²` (LLM-Pruner's `param_first` and
//! `param_mix`).
//!
//! A column of a matrix that reads heads or channels has one input `x_t` for every token. For
//! each sample the bank has `Σ_t x_t` and `Σ_t x_t²` over its tokens, from which the norm, the
//! mean and the variance over any subset of the samples follow ([`ColumnInputs`]); and, once
//! for each column, the sizes of its weights, `Σ_i |W_ij|` and `Σ_i W_ij²`. These need only a
//! forward pass ([`Terms::Activations`]), and are part of every other collection.
//!
//! Axes: `S` samples, `U` vectors, `C` columns. Numbers are stored as f32. The sums behind them
//! are f32 over at most a few hundred elements and f64 beyond; those of activations are f64
//! throughout.

mod collect;
mod file;
mod fused;
mod inputs;
pub mod memory;
mod portable;
#[cfg(test)]
mod tests;

use adapruner_checkpoint::{
    Digest, LayerWidths, ModelConfig, arch::family::FeedForwardKind, names::Projection,
};
use adapruner_kernels::MatmulPrecision;
use candle_core::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use self::{
    collect::{CollectOptions, collect},
    inputs::ColumnInputs,
};
use crate::{
    error::{Error, Result},
    layout::VectorLayout,
};

/// Version of the statistics' layout, sealed by a digest of the whole file.
pub const BANK_VERSION: u32 = 3;
/// The first version with activation sums; those before it are read as well.
const ACTIVATIONS_VERSION: u32 = 3;
/// The version before files were sealed, which is read as well.
pub(crate) const UNSEALED_VERSION: u32 = 1;

/// Vectors whose terms one task sums over samples.
const SUMMED: usize = 4096;

/// Which per-sample terms are collected; each choice holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terms {
    /// Activation sums of the columns, from a forward pass alone.
    Activations,
    /// Also the signed sums, from activations and their gradients; no weight gradient
    /// is made.
    Coarse,
    /// Also the element and Fisher sums.
    Full,
}

impl Terms {
    /// Number of terms for each sample and vector.
    pub(crate) fn of_vector(self) -> usize {
        match self {
            Self::Activations => 0,
            Self::Coarse => 1,
            Self::Full => 3,
        }
    }
}

/// One of the per-sample terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// `Σ w·g_s`.
    Signed,
    /// `Σ |w·g_s|`.
    Element,
    /// `Σ ½·w²·g_s²`.
    Fisher,
}

/// Whether feed-forwards are gated, as in all early banks; that is not written.
fn is_gated(kind: &FeedForwardKind) -> bool {
    *kind == FeedForwardKind::Gated
}

/// The inputs of statistics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankHeader {
    /// [`BANK_VERSION`], or an earlier one.
    pub version: u32,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Digest of the calibration samples.
    pub calibration_digest: Digest,
    /// Seed the calibration samples were drawn with.
    pub seed: u64,
    /// Tokens of each sample.
    pub sample_tokens: Vec<usize>,
    /// Mean negative log-likelihood of each sample, in nats per predicted token.
    pub losses: Vec<f64>,
    /// `H` of the model.
    pub hidden_size: usize,
    /// `D` of the model.
    pub head_dim: usize,
    /// Widths of the model's layers.
    pub layers: Vec<LayerWidths>,
    /// What the model's feed-forwards are made of.
    #[serde(default, skip_serializing_if = "is_gated")]
    pub feed_forward: FeedForwardKind,
    /// Which per-sample terms there are.
    pub terms: Terms,
    /// Whether the terms of the whole set are there as well.
    pub batch: bool,
    /// Type that the weights were held in; early versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Precision of the products; early versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matmul_precision: Option<String>,
}

/// What statistics are to have been collected from and how, to be used again; with the
/// precision of products that is set.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Digest of the model.
    pub model_digest: Digest,
    /// Digest of the calibration samples.
    pub calibration_digest: Digest,
    /// Seed the samples were drawn with.
    pub seed: u64,
    /// Type that the weights are held in.
    pub dtype: DType,
}

impl BankHeader {
    /// `S`.
    pub fn samples(&self) -> usize {
        self.sample_tokens.len()
    }

    /// Whether there are activation sums: earlier versions had none.
    pub fn has_activations(&self) -> bool {
        self.version >= ACTIVATIONS_VERSION
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.sample_tokens.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }
}

/// The numbers of a bank as flat arrays, row-major; those of vectors in the order of
/// [`VectorLayout::new`], those of columns in that of [`VectorLayout::columns`]. Absent
/// terms are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BankArrays {
    /// `Σ w·g_s`, `[S, U]`.
    pub signed: Vec<f32>,
    /// `Σ |w·g_s|`, `[S, U]`.
    pub element: Vec<f32>,
    /// `Σ ½·w²·g_s²`, `[S, U]`.
    pub fisher: Vec<f32>,
    /// `Σ |w·ḡ|`, `[U]`.
    pub batch_first: Vec<f32>,
    /// `Σ |w·ḡ − ½·w²·F̄|`, `[U]`.
    pub batch_mix: Vec<f32>,
    /// `Σ_t x` over a sample's tokens, `[S, C]`.
    pub input_sum: Vec<f32>,
    /// `Σ_t x²` over a sample's tokens, `[S, C]`.
    pub input_square: Vec<f32>,
    /// `Σ_i |W_ij|`, `[C]`.
    pub column_abs: Vec<f32>,
    /// `Σ_i W_ij²`, `[C]`.
    pub column_square: Vec<f32>,
}

/// Taylor terms per calibration sample and structural vector, activation sums per sample
/// and column.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsBank {
    header: BankHeader,
    layout: VectorLayout,
    columns: VectorLayout,
    arrays: BankArrays,
}

impl StatsBank {
    /// A bank of numbers that were collected elsewhere.
    ///
    /// # Errors
    /// A version this program does not know, no samples, or arrays whose lengths
    /// do not follow from the header.
    pub fn new(header: BankHeader, arrays: BankArrays) -> Result<Self> {
        if !(UNSEALED_VERSION..=BANK_VERSION).contains(&header.version) {
            return Err(Error::Bank(format!(
                "expected version {BANK_VERSION}, found version {}",
                header.version
            )));
        }
        if header.terms == Terms::Activations && !header.has_activations() {
            return Err(Error::Bank(format!(
                "version {} has no activation sums, but the header names them",
                header.version
            )));
        }
        let samples = header.samples();
        if samples == 0 {
            return Err(Error::Bank("expected at least 1 sample, found none".into()));
        }
        if header.losses.len() != samples {
            return Err(Error::Bank(format!(
                "expected {samples} losses, one a sample, found {}",
                header.losses.len()
            )));
        }
        let sizes = VectorLayout::new(&header.layers, header.head_dim, header.feed_forward)
            .and_then(|layout| Some((samples.checked_mul(layout.len())?, layout)));
        let columns = VectorLayout::columns(&header.layers, header.head_dim);
        let (Some((all, layout)), Some(columns)) = (sizes, columns) else {
            return Err(Error::Bank("the widths in the header are too large".into()));
        };
        let (signed, full) = match header.terms {
            Terms::Activations => (0, 0),
            Terms::Coarse => (all, 0),
            Terms::Full => (all, all),
        };
        let batch = if header.batch { layout.len() } else { 0 };
        let of_columns = if header.has_activations() { columns.len() } else { 0 };
        // No more than there are of vectors.
        let inputs = samples * of_columns;
        for (name, expected, found) in [
            ("signed", signed, arrays.signed.len()),
            ("element", full, arrays.element.len()),
            ("fisher", full, arrays.fisher.len()),
            ("batch_first", batch, arrays.batch_first.len()),
            ("batch_mix", batch, arrays.batch_mix.len()),
            ("input_sum", inputs, arrays.input_sum.len()),
            ("input_square", inputs, arrays.input_square.len()),
            ("column_abs", of_columns, arrays.column_abs.len()),
            ("column_square", of_columns, arrays.column_square.len()),
        ] {
            if found != expected {
                return Err(Error::Bank(format!(
                    "{name}: expected {expected} numbers for {samples} samples, {} vectors and {} \
                     columns, found {found}",
                    layout.len(),
                    columns.len()
                )));
            }
        }
        Ok(Self { header, layout, columns, arrays })
    }

    /// What the statistics were collected from.
    pub fn header(&self) -> &BankHeader {
        &self.header
    }

    /// Where each vector's numbers stand.
    pub fn layout(&self) -> &VectorLayout {
        &self.layout
    }

    /// Where each column's activation sums and weight sizes stand.
    pub fn columns(&self) -> &VectorLayout {
        &self.columns
    }

    /// The numbers.
    pub fn arrays(&self) -> &BankArrays {
        &self.arrays
    }

    /// `S`.
    pub fn samples(&self) -> usize {
        self.header.samples()
    }

    /// Refuses statistics of another model or calibration set, or of weights and products
    /// that were rounded otherwise.
    ///
    /// # Errors
    /// The first thing that differs, with both values.
    pub fn check_reuse(&self, config: &ModelConfig, origin: &Origin) -> Result<()> {
        let header = &self.header;
        let precision = MatmulPrecision::current().to_string();
        let unsaid = |value: &Option<String>, expected: &str| {
            value.clone().unwrap_or_else(|| expected.to_owned())
        };
        let dtype = origin.dtype.as_str();
        for (what, expected, found) in [
            (
                "the model's digest",
                origin.model_digest.to_string(),
                header.model_digest.to_string(),
            ),
            (
                "the calibration set's digest",
                origin.calibration_digest.to_string(),
                header.calibration_digest.to_string(),
            ),
            ("the seed", origin.seed.to_string(), header.seed.to_string()),
            ("the type of the weights", dtype.to_owned(), unsaid(&header.dtype, dtype)),
            (
                "the precision of products",
                precision.clone(),
                unsaid(&header.matmul_precision, &precision),
            ),
        ] {
            if expected != found {
                return Err(Error::OtherStatistics { what, expected, found });
            }
        }
        self.check_config(config)
    }

    /// Refuses statistics of a model with other widths.
    ///
    /// # Errors
    /// The first width that differs.
    pub fn check_config(&self, config: &ModelConfig) -> Result<()> {
        let header = &self.header;
        for (what, expected, found) in [
            ("the hidden size", config.hidden_size, header.hidden_size),
            ("the head width", config.head_dim, header.head_dim),
            ("the number of layers", config.layers.len(), header.layers.len()),
        ] {
            if expected != found {
                return Err(Error::OtherStatistics {
                    what,
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        for (layer, (expected, found)) in config.layers.iter().zip(&header.layers).enumerate() {
            if expected != found {
                let show = |w: &LayerWidths| {
                    format!("{}/{}/{} in layer {layer}", w.query_heads, w.kv_heads, w.ffn)
                };
                return Err(Error::OtherStatistics {
                    what: "the width (query heads/key-value heads/feed-forward)",
                    expected: show(expected),
                    found: show(found),
                });
            }
        }
        Ok(())
    }

    /// The sums of one sample for the vectors of one projection.
    ///
    /// # Shapes
    /// As many numbers as the projection has vectors.
    ///
    /// # Errors
    /// Terms that were not collected, a sample or layer that is not there.
    pub fn sample(
        &self,
        term: Term,
        sample: usize,
        layer: usize,
        projection: Projection,
    ) -> Result<&[f32]> {
        self.check_sample(sample)?;
        if layer >= self.layout.layers() {
            return Err(Error::Bank(format!(
                "no layer {layer}: there are {}",
                self.layout.layers()
            )));
        }
        let range = self.layout.range(layer, projection);
        let start = sample * self.layout.len();
        Ok(&self.term(term)?[start + range.start..start + range.end])
    }

    /// The mean of a term over a set of samples, `[U]`.
    ///
    /// # Errors
    /// An empty set, samples that are named twice or not there, terms that were
    /// not collected.
    pub fn mean(&self, term: Term, samples: &[usize]) -> Result<Vec<f64>> {
        let values = self.term(term)?;
        self.check_samples(samples)?;
        let mut sums = sums(values, self.layout.len(), samples);
        let scale = 1.0 / samples.len() as f64;
        sums.iter_mut().for_each(|sum| *sum *= scale);
        Ok(sums)
    }

    /// All samples, in order.
    pub fn all_samples(&self) -> Vec<usize> {
        (0..self.samples()).collect()
    }

    fn term(&self, term: Term) -> Result<&[f32]> {
        let (values, held, needed) = match term {
            Term::Signed => (&self.arrays.signed, Terms::Coarse, "the signed sums"),
            Term::Element => (&self.arrays.element, Terms::Full, "the element and Fisher sums"),
            Term::Fisher => (&self.arrays.fisher, Terms::Full, "the element and Fisher sums"),
        };
        if self.header.terms >= held { Ok(values) } else { Err(missing(needed)) }
    }

    /// Refuses an empty set, samples that are named twice or not there.
    fn check_samples(&self, samples: &[usize]) -> Result<()> {
        if samples.is_empty() {
            return Err(Error::Bank("expected at least 1 sample to score by, found none".into()));
        }
        let mut seen = vec![false; self.samples()];
        for &sample in samples {
            self.check_sample(sample)?;
            if std::mem::replace(&mut seen[sample], true) {
                return Err(Error::Bank(format!("sample {sample} is named twice")));
            }
        }
        Ok(())
    }

    fn check_sample(&self, sample: usize) -> Result<()> {
        if sample < self.samples() {
            return Ok(());
        }
        Err(Error::Bank(format!("no sample {sample}: there are {}", self.samples())))
    }
}

/// Terms that were not collected, of whatever asks for them.
fn missing(needed: &'static str) -> Error {
    Error::MissingTerms { importance: "this importance".into(), needed }
}

/// Sums over samples of an array `[S, width]`.
fn sums(values: &[f32], width: usize, samples: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0_f64; width];
    sums.par_chunks_mut(SUMMED).enumerate().for_each(|(part, sums)| {
        for &sample in samples {
            let row = &values[sample * width + part * SUMMED..][..sums.len()];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
    });
    sums
}
