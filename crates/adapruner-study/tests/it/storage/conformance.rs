//! What every storage must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adapruner_study::storage::{Beginning, Begun, Change, Seen};
use adapruner_study::{
    Choice, Direction, Distribution, Error, ParamValue, Storage, Trial, TrialState,
};
use serde_json::json;

/// Some openings of one storage: each behaves as another process would.
type Open<'a> = &'a dyn Fn() -> Vec<Box<dyn Storage>>;

/// Runs the suite; `open` makes a new storage each time.
pub(crate) fn conformance(open: Open<'_>) {
    for check in [
        studies, attributes, params, refusals, reports, outcomes, objectives, queue, begun,
        staleness, absent, races,
    ] {
        check(&open());
    }
}

type Storages = [Box<dyn Storage>];

fn first(storages: &Storages) -> &dyn Storage {
    storages[0].as_ref()
}

fn last(storages: &Storages) -> &dyn Storage {
    storages[storages.len() - 1].as_ref()
}

fn studies(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let one = a.open_study("one", &[Direction::Minimize]).unwrap();
    let two = b.open_study("two ünï \"q\"\n", &[Direction::Maximize]).unwrap();
    assert_ne!(one, two);
    assert_eq!(b.open_study("one", &[Direction::Minimize]).unwrap(), one);
    assert_eq!(a.open_study("two ünï \"q\"\n", &[Direction::Maximize]).unwrap(), two);
    let error = b.open_study("one", &[Direction::Maximize]).unwrap_err();
    assert!(matches!(error, Error::Study { .. }), "{error}");
    assert_eq!(a.study_names().unwrap(), ["one", "two ünï \"q\"\n"]);
    assert_eq!(a.trials(one).unwrap(), []);
    // Numbers count within a study.
    assert_eq!(a.create_trial(one).unwrap(), 0);
    assert_eq!(b.create_trial(two).unwrap(), 0);
    assert_eq!(b.create_trial(one).unwrap(), 1);
    b.finish(one, 1, TrialState::Complete, Some(2.5)).unwrap();
    let (trials, others) = (a.trials(one).unwrap(), a.trials(two).unwrap());
    assert_eq!(
        trials.iter().map(|t| (t.number, t.value())).collect::<Vec<_>>(),
        [(0, None), (1, Some(2.5))]
    );
    assert_eq!(others.len(), 1);
    assert!(trials[0].started_ms.is_some() && trials[0].ended_ms.is_none());
    assert!(trials[1].ended_ms.is_some());
    assert_eq!(b.trials(one).unwrap(), trials);
}

fn attributes(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    let trial = b.create_trial(study).unwrap();
    let value = json!({"list": [1, 0.1, null, "ü\u{1F600}\u{0}"], "z": 1e300, "a": true});
    for number in [None, Some(trial)] {
        a.set_user_attr(study, number, "key", json!(1)).unwrap();
        a.set_user_attr(study, number, "key", value.clone()).unwrap();
        b.set_system_attr(study, number, "key", json!("system")).unwrap();
        b.set_user_attr(study, number, "", json!(null)).unwrap();
    }
    let user = BTreeMap::from([("key".into(), value), (String::new(), json!(null))]);
    let system = BTreeMap::from([("key".into(), json!("system"))]);
    for storage in [a, b] {
        assert_eq!(storage.study_attrs(study).unwrap(), (user.clone(), system.clone()));
        let trial = &storage.trials(study).unwrap()[0];
        assert_eq!((&trial.user_attrs, &trial.system_attrs), (&user, &system));
    }
    for key in ["adapruner:heartbeat", "adapruner:subset:x"] {
        assert!(a.set_system_attr(study, Some(trial), key, json!(1)).is_err());
    }
}

