//! A study that was killed goes on as if it had not been.

use std::sync::Arc;
use std::time::Duration;

use adapruner_study::sampler::Params;
use adapruner_study::{
    Direction, Distribution, MemoryStorage, Outcome, ParamValue, RandomSampler, Sampler, Space,
    Storage, Study, TpeSampler, TrialState,
};

fn space() -> Space {
    Space::builder()
        .float("x", -5.0, 5.0)
        .categorical("kind", ["a", "b"])
        .when("kind", ["b"], |space| space.int("depth", 1, 6))
        .subset("set", 20, 4)
        .build()
        .unwrap()
}

fn value(params: &Params) -> f64 {
    // Any function of all values does.
    let text = format!("{:?}", params.values().map(|(_, value)| value).collect::<Vec<_>>());
    text.bytes().fold(1_u64, |hash, byte| (hash * 31 + u64::from(byte)) % 1009) as f64
}

fn open(storage: &Arc<MemoryStorage>, sampler: impl Sampler + 'static) -> Study {
    Study::open(storage.clone(), "resumed", Direction::Minimize, sampler).unwrap()
}

/// Runs trials to their end; what was proposed.
fn run(study: &Study, trials: usize) -> Vec<Params> {
    let one = |_| {
        let (trial, params) = study.ask_in(&space()).unwrap();
        study.tell(trial.number(), Outcome::Complete(value(&params))).unwrap();
        params
    };
    (0..trials).map(one).collect()
}

/// Trials after which the process is killed in the middle of the next one: in
/// the startup, at its end, with the odds and with the surrogate.
const KILLED_AFTER: [usize; 4] = [3, 10, 25, 50];

fn killed_and_resumed<S: Sampler + 'static>(
    make: impl Fn() -> S,
    give_up: impl Fn(&Study, u64) -> Vec<u64>,
) {
    let uninterrupted = run(&open(&Arc::new(MemoryStorage::new()), make()), 60);
    let storage = Arc::new(MemoryStorage::new());
    let (mut resumed, mut lost) = (Vec::new(), Vec::new());
    for after in KILLED_AFTER {
        let study = open(&storage, make());
        resumed.extend(run(&study, after - resumed.len()));
        // A worker dies with this trial.
        let (dead, params) = study.ask_in(&space()).unwrap();
        assert_eq!(params, uninterrupted[after]);
        lost.push(dead.number());
        assert_eq!(give_up(&open(&storage, make()), dead.number()), [dead.number()]);
    }
    let study = open(&storage, make());
    resumed.extend(run(&study, 60 - resumed.len()));
    assert_eq!(resumed, uninterrupted);
    let trials = study.trials().unwrap();
    assert_eq!(trials.len(), 60 + KILLED_AFTER.len());
    for trial in &trials {
        let expected = lost.contains(&trial.number);
        assert_eq!(trial.state == TrialState::Failed, expected, "{}", trial.number);
    }
}

/// Gives up all that are silent.
fn silent(study: &Study, _dead: u64) -> Vec<u64> {
    std::thread::sleep(Duration::from_millis(2));
    study.resume(Duration::ZERO).unwrap()
}

/// Gives up what is known to be dead, however little time has passed.
fn dead(study: &Study, dead: u64) -> Vec<u64> {
    // Finished ones are left alone.
    let all: Vec<u64> = (0..=dead).chain([dead]).collect();
    study.give_up(&all).unwrap()
}

#[test]
fn random_search_goes_on() {
    killed_and_resumed(|| RandomSampler::new(4), silent);
    killed_and_resumed(|| RandomSampler::new(4), dead);
}

#[test]
fn tpe_goes_on() {
    killed_and_resumed(|| TpeSampler::new(4), silent);
    killed_and_resumed(|| TpeSampler::new(4), dead);
}

/// Queued trials, in the middle of which a worker dies once and again.
#[test]
fn queued_trials_go_on() {
    let of = |x: f64| -> Params {
        [("x".to_owned(), (Distribution::float(-5.0, 5.0), ParamValue::Float(x)))].into()
    };
    let begin = || {
        let storage = Arc::new(MemoryStorage::new());
        let study = open(&storage, TpeSampler::new(4));
        run(&study, 11);
        for x in [1.5, -0.5, 2.5] {
            study.enqueue(of(x)).unwrap();
        }
        (storage, study)
    };
    let uninterrupted = run(&begin().1, 8);
    let values: Vec<f64> = uninterrupted.iter().map(|p| p["x"].1.as_float().unwrap()).collect();
    assert_eq!(values[..3], [1.5, -0.5, 2.5]);
    let (storage, study) = begin();
    let mut resumed = Vec::new();
    for after in [0, 0, 1, 3, 5] {
        resumed.extend(run(&study, after - resumed.len()));
        let (dead, params) = study.ask_in(&space()).unwrap();
        assert_eq!(params, uninterrupted[after]);
        let study = open(&storage, TpeSampler::new(4));
        assert_eq!(study.give_up(&[dead.number()]).unwrap(), [dead.number()]);
    }
    resumed.extend(run(&study, 8 - resumed.len()));
    assert_eq!(resumed, uninterrupted);
}

