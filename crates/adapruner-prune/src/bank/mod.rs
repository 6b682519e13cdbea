//! [`StatsBank`]: the Taylor terms of every structural vector for every
//! calibration sample.
//!
//! Notation: `w` weights of a vector (a row or column, see [`crate::layout`]),
//! `g_s` gradient of sample `s`'s loss, which is its mean negative log-likelihood
//! per predicted token in nats; sums run over the elements of the vector.
//!
//! | term | per sample | what it gives |
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
//! Axes: `S` samples, `U` vectors. Numbers are kept as f32; the sums behind them
//! are made in f32 over at most a few hundred elements and in f64 beyond.

mod collect;
mod file;
mod fused;
pub mod memory;
mod portable;
#[cfg(test)]
mod tests;

use adapruner_checkpoint::{Digest, LayerWidths, ModelConfig, names::Projection};
use adapruner_kernels::MatmulPrecision;
use candle_core::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use self::collect::{CollectOptions, collect};
use crate::{
    error::{Error, Result},
    layout::VectorLayout,
};

/// Version of the statistics' layout, sealed by a digest of the whole file.
pub const BANK_VERSION: u32 = 2;
/// The version before files were sealed, which is read as well.
pub(crate) const UNSEALED_VERSION: u32 = 1;

/// Vectors whose terms one task sums over samples.
const SUMMED: usize = 4096;

/// Which per-sample terms are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terms {
    /// The signed sums alone, from activations and their gradients; no weight
    /// gradient is made.
    Coarse,
    /// Signed, element and Fisher sums.
    Full,
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

/// What statistics were collected from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankHeader {
    /// [`BANK_VERSION`].
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

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.sample_tokens.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }
}

/// The numbers of a bank as flat arrays; per-sample arrays are `[S, U]`,
/// row-major, those of the whole set `[U]`. Absent terms are empty.
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
}

/// Taylor terms per calibration sample and structural vector.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsBank {
    header: BankHeader,
    layout: VectorLayout,
    arrays: BankArrays,
}

impl StatsBank {
    /// A bank of numbers that were collected elsewhere.
    ///
    /// # Errors
    /// A version this program does not know, no samples, or arrays whose lengths
    /// do not follow from the header.
    pub fn new(header: BankHeader, arrays: BankArrays) -> Result<Self> {
        if header.version != BANK_VERSION && header.version != UNSEALED_VERSION {
            return Err(Error::Bank(format!(
                "expected version {BANK_VERSION}, found version {}",
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
        let sizes = VectorLayout::new(&header.layers, header.head_dim)
            .and_then(|layout| Some((samples.checked_mul(layout.len())?, layout)));
        let Some((all, layout)) = sizes else {
            return Err(Error::Bank("the widths in the header are too large".into()));
        };
        let full = match header.terms {
            Terms::Coarse => 0,
            Terms::Full => all,
        };
        let batch = if header.batch { layout.len() } else { 0 };
        for (name, expected, found) in [
            ("signed", all, arrays.signed.len()),
            ("element", full, arrays.element.len()),
            ("fisher", full, arrays.fisher.len()),
            ("batch_first", batch, arrays.batch_first.len()),
            ("batch_mix", batch, arrays.batch_mix.len()),
        ] {
            if found != expected {
                return Err(Error::Bank(format!(
                    "{name}: expected {expected} numbers for {samples} samples and {} vectors, \
                     found {found}",
                    layout.len()
                )));
            }
        }
        Ok(Self { header, layout, arrays })
    }

    /// What the statistics were collected from.
    pub fn header(&self) -> &BankHeader {
        &self.header
    }

    /// Where each vector's numbers stand.
    pub fn layout(&self) -> &VectorLayout {
        &self.layout
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
        let vectors = self.layout.len();
        let scale = 1.0 / samples.len() as f64;
        let mut sums = vec![0.0_f64; vectors];
        sums.par_chunks_mut(SUMMED).enumerate().for_each(|(part, sums)| {
            for &sample in samples {
                let row = &values[sample * vectors + part * SUMMED..][..sums.len()];
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(value);
                }
            }
            sums.iter_mut().for_each(|sum| *sum *= scale);
        });
        Ok(sums)
    }

    /// All samples, in order.
    pub fn all_samples(&self) -> Vec<usize> {
        (0..self.samples()).collect()
    }

    fn term(&self, term: Term) -> Result<&[f32]> {
        let values = match term {
            Term::Signed => return Ok(&self.arrays.signed),
            Term::Element => &self.arrays.element,
            Term::Fisher => &self.arrays.fisher,
        };
        match self.header.terms {
            Terms::Full => Ok(values),
            Terms::Coarse => Err(Error::MissingTerms {
                importance: "this importance".into(),
                needed: "the element and Fisher sums",
            }),
        }
    }

    fn check_sample(&self, sample: usize) -> Result<()> {
        if sample < self.samples() {
            return Ok(());
        }
        Err(Error::Bank(format!("no sample {sample}: there are {}", self.samples())))
    }
}
