//! Asking, telling and optimising.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adapruner_study::pruner::PercentilePruner;
use adapruner_study::sampler::{Params, View};
use adapruner_study::study::{Clock, StopReason};
use adapruner_study::{
    ActiveTrial, Direction, Distribution, Error, MemoryStorage, Optimize, Outcome, ParamValue,
    RandomSampler, Sampler, Space, Study, TpeSampler, Trial, TrialState, testing,
};

fn study(seed: u64) -> Study {
    let storage = Arc::new(MemoryStorage::new());
    Study::open(storage, "s", Direction::Minimize, TpeSampler::new(seed)).unwrap()
}

fn bowl(trial: &mut ActiveTrial<'_>) -> Result<Outcome, Error> {
    let (x, y) = (trial.float("x", -5.0, 5.0)?, trial.float("y", -5.0, 5.0)?);
    Ok(Outcome::Complete((x - 1.0).powi(2) + (y + 2.0).powi(2)))
}

#[test]
fn tpe_finds_the_bottom_of_a_bowl() {
    let study = study(0);
    let summary = study.optimize(&Optimize::new().trials(80), bowl).unwrap();
    assert_eq!((summary.trials, summary.reason), (80, StopReason::Trials));
    let best = study.best_trial().unwrap().unwrap();
    // Random search has a median of 0.4 here.
    assert!(best.value().unwrap() < 0.1, "{best:?}");
}

#[test]
fn both_directions_find_the_same() {
    let values = |direction, sign: f64| {
        let storage = Arc::new(MemoryStorage::new());
        let study = Study::open(storage, "s", direction, TpeSampler::new(5)).unwrap();
        let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
            Ok(Outcome::Complete(sign * trial.float("x", -5.0, 5.0)?.powi(2)))
        };
        study.optimize(&Optimize::new().trials(30), objective).unwrap();
        sign * study.best_trial().unwrap().unwrap().value().unwrap()
    };
    assert_eq!(values(Direction::Minimize, 1.0), values(Direction::Maximize, -1.0));
}

#[test]
fn nan_fails_and_infinities_are_values() {
    let study = study(1);
    let tell = |outcome| {
        let number = study.ask().unwrap().number();
        let state = study.tell(number, outcome).unwrap();
        (state, study.trials().unwrap().pop().unwrap().value())
    };
    assert_eq!(tell(Outcome::Complete(f64::NAN)), (TrialState::Failed, None));
    let worst = tell(Outcome::Complete(f64::INFINITY));
    assert_eq!(worst, (TrialState::Complete, Some(f64::INFINITY)));
    assert_eq!(tell(Outcome::Failed), (TrialState::Failed, None));
    assert_eq!(tell(Outcome::Pruned), (TrialState::Pruned, None));
    assert_eq!(study.best_trial().unwrap().unwrap().value(), Some(f64::INFINITY));
    let again = study.tell(0, Outcome::Failed).unwrap_err();
    assert!(again.to_string().starts_with("trial 0: expected an unfinished trial"), "{again}");
}

/// They count, are never the best, and are kept as Optuna keeps them.
#[test]
fn infeasible_trials_count_and_are_never_the_best() {
    let study = study(11);
    let tell = |outcome| {
        let number = study.ask().unwrap().number();
        study.tell(number, outcome).unwrap();
        study.trials().unwrap().pop().unwrap()
    };
    for (by, kept) in [(0.25, 0.25), (f64::NAN, 1.0), (-1.0, 1.0), (f64::INFINITY, 1.0)] {
        let trial = tell(Outcome::Infeasible(by));
        assert_eq!((trial.state, trial.value()), (TrialState::Pruned, None));
        assert_eq!(trial.system_attrs["constraints"], serde_json::json!([kept]));
        assert_eq!((trial.violation(), trial.is_infeasible()), (kept, true));
    }
    assert_eq!(study.best_trial().unwrap(), None);
    assert_eq!(adapruner_study::since_best(&study.trials().unwrap(), &[Direction::Minimize]), 4);
    tell(Outcome::Complete(f64::INFINITY));
    assert_eq!(study.best_trial().unwrap().unwrap().number, 4);
    let summary = study.optimize(&Optimize::new().finished(6), bowl).unwrap();
    assert_eq!(summary.trials, 1);
}

/// Half of the space cannot be evaluated: the sampler learns to stay out of it.
#[test]
fn infeasible_regions_are_left() {
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        let (x, y) = (trial.float("x", 0.0, 1.0)?, trial.float("y", 0.0, 1.0)?);
        Ok(if x > 0.5 { Outcome::Infeasible(x - 0.5) } else { Outcome::Complete(y) })
    };
    let late = |seed| {
        let study = study(seed);
        study.optimize(&Optimize::new().finished(60), objective).unwrap();
        let trials = study.trials().unwrap();
        assert_eq!(trials.len(), 60);
        trials[20..].iter().filter(|trial| trial.is_infeasible()).count()
    };
    let late: usize = (12..17).map(late).sum();
    // By chance it would be a hundred, give or take seven.
    assert!(late < 60, "{late} of 200");
}

