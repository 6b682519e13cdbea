//! Trainings that are killed, stopped, go wrong or are mixed up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use adapruner_model::{Decoder, train::adamw::Parameter};
use adapruner_recover::{
    Error,
    data::{Dataset, batches::BatchSize},
    train::{
        BEST, Ended, Outcome, STATE, Training, Watch,
        log::Entry,
        options::{Record, TrainOptions},
        state,
        trainer::Trainer,
    },
};

use crate::{
    common::{checkpoint, decoder, said},
    training::{adapter, dataset, entries, examples, folder_of, options, train},
};

fn longer() -> TrainOptions {
    TrainOptions {
        batch: BatchSize::Tokens(24),
        micro_tokens: 12,
        max_steps: None,
        epochs: Some(2),
        validate_every: 4,
        save_every: 3,
        ..options()
    }
}

fn data() -> Dataset {
    dataset(examples(14, 250), examples(5, 250))
}

fn fresh<'a>(base: &'a Decoder, checkpoint: &adapruner_checkpoint::Checkpoint) -> Trainer<'a> {
    Trainer::lora(base, adapter(checkpoint, 0.2))
}

/// What a step was, but for its time.
fn kept(entries: &[Entry]) -> Vec<(u64, u64, u64, Option<u64>, u64, u64)> {
    let bits = |e: &Entry| {
        let validation = e.validation_loss.map(f64::to_bits);
        let (rate, norm) = (e.learning_rate.to_bits(), e.gradient_norm.to_bits());
        (e.step, e.loss.to_bits(), rate, validation, norm, e.tokens)
    };
    entries.iter().map(bits).collect()
}

/// Panics, or tells to stop, at a step.
struct At<'a> {
    step: u64,
    stop: Option<&'a AtomicBool>,
}

impl Watch for At<'_> {
    fn step(&mut self, entry: &Entry, _: u64) {
        if entry.step == self.step {
            match self.stop {
                Some(stop) => stop.store(true, Ordering::Relaxed),
                None => panic!("killed"),
            }
        }
    }
}

fn watched(
    trainer: &mut Trainer<'_>,
    folder: &Path,
    stop: &AtomicBool,
    watch: &mut dyn Watch,
) -> adapruner_recover::Result<Outcome> {
    let (data, options) = (data(), longer());
    let record = Record::from([("model".into(), "made".into())]);
    let mut training = Training {
        trainer,
        data: &data,
        options: &options,
        record,
        teacher: None,
        folder: &folder_of(folder),
    };
    training.run(stop, watch)
}

#[test]
fn a_training_that_was_killed_or_stopped_makes_the_same_steps() {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let undisturbed = tempfile::tempdir().unwrap();
    let mut right = fresh(&base, &checkpoint);
    let outcome = train(&mut right, &data(), &longer(), undisturbed.path()).unwrap();
    let log = kept(&entries(undisturbed.path()));
    assert_eq!(log.len() as u64, outcome.planned_steps);
    assert!(log.len() >= 8, "{} steps", log.len());

    let folder = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    // Killed in the first steps, twice beyond a saved state, then stopped.
    for step in [1, 5, 7] {
        let mut trainer = fresh(&base, &checkpoint);
        let mut at = At { step, stop: None };
        let run = || watched(&mut trainer, folder.path(), &never, &mut at);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "not killed at {step}");
    }
    let stop = AtomicBool::new(false);
    let mut trainer = fresh(&base, &checkpoint);
    let mut at = At { step: 8, stop: Some(&stop) };
    let stopped = watched(&mut trainer, folder.path(), &stop, &mut at).unwrap();
    assert_eq!((stopped.ended, stopped.position.step), (Ended::Interrupted, 8));
    let mut trainer = fresh(&base, &checkpoint);
    let resumed = watched(&mut trainer, folder.path(), &never, &mut ()).unwrap();
    assert_eq!(resumed.ended, Ended::Finished);
    assert_eq!(kept(&entries(folder.path())), log);
    assert_eq!(resumed.position.best, outcome.position.best);
    assert_eq!(resumed.kept_step, outcome.kept_step);
    let bits = |p: &Parameter| p.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (name, parameter) in &right.parameters {
        assert_eq!(bits(parameter), bits(&trainer.parameters[name]), "{name}");
    }
    // Done is done: nothing is trained again.
    let mut trainer = fresh(&base, &checkpoint);
    let again = watched(&mut trainer, folder.path(), &never, &mut At { step: 1, stop: None });
    assert_eq!(again.unwrap().kept_step, outcome.kept_step);
}

