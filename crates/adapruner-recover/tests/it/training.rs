//! Steps against PEFT and torch, number by number.

use std::{path::Path, sync::atomic::AtomicBool};

use adapruner_checkpoint::{Checkpoint, Digest, atomic::StateDir, names::Projection};
use adapruner_model::{
    Decoder,
    train::{
        Batch, PassOptions, Term,
        adamw::AdamW,
        adapter_gradients,
        schedule::{Decay, Schedule, Spent},
    },
};
use adapruner_recover::{
    data::{Counts, Dataset, Example, batches::BatchSize},
    lora::{Adapter, LoraOptions, Target},
    merge,
    peft::{self, Side, tensor_name},
    train::{
        Ended, FOLDER, Outcome, Training,
        log::Entry,
        options::{Record, TrainOptions},
        trainer::Trainer,
    },
};
use candle_core::{DType, Device, Tensor};

use crate::common::{Expected, F32, MODELS, adapter_folder, checkpoint, decoder, near};

/// Options of the fixture's run (settings.json).
pub fn options() -> TrainOptions {
    TrainOptions {
        batch: BatchSize::Sequences(3),
        micro_tokens: 64,
        rate: 1e-2,
        decay: Decay::Cosine,
        warmup: 1,
        optimizer: AdamW { weight_decay: 0.1, ..AdamW::default() },
        max_norm: Some(0.05),
        epochs: None,
        max_steps: Some(4),
        max_seconds: None,
        checkpointing: false,
        validate_every: 100,
        patience: None,
        save_every: 100,
        save_seconds: 1e9,
        distillation: None,
        seed: 3,
    }
}

pub fn dataset(train: Vec<Example>, validation: Vec<Example>) -> Dataset {
    let parts: Vec<Vec<u8>> =
        train.iter().map(|e| e.ids.iter().flat_map(|id| id.to_le_bytes()).collect()).collect();
    let digest = Digest::of_parts(parts.iter().map(|part| ("row", part.as_slice())));
    Dataset { name: "made".into(), train, validation, counts: Counts::default(), digest }
}

pub fn train(
    trainer: &mut Trainer<'_>,
    data: &Dataset,
    options: &TrainOptions,
    folder: &Path,
) -> adapruner_recover::Result<Outcome> {
    let record = Record::from([("model".into(), "made".into())]);
    let mut training =
        Training { trainer, data, options, record, teacher: None, folder: &folder_of(folder) };
    training.run(&AtomicBool::new(false), &mut ())
}

/// The folder of a training.
pub fn folder_of(folder: &Path) -> StateDir {
    StateDir::open(folder, &FOLDER).unwrap()
}

