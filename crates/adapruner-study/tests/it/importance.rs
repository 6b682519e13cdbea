//! Importances of parameters, against Optuna (`fixtures/generate/optuna_importances.py`).

use std::collections::BTreeMap;
use std::slice::from_ref;
use std::sync::Arc;

use adapruner_study::importance::importances;
use adapruner_study::{
    Direction, Distribution, Error, JournalStorage, MemoryStorage, ParamValue, Storage, Trial,
    TrialState, testing,
};

use crate::optuna_tpe::{direction, fixture, number};
use crate::storage::optuna::fixture as path;

/// Shares, sums of a few hundred products whose factors come from error functions
/// of two libraries.
const TOLERANCE: f64 = 1e-9;

#[test]
fn importances_are_those_of_optuna() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.log");
    std::fs::copy(path("importances.log"), &journal).unwrap();
    let storage = JournalStorage::file(&journal).unwrap();
    let expected = fixture("importances.json");
    assert_eq!(expected.as_object().unwrap().len(), 6);
    for (study, expected) in expected.as_object().unwrap() {
        let direction = direction(&expected["direction"]);
        let id = storage.open_study(study, &[direction]).unwrap();
        let found = importances(&storage.trials(id).unwrap(), direction).unwrap();
        let expected = expected["importances"].as_object().unwrap();
        assert_eq!(found.len(), expected.len(), "{study}");
        for (name, found) in &found {
            let expected = number(&expected[name]);
            assert!((found - expected).abs() < TOLERANCE, "{study}, {name}: {found}, {expected}");
        }
        let shares: Vec<f64> = found.iter().map(|(_, share)| *share).collect();
        assert!(shares.is_sorted_by(|a, b| a >= b), "{study}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < TOLERANCE, "{study}");
    }
}

fn trial(number: u64, params: &[(&str, Distribution, ParamValue)], value: f64) -> Trial {
    let mut trial = testing::trial(number, TrialState::Complete, Some(value));
    let param = |(name, of, value): &(&str, Distribution, ParamValue)| {
        ((*name).to_owned(), (of.clone(), value.clone()))
    };
    trial.params = params.iter().map(param).collect();
    trial
}

fn shares(trials: &[Trial]) -> Result<BTreeMap<String, f64>, Error> {
    Ok(importances(&testing::shared(trials), Direction::Minimize)?.into_iter().collect())
}

/// As Optuna sees the size: an integer.
#[test]
fn subsets_count_by_their_size() {
    let size = |i: u64| 2 + i * 7 % 5;
    let with = |name: &str, of: &Distribution, value: &dyn Fn(u64) -> ParamValue| {
        let of = |i: u64| {
            let x = ParamValue::Float((i as f64 * 0.37).fract());
            let x = ("x", Distribution::float(0.0, 1.0), x);
            trial(i, &[(name, of.clone(), value(i)), x], size(i) as f64 + i as f64 / 100.0)
        };
        shares(&(0..40).map(of).collect::<Vec<Trial>>()).unwrap()
    };
    let first = |n: u64| ParamValue::Subset((0..n as usize).collect());
    let varies = Distribution::Subset { pool: 9, least: 2, most: 6 };
    let by_size = with("set", &varies, &|i| first(size(i)));
    let as_integer = with("set.n", &Distribution::int(2, 6), &|i| ParamValue::Int(size(i) as i64));
    assert_eq!(by_size, as_integer);
    assert!(by_size["set.n"] > 0.9, "{by_size:?}");
    let fixed = with("set", &Distribution::subset(9, 3), &|_| first(3));
    assert_eq!(fixed, [("x".to_owned(), 1.0)].into());
}

#[test]
fn only_complete_trials_count() {
    let x = |x: f64| ("x", Distribution::float(0.0, 1.0), ParamValue::Float(x));
    let y = |y: f64| ("y", Distribution::float(0.0, 1.0), ParamValue::Float(y));
    let of = |i: u64| {
        let (a, b) = ((i as f64 * 0.37).fract(), (i as f64 * 0.61).fract());
        trial(i, &[x(a), y(b)], a + 0.1 * b)
    };
    let mut trials: Vec<Trial> = (0..30).map(of).collect();
    let before = shares(&trials).unwrap();
    assert!(before["x"] > before["y"]);
    for state in [TrialState::Running, TrialState::Pruned, TrialState::Failed, TrialState::Waiting]
    {
        let other = ("other", Distribution::int(0, 1), ParamValue::Int(1));
        trials.push(Trial { state, ..trial(30, &[x(0.0), other], -5.0) });
    }
    assert_eq!(shares(&trials).unwrap(), before);
    assert_eq!(shares(&[]).unwrap(), BTreeMap::new());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = ("x", Distribution::float(0.0, 1.0), ParamValue::Float(0.5));
    for (of, value) in [
        (Distribution::float(1.0, 0.0), ParamValue::Float(0.5)),
        (Distribution::float(0.0, 1.0), ParamValue::Float(f64::NAN)),
        (Distribution::float(0.0, 1.0), ParamValue::Int(1)),
        (Distribution::categorical(["a"]), ParamValue::Category(1)),
        (Distribution::subset(5, 2), ParamValue::Category(1)),
    ] {
        let bad = ("x", of, value);
        let trials = [
            trial(0, from_ref(&good), 1.0),
            trial(1, from_ref(&bad), 2.0),
            trial(2, from_ref(&bad), 0.0),
        ];
        let error = shares(&trials).unwrap_err();
        assert!(matches!(&error, Error::Space { name, .. } if name == "x"), "{bad:?}: {error}");
    }
}

/// Values out of bounds, which a journal may have, are at the edge.
#[test]
fn values_out_of_bounds_are_at_the_edge() {
    let storage = MemoryStorage::new();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    for (i, x) in [7.0, 0.2, 0.4, -3.0, 0.6].into_iter().enumerate() {
        let number = storage.create_trial(study).unwrap();
        let log = Distribution::int_log(1, 9);
        let outside = ParamValue::Int(if i == 0 { -3 } else { 4 });
        storage.set_param(study, number, "k", &log, &outside).unwrap();
        let of = Distribution::float(0.0, 1.0);
        storage.set_param(study, number, "x", &of, &ParamValue::Float(x)).unwrap();
        storage.finish(study, number, TrialState::Complete, Some(i as f64)).unwrap();
    }
    let trials: Vec<Arc<Trial>> = storage.trials(study).unwrap();
    let found = importances(&trials, Direction::Minimize).unwrap();
    let at_edge = |trial: &Arc<Trial>| {
        let mut trial = Trial::clone(trial);
        for (of, value) in trial.params.values_mut() {
            *value = match (&*of, &*value) {
                (Distribution::Float { .. }, ParamValue::Float(x)) => {
                    ParamValue::Float(x.clamp(0.0, 1.0))
                }
                (_, ParamValue::Int(-3)) => ParamValue::Int(1),
                (_, other) => other.clone(),
            };
        }
        trial
    };
    let at_edge: Vec<Trial> = trials.iter().map(at_edge).collect();
    assert_ne!(testing::shared(&at_edge), trials);
    assert_eq!(shares(&at_edge).unwrap(), found.into_iter().collect());
}