#[test]
fn pruned_trials_keep_their_last_report_that_is_a_number() {
    let study = study(2);
    let pruned = |reports: &[f64]| {
        let trial = study.ask().unwrap();
        for (step, report) in (0..).zip(reports) {
            trial.report(step, *report).unwrap();
        }
        study.tell(trial.number(), Outcome::Pruned).unwrap();
        study.trials().unwrap().pop().unwrap().value()
    };
    assert_eq!(pruned(&[3.0, 2.0]), Some(2.0));
    assert_eq!(pruned(&[3.0, f64::NAN]), None);
}

#[test]
fn pruned_trials_may_have_an_estimate_of_their_own() {
    let study = study(2);
    for (estimate, value) in
        [(7.5, Some(7.5)), (f64::INFINITY, Some(f64::INFINITY)), (f64::NAN, None)]
    {
        let trial = study.ask().unwrap();
        trial.report(0, 1.0).unwrap();
        let state = study.tell(trial.number(), Outcome::PrunedAt(estimate)).unwrap();
        assert_eq!(
            (state, study.trials().unwrap().pop().unwrap().value()),
            (TrialState::Pruned, value)
        );
    }
}

#[test]
fn an_error_of_the_objective_ends_the_run_and_fails_the_trial() {
    let study = study(3);
    let objective = |trial: &mut ActiveTrial<'_>| {
        if trial.number() == 4 { Err("out of memory") } else { Ok(Outcome::Failed) }
    };
    let error = study.optimize(&Optimize::new().trials(10), objective).unwrap_err();
    assert_eq!(error.to_string(), "trial 4: the objective failed: out of memory");
    let states: Vec<TrialState> = study.trials().unwrap().iter().map(|t| t.state).collect();
    assert_eq!(states, [TrialState::Failed; 5]);
}

struct Steps(AtomicU64);

impl Clock for Steps {
    /// A second later each time it is looked at.
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn time_and_callbacks_stop() {
    let clock = Steps(AtomicU64::new(100));
    let limits = Optimize::new().time(Duration::from_secs(7)).clock(&clock);
    let summary = study(4).optimize(&limits, bowl).unwrap();
    assert_eq!((summary.trials, summary.reason), (6, StopReason::Time));
    let seen = Mutex::new(Vec::new());
    let callback = |_: &Study, trial: &Trial| {
        assert_eq!(trial.state, TrialState::Complete);
        seen.lock().unwrap().push(trial.number);
        trial.number < 3
    };
    let summary = study(4).optimize(&Optimize::new().callback(&callback), bowl).unwrap();
    assert_eq!((summary.trials, summary.reason), (4, StopReason::Callback));
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn no_improvement_counts_over_calls_and_leaves_failures_out() {
    let study = study(5);
    // Falls until trial 5; every third one fails.
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Infallible> {
        Ok(match trial.number() {
            number if number % 3 == 2 => Outcome::Failed,
            number => Outcome::Complete(10.0 - number.min(4) as f64),
        })
    };
    study.optimize(&Optimize::new().trials(7), objective).unwrap();
    let summary = study.optimize(&Optimize::new().no_improvement(4), objective).unwrap();
    // Best is 4; 6, 7, 9, 10 are worse, 5 and 8 fail.
    assert_eq!((summary.trials, summary.reason), (4, StopReason::NoImprovement));
    assert_eq!(study.trials().unwrap().len(), 11);
}

#[test]
fn finished_counts_over_calls_and_workers_replace_failures() {
    let study = study(6);
    study.optimize(&Optimize::new().trials(3), bowl).unwrap();
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        std::thread::sleep(Duration::from_millis(1));
        if trial.number() % 4 == 0 { Ok(Outcome::Failed) } else { bowl(trial) }
    };
    study.optimize(&Optimize::new().finished(40).workers(3), objective).unwrap();
    let trials = study.trials().unwrap();
    let finished = trials.iter().filter(|trial| trial.state == TrialState::Complete).count();
    assert_eq!(finished, 40);
    assert!(trials.iter().all(|trial| trial.state.is_finished()));
}

#[test]
fn workers_share_a_study_without_trying_the_same() {
    let study = study(7);
    let options = Optimize::new().trials(60).workers(4).heartbeat(Duration::from_millis(1));
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        let set = trial.subset("set", 30, 3, 3)?;
        std::thread::sleep(Duration::from_millis(2));
        Ok(Outcome::Complete(set.iter().sum::<usize>() as f64 + trial.float("x", 0.0, 1.0)?))
    };
    assert_eq!(study.optimize(&options, objective).unwrap().trials, 60);
    let trials = study.trials().unwrap();
    assert!(trials.iter().all(|trial| trial.state == TrialState::Complete));
    let numbers: Vec<f64> =
        trials.iter().map(|trial| trial.params["x"].1.as_float().unwrap()).collect();
    for (i, x) in numbers.iter().enumerate() {
        assert!(!numbers[..i].contains(x), "{x} was tried twice");
    }
}