pub fn entries(folder: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn adapter(checkpoint: &Checkpoint, dropout: f64) -> Adapter {
    let options = LoraOptions {
        rank: 4,
        alpha: 8.0,
        dropout,
        targets: Projection::ALL.map(Target).to_vec(),
        rslora: false,
    };
    Adapter::new(&checkpoint.config, &options, 5).unwrap()
}

/// Sequences that have something to be learned.
pub fn examples(count: usize, vocabulary: u32) -> Vec<Example> {
    (0..count as u32)
        .map(|i| {
            let ids: Vec<u32> = (0..5 + i % 7).map(|t| (7 * i + 3 * t) % vocabulary).collect();
            let learned = (0..ids.len()).map(|t| t > 1).collect();
            Example::new(ids, learned)
        })
        .collect()
}

fn fixture_examples(expected: &Expected) -> Vec<Example> {
    (0..3)
        .map(|at| {
            let mask = expected.ids(&format!("mask.{at}"));
            let learned = mask.into_iter().map(|m| m == 1).collect();
            Example::new(expected.ids(&format!("batch.{at}")), learned)
        })
        .collect()
}

#[test]
fn gradients_of_the_first_step_agree_with_peft() {
    for model in MODELS {
        let (checkpoint, expected) = (checkpoint(model), Expected::of(model));
        let base = decoder(&checkpoint);
        let start = peft::read(&adapter_folder(model, "start"), &checkpoint.config).unwrap();
        let trainer = Trainer::lora(&base, start);
        let examples = fixture_examples(&expected);
        let learned: usize = examples.iter().map(Example::targets).sum();
        let sequences: Vec<Vec<u32>> = examples.iter().map(|e| e.ids.clone()).collect();
        let weight =
            |sequence: usize, at: usize| f32::from(u8::from(examples[sequence].learned[at]));
        let terms = vec![Term::cross_entropy(&sequences, weight)];
        let batch = Batch { sequences: &sequences, terms, hidden: None };
        for checkpointing in [false, true] {
            let decoder = trainer.decoder(None).unwrap();
            let found =
                adapter_gradients(&decoder, &batch, &PassOptions { checkpointing }).unwrap();
            assert_eq!(found.gradients.len(), 2 * 7);
            for ((layer, projection), gradient) in &found.gradients {
                for (side, gradient) in [(Side::A, &gradient.a), (Side::B, &gradient.b)] {
                    let name = tensor_name(&checkpoint.config, *layer, *projection, side);
                    let mean = (gradient / learned as f64).unwrap();
                    near(&mean, expected.get(&format!("grad.{name}")), F32, &name);
                }
            }
        }
    }
}

#[test]
fn four_steps_agree_with_torch() {
    for model in MODELS {
        let (checkpoint, expected) = (checkpoint(model), Expected::of(model));
        let base = decoder(&checkpoint);
        // However the sequences are run in parts.
        for micro_tokens in [64, 1, 14] {
            let start = peft::read(&adapter_folder(model, "start"), &checkpoint.config).unwrap();
            let mut trainer = Trainer::lora(&base, start);
            let folder = tempfile::tempdir().unwrap();
            let data = dataset(fixture_examples(&expected), Vec::new());
            let options = TrainOptions { micro_tokens, ..options() };
            let outcome = train(&mut trainer, &data, &options, folder.path()).unwrap();
            assert_eq!((outcome.ended, outcome.kept_step), (Ended::Finished, 4));
            let log = entries(folder.path());
            let column = |of: &dyn Fn(&Entry) -> f64| {
                Tensor::new(log.iter().map(of).collect::<Vec<f64>>(), &Device::Cpu).unwrap()
            };
            let what = |part| format!("{model}, {part}, parts of {micro_tokens}");
            near(&column(&|e| e.loss), expected.get("loss"), F32, &what("losses"));
            near(&column(&|e| e.gradient_norm), expected.get("norm"), 1e-4, &what("norms"));
            near(&column(&|e| e.learning_rate), expected.get("rate"), 1e-6, &what("rates"));
            let right = candle_core::safetensors::load(
                adapter_folder(model, "trained").join(peft::WEIGHTS),
                &Device::Cpu,
            )
            .unwrap();
            let found = trainer.tensors().unwrap();
            assert_eq!(found.len(), right.len());
            for (name, tensor) in &found {
                // Where a gradient is next to nothing, Adam's step is of the
                // rate's size in a direction that rounding decides.
                near(tensor, &right[name], 5e-3, &what(name));
                let apart = |a: &Tensor, b: &Tensor| {
                    let square = (a - b).unwrap().sqr().unwrap().sum_all().unwrap();
                    square.to_scalar::<f32>().unwrap().sqrt()
                };
                let whole = apart(&right[name], &right[name].zeros_like().unwrap());
                let share = apart(tensor, &right[name]) / whole;
                // Below 3e-4 with AVX-512's order of sums, 3.5e-4 with AVX2's.
                assert!(share < 1e-3, "{}: {share}", what(name));
            }
        }
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    let at = |decay, step| Schedule { rate: 2.0, decay, warmup: 2, total: 6 }.at(step);
    let all = |decay| (0..7).map(|step| at(decay, step)).collect::<Vec<_>>();
    assert_eq!(all(Decay::Linear), [0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0]);
    assert_eq!(all(Decay::Constant), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
    for (step, right) in [(2, 2.0), (3, 1.707_106_8), (4, 1.0), (5, 0.292_893_2)] {
        assert!((at(Decay::Cosine, step) - right).abs() < 1e-6, "step {step}");
    }
}

#[test]
fn no_training_is_warm_up_alone() {
    let rates = |warmup, total| {
        let schedule = Schedule { rate: 1.0, decay: Decay::Constant, warmup, total };
        (0..total).map(|step| schedule.at(step)).collect::<Vec<_>>()
    };
    assert_eq!(rates(10, 1), [1.0]);
    assert_eq!(rates(10, 2), [0.0, 1.0]);
    assert_eq!(rates(10, 5), [0.0, 0.5, 1.0, 1.0, 1.0]);
    // Under a budget of 100 seconds, at a pace of 1, 30 and 120 seconds a step.
    let schedule = Schedule { rate: 1.0, decay: Decay::Constant, warmup: 10, total: 1000 };
    let at = |step, seconds| schedule.within(step, Spent { seconds, budget: 100.0 });
    assert_eq!((at(0, 1.0), at(4, 5.0), at(20, 21.0)), (0.0, 0.4, 1.0));
    assert_eq!((at(0, 30.0), at(1, 60.0)), (0.6, 1.0));
    assert_eq!(at(0, 120.0), 1.0);
    // Half way through what it may take, the rate never falls behind.
    assert_eq!(at(4, 30.0), 0.6);
}

fn logits(decoder: &Decoder, ids: &[u32]) -> Tensor {
    decoder.logits(&decoder.tokens(&[ids]).unwrap()).unwrap()
}

#[test]
fn a_merged_model_equals_the_trained_one_whatever_its_widths() {
    for model in ["per_layer", "tiny", "sharded_bf16"] {
        let checkpoint = checkpoint(model);
        let base = decoder(&checkpoint);
        let mut trainer = Trainer::lora(&base, adapter(&checkpoint, 0.1));
        let folder = tempfile::tempdir().unwrap();
        let data = dataset(examples(9, 200), Vec::new());
        let options = TrainOptions { max_norm: None, max_steps: Some(6), ..options() };
        train(&mut trainer, &data, &options, folder.path()).unwrap();
        let merged = merge::merge(&checkpoint, &trainer.adapter().unwrap()).unwrap();
        let ids = &data.train[8].ids;
        let learned = logits(&trainer.decoder(None).unwrap(), ids);
        near(&logits(&decoder(&merged), ids), &learned, F32, model);
        let apart = (logits(&base, ids) - learned).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() > 1e-2, "{model} learned nothing");
    }
}

#[test]
fn all_parameters_are_learned() {
    for model in ["tiny", "biases", "per_layer"] {
        let checkpoint = checkpoint(model);
        let base = decoder(&checkpoint);
        let mut trainer = Trainer::full(&base, &checkpoint).unwrap();
        assert_eq!(trainer.learned_parameters(), checkpoint.config.parameters());
        let before = trainer.parameters.clone();
        let folder = tempfile::tempdir().unwrap();
        let data = dataset(examples(6, 200), examples(6, 200));
        let options = TrainOptions {
            rate: 3e-3,
            max_norm: None,
            max_steps: Some(12),
            checkpointing: true,
            ..options()
        };
        let outcome = train(&mut trainer, &data, &options, folder.path()).unwrap();
        let best = outcome.position.best.unwrap();
        let before_loss = outcome.validation_before.unwrap();
        assert!(best.loss < 0.9 * before_loss, "{model}: {before_loss} → {}", best.loss);
        for (name, parameter) in &trainer.parameters {
            // Embeddings of tokens that do not occur stay, all else moves.
            assert_ne!(parameter.values, before[name].values, "{model}: {name}");
        }
        let model = checkpoint.with_tensors(trainer.tensors().unwrap()).unwrap();
        let ids = &data.train[3].ids;
        let learned = logits(&trainer.decoder(None).unwrap(), ids);
        near(&logits(&decoder(&model), ids), &learned, F32, "replaced");
        let load =
            |c: &Checkpoint, name: &str| c.tensors.load(name, DType::F32, &Device::Cpu).unwrap();
        let name = Projection::Up.weight(adapruner_checkpoint::Architecture::Llama.family(), 0);
        near(&load(&model, &name), &trainer.tensors().unwrap()[&name], 0.0, &name);
    }
}

#[test]
fn validation_is_the_mean_over_all_learned_tokens_however_they_run() {
    for model in ["tiny", "biases", "per_layer"] {
        let checkpoint = checkpoint(model);
        let base = decoder(&checkpoint);
        let mut trainer = Trainer::lora(&base, adapter(&checkpoint, 0.5));
        // Updates that change something.
        for parameter in trainer.parameters.values_mut() {
            let numbers = parameter.values.iter_mut().enumerate();
            numbers.for_each(|(at, value)| *value += 0.01 * (at % 7) as f32);
        }
        let data = dataset(examples(2, 250), examples(23, 250));
        let decoder = trainer.decoder(None).unwrap();
        let (mut sum, mut learned) = (0.0, 0);
        for example in &data.validation {
            let losses = decoder.nll(&decoder.tokens(&[&example.ids]).unwrap()).unwrap();
            let losses = losses.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let places = losses.iter().zip(&example.learned[1..]).filter(|(_, l)| **l);
            sum += places.map(|(loss, _)| f64::from(*loss)).sum::<f64>();
            learned += example.targets();
        }
        let expected = sum / learned as f64;
        for micro_tokens in [1, 16, 10_000] {
            let options = TrainOptions { micro_tokens, ..options() };
            let folder = tempfile::tempdir().unwrap();
            let training = Training {
                trainer: &mut trainer,
                data: &data,
                options: &options,
                record: Record::new(),
                teacher: None,
                folder: &folder_of(folder.path()),
            };
            let found = training.validate(&mut ()).unwrap().unwrap();
            let error = (found - expected).abs() / expected;
            assert!(error < F32, "{model}, {micro_tokens}: {found} for {expected}");
        }
    }
}
