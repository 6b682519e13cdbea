//! The batch of a step: the terms of its loss, and the dense model's answers.
//!
//! Axes: `P` predicted tokens of some sequences, `R` their rows, `k` targets of each.

use std::collections::BTreeMap;

use adapruner_model::{
    Decoder,
    train::{Batch, HiddenMatch, MaskGradients, PassOptions, Term, mask_gradients},
};
use candle_core::Tensor;

use super::options::{MaskLoss, TOP_LOGITS};
use crate::error::Result;

/// What the dense model says of one sample: ids and probabilities, `[P, k]` each.
struct Answers {
    ids: Vec<u32>,
    probabilities: Vec<f32>,
}

/// The dense model's answers, computed once for each sample.
pub(super) struct Teacher<'a> {
    dense: &'a Decoder,
    loss: MaskLoss,
    /// Layers whose outputs are matched: those that a gate changes.
    matched: Vec<usize>,
    answers: BTreeMap<usize, Answers>,
}

/// A part of a step's sequences, and what the step has in all.
pub(super) struct StepPart<'a> {
    /// Their places among the training samples.
    pub(super) samples: &'a [usize],
    /// The sequences.
    pub(super) sequences: &'a [Vec<u32>],
    /// Tokens that the whole step predicts.
    pub(super) predicted: usize,
    /// Tokens of the whole step.
    pub(super) rows: usize,
}

impl<'a> Teacher<'a> {
    pub(super) fn new(dense: &'a Decoder, loss: MaskLoss, first_gated: usize) -> Self {
        let matched = (first_gated..dense.config().layers.len()).collect();
        Self { dense, loss, matched, answers: BTreeMap::new() }
    }

    /// Adds the gradients of a part of a step to `sums`; its part of the step's mean loss,
    /// in nats per predicted token or, of hidden states, as the mean over blocks and
    /// tokens of `‖h − t‖²/‖t‖²`.
    ///
    /// # Errors
    /// A loss that is not finite, damaged weights, no memory.
    pub(super) fn learn(
        &mut self,
        decoder: &Decoder,
        part: &StepPart<'_>,
        options: &PassOptions,
        sums: &mut MaskGradients,
    ) -> Result<f64> {
        let StepPart { sequences, predicted, rows, .. } = *part;
        let share = 1.0 / predicted as f64;
        let learned = match self.loss {
            MaskLoss::Text => {
                let terms = vec![Term::cross_entropy(sequences, |_, _| share as f32)];
                let batch = Batch { sequences, terms, hidden: None };
                mask_gradients(decoder, &batch, options, sums)?
            }
            MaskLoss::Logits => {
                let terms = vec![self.answered(part, share as f32)?];
                let batch = Batch { sequences, terms, hidden: None };
                mask_gradients(decoder, &batch, options, sums)?
            }
            MaskLoss::Hidden => {
                let outputs = self.dense.block_outputs(sequences, &self.matched)?;
                let missing = |layer| format!("output of layer {layer} is missing");
                let target = |layer: usize| -> adapruner_model::Result<Tensor> {
                    let output = outputs.get(&layer).cloned();
                    output.ok_or_else(|| adapruner_model::Error::Batch(missing(layer)))
                };
                let weight = 1.0 / (rows * self.matched.len()) as f64;
                let layers = self.matched.clone();
                let hidden = Some(HiddenMatch { weight, layers, target: &target });
                let batch = Batch { sequences, terms: Vec::new(), hidden };
                mask_gradients(decoder, &batch, options, sums)?
            }
        };
        Ok(learned.terms.iter().sum::<f64>() + learned.hidden)
    }

    /// The cross-entropy to what the dense model says, asked where it was not before.
    fn answered(&mut self, part: &StepPart<'_>, share: f32) -> Result<Term> {
        let pairs = || part.samples.iter().zip(part.sequences);
        let (new, open): (Vec<usize>, Vec<Vec<u32>>) = pairs()
            .filter(|(at, _)| !self.answers.contains_key(at))
            .map(|(&at, sequence)| (at, sequence.clone()))
            .unzip();
        if !open.is_empty() {
            let top = self.dense.top_logits(&open, TOP_LOGITS, 1.0)?;
            let mut row = 0;
            for (at, sequence) in new.into_iter().zip(&open) {
                let rows = row..row + sequence.len() - 1;
                let places = rows.start * top.k..rows.end * top.k;
                let probability = |(place, logit): (usize, &f32)| {
                    (f64::from(*logit) - top.logsumexp[rows.start + place / top.k]).exp() as f32
                };
                let probabilities =
                    top.logits[places.clone()].iter().enumerate().map(probability).collect();
                let ids = top.ids[places].to_vec();
                row = rows.end;
                self.answers.insert(at, Answers { ids, probabilities });
            }
        }
        let k = TOP_LOGITS.min(self.dense.config().vocab_size);
        let mut term = Term { temperature: 1.0, k, ids: Vec::new(), weights: Vec::new() };
        for Answers { ids, probabilities } in part.samples.iter().map(|at| &self.answers[at]) {
            term.ids.extend(ids);
            term.weights.extend(probabilities.iter().map(|p| p * share));
        }
        Ok(term)
    }
}