fn all_params() -> BTreeMap<String, (Distribution, ParamValue)> {
    let choices = vec![
        Choice::None,
        Choice::Bool(false),
        Choice::Int(-3),
        Choice::Float(0.25),
        Choice::Text("Löwe \"".into()),
    ];
    let float = |low, high, step, log| Distribution::Float { low, high, step, log };
    let int = |low, high, step, log| Distribution::Int { low, high, step, log };
    let subset = |pool, least, most| Distribution::Subset { pool, least, most };
    [
        ("float", float(-0.5, 1e-7, None, false), ParamValue::Float(0.1 + 0.2 - 0.4)),
        ("log", float(1e-300, 1e300, None, true), ParamValue::Float(f64::MIN_POSITIVE)),
        ("step", float(0.0, 1.0, Some(0.25), false), ParamValue::Float(0.75)),
        ("int", int(-5, 7, 3, false), ParamValue::Int(-2)),
        ("int log", int(1, 1 << 40, 1, true), ParamValue::Int(12345)),
        ("large", int(i64::MIN, i64::MAX, 1, false), ParamValue::Int(i64::MAX - 1)),
        ("category", Distribution::Categorical { choices }, ParamValue::Category(4)),
        ("subset", subset(128, 1, 10), ParamValue::Subset(vec![0, 17, 127])),
        ("fixed", subset(5, 2, 2), ParamValue::Subset(vec![1, 4])),
        ("only", float(2.0, 2.0, None, false), ParamValue::Float(2.0)),
    ]
    .map(|(name, distribution, value)| (name.to_owned(), (distribution, value)))
    .into()
}

fn params(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    for storage in [a, b] {
        let trial = storage.create_trial(study).unwrap();
        for (name, (distribution, value)) in all_params() {
            storage.set_param(study, trial, &name, &distribution, &value).unwrap();
        }
    }
    for trial in a.trials(study).unwrap().into_iter().chain(b.trials(study).unwrap()) {
        assert_eq!(trial.params, all_params());
        assert_eq!((trial.user_attrs.len(), trial.system_attrs.len()), (0, 0));
    }
    // Bounds may differ between trials, and a value may be set again.
    let trial = a.create_trial(study).unwrap();
    let other = Distribution::Subset { pool: 128, least: 4, most: 4 };
    for items in [vec![1, 2, 3, 4], vec![2, 3, 4, 5]] {
        a.set_param(study, trial, "subset", &other, &ParamValue::Subset(items)).unwrap();
    }
    let found = &b.trials(study).unwrap()[2].params;
    assert_eq!(found["subset"], (other, ParamValue::Subset(vec![2, 3, 4, 5])));
}

fn refusals(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    let trial = a.create_trial(study).unwrap();
    for (name, (distribution, value)) in all_params() {
        a.set_param(study, trial, &name, &distribution, &value).unwrap();
    }
    let before = a.trials(study).unwrap();
    let trial = b.create_trial(study).unwrap();
    let float = |low, high, log| Distribution::Float { low, high, step: None, log };
    let int = |step| Distribution::Int { low: 1, high: 9, step, log: false };
    let subset = |pool, least, most| Distribution::Subset { pool, least, most };
    let list = |choices: &[i64]| Distribution::Categorical {
        choices: choices.iter().map(|c| Choice::Int(*c)).collect(),
    };
    let items = |items: &[usize]| ParamValue::Subset(items.into());
    let half = ParamValue::Float(0.5);
    for (name, distribution, value) in [
        ("new", float(1.0, 0.0, false), half.clone()),
        ("new", float(0.0, 1.0, true), half.clone()),
        ("new", float(f64::NAN, 1.0, false), half.clone()),
        ("new", float(0.0, 1.0, false), ParamValue::Float(f64::NAN)),
        ("new", float(0.0, 1.0, false), ParamValue::Int(1)),
        ("new", int(0), ParamValue::Int(1)),
        ("new", list(&[]), ParamValue::Category(0)),
        ("new", list(&[1, 2]), ParamValue::Category(2)),
        ("new", subset(5, 0, 2), items(&[1])),
        ("new", subset(5, 1, 6), items(&[1])),
        ("new", subset(5, 1, 2), items(&[5])),
        ("new", subset(5, 1, 2), items(&[2, 1])),
        ("new", subset(5, 1, 2), items(&[1, 1])),
        // At odds with the first trial.
        ("float", float(0.1, 1.0, true), half),
        ("float", int(1), ParamValue::Int(1)),
        ("category", list(&[1, 2]), ParamValue::Category(0)),
        ("subset", subset(127, 1, 10), items(&[1])),
    ] {
        let error = b.set_param(study, trial, name, &distribution, &value).unwrap_err();
        assert!(matches!(error, Error::Space { .. }), "{error}");
        let params = BTreeMap::from([(name.to_owned(), (distribution, value))]);
        assert!(matches!(a.enqueue_trial(study, params).unwrap_err(), Error::Space { .. }));
    }
    // The size of a subset and a parameter of the same name.
    b.set_param(study, trial, "subset", &subset(128, 1, 2), &items(&[1])).unwrap();
    assert!(b.set_param(study, trial, "subset.n", &int(1), &ParamValue::Int(1)).is_err());
    b.set_param(study, trial, "x.n", &int(1), &ParamValue::Int(1)).unwrap();
    assert!(b.set_param(study, trial, "x", &subset(9, 1, 2), &items(&[1])).is_err());
    let after = a.trials(study).unwrap();
    assert_eq!((after.len(), &after[0]), (2, &before[0]));
    assert_eq!(after[1].params.keys().collect::<Vec<_>>(), ["subset", "x.n"]);
}