#[test]
fn a_state_of_other_settings_or_data_is_refused_by_name() {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let first = TrainOptions { max_steps: Some(2), ..options() };
    train(&mut fresh(&base, &checkpoint), &data(), &first, folder.path()).unwrap();
    let again = |options: &TrainOptions, data: &Dataset| {
        said(train(&mut fresh(&base, &checkpoint), data, options, folder.path()))
    };
    let message = again(&TrainOptions { rate: 2e-2, ..first.clone() }, &data());
    for part in ["learning-rate", "0.02 expected", "0.01 found", STATE, "--work"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(again(&TrainOptions { seed: 9, ..first.clone() }, &data()).contains("another seed"));
    let other = dataset(examples(13, 250), Vec::new());
    assert!(again(&first, &other).contains("another data"));
    // When it is saved may change.
    let more = TrainOptions { save_every: 1, max_seconds: Some(60.0), ..first };
    train(&mut fresh(&base, &checkpoint), &data(), &more, folder.path()).unwrap();
}

#[test]
fn damaged_states_are_errors() {
    let checkpoint = checkpoint("biases");
    let base = decoder(&checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { max_steps: Some(1), ..options() };
    train(&mut fresh(&base, &checkpoint), &data(), &options, folder.path()).unwrap();
    let path = folder.path().join(STATE);
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let result = train(&mut fresh(&base, &checkpoint), &data(), &options, folder.path());
        assert!(result.is_err(), "cut at {cut}");
    }
    for bit in (0..whole.len() * 8).step_by(1009) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let message = said(state::check(&path));
        assert!(message.contains(STATE), "bit {bit}: {message}");
    }
}

#[test]
fn best_parameters_that_were_damaged_are_never_kept() {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let data = || dataset(examples(6, 250), examples(2, 250));
    let options = TrainOptions { validate_every: 1, save_every: 1, ..options() };
    let stop = AtomicBool::new(false);
    let mut trainer = fresh(&base, &checkpoint);
    let mut training = Training {
        trainer: &mut trainer,
        data: &data(),
        options: &options,
        record: Record::from([("model".into(), "made".into())]),
        teacher: None,
        folder: &folder_of(folder.path()),
    };
    training.run(&stop, &mut At { step: 2, stop: Some(&stop) }).unwrap();
    let path = folder.path().join(BEST);
    let whole = std::fs::read(&path).unwrap();
    for bit in [8 * 9, 8 * (whole.len() / 2) + 3, 8 * whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let mut trainer = fresh(&base, &checkpoint);
        let message = said(train(&mut trainer, &data(), &options, folder.path()));
        assert!(message.contains(BEST), "bit {bit}: {message}");
    }
    std::fs::remove_file(&path).unwrap();
    let mut trainer = fresh(&base, &checkpoint);
    let message = said(train(&mut trainer, &data(), &options, folder.path()));
    assert!(message.contains(BEST) && message.contains("missing"), "{message}");
    std::fs::write(&path, whole).unwrap();
    let mut trainer = fresh(&base, &checkpoint);
    train(&mut trainer, &data(), &options, folder.path()).unwrap();
}

#[test]
fn a_loss_that_explodes_ends_the_training_and_keeps_the_last_state() {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let wild = TrainOptions {
        rate: 1e3,
        max_norm: None,
        max_steps: Some(20),
        save_every: 1,
        warmup: 1,
        ..options()
    };
    let error = train(&mut fresh(&base, &checkpoint), &data(), &wild, folder.path()).unwrap_err();
    let Error::Diverged { step, .. } = error else { panic!("{error}") };
    assert!(error.to_string().starts_with(&format!("step {step}: the ")), "{error}");
    assert_eq!(entries(folder.path()).len() as u64, step - 1);
    let mut trainer = fresh(&base, &checkpoint);
    let again = train(&mut trainer, &data(), &wild, folder.path());
    assert!(matches!(again, Err(Error::Diverged { step: s, .. }) if s == step));
}

#[test]
fn validations_without_gain_end_the_training_and_the_best_is_kept() {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let folder = tempfile::tempdir().unwrap();
    // What is validated on has nothing to do with what is learned.
    let data = dataset(examples(6, 40), vec![examples(40, 500)[33].clone()]);
    let eager = TrainOptions {
        rate: 5e-2,
        max_norm: None,
        max_steps: Some(60),
        validate_every: 1,
        patience: Some(3),
        ..options()
    };
    let mut trainer = fresh(&base, &checkpoint);
    let outcome = train(&mut trainer, &data, &eager, folder.path()).unwrap();
    assert_eq!(outcome.ended, Ended::EarlyStopped);
    let best = outcome.position.best.unwrap();
    assert_eq!(outcome.position.step, best.step + 3);
    assert_eq!(outcome.kept_step, best.step);
    let options = options();
    let mut training = Training {
        trainer: &mut trainer,
        data: &data,
        options: &options,
        record: Record::new(),
        teacher: None,
        folder: &folder_of(folder.path()),
    };
    let loss = training.validate(&mut ()).unwrap().unwrap();
    assert_eq!(loss.to_bits(), best.loss.to_bits());
    // And it stays ended.
    let mut again = fresh(&base, &checkpoint);
    training.trainer = &mut again;
    let outcome = train(training.trainer, &data, &eager, folder.path()).unwrap();
    assert_eq!(outcome.ended, Ended::EarlyStopped);
}
