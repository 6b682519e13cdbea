//! Memory estimate of a training.
//!
//! An upper bound: numbers are f32, and every block's activations count as kept until the
//! backward pass reads them.
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
pub struct MemoryEstimate {
    /// The model's weights and their packed forms.
    pub weights: u64,
    /// What is learned: numbers, moments, gradients and the model's copy.
    pub learned: u64,
    /// Activations and logits of one part of a step.
    pub activations: u64,
    /// A teacher that runs along: its weights, and the outputs of its blocks for
    /// one part of a step.
    pub teacher: u64,
}

/// The outputs of all blocks for one row.
fn states(config: &ModelConfig) -> u64 {
    (config.layers.len() * config.hidden_size) as u64
}

/// Numbers that are held for one that is learned: itself, two moments, the sum
/// of the gradients, those of a part, the model's copy.
const HELD: u64 = 6;

impl MemoryEstimate {
    /// What training a model takes, with `weight_bytes` for each of its
    /// parameters (packed forms included) and `learned` numbers that are learned,
    /// with a teacher that runs along or without.
    pub fn new(
        config: &ModelConfig,
        weight_bytes: u64,
        learned: u64,
        data: &Dataset,
        options: &TrainOptions,
        teacher: Option<&ModelConfig>,
    ) -> Self {
        let rows = options.micro_tokens.max(data.longest()) as u64;
        let of_block = |config: &ModelConfig, widths: &adapruner_checkpoint::LayerWidths| {
            let hidden = config.hidden_size as u64;
            let heads = (widths.query_heads * config.head_dim) as u64;
            let keys = (widths.kv_heads * config.head_dim) as u64;
            // Inputs, norms and residuals; queries, keys, values, what attention
            // gives; gate, up and their product; and the gradients of all.
            let routed = config.experts.map_or(0, |of| (4 * of.chosen as u64 + 1) * hidden);
            let channels = config.active_channels(widths) as u64;
            2 * (4 * hidden + 3 * heads + 3 * keys + 4 * channels + routed)
        };
        let blocks = config.layers.iter().map(|widths| of_block(config, widths));
        let kept = if options.checkpointing {
            blocks.max().unwrap_or(0) + states(config)
        } else {
            blocks.sum()
        };
        let teacher = teacher.map_or(0, |config| {
            let block = config.layers.iter().map(|widths| of_block(config, widths)).max();
            config.parameters() * weight_bytes + rows * (states(config) + block.unwrap_or(0)) * 4
        });
        let logits = 2 * config.vocab_size as u64;
        Self {
            weights: config.parameters() * weight_bytes,
            learned: learned * HELD * 4,
            activations: rows * (kept + logits) * 4,
            teacher,
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.weights + self.learned + self.activations + self.teacher
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
        let Self { weights, learned, activations, teacher } = self;
        let mut parts =
            format!("weights {weights}, what is learned {learned}, activations {activations}");
        if *teacher > 0 {
            parts.push_str(&format!(", the teacher that runs along {teacher}"));
        }
        Err(Error::Memory { needed, limit, parts })
    }
}