fn reports(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    let trial = a.create_trial(study).unwrap();
    let values = [0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, f64::MAX];
    for (step, value) in (0..).zip(values) {
        a.report(study, trial, step * 1_000_000_007, value).unwrap();
    }
    a.report(study, trial, 0, 0.3).unwrap();
    let found = b.trials(study).unwrap()[0].intermediate.clone();
    assert_eq!(found.len(), values.len());
    assert_eq!(found[&0], 0.3);
    for (step, value) in (0..).zip(values).skip(1) {
        let found = found[&(step * 1_000_000_007)];
        assert!(found.to_bits() == value.to_bits() || found.is_nan() && value.is_nan());
    }
}

fn outcomes(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Maximize]).unwrap();
    let ends = [
        (TrialState::Complete, Some(f64::INFINITY)),
        (TrialState::Complete, Some(-1.5)),
        (TrialState::Pruned, Some(0.1)),
        (TrialState::Pruned, None),
        (TrialState::Failed, None),
    ];
    for (state, value) in ends {
        let trial = a.create_trial(study).unwrap();
        for (state, value) in [
            (TrialState::Running, None),
            (TrialState::Waiting, None),
            (TrialState::Complete, None),
            (TrialState::Complete, Some(f64::NAN)),
            (TrialState::Failed, Some(1.0)),
        ] {
            assert!(a.finish(study, trial, state, value).is_err());
        }
        b.finish(study, trial, state, value).unwrap();
        let before = a.trials(study).unwrap();
        let int = Distribution::Int { low: 1, high: 9, step: 1, log: false };
        for error in [
            a.finish(study, trial, TrialState::Failed, None).unwrap_err(),
            b.finish(study, trial, TrialState::Complete, Some(1.0)).unwrap_err(),
            a.report(study, trial, 1, 1.0).unwrap_err(),
            a.set_user_attr(study, Some(trial), "k", json!(1)).unwrap_err(),
            b.set_param(study, trial, "k", &int, &ParamValue::Int(1)).unwrap_err(),
            b.heartbeat(study, trial).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Trial { number, .. } if number == trial), "{error}");
        }
        assert_eq!(b.trials(study).unwrap(), before);
    }
    let found = a.trials(study).unwrap().into_iter().map(|t| (t.state, t.value()));
    assert_eq!(found.collect::<Vec<_>>(), ends);
}

/// A value for each objective, and as many as there are.
fn objectives(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let directions = [Direction::Minimize, Direction::Maximize];
    let study = a.open_study("s", &directions).unwrap();
    assert_eq!(b.open_study("s", &directions).unwrap(), study);
    assert_eq!(b.directions("s").unwrap(), directions);
    for other in [
        &[][..],
        &[Direction::Minimize],
        &[Direction::Minimize; 2],
        &[Direction::Minimize, Direction::Maximize, Direction::Minimize],
    ] {
        assert!(matches!(b.open_study("s", other), Err(Error::Study { .. })), "{other:?}");
    }
    let end = |state, values: &[f64]| {
        let trial = a.create_trial(study).unwrap();
        let ended = b.change(study, trial, &[Change::Finish { state, values: values.to_vec() }]);
        if ended.is_err() {
            b.finish(study, trial, TrialState::Failed, None).unwrap();
        }
        ended
    };
    end(TrialState::Complete, &[1.0, f64::NEG_INFINITY]).unwrap();
    end(TrialState::Pruned, &[]).unwrap();
    for values in [&[][..], &[1.0], &[1.0, f64::NAN], &[1.0, 2.0, 3.0]] {
        assert!(matches!(end(TrialState::Complete, values), Err(Error::Trial { .. })));
    }
    let trials = b.trials(study).unwrap();
    assert_eq!(
        (trials[0].values.as_slice(), trials[0].value()),
        (&[1.0, f64::NEG_INFINITY][..], None)
    );
    assert!(trials[1..].iter().all(|trial| trial.values.is_empty()));
}

