//! Journals that Optuna wrote read as Optuna reads them; see
//! `fixtures/generate/optuna_journal.py`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapruner_study::journal::{distribution_from_json, distribution_to_json, fixed_param};
use adapruner_study::{
    Choice, Direction, Distribution, Error, JournalStorage, ParamValue, RandomSampler, Storage,
    Study, Trial, TrialState, front_of,
};
use serde_json::{Value, json};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/optuna").join(name)
}

fn number(value: f64) -> Value {
    match value {
        value if value.is_nan() => json!("NaN"),
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        value => json!(value),
    }
}

fn internal(value: &ParamValue) -> Value {
    match value {
        ParamValue::Float(value) => number(*value),
        ParamValue::Int(value) => json!(*value as f64),
        ParamValue::Category(index) => json!(index),
        ParamValue::Subset(items) => json!(items),
    }
}

/// The form of the expectations.
fn describe(trial: &Trial, objectives: usize) -> Value {
    let map = |fields: Vec<(String, Value)>| Value::Object(fields.into_iter().collect());
    let params = trial.params.iter();
    let mut described = json!({
        "number": trial.number,
        "state": match trial.state {
            TrialState::Running => "running",
            TrialState::Complete => "complete",
            TrialState::Pruned => "pruned",
            TrialState::Failed => "fail",
            TrialState::Waiting => "waiting",
        },
        "params": map(params.clone().map(|(k, (_, v))| (k.clone(), internal(v))).collect()),
        "distributions":
            map(params.map(|(k, (d, _))| (k.clone(), distribution_to_json(d).into())).collect()),
        "intermediate":
            map(trial.intermediate.iter().map(|(k, v)| (k.to_string(), number(*v))).collect()),
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "started_ms": trial.started_ms,
        "ended_ms": trial.ended_ms,
    });
    let values = trial.values.iter().copied().map(number);
    match objectives {
        1 => described["value"] = json!(trial.value().map(number)),
        _ => described["values"] = values.collect(),
    }
    described
}

#[test]
fn its_journals_read_as_it_reads_them() {
    for name in ["tpe", "odd", "front"] {
        let expected = std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        std::fs::copy(fixture(&format!("{name}.log")), &path).unwrap();
        let storage = JournalStorage::file(&path).unwrap();
        let studies = expected.as_object().unwrap();
        assert!(!studies.is_empty());
        for (study, expected) in studies {
            let one = [expected["direction"].clone()];
            let directions: Vec<Direction> = expected["directions"]
                .as_array()
                .map_or(&one[..], Vec::as_slice)
                .iter()
                .map(|direction| serde_json::from_value(direction.clone()).unwrap())
                .collect();
            assert_eq!(storage.directions(study).unwrap(), directions);
            let id = storage.open_study(study, &directions).unwrap();
            let (user, system) = storage.study_attrs(id).unwrap();
            assert_eq!(json!(user), expected["user_attrs"]);
            assert_eq!(json!(system), expected["system_attrs"]);
            let trials = storage.trials(id).unwrap();
            assert_eq!(trials.len(), expected["trials"].as_array().unwrap().len());
            for (trial, expected) in trials.iter().zip(expected["trials"].as_array().unwrap()) {
                assert_eq!(describe(trial, directions.len()), *expected, "{name}, {study}");
            }
            if directions.len() > 1 {
                let front = front_of(&trials, &directions);
                let front: Vec<u64> = front.iter().map(|trial| trial.number).collect();
                assert_eq!(json!(front), expected["front"], "{study}");
            }
        }
        // Reading and opening write nothing.
        let read = std::fs::read(&path).unwrap();
        assert_eq!(read, std::fs::read(fixture(&format!("{name}.log"))).unwrap());
    }
}

#[test]
fn studies_of_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    std::fs::copy(fixture("odd.log"), &path).unwrap();
    let storage = JournalStorage::file(&path).unwrap();
    let study = storage.open_study("odd", &[Direction::Maximize]).unwrap();
    let error = storage.open_study("two", &[Direction::Minimize]).unwrap_err();
    assert!(error.to_string().contains("one objective, found 2"), "{error}");
    let error = storage.open_study("two", &[Direction::Minimize; 2]).unwrap_err();
    assert!(error.to_string().contains("expected the directions"), "{error}");
    let before = storage.trials(study).unwrap();
    let number = storage.create_trial(study).unwrap();
    assert_eq!(number, before.len() as u64);
    let float = |low, high| Distribution::Float { low, high, step: None, log: false };
    storage.set_param(study, number, "x", &float(0.0, 9.0), &ParamValue::Float(1.0)).unwrap();
    let int = Distribution::Int { low: 0, high: 1, step: 1, log: false };
    assert!(storage.set_param(study, number, "kind", &int, &ParamValue::Int(1)).is_err());
    storage.finish(study, number, TrialState::Complete, Some(9.0)).unwrap();
    // Its running trials are not ours to judge: its workers give no signs of life.
    let stale = storage.fail_stale(study, std::time::Duration::ZERO).unwrap();
    assert_eq!(stale, [0u64; 0]);
    let after = JournalStorage::file(&path).unwrap().trials(study).unwrap();
    assert_eq!(describe(&after[0], 1), describe(&before[0], 1));
    assert_eq!(after.last().unwrap().value(), Some(9.0));
}

