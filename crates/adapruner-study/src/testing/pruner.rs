//! Conformance suite for pruners.

use crate::pruner::{Pruner, PrunerView, Verdict};
use crate::testing::{shared, spread, trial};
use crate::trial::{Direction, Trial, TrialState};

/// Runs all checks.
///
/// # Panics
///
/// If one fails.
pub fn all(pruner: &impl Pruner) {
    without_reports(pruner);
    without_others(pruner);
    best_goes_on(pruner);
    extreme_reports(pruner);
    failed_trials_do_not_count(pruner);
    directions_mirror(pruner);
}

/// Complete trials with falling curves of 20 steps, worse by number.
fn others(n: u64) -> Vec<Trial> {
    let curve =
        |i: u64| move |step: u64| (step, i as f64 - 0.1 * step as f64 + spread(i * 20 + step));
    let of = |i: u64| {
        let mut trial = trial(i, TrialState::Complete, Some(i as f64 - 2.0));
        trial.intermediate = (1..=20).map(curve(i)).collect();
        trial
    };
    (0..n).map(of).collect()
}

/// Judges a trial after each of its reports; the verdicts. Goes on after a
/// verdict to prune.
fn judge(
    pruner: &impl Pruner,
    mut trials: Vec<Trial>,
    direction: Direction,
    reports: &[f64],
) -> Vec<Verdict> {
    let number = trials.iter().map(|trial| trial.number + 1).max().unwrap_or(0);
    trials.push(trial(number, TrialState::Running, None));
    let own = trials.len() - 1;
    let mut verdicts = Vec::new();
    for (step, report) in (1..).zip(reports) {
        trials[own].intermediate.insert(step, *report);
        let seen = shared(&trials);
        let view = PrunerView { study: "conformance", direction, trials: &seen, trial: &seen[own] };
        let verdict = pruner.judge(&view);
        assert_eq!(verdict, pruner.judge(&view), "the same view, another verdict");
        trials[own].system_attrs.extend(verdict.attrs.clone());
        verdicts.push(verdict);
    }
    verdicts
}

/// A trial that has reported nothing is not pruned.
///
/// # Panics
///
/// If it is.
pub fn without_reports(pruner: &impl Pruner) {
    let mut trials = others(30);
    trials.push(trial(30, TrialState::Running, None));
    let trials = shared(&trials);
    let view = PrunerView {
        study: "conformance",
        direction: Direction::Minimize,
        trials: &trials,
        trial: &trials[30],
    };
    assert_eq!(pruner.judge(&view), Verdict::default());
}

/// The first trial is not pruned before a bad report that is a number.
///
/// # Panics
///
/// If it is.
pub fn without_others(pruner: &impl Pruner) {
    let verdicts = judge(pruner, Vec::new(), Direction::Minimize, &[1.0, 5.0, 2.0, 3.0]);
    assert!(verdicts.iter().all(|verdict| !verdict.prune));
}

/// A trial that is better than all others at every step is not pruned.
///
/// # Panics
///
/// If it is.
pub fn best_goes_on(pruner: &impl Pruner) {
    for direction in [Direction::Minimize, Direction::Maximize] {
        let good = match direction {
            Direction::Minimize => -100.0,
            Direction::Maximize => 100.0,
        };
        let verdicts = judge(pruner, others(30), direction, &[good; 20]);
        assert!(verdicts.iter().all(|verdict| !verdict.prune), "{direction:?}");
    }
}

/// NaN, infinite and equal reports, of the trial and of others.
///
/// # Panics
///
/// If the pruner does, or judges the same twice in two ways.
pub fn extreme_reports(pruner: &impl Pruner) {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, 0.0];
    for direction in [Direction::Minimize, Direction::Maximize] {
        for from in 0..values.len() {
            let reports: Vec<f64> = values.iter().cycle().skip(from).take(20).copied().collect();
            judge(pruner, others(30), direction, &reports);
            judge(pruner, others(30), direction, &[values[from]; 20]);
            let mut trials = others(30);
            for (trial, value) in trials.iter_mut().zip(values.iter().cycle().skip(from)) {
                trial.values = vec![*value];
                trial.intermediate.insert(3, *value);
                trial.system_attrs.insert("completed_rung_0".into(), serde_json::Value::Null);
            }
            judge(pruner, trials, direction, &[1.0; 20]);
        }
    }
}

/// Failed trials that reported nothing change nothing.
///
/// # Panics
///
/// If they do.
pub fn failed_trials_do_not_count(pruner: &impl Pruner) {
    let reports: Vec<f64> = (0..20).map(|step| 3.0 + spread(step)).collect();
    let trials = others(30);
    let mut more = trials.clone();
    for trial in &mut more[10..15] {
        trial.state = TrialState::Failed;
        trial.values.clear();
        trial.intermediate.clear();
    }
    let mut fewer = trials;
    fewer.drain(10..15);
    let of = |trials| judge(pruner, trials, Direction::Minimize, &reports);
    assert_eq!(of(more), of(fewer));
}

/// Reports of the other sign with the other direction give the same verdicts.
///
/// # Panics
///
/// If they do not.
pub fn directions_mirror(pruner: &impl Pruner) {
    for level in [-5.0, 0.0, 5.0, 12.0, 40.0] {
        let reports: Vec<f64> = (0..20).map(|step| level + spread(step)).collect();
        let mut trials = others(30);
        let small = judge(pruner, trials.clone(), Direction::Minimize, &reports);
        for trial in &mut trials {
            trial.values.iter_mut().for_each(|value| *value = -*value);
            trial.intermediate.values_mut().for_each(|value| *value = -*value);
        }
        let mirrored: Vec<f64> = reports.iter().map(|report| -report).collect();
        let large = judge(pruner, trials, Direction::Maximize, &mirrored);
        let prunes = |verdicts: &[Verdict]| verdicts.iter().map(|v| v.prune).collect::<Vec<_>>();
        assert_eq!(prunes(&small), prunes(&large), "level {level}");
    }
}