fn queue(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    assert_eq!(a.claim_waiting(study).unwrap(), None);
    assert_eq!(a.create_trial(study).unwrap(), 0);
    assert_eq!(a.enqueue_trial(study, all_params()).unwrap(), 1);
    assert_eq!(b.enqueue_trial(study, BTreeMap::new()).unwrap(), 2);
    let waiting = &b.trials(study).unwrap()[1];
    assert_eq!((waiting.state, &waiting.params), (TrialState::Waiting, &all_params()));
    // What did not change is the same trial, what changes changes for the next look.
    let (before, after) = (b.trials(study).unwrap(), b.trials(study).unwrap());
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
    b.report(study, 0, 0, 1.0).unwrap();
    let after = b.trials(study).unwrap();
    assert_eq!((before[0].intermediate.len(), after[0].intermediate.len()), (0, 1));
    assert!(Arc::ptr_eq(&before[1], &after[1]));
    assert_eq!(waiting.started_ms, None);
    let fixed = &waiting.system_attrs["fixed_params"];
    assert_eq!(fixed["category"], json!("Löwe \""));
    assert_eq!(fixed["subset"], json!([0, 17, 127]));
    assert_eq!(b.claim_waiting(study).unwrap(), Some(1));
    assert_eq!(a.claim_waiting(study).unwrap(), Some(2));
    assert_eq!(b.claim_waiting(study).unwrap(), None);
    let trial = &a.trials(study).unwrap()[1];
    assert_eq!((trial.state, &trial.params), (TrialState::Running, &all_params()));
    assert!(trial.started_ms.is_some());
    b.finish(study, 1, TrialState::Complete, Some(1.0)).unwrap();
}

/// What is begun, by what was seen.
fn begun(storages: &Storages) {
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    let user = BTreeMap::from([("worker".to_owned(), json!("w"))]);
    let next = |_: Seen<'_>| Some(Beginning::Next { others: Some(0) });
    assert_eq!(a.enqueue_first(study, all_params()).unwrap(), Some(0));
    assert_eq!(b.enqueue_first(study, all_params()).unwrap(), None);
    let found = b.begin(study, &user, &mut { next }).unwrap();
    assert_eq!(found, Some(Begun { number: 0, queued: true }));
    let found = a.begin(study, &user, &mut { next }).unwrap();
    assert_eq!(found, Some(Begun { number: 1, queued: false }));
    let system = BTreeMap::from([("draw".to_owned(), json!(7))]);
    let mut seen = Vec::new();
    let mut new = |of: Seen<'_>| {
        seen.push(of.trials.len());
        Some(Beginning::New { system: system.clone() })
    };
    assert_eq!(b.begin(study, &user, &mut new).unwrap().unwrap().number, 2);
    // It decides again where it has not seen all.
    assert_eq!(seen.last(), Some(&2));
    let trials = a.trials(study).unwrap();
    for trial in &trials {
        assert_eq!((trial.state, &trial.user_attrs), (TrialState::Running, &user));
        assert!(trial.started_ms.is_some());
    }
    assert_eq!((&trials[0].params, &trials[2].system_attrs), (&all_params(), &system));
    let enough = |of: Seen<'_>| (of.trials.len() < 3).then_some(Beginning::Next { others: None });
    assert_eq!(a.begin(study, &user, &mut { enough }).unwrap(), None);
    assert_eq!(b.begin(study, &user, &mut { enough }).unwrap(), None);
    assert_eq!(b.trials(study).unwrap(), b.known_trials(study).unwrap());
    // Changes are made together or not at all.
    let int = Distribution::Int { low: 1, high: 9, step: 1, log: false };
    let value = ParamValue::Int(3);
    let changes = [
        Change::Param { name: "k".into(), distribution: int, value },
        Change::Report { step: 2, value: 0.5 },
        Change::UserAttr { key: "u".into(), value: json!(1) },
        Change::SystemAttr { key: "s".into(), value: json!(2) },
        Change::Finish { state: TrialState::Complete, values: vec![1.0] },
    ];
    let refused =
        [&changes[..4], &[Change::Finish { state: TrialState::Complete, values: Vec::new() }]];
    assert!(b.change(study, 2, &refused.concat()).is_err());
    assert_eq!(a.trials(study).unwrap()[2], trials[2]);
    b.change(study, 2, &changes).unwrap();
    let trial = &a.trials(study).unwrap()[2];
    assert_eq!((trial.state, trial.value()), (TrialState::Complete, Some(1.0)));
    assert_eq!((trial.params.len(), trial.intermediate[&2]), (1, 0.5));
    assert_eq!((&trial.user_attrs["u"], &trial.system_attrs["s"]), (&json!(1), &json!(2)));
    let running: Vec<u64> = a.silences(study).unwrap().iter().map(|of| of.number).collect();
    assert_eq!(running, [0, 1]);
    assert!(a.silences(study).unwrap().iter().all(|of| of.silent.is_some()));
}

