//! Options of a training, and the record that binds its files to them.

use std::collections::BTreeMap;

use adapruner_model::train::{adamw::AdamW, schedule::Decay};

use crate::{
    data::batches::BatchSize,
    error::{Error, Result},
};

/// What a training was made from, by name: a state or cache of another record
/// is refused.
pub type Record = BTreeMap<String, String>;

/// Learning from a teacher's probabilities.
///
/// Beside the data's own tokens the loss has `τ²·Σ −p·ln q` over the teacher's `k` most likely
/// tokens at each target position, `p` and `q` at temperature `τ` (Hinton et al., arXiv
/// 1503.02531); what the teacher gives to other tokens is left out.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Distillation {
    /// `τ`.
    pub temperature: f64,
    /// Share of the teacher in the loss, above 0 to 1.
    pub mix: f64,
    /// `k`.
    pub top: usize,
    /// Weight of the matching of hidden states: of the mean, over all blocks and
    /// all tokens (prompts too), of `‖h − t‖²/‖t‖²`, where `h` and `t` are the
    /// block's output of student and teacher. `None` for no matching.
    pub hidden: Option<f64>,
}

/// Options of a training.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TrainOptions {
    /// Sequences of a step.
    pub batch: BatchSize,
    /// Tokens per micro-batch; splitting a step into micro-batches changes only rounding.
    pub micro_tokens: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Its decay.
    pub decay: Decay,
    /// Steps over which it rises.
    pub warmup: u64,
    /// The optimiser's constants.
    pub optimizer: AdamW,
    /// Largest norm of a step's gradient; `None` for any.
    pub max_norm: Option<f64>,
    /// Passes over the data; `None` for as many as `max_steps` takes.
    pub epochs: Option<u64>,
    /// Maximum steps; this or `epochs` is given.
    pub max_steps: Option<u64>,
    /// Maximum seconds, including those before a stop.
    pub max_seconds: Option<f64>,
    /// Recompute each block in the backward pass.
    pub checkpointing: bool,
    /// Steps from one validation to the next; the last step is always followed
    /// by one.
    pub validate_every: u64,
    /// Validations without a better loss that end the training.
    pub patience: Option<u64>,
    /// Steps from one saved state to the next.
    pub save_every: u64,
    /// Maximum seconds between saved states.
    pub save_seconds: f64,
    /// Learning from a teacher.
    pub distillation: Option<Distillation>,
    /// Seed of orders, dropout and the initial adapter.
    pub seed: u64,
}

impl TrainOptions {
    /// Refuses what cannot be trained with.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn check(&self) -> Result<()> {
        let positive = |option, number: f64| match number > 0.0 && number.is_finite() {
            true => Ok(()),
            false => Err(Error::option(option, format!("above 0 expected, {number} found"))),
        };
        let share = |option, number: f64| match (0.0..1.0).contains(&number) {
            true => Ok(()),
            false => Err(Error::option(option, format!("0 to below 1 expected, {number} found"))),
        };
        let counts = [
            ("epochs", self.epochs),
            ("max-steps", self.max_steps),
            ("validate-every", Some(self.validate_every)),
            ("patience", self.patience),
            ("save-every", Some(self.save_every)),
            ("micro-tokens", Some(self.micro_tokens as u64)),
            match self.batch {
                BatchSize::Sequences(count) => ("batch-size", Some(count as u64)),
                BatchSize::Tokens(tokens) => ("batch-tokens", Some(tokens as u64)),
            },
        ];
        for (option, count) in counts {
            if count == Some(0) {
                return Err(Error::option(option, "at least 1 expected, 0 found"));
            }
        }
        if self.epochs.is_none() && self.max_steps.is_none() {
            return Err(Error::option("epochs", "missing, and so is max-steps"));
        }
        positive("learning-rate", self.rate)?;
        positive("epsilon", self.optimizer.epsilon)?;
        share("beta1", self.optimizer.beta1)?;
        share("beta2", self.optimizer.beta2)?;
        share("weight-decay", self.optimizer.weight_decay)?;
        if let Some(norm) = self.max_norm {
            positive("max-norm", norm)?;
        }
        if let Some(seconds) = self.max_seconds {
            positive("max-minutes", seconds)?;
        }
        positive("save-minutes", self.save_seconds)?;
        if let Some(Distillation { temperature, mix, top, hidden }) = self.distillation {
            positive("temperature", temperature)?;
            if let Some(weight) = hidden {
                positive("match-hidden", weight)?;
            }
            if !(mix > 0.0 && mix <= 1.0) {
                return Err(Error::option("mix", format!("above 0 to 1 expected, {mix} found")));
            }
            if top == 0 {
                return Err(Error::option("top-logits", "at least 1 expected, 0 found"));
            }
        }
        Ok(())
    }

    /// What decides the course of the training, by name. When it is saved and
    /// stopped does not.
    pub fn record(&self) -> Record {
        let AdamW { beta1, beta2, epsilon, weight_decay } = self.optimizer;
        let batch = match self.batch {
            BatchSize::Sequences(count) => ("batch-size", count),
            BatchSize::Tokens(tokens) => ("batch-tokens", tokens),
        };
        let optional = |number: Option<f64>| number.map_or("none".into(), |n| format!("{n:?}"));
        let count = |number: Option<u64>| number.map_or("none".into(), |n| n.to_string());
        let mut record: Record = [
            (batch.0, batch.1.to_string()),
            ("micro-tokens", self.micro_tokens.to_string()),
            ("learning-rate", format!("{:?}", self.rate)),
            ("schedule", self.decay.to_string()),
            ("warmup", self.warmup.to_string()),
            ("beta1", format!("{beta1:?}")),
            ("beta2", format!("{beta2:?}")),
            ("epsilon", format!("{epsilon:?}")),
            ("weight-decay", format!("{weight_decay:?}")),
            ("max-norm", optional(self.max_norm)),
            ("epochs", count(self.epochs)),
            ("max-steps", count(self.max_steps)),
            ("validate-every", self.validate_every.to_string()),
            ("patience", count(self.patience)),
            ("seed", self.seed.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        if let Some(Distillation { temperature, mix, top, hidden }) = self.distillation {
            record.insert("match-hidden".into(), optional(hidden));
            record.insert("temperature".into(), format!("{temperature:?}"));
            record.insert("mix".into(), format!("{mix:?}"));
            record.insert("top-logits".into(), top.to_string());
        }
        record
    }
}
