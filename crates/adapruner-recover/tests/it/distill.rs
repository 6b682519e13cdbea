//! Learning from a teacher.

use std::{path::Path, sync::atomic::AtomicBool};

use adapruner_recover::{
    data::{Dataset, Example},
    distill::{self, Source, TeacherCache},
    train::{
        Training,
        options::{Distillation, Record, TrainOptions},
        trainee::Trainee,
    },
};

use crate::{
    common::{checkpoint, decoder, said},
    training::{adapter, dataset, entries, examples, options},
};

static NEVER: AtomicBool = AtomicBool::new(false);

fn data() -> Dataset {
    dataset(examples(6, 250), Vec::new())
}

fn cache(path: &Path, data: &Dataset, options: &Distillation) -> TeacherCache {
    let teacher = checkpoint("tiny");
    let record = distill::record(&teacher, &data.digest, options).unwrap();
    let teacher = decoder(&teacher);
    let source = Source { teacher: &teacher, examples: &data.train, options };
    let mut told = Vec::new();
    let made = TeacherCache::make(path, &record, &source, 16, &NEVER, &mut |done, all| {
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
    let mut trainee = Trainee::lora(&base, adapter(&checkpoint, 0.0));
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder.path().join("teacher.bin"), data, &distillation);
    let options = TrainOptions {
        distillation: Some(distillation),
        max_steps: Some(1),
        batch: adapruner_recover::data::batches::BatchSize::Sequences(6),
        ..options()
    };
    let mut training = Training {
        trainee: &mut trainee,
        data,
        options: &options,
        record: Record::new(),
        teacher: Some(&cache),
        folder: folder.path(),
    };
    training.run(&NEVER, &mut ()).unwrap();
    let entry = entries(folder.path()).remove(0);
    (entry.loss, entry.teacher_loss.unwrap(), entry.gradient_norm)
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    let data = data();
    let alone = Distillation { temperature: 1.0, mix: 1.0, top: 512 };
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
    let options = Distillation { temperature: 1.0, mix: 0.5, top: 4 };
    drop(cache(&path, &data, &options));
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
}

#[test]
fn a_teacher_with_other_tokens_is_refused() {
    let student = checkpoint("tiny").tokenizer;
    distill::check_vocabulary(&student, &checkpoint("tiny")).unwrap();
    let message = said(distill::check_vocabulary(&student, &checkpoint("biases")));
    assert!(message.contains("a vocabulary of 512 tokens expected, 266 found"), "{message}");
}
