//! Our side of a training: steps of LoRA as `recover` makes them.

use std::sync::atomic::AtomicBool;

use adapruner_checkpoint::{Digest, atomic::StateDir};
use adapruner_model::{
    Decoder,
    train::{adamw::AdamW, schedule::Decay},
};
use adapruner_recover::{
    data::{Counts, Dataset, Example, batches::BatchSize},
    lora::{Adapter, LoraOptions, Target, projections},
    train::{
        FOLDER, Training, Watch,
        log::Entry,
        options::{Record, TrainOptions},
        trainer::Trainer,
    },
};
use anyhow::{Context, Result};

use super::{Args, cut};

/// What is learned, and how.
pub struct Batches {
    data: Dataset,
    options: TrainOptions,
}

/// Keeps the loss of the first step: the one before anything was learned, so
/// that it does not depend on what the adapter began with.
#[derive(Default)]
struct FirstLoss(Option<f64>);

impl Watch for FirstLoss {
    fn step(&mut self, entry: &Entry, _: u64) {
        self.0.get_or_insert(entry.loss);
    }
}

impl Batches {
    /// The same sequences at every step.
    pub fn new(args: &Args, ids: &[u32]) -> Result<Self> {
        let example = |ids: Vec<u32>| {
            let learned = vec![true; ids.len()];
            Example::new(ids, learned)
        };
        let train: Vec<Example> =
            cut(ids, args.sequence_tokens, args.sequences)?.into_iter().map(example).collect();
        let options = TrainOptions {
            batch: BatchSize::Sequences(train.len()),
            micro_tokens: train.len() * args.sequence_tokens,
            rate: 3e-4,
            decay: Decay::Constant,
            warmup: 0,
            optimizer: AdamW::default(),
            max_norm: None,
            epochs: None,
            max_steps: Some(args.steps as u64),
            max_seconds: None,
            checkpointing: false,
            validate_every: u64::MAX,
            patience: None,
            save_every: u64::MAX,
            save_seconds: f64::MAX,
            distillation: None,
            seed: 0,
        };
        let data = Dataset {
            name: "benchmark".into(),
            train,
            validation: Vec::new(),
            counts: Counts::default(),
            digest: Digest::of_bytes(b""),
        };
        Ok(Self { data, options })
    }

    /// Trains; tokens that were run, and the loss of the first step.
    pub fn run(&self, decoder: &Decoder) -> Result<(usize, f64)> {
        let mut targets: Vec<Target> =
            projections(decoder.config()).map(|(_, projection)| Target(projection)).collect();
        targets.sort_unstable();
        targets.dedup();
        let options = LoraOptions { rank: 8, alpha: 16.0, dropout: 0.0, targets, rslora: false };
        let adapter = Adapter::new(decoder.config(), &options, 0)?;
        let mut trainer = Trainer::lora(decoder, adapter);
        let folder = tempfile::tempdir()?;
        let mut first = FirstLoss::default();
        let mut training = Training {
            trainer: &mut trainer,
            data: &self.data,
            options: &self.options,
            record: Record::new(),
            teacher: None,
            folder: &StateDir::open(folder.path(), &FOLDER)?,
        };
        let outcome = training.run(&AtomicBool::new(false), &mut first)?;
        Ok((outcome.position.tokens as usize, first.0.context("no step was made")?))
    }
}
