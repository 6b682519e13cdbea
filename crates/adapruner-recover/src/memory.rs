//! What a training takes in memory, foreseen.
//!
//! An estimate from above: numbers are f32, every block's activations are
//! counted as kept until they are read in the backward pass.
//!
//! Axes: `R` rows of a part, `L` layers, `H` hidden, `N` query heads, `D` head
//! width, `F` feed-forward width, `V` vocabulary.

use adapruner_checkpoint::ModelConfig;

use crate::{
    data::Dataset,
    error::{Error, Result},
    train::options::TrainOptions,
};

/// Bytes of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Foreseen {
    /// The model's weights.
    pub weights: u64,
    /// What is learned: numbers, moments, gradients and the model's copy.
    pub learned: u64,
    /// Activations and logits of one part of a step.
    pub activations: u64,
}

/// Numbers that are held for one that is learned: itself, two moments, the sum
/// of the gradients, those of a part, the model's copy.
const HELD: u64 = 6;

impl Foreseen {
    /// What training a model takes, with `weight_bytes` for each of its
    /// parameters and `learned` numbers that are learned.
    pub fn new(
        config: &ModelConfig,
        weight_bytes: u64,
        learned: u64,
        data: &Dataset,
        options: &TrainOptions,
    ) -> Self {
        let rows = options.micro_tokens.max(data.longest()) as u64;
        let hidden = config.hidden_size as u64;
        let block = |widths: &adapruner_checkpoint::LayerWidths| {
            let heads = (widths.query_heads * config.head_dim) as u64;
            let keys = (widths.kv_heads * config.head_dim) as u64;
            // Inputs, norms and residuals; queries, keys, values, what attention
            // gives; gate, up and their product; and the gradients of all.
            2 * (4 * hidden + 3 * heads + 3 * keys + 4 * widths.ffn as u64)
        };
        let blocks = config.layers.iter().map(block);
        let kept = if options.checkpointing {
            blocks.max().unwrap_or(0) + config.layers.len() as u64 * hidden
        } else {
            blocks.sum()
        };
        let logits = 2 * config.vocab_size as u64;
        Self {
            weights: config.parameters() * weight_bytes,
            learned: learned * HELD * 4,
            activations: rows * (kept + logits) * 4,
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.weights + self.learned + self.activations
    }

    /// Refuses what takes more than `limit` bytes.
    ///
    /// # Errors
    /// Then, with what takes them.
    pub fn check(&self, limit: u64) -> Result<()> {
        let needed = self.total();
        if needed <= limit {
            return Ok(());
        }
        let Self { weights, learned, activations } = self;
        let parts =
            format!("weights {weights}, what is learned {learned}, activations {activations}");
        Err(Error::Memory { needed, limit, parts })
    }
}
