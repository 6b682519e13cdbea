//! Learning from a teacher.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::AtomicBool,
};

use adapruner_checkpoint::{Checkpoint, names::Projection, tokenizer::vocabulary::Role};
use adapruner_model::train::schedule::Decay;
use adapruner_recover::{
    data::{Dataset, Example},
    distill::{self, Source, Teacher, TeacherCache},
    train::{
        Outcome, Training, Watch,
        log::Entry,
        options::{Distillation, Record, TrainOptions},
        trainer::Trainer,
    },
};

use candle_core::{DType, Device};

use crate::{
    common::{F32, checkpoint, decoder, said},
    training::{adapter, dataset, entries, examples, folder_of, options, train},
};

static NEVER: AtomicBool = AtomicBool::new(false);

fn data() -> Dataset {
    dataset(examples(6, 250), Vec::new())
}

fn cache(folder: &Path, data: &Dataset, options: &Distillation) -> TeacherCache {
    let teacher = checkpoint("tiny");
    let record = distill::record(&teacher, &data.digest, options).unwrap();
    let teacher = decoder(&teacher);
    let source = Source { teacher: &teacher, examples: &data.train, options };
    let mut told = Vec::new();
    let path = &folder.join("teacher.bin");
    let place = (&folder_of(folder), "teacher.bin");
    let made = TeacherCache::make(place, &record, &source, 16, &NEVER, &mut |done, all| {
        told.push((done, all))
    });
    assert!(made.unwrap());
    assert_eq!(told.last(), Some(&(6, 6)));
    TeacherCache::open(path, &record, &data.train).unwrap().unwrap()
}

/// Loss, the teacher's part of it and gradient norm of the first step.
fn first_step(data: &Dataset, distillation: Distillation) -> (f64, f64, f64) {
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let mut trainer = Trainer::lora(&base, adapter(&checkpoint, 0.0));
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), data, &distillation);
    let options = TrainOptions {
        distillation: Some(distillation),
        max_steps: Some(1),
        batch: adapruner_recover::data::batches::BatchSize::Sequences(6),
        ..options()
    };
    let mut training = Training {
        trainer: &mut trainer,
        data,
        options: &options,
        record: Record::new(),
        teacher: Some(Teacher { probabilities: &cache, hidden: None }),
        folder: &folder_of(folder.path()),
    };
    training.run(&NEVER, &mut ()).unwrap();
    let entry = entries(folder.path()).remove(0);
    (entry.loss, entry.teacher_loss.unwrap(), entry.gradient_norm)
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    let data = data();
    let alone = Distillation { temperature: 1.0, mix: 1.0, top: 512, hidden: None };
    let (loss, teacher, norm) = first_step(&data, alone);
    assert_eq!(loss, teacher);
    assert!(norm < 1e-4, "gradient norm {norm}");
    let mixed = Distillation { mix: 0.25, ..alone };
    let (both, quarter, own_norm) = first_step(&data, mixed);
    assert!((quarter - teacher / 4.0).abs() < 1e-5 * teacher);
    assert!(both > quarter && own_norm > 100.0 * norm);
    // Tempered: still the same distribution on both sides.
    let warm = Distillation { temperature: 2.0, ..alone };
    let (_, warm_loss, norm) = first_step(&data, warm);
    assert!(norm < 1e-4, "gradient norm {norm}");
    assert!(warm_loss > teacher, "a warmer distribution has more entropy");
    // The few likeliest tokens hold a part of the whole.
    let few = Distillation { top: 3, ..alone };
    let (few_loss, _, _) = first_step(&data, few);
    assert!(few_loss > 0.0 && few_loss < loss);
}