#[test]
fn fixed_parameters_of_queued_trials() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    std::fs::copy(fixture("odd.log"), &path).unwrap();
    let storage = JournalStorage::file(&path).unwrap();
    let study = storage.open_study("odd", &[Direction::Maximize]).unwrap();
    let trial = &storage.trials(study).unwrap()[0];
    let float = |low, high| Distribution::Float { low, high, step: None, log: false };
    let kinds = |a: &str, b: &str| Distribution::Categorical {
        choices: vec![Choice::Text(a.into()), Choice::Text(b.into())],
    };
    assert_eq!(fixed_param(trial, "x", &float(0.0, 1.0)), Some(ParamValue::Float(0.25)));
    assert_eq!(fixed_param(trial, "kind", &kinds("a", "b")), Some(ParamValue::Category(1)));
    assert_eq!(fixed_param(trial, "kind", &kinds("a", "c")), None);
    assert_eq!(fixed_param(trial, "y", &float(0.0, 1.0)), None);
    let mut queued = Trial::clone(trial);
    queued.params.clear();
    queued.system_attrs.insert("fixed_params".into(), json!({"s": [1, 3], "k": "c", "n": 4}));
    let subset = |pool| Distribution::Subset { pool, least: 1, most: 2 };
    assert_eq!(fixed_param(&queued, "s", &subset(4)), Some(ParamValue::Subset(vec![1, 3])));
    assert_eq!(fixed_param(&queued, "s", &subset(3)), None);
    assert_eq!(fixed_param(&queued, "k", &kinds("a", "c")), Some(ParamValue::Category(1)));
    let int = Distribution::Int { low: 0, high: 9, step: 1, log: false };
    assert_eq!(fixed_param(&queued, "n", &int), Some(ParamValue::Int(4)));
}

#[test]
fn distributions_of_old_and_new_versions() {
    let float = |low, high, step, log| Distribution::Float { low, high, step, log };
    let int = |low, high, step, log| Distribution::Int { low, high, step, log };
    let form = |name: &str, attributes: &str| {
        distribution_from_json(&format!(r#"{{"name": "{name}", "attributes": {attributes}}}"#))
    };
    for (name, attributes, expected) in [
        ("UniformDistribution", r#"{"low": 0, "high": 2.5}"#, float(0.0, 2.5, None, false)),
        ("LogUniformDistribution", r#"{"low": 1, "high": 2}"#, float(1.0, 2.0, None, true)),
        (
            "DiscreteUniformDistribution",
            r#"{"low": 0, "high": 1, "q": 0.5}"#,
            float(0.0, 1.0, Some(0.5), false),
        ),
        ("IntUniformDistribution", r#"{"low": 1, "high": 5, "step": 2}"#, int(1, 5, 2, false)),
        ("IntLogUniformDistribution", r#"{"low": 1, "high": 5, "step": 1}"#, int(1, 5, 1, true)),
        (
            "CategoricalDistribution",
            r#"{"choices": [NaN, [1, 2]]}"#,
            Distribution::Categorical {
                choices: vec![Choice::Float(f64::NAN), Choice::Text("[1,2]".into())],
            },
        ),
    ] {
        let found = form(name, attributes).unwrap();
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }
    for (name, attributes) in [
        ("FloatDistribution", r#"{"low": 1, "high": 0, "step": null, "log": false}"#),
        ("FloatDistribution", r#"{"low": NaN, "high": 0, "step": null, "log": false}"#),
        ("FloatDistribution", r#"{"low": 0, "high": 1, "step": null, "log": true}"#),
        ("IntDistribution", r#"{"low": 0, "high": 1.5, "step": 1, "log": false}"#),
        ("IntDistribution", r#"{"low": 0, "high": 1e300, "step": 1, "log": false}"#),
        ("CategoricalDistribution", r#"{"choices": []}"#),
        ("SubsetDistribution", r#"{"pool": 2, "least": 1, "most": 3}"#),
        ("OtherDistribution", "{}"),
        ("FloatDistribution", "3"),
    ] {
        assert!(form(name, attributes).is_err(), "{name} {attributes}");
    }
}

/// See `fixtures/generate/optuna_queue.py`.
#[test]
fn trials_that_python_queued_have_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    std::fs::copy(fixture("queued.log"), &path).unwrap();
    let expected = std::fs::read_to_string(fixture("queued.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    let storage = Arc::new(JournalStorage::file(&path).unwrap());
    let sampler = RandomSampler::new(0);
    let study = Study::open(storage, "queued", Direction::Minimize, sampler).unwrap();
    let kinds = || [Choice::Text("l1".into()), Choice::Text("l2".into()), Choice::None];
    for expected in &expected {
        let mut trial = study.ask().unwrap();
        let fixed = expected["fixed"].as_object().unwrap();
        let mut asked = || {
            let (x, layers) = (trial.float("x", 0.0, 1.0)?, trial.int("layers", 1, 9)?);
            let kind = kinds()[trial.categorical("kind", kinds())?].clone();
            let samples = trial.subset("samples", 5, 1, 3)?;
            Ok(json!({"x": x, "layers": layers, "kind": kind, "samples": samples}))
        };
        let asked: Result<Value, Error> = asked();
        let outside = fixed.get("x") == Some(&json!(7.5));
        if expected["asked"].is_null() || outside {
            let message = asked.unwrap_err().to_string();
            let found = if outside { "7.5" } else { r#""l3""# };
            assert!(message.contains("expected a queued value of"), "{message}");
            assert!(message.ends_with(&format!("found {found}")), "{message}");
        } else {
            let asked = asked.unwrap();
            for (name, value) in expected["asked"].as_object().unwrap() {
                let same = asked[name] == *value || asked[name].as_f64() == value.as_f64();
                assert!(same && asked[name].is_null() == value.is_null(), "{name} of {fixed:?}");
            }
            // What Optuna does not know.
            if let Some(samples) = fixed.get("samples") {
                assert_eq!(asked["samples"], *samples);
            }
        }
    }
    // All are taken.
    assert_eq!(study.ask().unwrap().number(), 3 + expected.len() as u64);
}