#[test]
fn a_panic_of_a_worker_is_passed_on() {
    let study = study(8);
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        assert!(trial.number() != 3, "trial three");
        bowl(trial)
    };
    let options = Optimize::new().finished(20).workers(2).heartbeat(Duration::from_secs(60));
    let run = std::panic::AssertUnwindSafe(|| study.optimize(&options, objective));
    assert!(std::panic::catch_unwind(run).is_err());
}

#[test]
fn queued_trials_come_first_with_their_values() {
    let study = study(9);
    let of = |x: f64| -> Params {
        [("x".to_owned(), (Distribution::float(-5.0, 5.0), ParamValue::Float(x)))].into()
    };
    let outside = study.enqueue(of(9.0)).unwrap_err();
    assert!(outside.to_string().contains("found Float(9.0)"), "{outside}");
    study.enqueue(of(1.0)).unwrap();
    study.enqueue(of(-2.0)).unwrap();
    study.optimize(&Optimize::new().trials(3), bowl).unwrap();
    let trials = study.trials().unwrap();
    assert_eq!(trials[0].params["x"].1, ParamValue::Float(1.0));
    assert_eq!(trials[1].params["x"].1, ParamValue::Float(-2.0));
    assert!(trials.iter().all(|trial| trial.params.len() == 2));
    study.enqueue(of(1.0)).unwrap();
    let narrower = study.ask().unwrap().float("x", 2.0, 5.0).unwrap_err();
    assert!(narrower.to_string().contains("queued value"), "{narrower}");
}

#[test]
fn a_parameter_has_one_value_and_one_distribution_in_a_trial() {
    let study = study(10);
    let mut trial = study.ask().unwrap();
    let first = trial.float("x", 0.0, 1.0).unwrap();
    assert_eq!(trial.float("x", 0.0, 1.0).unwrap(), first);
    let other = trial.float("x", 0.0, 2.0).unwrap_err();
    assert!(other.to_string().starts_with("parameter x: expected Float"), "{other}");
    let kind = trial.int_of("y", &Distribution::float(0.0, 1.0)).unwrap_err();
    assert!(kind.to_string().starts_with("parameter y: expected an integer"), "{kind}");
    assert_eq!(trial.int("only", 3, 3).unwrap(), 3);
    assert!(trial.categorical("c", Vec::<&str>::new()).is_err());
}

#[test]
fn pruners_stop_hopeless_trials() {
    let storage = Arc::new(MemoryStorage::new());
    let study = Study::open(storage, "s", Direction::Minimize, RandomSampler::new(0)).unwrap();
    let study = study.with_pruner(PercentilePruner::median());
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        let x = trial.float("x", 0.0, 1.0)?;
        for step in 0..10 {
            trial.report(step, x)?;
            if trial.should_prune()? {
                return Ok(Outcome::Pruned);
            }
        }
        Ok(Outcome::Complete(x))
    };
    study.optimize(&Optimize::new().trials(40), objective).unwrap();
    let trials = study.trials().unwrap();
    let pruned: Vec<_> = trials.iter().filter(|t| t.state == TrialState::Pruned).collect();
    assert!((10..35).contains(&pruned.len()), "{}", pruned.len());
    assert!(pruned.iter().all(|trial| trial.intermediate.len() == 1 && trial.value().is_some()));
}

/// What a proposal costs grows with the trials and not with their square: the
/// surrogate works in the smaller of two spaces (its own test holds that), so a
/// long history is taken in.
#[test]
fn thousands_of_trials_are_taken_in() {
    let space = Space::builder().float("x", 0.0, 1.0).int("k", 1, 500).subset("set", 100, 10);
    let (space, random) = (space.build().unwrap(), RandomSampler::new(0));
    let trials: Vec<Trial> = (0..3000)
        .map(|number| {
            let view = View { directions: &[Direction::Minimize], trials: &[], draw: number };
            let mut trial =
                testing::trial(number, TrialState::Complete, Some((number % 97) as f64));
            let params = space.walk(|name, distribution| random.single(&view, name, distribution));
            trial.params = params.unwrap();
            trial
        })
        .collect();
    let trials = testing::shared(&trials);
    let view = View { directions: &[Direction::Minimize], trials: &trials, draw: 3000 };
    let proposed = TpeSampler::new(0).joint(&view).unwrap();
    let names: Vec<&str> = proposed.keys().map(String::as_str).collect();
    assert_eq!(names, ["k", "set", "x"]);
    assert!(proposed.values().all(|(distribution, value)| distribution.contains(value)));
}
