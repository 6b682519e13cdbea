//! Conformance suite for samplers.

use serde_json::Value;

use crate::distribution::{Distribution, ParamValue};
use crate::sampler::random::uniform;
use crate::sampler::stream::Stream;
use crate::sampler::{Params, Sampler, View};
use crate::testing::{shared, spread, trial};
use crate::trial::{Direction, Trial, TrialState};

/// Runs all checks on samplers that `make` gives for seeds.
///
/// # Panics
///
/// If one fails.
pub fn all<S: Sampler>(make: impl Fn(u64) -> S) {
    empty_history(&make(1));
    within_bounds(&make(2));
    single_values(&make(3));
    failed_trials_do_not_count(&make(4));
    extreme_values(&make(5));
    conditional(&make(6));
    directions_mirror(&make(7));
    damaged_history(&make(8));
    several_objectives(&make(9));
    deterministic(&make);
}

/// One of every kind, by name.
fn kinds() -> Vec<(&'static str, Distribution)> {
    vec![
        ("float", Distribution::float(-3.0, 5.0)),
        ("float_log", Distribution::float_log(1e-6, 2.0)),
        ("float_step", Distribution::float_step(-0.3, 1.5, 0.1)),
        ("float_narrow", Distribution::float(1.0, 1.0 + f64::EPSILON)),
        ("float_wide", Distribution::float(-4e307, 4e307)),
        ("int", Distribution::int(-7, 12)),
        ("int_log", Distribution::int_log(1, 1000)),
        ("int_step", Distribution::int_step(3, 30, 9)),
        ("int_large", Distribution::int(-(1 << 53), 1 << 53)),
        ("categorical", Distribution::categorical(["a", "b", "c"])),
        ("subset", Distribution::subset(20, 4)),
        ("subset_sized", Distribution::Subset { pool: 12, least: 2, most: 12 }),
    ]
}

/// A trial with random values of some parameters.
fn drawn(
    number: u64,
    state: TrialState,
    value: Option<f64>,
    space: &[(&str, Distribution)],
) -> Trial {
    let mut trial = trial(number, state, value);
    for (name, distribution) in space {
        let drawn = uniform(distribution, &mut Stream::new(9, number, name));
        trial.params.insert((*name).into(), (distribution.clone(), drawn));
    }
    trial
}

fn complete(n: u64, space: &[(&str, Distribution)]) -> Vec<Trial> {
    (0..n).map(|i| drawn(i, TrialState::Complete, Some(spread(i)), space)).collect()
}

/// All that is proposed: jointly, and one by one.
fn proposals(
    sampler: &impl Sampler,
    trials: &[Trial],
    directions: &[Direction],
    draw: u64,
    space: &[(&str, Distribution)],
) -> (Params, Vec<ParamValue>) {
    let trials = shared(trials);
    let view = View { directions, trials: &trials, draw };
    let joint = sampler.joint(&view).expect("a joint proposal");
    let single = space.iter().filter(|(_, of)| of.only_value().is_none()).map(|(name, of)| {
        let value = sampler.single(&view, name, of).expect("a proposal");
        assert!(of.contains(&value), "{name}: {value:?} is not of {of:?}");
        value
    });
    let single = single.collect();
    for (name, (of, value)) in &joint {
        assert!(of.contains(value), "{name}: {value:?} is not of {of:?}");
        assert!(of.only_value().is_none(), "{name} has one value only");
        let known = space.iter().any(|(other, distribution)| other == name && distribution == of);
        assert!(known, "{name} is not of the space");
    }
    (joint, single)
}

/// Without any trial there is a proposal.
///
/// # Panics
///
/// If there is none.
pub fn empty_history(sampler: &impl Sampler) {
    proposals(sampler, &[], &[Direction::Minimize], 0, &kinds());
}

/// Proposals are of their distributions, whatever the history's length.
///
/// # Panics
///
/// If one is not.
pub fn within_bounds(sampler: &impl Sampler) {
    for n in [1, 9, 10, 11, 40, 120] {
        let trials = complete(n, &kinds());
        for draw in n..n + 3 {
            proposals(sampler, &trials, &[Direction::Maximize], draw, &kinds());
        }
    }
}

