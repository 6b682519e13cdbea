//! Memory of mask learning, and how its passes are split to fit.
//!
//! | part | bytes |
//! |---|---|
//! | weights | all, or those of one block and of the embedding ([`streamed_weights`]); with packed forms |
//! | block states | `4·R·H·(L + 1)` of the `R` tokens that run together, and as many again of the dense model where hidden states are matched |
//! | activations | of the `R` tokens in all gated blocks, or in one where blocks are recomputed |
//! | answers | 8 for each of the dense model's likely tokens, at every training token |
//!
//! How a pass is split changes numbers only where the gemm crate computes products.
//!
//! Axes: `L` layers, `H` hidden.

use std::fmt;

use adapruner_checkpoint::ModelConfig;
use adapruner_model::{Placement, Residency, gradient::backward_token_bytes};
use serde::Serialize;

use super::options::{MaskLoss, TOP_LOGITS};
use crate::{
    bank::memory::streamed_weights,
    error::{Error, Result},
};

/// What is to be learned, and from how much.
#[derive(Debug, Clone, Copy)]
pub struct MaskWork<'a> {
    /// The dense model.
    pub config: &'a ModelConfig,
    /// Where it runs.
    pub placement: &'a Placement,
    /// Bytes of its largest tensor where it is stored.
    pub stored: u64,
    /// The first layer with a gate.
    pub first_layer: usize,
    /// Tokens of all training samples.
    pub train_tokens: usize,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// What is learned from.
    pub loss: MaskLoss,
}

/// How a learning's passes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskPass {
    /// How the weights are held.
    pub residency: Residency,
    /// Whether blocks are recomputed in the backward pass.
    pub checkpointing: bool,
    /// Most tokens that run together (but at least one sample).
    pub micro_tokens: usize,
}

/// Bytes that a learning takes, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MaskFootprint {
    /// Weights and their packed forms.
    pub weights: u64,
    /// Block inputs, and outputs of the dense model's blocks.
    pub states: u64,
    /// What blocks keep for the backward pass.
    pub activations: u64,
    /// What the dense model said of the training samples.
    pub answers: u64,
}

impl MaskFootprint {
    /// All bytes.
    pub fn total(&self) -> u64 {
        let Self { weights, states, activations, answers } = *self;
        [weights, states, activations, answers].into_iter().fold(0, u64::saturating_add)
    }
}

impl fmt::Display for MaskFootprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, states, activations, answers } = self;
        write!(f, "weights {weights}, block states {states}, activations {activations}")?;
        if *answers > 0 {
            write!(f, ", answers of the dense model {answers}")?;
        }
        Ok(())
    }
}

fn product(factors: impl IntoIterator<Item = u64>) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

impl MaskWork<'_> {
    /// What a learning takes if its passes are run by `pass`.
    pub fn footprint(&self, pass: &MaskPass) -> MaskFootprint {
        let Self { config, placement, .. } = *self;
        let packed = placement.packed_bytes();
        let rows = pass.micro_tokens.min(self.step_tokens).max(self.longest) as u64;
        let weights = match pass.residency {
            Residency::Resident => {
                let of_one = placement.dtype.size_in_bytes() + packed.forward + packed.back;
                product([config.parameters(), of_one as u64]).saturating_add(self.stored)
            }
            Residency::Streamed => streamed_weights(config, placement, self.stored),
        };
        let (layers, hidden) = (config.layers.len() as u64, config.hidden_size as u64);
        let streams = match self.loss {
            MaskLoss::Text | MaskLoss::Logits => layers + 1,
            MaskLoss::Hidden => 2 * layers + 1,
        };
        let of_token = backward_token_bytes(config);
        let blocks = if pass.checkpointing { 1 } else { layers - self.first_layer as u64 };
        let answers = match self.loss {
            MaskLoss::Text | MaskLoss::Hidden => 0,
            MaskLoss::Logits => {
                product([8, TOP_LOGITS.min(config.vocab_size) as u64, self.train_tokens as u64])
            }
        };
        MaskFootprint {
            weights,
            states: product([4, rows, hidden, streams]),
            activations: product([rows, of_token, blocks.max(1)]),
            answers,
        }
    }

    /// The fastest way to run the passes that takes at most `memory` bytes: weights held
    /// before streamed, blocks kept before recomputed, many tokens together before few.
    ///
    /// # Errors
    /// [`Error::MaskMemory`] where none fits.
    pub fn pass(&self, memory: u64) -> Result<MaskPass> {
        let mut micro_tokens = self.step_tokens.max(1);
        let mut sizes = vec![micro_tokens];
        while micro_tokens > self.longest {
            micro_tokens = (micro_tokens / 2).max(self.longest);
            sizes.push(micro_tokens);
        }
        let mut ways = Vec::new();
        for (residency, checkpointing) in
            [(Residency::Resident, false), (Residency::Resident, true), (Residency::Streamed, true)]
        {
            let of = |&micro_tokens| MaskPass { residency, checkpointing, micro_tokens };
            ways.extend(sizes.iter().map(of));
        }
        let fits = |pass: &&MaskPass| self.footprint(pass).total() <= memory;
        if let Some(pass) = ways.iter().find(fits) {
            return Ok(*pass);
        }
        let least = ways.iter().map(|pass| self.footprint(pass)).min_by_key(MaskFootprint::total);
        let footprint = least.unwrap_or_else(|| {
            let streamed = MaskPass {
                residency: Residency::Streamed,
                checkpointing: true,
                micro_tokens: self.longest,
            };
            self.footprint(&streamed)
        });
        Err(Error::MaskMemory { footprint, limit: memory })
    }
}
