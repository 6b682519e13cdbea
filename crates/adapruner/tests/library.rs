//! Pruning from a program.

use std::{fs, path::PathBuf};

use adapruner::{Error, prelude::*};

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny")
}

fn samples(model: &Checkpoint, name: &str) -> TokenSet {
    let path = tiny().join(name);
    let text = text::read(path.to_str().unwrap(), &TextOptions::default()).unwrap();
    TokenSet::samples(&text, &model.tokenizer, 16, 32, 1).unwrap()
}

fn perplexity(model: &Checkpoint, tokens: &TokenSet) -> f64 {
    let placement = Placement::resolve(DeviceChoice::Cpu, DTypeChoice::F32, [model]).unwrap();
    evaluate(model, tokens, &placement, None, "evaluate", &()).unwrap().loss.perplexity
}

#[test]
fn a_pruned_model_is_written_and_opens_again() {
    let model = Checkpoint::open(&tiny()).unwrap();
    let (calibration, test) = (samples(&model, "calibration.txt"), samples(&model, "text.txt"));
    let pruned = Pruning::new(&model, 0.2).run(&model, &calibration, &()).unwrap();
    let share = pruned.model.config.parameters() as f64 / model.config.parameters() as f64;
    assert!((share - 0.8).abs() < 1e-3, "{share}");
    let (plan, measured) = (pruned.plan.clone(), perplexity(&pruned.model, &test));

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("smaller");
    let manifest = pruned.write(&out, &[Format::Hf, Format::Gguf], &()).unwrap();
    assert_eq!(manifest.plan.as_ref(), Some(&plan));
    assert_eq!(manifest.statistics.unwrap().calibration.windows, 16);
    for written in [out.clone(), out.join("model.gguf")] {
        let again = perplexity(&Checkpoint::open(&written).unwrap(), &test);
        assert!((again / measured - 1.0).abs() < 1e-6, "{again} {measured}");
    }
}

#[test]
fn what_is_refitted_is_recorded() {
    let model = Checkpoint::open(&tiny()).unwrap();
    let calibration = samples(&model, "calibration.txt");
    let compensate = Some(Form::Weight { ridge: Ridge::HeldOut });
    let pruning = Pruning { compensate, ..Pruning::new(&model, 0.3) };
    let pruned = pruning.run(&model, &calibration, &()).unwrap();
    let record = pruned.compensation.as_ref().unwrap();
    assert!(!record.refits.is_empty() && record.loss.samples == 2, "{record:?}");
}

#[test]
fn what_is_there_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let digest = || Digest::of_file(&model.join("model.safetensors")).unwrap();
    let before = digest();
    let opened = Checkpoint::open(&model).unwrap();
    let calibration = samples(&opened, "calibration.txt");
    for out in [model.clone(), model.join("inside")] {
        let pruned = Pruning::new(&opened, 0.2).run(&opened, &calibration, &()).unwrap();
        let error = pruned.write(&out, &[Format::Hf], &()).unwrap_err();
        assert!(matches!(error.root(), Error::Checkpoint(_)), "{error:?}");
    }
    assert_eq!(digest(), before);
    assert!(!model.join("inside").exists());
}

#[test]
fn what_cannot_be_is_a_typed_error() {
    let model = Checkpoint::open(&tiny()).unwrap();
    let calibration = samples(&model, "calibration.txt");
    let refused = |ratio| Pruning::new(&model, ratio).run(&model, &calibration, &()).unwrap_err();
    let error = refused(0.99);
    let unreachable = matches!(
        error.root(),
        Error::Prune(adapruner_prune::Error::Unreachable { ratio, largest, .. })
            if *ratio == 0.99 && *largest < 0.99
    );
    assert!(unreachable && error.hint().is_some(), "{error:?}");
    assert!(matches!(refused(1.5).root(), Error::Prune(adapruner_prune::Error::Option { .. })));
}