/// Parameters with one value, and trials that are all equal.
///
/// # Panics
///
/// If a proposal is not of its distribution.
pub fn single_values(sampler: &impl Sampler) {
    let mut space = kinds();
    space.push(("one", Distribution::float(2.0, 2.0)));
    space.push(("only", Distribution::categorical(["a"])));
    space.push(("whole", Distribution::subset(3, 3)));
    let mut trials = complete(60, &space);
    proposals(sampler, &trials, &[Direction::Minimize], 60, &space);
    let params = trials[0].params.clone();
    trials.iter_mut().for_each(|trial| {
        trial.params = params.clone();
        trial.values = vec![1.0];
    });
    proposals(sampler, &trials, &[Direction::Minimize], 60, &space);
    // Nothing but parameters of one value.
    let trials = complete(60, &space[space.len() - 3..]);
    let (joint, _) = proposals(sampler, &trials, &[Direction::Minimize], 60, &kinds());
    assert!(joint.is_empty());
}

/// Failed and waiting trials change nothing.
///
/// # Panics
///
/// If they do.
pub fn failed_trials_do_not_count(sampler: &impl Sampler) {
    let trials = complete(50, &kinds());
    let mut more = trials.clone();
    for number in 50..70 {
        more.push(drawn(number, TrialState::Failed, None, &kinds()));
        more.push(drawn(number + 20, TrialState::Waiting, None, &kinds()[..2]));
    }
    let of = |trials: &[Trial]| proposals(sampler, trials, &[Direction::Minimize], 90, &kinds());
    assert_eq!(of(&trials), of(&more));
    // Nothing but failures.
    proposals(sampler, &more[50..], &[Direction::Minimize], 90, &kinds());
}

/// Infinite and huge values, equal ones, NaN in damaged records, and pruned
/// trials with all sorts of reports.
///
/// # Panics
///
/// If a proposal is not of its distribution.
pub fn extreme_values(sampler: &impl Sampler) {
    let values =
        [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::NAN, 0.0, -0.0, 1e-300];
    for values in [&values[..], &values[..1], &values[..2], &values[4..5], &values[5..6]] {
        let mut trials = complete(90, &kinds());
        for (trial, value) in trials.iter_mut().zip(values.iter().cycle()) {
            trial.values = vec![*value];
        }
        for (i, trial) in trials.iter_mut().enumerate().skip(60) {
            trial.state = TrialState::Pruned;
            trial.values.clear();
            let reports = values.iter().cycle().skip(i).take(i % 4);
            trial.intermediate = (0..).zip(reports.copied()).collect();
        }
        for direction in [Direction::Minimize, Direction::Maximize] {
            proposals(sampler, &trials, &[direction], 90, &kinds());
        }
    }
}

/// Parameters that only some trials have, and running trials that lack some.
///
/// # Panics
///
/// If one of them is proposed jointly.
pub fn conditional(sampler: &impl Sampler) {
    let space = kinds();
    let mut trials = complete(60, &space[..6]);
    for i in (0..60).step_by(2) {
        trials[i] = drawn(i as u64, TrialState::Complete, Some(spread(i as u64)), &space);
    }
    trials.push(drawn(60, TrialState::Running, None, &space[..2]));
    trials.push(trial(61, TrialState::Running, None));
    let (joint, _) = proposals(sampler, &trials, &[Direction::Minimize], 62, &space);
    for (name, _) in &space[6..] {
        assert!(!joint.contains_key(*name), "{name} is not in all trials");
    }
}

/// Values of the other sign with the other direction give the same proposals.
///
/// # Panics
///
/// If they do not.
pub fn directions_mirror(sampler: &impl Sampler) {
    for n in [5, 30, 110] {
        let mut trials = complete(n, &kinds());
        for trial in trials.iter_mut().skip(1).step_by(5) {
            trial.state = TrialState::Pruned;
            trial.intermediate = [(0, 0.5), (1, spread(trial.number))].into();
        }
        let small = proposals(sampler, &trials, &[Direction::Minimize], n, &kinds());
        for trial in &mut trials {
            trial.values.iter_mut().for_each(|value| *value = -*value);
            trial.intermediate.values_mut().for_each(|value| *value = -*value);
        }
        let large = proposals(sampler, &trials, &[Direction::Maximize], n, &kinds());
        assert_eq!(small, large, "after {n} trials");
    }
}