fn staleness(storages: &Storages) {
    use TrialState::{Complete, Failed, Running, Waiting};
    let (a, b) = (first(storages), last(storages));
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    for _ in 0..4 {
        a.create_trial(study).unwrap();
    }
    a.enqueue_trial(study, BTreeMap::new()).unwrap();
    a.finish(study, 3, Complete, Some(0.0)).unwrap();
    assert_eq!(b.fail_stale(study, Duration::from_secs(60)).unwrap(), [0u64; 0]);
    std::thread::sleep(Duration::from_millis(120));
    a.heartbeat(study, 1).unwrap();
    assert_eq!(b.fail_stale(study, Duration::from_millis(80)).unwrap(), [0, 2]);
    assert_eq!(a.fail_stale(study, Duration::from_millis(80)).unwrap(), [0u64; 0]);
    let trials = a.trials(study).unwrap();
    let states: Vec<TrialState> = trials.iter().map(|trial| trial.state).collect();
    assert_eq!(states, [Failed, Running, Failed, Complete, Waiting]);
    assert_eq!(trials[1].system_attrs.len(), 0);
    assert!(a.finish(study, 0, Complete, Some(1.0)).is_err());
    a.finish(study, 1, Complete, Some(1.0)).unwrap();
    // What is known to be dead needs no time.
    assert_eq!((a.create_trial(study).unwrap(), a.create_trial(study).unwrap()), (5, 6));
    assert_eq!(b.fail_running(study, &[6, 0, 1, 3, 4, 5, 6]).unwrap(), [6, 5]);
    assert_eq!(a.fail_running(study, &[6]).unwrap(), [0u64; 0]);
    let error = a.fail_running(study, &[7]).unwrap_err();
    assert!(matches!(error, Error::Trial { number: 7, .. }), "{error}");
    let states: Vec<TrialState> = a.trials(study).unwrap().iter().map(|t| t.state).collect();
    assert_eq!(states, [Failed, Complete, Failed, Complete, Waiting, Failed, Failed]);
}

fn absent(storages: &Storages) {
    let a = first(storages);
    let study = a.open_study("s", &[Direction::Minimize]).unwrap();
    for number in [0, 1, u64::MAX] {
        let error = a.report(study, number, 0, 0.0).unwrap_err();
        assert!(matches!(error, Error::Trial { .. }), "{error}");
    }
    for id in [1, u64::MAX] {
        let study = adapruner_study::StudyId(id);
        for error in [
            a.create_trial(study).unwrap_err(),
            a.trials(study).unwrap_err(),
            a.claim_waiting(study).unwrap_err(),
            a.fail_stale(study, Duration::ZERO).unwrap_err(),
            a.fail_running(study, &[]).unwrap_err(),
            a.set_user_attr(study, None, "k", json!(1)).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Study { .. }), "{error}");
        }
    }
}

/// Threads over one opening, and over several.
fn races(storages: &Storages) {
    let study = first(storages).open_study("s", &[Direction::Minimize]).unwrap();
    let each = 8;
    for _ in 0..10 {
        first(storages).enqueue_trial(study, BTreeMap::new()).unwrap();
    }
    let work = |storage: &dyn Storage| -> Vec<u64> {
        let mut own = Vec::new();
        for _ in 0..each {
            let claimed = storage.claim_waiting(study).unwrap();
            let number = claimed.unwrap_or_else(|| storage.create_trial(study).unwrap());
            storage.report(study, number, 0, number as f64).unwrap();
            storage.finish(study, number, TrialState::Complete, Some(number as f64)).unwrap();
            own.push(number);
        }
        own
    };
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let workers = storages.iter().chain(storages.iter()).map(AsRef::as_ref);
        let threads: Vec<_> = workers.map(|storage| scope.spawn(move || work(storage))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    let expected: Vec<u64> = (0..2 * each * storages.len() as u64).collect();
    assert_eq!(numbers, expected);
    let same = |trial: &Arc<Trial>| trial.value() == Some(trial.number as f64);
    assert!(first(storages).trials(study).unwrap().iter().all(same));
}