#[test]
fn only_running_trials_are_given_up() {
    let storage = Arc::new(MemoryStorage::new());
    let study = open(&storage, RandomSampler::new(1));
    let outcomes = [Outcome::Complete(1.0), Outcome::Pruned, Outcome::Failed];
    for outcome in outcomes {
        let trial = study.ask_in(&space()).unwrap().0;
        study.tell(trial.number(), outcome).unwrap();
    }
    let alive = study.ask_in(&space()).unwrap();
    study.enqueue(Params::new()).unwrap();
    let before = study.trials().unwrap();
    assert_eq!(study.give_up(&[0, 1, 2, 4]).unwrap(), [0; 0]);
    assert_eq!(study.trials().unwrap(), before);
    let unknown = study.give_up(&[3, 5]).unwrap_err();
    assert_eq!(unknown.to_string(), "trial 5: does not exist, the study has 5");
    assert_eq!(study.trials().unwrap(), before);
    // What is given up is told so when it comes back.
    assert_eq!(study.give_up(&[3]).unwrap(), [3]);
    assert!(study.tell(alive.0.number(), Outcome::Complete(0.0)).is_err());
    assert_eq!(study.give_up(&[3]).unwrap(), [0; 0]);
}

#[test]
fn draws_of_living_trials_are_not_made_again() {
    let storage = Arc::new(MemoryStorage::new());
    let study = open(&storage, RandomSampler::new(1));
    let dead = study.ask_in(&space()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let alive = study.ask_in(&space()).unwrap();
    assert_eq!(study.resume(Duration::from_millis(20)).unwrap(), [dead.0.number()]);
    let again = study.ask_in(&space()).unwrap();
    assert_eq!(again.1, dead.1);
    let next = study.ask_in(&space()).unwrap();
    assert!(next.1 != alive.1 && next.1 != dead.1);
}

#[test]
fn trials_that_fail_by_themselves_are_not_tried_again() {
    let storage = Arc::new(MemoryStorage::new());
    let study = open(&storage, TpeSampler::new(1));
    run(&study, 15);
    let (trial, failed) = study.ask_in(&space()).unwrap();
    study.tell(trial.number(), Outcome::Complete(f64::NAN)).unwrap();
    let (_, next) = study.ask_in(&space()).unwrap();
    assert_ne!(failed, next);
}

#[test]
fn asking_one_by_one_is_asking_for_the_space() {
    let (whole, single) = (Arc::new(MemoryStorage::new()), Arc::new(MemoryStorage::new()));
    let proposed = run(&open(&whole, TpeSampler::new(2)), 30);
    let study = open(&single, TpeSampler::new(2));
    for expected in proposed {
        let mut trial = study.ask().unwrap();
        let params = trial.suggest_space(&space()).unwrap();
        assert_eq!(params, expected);
        study.tell(trial.number(), Outcome::Complete(value(&params))).unwrap();
    }
}

/// Workers must see what others were given before those have asked for it.
#[test]
fn joint_proposals_count_as_running_at_once() {
    let seen = |ask_for_values: bool| {
        let storage = Arc::new(MemoryStorage::new());
        let study = open(&storage, TpeSampler::new(3));
        run(&study, 30);
        let mut first = study.ask().unwrap();
        if ask_for_values {
            for name in ["x", "set", "kind"] {
                let space = space();
                first.suggest(name, &space.get(name).unwrap().distribution).unwrap();
            }
        }
        study.ask_in(&space()).unwrap().1
    };
    let (later, at_once) = (seen(false), seen(true));
    for name in ["x", "set", "kind"] {
        assert_eq!(later[name], at_once[name], "{name}");
    }
}

#[test]
fn storages_refuse_a_finished_trial() {
    let storage = MemoryStorage::new();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    let number = storage.create_trial(study).unwrap();
    storage.finish(study, number, TrialState::Complete, Some(1.0)).unwrap();
    assert!(storage.finish(study, number, TrialState::Failed, None).is_err());
    assert!(storage.open_study("s", &[Direction::Maximize]).is_err());
}
