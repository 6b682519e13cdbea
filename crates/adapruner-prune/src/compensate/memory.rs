//! Memory of a compensation.
//!
//! Axes: `T` tokens of all samples, `H` hidden, `F` features of a fit.

use std::fmt;

use adapruner_checkpoint::ModelConfig;
use adapruner_model::Placement;
use serde::Serialize;

use super::{Form, fits};
use crate::{bank::memory::streamed_weights, plan::PrunePlan};

/// Bytes that a compensation takes, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompensateFootprint {
    /// A block of either model, and the embedding.
    pub weights: u64,
    /// The pruned stream, the reference and what one matrix reads, on all tokens.
    pub streams: u64,
    /// The sums of one fit and their solution.
    pub sums: u64,
    /// The matrices or biases that were fitted; they stay to the end.
    pub fitted: u64,
}

impl CompensateFootprint {
    /// What compensating a model of `dense` that `plan` prunes takes, on `tokens` tokens in
    /// all; `stored` are the bytes of its largest tensor where it is stored.
    pub fn new(
        (dense, plan): (&ModelConfig, &PrunePlan),
        tokens: usize,
        form: Form,
        placement: &Placement,
        stored: u64,
    ) -> Self {
        let hidden = dense.hidden_size as u64;
        let features = fits(dense, plan).into_iter().flat_map(|fit| {
            let after = plan.layers[fit.layer].widths();
            fit.projections.into_iter().map(move |projection| {
                let width = if projection.is_attention() {
                    after.query_heads * dense.head_dim
                } else {
                    after.ffn
                };
                width as u64
            })
        });
        let features: Vec<u64> = features.collect();
        let widest = features.iter().copied().max().unwrap_or(0);
        let (sums, fitted) = match form {
            // In f64 the Gram matrices of the fitted and the held-out rows, a factor, the
            // cross products of either and two solutions; in f32 the held-out Gram matrix,
            // a solution and its product with that, which is copied once.
            Form::Weight { .. } => (
                28 * widest * widest + 44 * widest * hidden,
                4 * hidden * features.iter().sum::<u64>(),
            ),
            Form::Bias => (24 * hidden, 4 * hidden * features.len() as u64),
        };
        Self {
            weights: 2 * streamed_weights(dense, placement, stored),
            streams: 4 * tokens as u64 * (3 * hidden + widest),
            sums,
            fitted,
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.weights + self.streams + self.sums + self.fitted
    }
}

impl fmt::Display for CompensateFootprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, streams, sums, fitted } = self;
        write!(
            f,
            "weights {weights}, streams {streams}, sums of a fit {sums}, what was fitted {fitted}"
        )
    }
}