#[test]
fn a_cache_is_bound_to_teacher_data_and_temperature() {
    let data = data();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.bin");
    let options = Distillation { temperature: 1.0, mix: 0.5, top: 4, hidden: None };
    drop(cache(folder.path(), &data, &options));
    let open = |teacher: &str, data: &Dataset, options: &Distillation, examples: &[Example]| {
        let record = distill::record(&checkpoint(teacher), &data.digest, options).unwrap();
        TeacherCache::open(&path, &record, examples)
    };
    assert!(open("tiny", &data, &options, &data.train).unwrap().is_some());
    // The mix is not in it.
    let mix = Distillation { mix: 0.9, ..options };
    assert!(open("tiny", &data, &mix, &data.train).unwrap().is_some());
    let other = dataset(examples(7, 250), Vec::new());
    let warm = Distillation { temperature: 2.0, ..options };
    for (result, what) in [
        (open("biases", &data, &options, &data.train), "teacher"),
        (open("tiny", &other, &options, &other.train), "data"),
        (open("tiny", &data, &warm, &data.train), "temperature"),
    ] {
        let message = said(result.map(drop));
        assert!(message.contains(&format!("another {what}: ")), "{message}");
    }
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 9, 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(open("tiny", &data, &options, &data.train).is_err(), "cut at {cut}");
    }
    for bit in (0..whole.len() * 8).step_by(97) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let message = said(open("tiny", &data, &options, &data.train).map(drop));
        assert!(message.contains("teacher.bin"), "bit {bit}: {message}");
    }
}

#[test]
fn a_teacher_with_other_tokens_is_refused() {
    let student = checkpoint("tiny").tokenizer;
    distill::check_vocabulary(&student, &checkpoint("tiny")).unwrap();
    let message = said(distill::check_vocabulary(&student, &checkpoint("biases")));
    assert!(message.contains("a vocabulary of 512 tokens expected, 266 found"), "{message}");
}

/// It then gives the logits of the tokens that the student has: it is the same part of it.
#[test]
fn a_teacher_of_the_whole_vocabulary_teaches_by_the_part_that_the_student_has() {
    let whole = checkpoint("tiny");
    let kept: Vec<u32> = whole.vocabulary().unwrap().of_role(Role::Required).collect();
    assert!(kept.len() < whole.config.vocab_size - 100);
    let student = whole.with_vocabulary(&kept, kept.len() + 3).unwrap();
    let aligned = distill::aligned(&student, &whole).unwrap();
    assert_eq!(aligned.config, student.config);
    assert_eq!(aligned.digest().unwrap(), student.digest().unwrap());
    let same = distill::aligned(&whole, &whole).unwrap();
    assert_eq!(same.digest().unwrap(), whole.digest().unwrap());
    for (student, teacher) in [(&student, &checkpoint("biases")), (&whole, &student)] {
        let message = said(distill::aligned(student, teacher).map(drop));
        assert!(message.contains("expected"), "{message}");
    }
}

/// The fixture with a feed-forward sublayer that gives half of what it gave.
fn halved() -> Checkpoint {
    let whole = checkpoint("tiny");
    let name = Projection::Down.weight(adapruner_checkpoint::Architecture::Llama.family(), 1);
    let down = whole.tensors.load(&name, DType::F32, &Device::Cpu).unwrap();
    whole.with_tensors([(name, (down * 0.5).unwrap())].into()).unwrap()
}

const MATCHED: Distillation =
    Distillation { temperature: 1.0, mix: 0.5, top: 8, hidden: Some(50.0) };

/// Trains the halved model with the whole one beside it.
fn matched(
    full: bool,
    change: impl Fn(TrainOptions) -> TrainOptions,
    folder: &Path,
    watch: &mut dyn Watch,
) -> (adapruner_recover::Result<Outcome>, Vec<Entry>) {
    let (student, data) = (halved(), data());
    let (base, whole) = (decoder(&student), decoder(&checkpoint("tiny")));
    let mut trainer = match full {
        true => Trainer::full(&base, &student).unwrap(),
        false => Trainer::lora(&base, adapter(&student, 0.1)),
    };
    let cache = cache(folder, &data, &MATCHED);
    let options = change(TrainOptions {
        distillation: Some(MATCHED),
        max_steps: Some(20),
        rate: if full { 3e-4 } else { 3e-3 },
        micro_tokens: 16,
        save_every: 3,
        warmup: 0,
        decay: Decay::Constant,
        ..options()
    });
    let mut training = Training {
        trainer: &mut trainer,
        data: &data,
        options: &options,
        record: Record::new(),
        teacher: Some(Teacher { probabilities: &cache, hidden: Some(&whole) }),
        folder: &folder_of(folder),
    };
    let outcome = training.run(&NEVER, watch);
    (outcome, entries(folder))
}

