//! What a student learns from: a teacher's likeliest tokens and hidden states.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::pass::Rows;
use crate::{
    decoder::Decoder,
    error::{Error, Result},
};

/// Logits that exist at a time.
const LOGITS: usize = 8 * 1024 * 1024;

/// The largest logits of every predicting row, largest first.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogits {
    /// How many of each row.
    pub k: usize,
    /// Token ids, `[P, k]`.
    pub ids: Vec<u32>,
    /// Logits, not divided by the temperature, `[P, k]`.
    pub logits: Vec<f32>,
    /// Of all logits of a row divided by the temperature, `[P]`.
    pub logsumexp: Vec<f64>,
}

impl Decoder {
    /// The `k` largest logits (at most the vocabulary) of all tokens of each
    /// sequence but its last, and the logsumexp at `temperature`. Logits exist for
    /// some rows at a time.
    ///
    /// # Errors
    /// Sequences of fewer than two tokens or with ids outside the vocabulary, a
    /// temperature that is not above 0, damaged weights, or no memory.
    pub fn top_logits(
        &self,
        sequences: &[Vec<u32>],
        k: usize,
        temperature: f64,
    ) -> Result<TopLogits> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::Batch(format!(
                "temperature {temperature}, expected a number above 0"
            )));
        }
        let rows = Rows::new(self, sequences)?;
        let mut x = rows.embedded(self)?;
        for layer in 0..self.config().layers.len() {
            x = self.block(layer)?.forward(&x, &rows.pass(None), None)?;
        }
        let predicting = rows.predicting();
        let count = predicting.len();
        let predicting = Tensor::from_vec(predicting, count, x.device())?;
        let x = x.squeeze(0)?.index_select(&predicting, 0)?;
        let ending = self.ending()?;
        let (x, head) = (ending.read(&x)?, ending.head);
        let vocabulary = head.weight.dim(0)?;
        let k = k.min(vocabulary);
        let mut top = TopLogits { k, ids: Vec::new(), logits: Vec::new(), logsumexp: Vec::new() };
        let step = (LOGITS / vocabulary.max(1)).max(1);
        for start in (0..count).step_by(step) {
            let part = x.narrow(0, start, step.min(count - start))?.contiguous()?;
            let logits = head.logits(&part)?.to_dtype(DType::F32)?;
            let logits = logits.flatten_all()?.to_vec1::<f32>()?;
            let of_rows: Vec<_> = logits
                .par_chunks(vocabulary.max(1))
                .map(|logits| {
                    let ids = largest(logits, k);
                    let values: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
                    (ids, values, logsumexp(logits, temperature))
                })
                .collect();
            for (ids, values, sum) in of_rows {
                top.ids.extend(ids);
                top.logits.extend(values);
                top.logsumexp.push(sum);
            }
        }
        Ok(top)
    }

    /// The outputs of some blocks, `[R, H]` each, of packed sequences: what a
    /// student's are matched to.
    ///
    /// # Errors
    /// As [`Decoder::top_logits`]; a layer that the model does not have.
    pub fn block_outputs(
        &self,
        sequences: &[Vec<u32>],
        layers: &[usize],
    ) -> Result<BTreeMap<usize, Tensor>> {
        let all = self.config().layers.len();
        if let Some(layer) = layers.iter().find(|&&layer| layer >= all) {
            return Err(Error::Batch(format!("layer {layer}, the model has {all}")));
        }
        let rows = Rows::new(self, sequences)?;
        let mut x = rows.embedded(self)?;
        let mut outputs = BTreeMap::new();
        for layer in 0..layers.iter().max().map_or(0, |last| last + 1) {
            x = self.block(layer)?.forward(&x, &rows.pass(None), None)?;
            if layers.contains(&layer) {
                outputs.insert(layer, x.squeeze(0)?);
            }
        }
        Ok(outputs)
    }
}

/// The ids of the `k` largest logits, largest first; of equal ones, the lower id.
fn largest(logits: &[f32], k: usize) -> Vec<u32> {
    let order =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if k < ids.len() {
        ids.select_nth_unstable_by(k, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids
}

fn logsumexp(logits: &[f32], temperature: f64) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&z| ((f64::from(z) - top) / temperature).exp()).sum();
    top / temperature + sum.ln()
}