/// Two and three objectives: equal, infinite and missing values, infeasible trials; values of
/// the other sign with the other directions give the same proposals.
///
/// # Panics
///
/// If a proposal is not of its distribution, or the mirrored one is another.
pub fn several_objectives(sampler: &impl Sampler) {
    let odd = [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::NAN, 0.0, -0.0];
    for (objectives, n) in [(2, 5), (2, 30), (2, 90), (3, 90)] {
        let mut trials = complete(n, &kinds());
        for (i, trial) in trials.iter_mut().enumerate() {
            let of = |at: usize| (10.0 * spread((i * (at + 3)) as u64)).round();
            trial.values = (0..objectives).map(of).collect();
            match i % 15 {
                11 => trial.values[i % objectives] = odd[i / 15],
                12 => trial.values.truncate(i % objectives),
                13 => {
                    let violated = Value::from(vec![spread(i as u64)]);
                    trial.system_attrs.insert("constraints".into(), violated);
                }
                14 => {
                    trial.state = TrialState::Pruned;
                    trial.values.clear();
                }
                _ => {}
            }
        }
        let directions = &[Direction::Minimize, Direction::Maximize, Direction::Minimize];
        let mirrored = &[Direction::Maximize, Direction::Minimize, Direction::Maximize];
        let first = proposals(sampler, &trials, &directions[..objectives], n, &kinds());
        for trial in &mut trials {
            trial.values.iter_mut().for_each(|value| *value = -*value);
        }
        let second = proposals(sampler, &trials, &mirrored[..objectives], n, &kinds());
        assert_eq!(first, second, "{objectives} objectives, after {n} trials");
    }
}

/// Values outside of their distributions, of another kind or with another
/// distribution, and attributes that are not what samplers wrote.
///
/// # Panics
///
/// If a proposal is not of its distribution.
pub fn damaged_history(sampler: &impl Sampler) {
    let mut trials = complete(60, &kinds());
    let wrong = [
        ParamValue::Float(f64::NAN),
        ParamValue::Int(i64::MAX),
        ParamValue::Category(usize::MAX),
        ParamValue::Subset(vec![7, 3, usize::MAX]),
        ParamValue::Subset(Vec::new()),
    ];
    for (i, trial) in trials.iter_mut().enumerate() {
        let at = i % trial.params.len();
        if let Some((of, value)) = trial.params.values_mut().nth(at) {
            *value = wrong[i % wrong.len()].clone();
            if i % 7 == 0 {
                *of = Distribution::Float { low: 1.0, high: f64::NAN, step: None, log: true };
            }
        }
    }
    let mut running = trial(60, TrialState::Running, None);
    for key in ["study:proposed", "study:draw"] {
        running.system_attrs.insert(key.into(), Value::from(vec!["not", "this"]));
    }
    trials.push(running);
    let trials = shared(&trials);
    let view = View { directions: &[Direction::Minimize], trials: &trials, draw: 61 };
    let joint = sampler.joint(&view).expect("a joint proposal");
    assert!(
        joint.iter().all(|(name, (of, value))| of.validate(name).is_ok() && of.contains(value))
    );
    for (name, of) in kinds() {
        assert!(of.contains(&sampler.single(&view, name, &of).expect("a proposal")), "{name}");
    }
}

/// Samplers of one seed propose the same, whatever they proposed before; other
/// draws and other seeds propose something else.
///
/// # Panics
///
/// If not so.
pub fn deterministic<S: Sampler>(make: &impl Fn(u64) -> S) {
    for n in [0, 5, 60, 100] {
        let trials = complete(n, &kinds());
        let of =
            |sampler: &S, draw| proposals(sampler, &trials, &[Direction::Minimize], draw, &kinds());
        let (fresh, used) = (make(1), make(1));
        for draw in 0..5 {
            of(&used, draw);
        }
        assert_eq!(of(&fresh, n), of(&used, n), "after {n} trials");
        assert_ne!(of(&fresh, n), of(&fresh, n + 1), "draws, after {n} trials");
        assert_ne!(of(&fresh, n), of(&make(2), n), "seeds, after {n} trials");
    }
}