#[test]
fn hidden_states_are_matched_and_logged_apart() {
    for full in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (outcome, log) = matched(full, |options| options, folder.path(), &mut ());
        outcome.unwrap();
        let hidden: Vec<f64> = log.iter().map(|entry| entry.hidden_loss.unwrap()).collect();
        // Of two steps each, which take every sequence once.
        let (first, last) = (hidden[0] + hidden[1], hidden[18] + hidden[19]);
        assert!(last < 0.95 * first, "full {full}: {first} → {last}");
        // Blocks that are as long as their targets and nothing like them are 2 apart.
        assert!(first > 1e-3 * 50.0 && first < 2.0 * 50.0, "{first}");
        assert!(log.iter().all(|e| e.loss > e.hidden_loss.unwrap() + e.teacher_loss.unwrap()));
    }
}

#[test]
fn parts_of_a_step_change_a_matching_by_rounding_only() {
    let first = |micro_tokens| {
        let folder = tempfile::tempdir().unwrap();
        let change = |options| TrainOptions { micro_tokens, max_steps: Some(1), ..options };
        let (outcome, log) = matched(true, change, folder.path(), &mut ());
        outcome.unwrap();
        (log[0].hidden_loss.unwrap(), log[0].gradient_norm)
    };
    let ((hidden, norm), (parts, norm_of_parts)) = (first(1000), first(8));
    assert!((hidden - parts).abs() < F32 * hidden, "{hidden} and {parts}");
    assert!((norm - norm_of_parts).abs() < 10.0 * F32 * norm, "{norm} and {norm_of_parts}");
}

struct Killed(u64);

impl Watch for Killed {
    fn step(&mut self, entry: &Entry, _: u64) {
        assert!(entry.step < self.0, "killed");
    }
}

#[test]
fn a_matching_that_was_killed_makes_the_same_steps() {
    let right = tempfile::tempdir().unwrap();
    let (_, expected) = matched(false, |options| options, right.path(), &mut ());
    let folder = tempfile::tempdir().unwrap();
    let run = |watch: &mut dyn Watch| matched(false, |options| options, folder.path(), watch);
    assert!(catch_unwind(AssertUnwindSafe(|| run(&mut Killed(8)))).is_err());
    let (_, found) = run(&mut ());
    let bits = |e: &Entry| (e.step, e.loss.to_bits(), e.hidden_loss.map(f64::to_bits));
    assert_eq!(found.len(), 20);
    assert!(found.iter().map(bits).eq(expected.iter().map(bits)));
    // With another weight, or none, it is another training.
    for hidden in [Some(1.0), None] {
        let change = |options| TrainOptions {
            distillation: Some(Distillation { hidden, ..MATCHED }),
            ..options
        };
        let message = said(matched(false, change, folder.path(), &mut ()).0);
        assert!(message.contains("another match-hidden: "), "{message}");
    }
}

#[test]
fn teachers_whose_blocks_are_others_are_refused() {
    distill::check_blocks(&halved(), &checkpoint("tiny")).unwrap();
    let message = said(distill::check_blocks(&halved(), &checkpoint("biases")));
    for part in ["biases: ", "layers of hidden size", "tiny has", "--match-hidden"] {
        assert!(message.contains(part), "{message}");
    }
    let weight = |weight| {
        let distillation = Some(Distillation { hidden: Some(weight), ..MATCHED });
        TrainOptions { distillation, ..options() }
    };
    for bad in [0.0, -1.0, f64::NAN] {
        let message = said(weight(bad).check());
        assert!(message.contains("match-hidden: above 0 expected"), "{message}");
    }
    // A training that is told to match and given no one to match.
    let (data, folder) = (data(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint("tiny");
    let base = decoder(&checkpoint);
    let mut trainer = Trainer::lora(&base, adapter(&checkpoint, 0.0));
    let message = said(train(&mut trainer, &data, &weight(1.0), folder.path()));
    assert!(message.contains("match-hidden: a teacher that runs along is missing"), "{message}");
}
