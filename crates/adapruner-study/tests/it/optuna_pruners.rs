//! Pruners against the decisions of Optuna 5.0 on the same curves
//! (fixtures/generate/optuna_tpe.py).

use adapruner_study::pruner::wilcoxon::signed_rank_p;
use adapruner_study::pruner::{
    HyperbandPruner, PercentilePruner, Pruner, PrunerView, SuccessiveHalvingPruner, WilcoxonPruner,
};
use adapruner_study::{Trial, TrialState, testing};
use serde_json::Value;

use crate::optuna_tpe::{direction, fixture, number, trial};

/// Sums of up to 50 chances.
const TOLERANCE: f64 = 1e-12;

fn pruner(name: &str) -> Box<dyn Pruner> {
    match name {
        "median" => Box::new(PercentilePruner::median()),
        "percentile" => Box::new(PercentilePruner {
            percentile: 25.0,
            startup_trials: 3,
            warmup_steps: 4,
            interval_steps: 3,
            min_trials: 4,
        }),
        "halving" => Box::new(SuccessiveHalvingPruner::default()),
        "halving bootstrap" => Box::new(SuccessiveHalvingPruner {
            min_resource: Some(2),
            reduction_factor: 2,
            min_early_stopping_rate: 1,
            bootstrap_count: 2,
        }),
        "hyperband" => Box::new(HyperbandPruner {
            min_resource: 2,
            max_resource: Some(30),
            ..HyperbandPruner::default()
        }),
        "hyperband auto" => Box::new(HyperbandPruner::default()),
        "wilcoxon" => Box::new(WilcoxonPruner::default()),
        _ => Box::new(WilcoxonPruner { p_threshold: 0.01, startup_steps: 6 }),
    }
}

#[test]
fn p_values_are_those_of_scipy() {
    for case in fixture("pruners.json")["signed_rank"].as_array().unwrap() {
        let differences: Vec<f64> =
            case["differences"].as_array().unwrap().iter().map(number).collect();
        let (found, expected) = (signed_rank_p(&differences), number(&case["p"]));
        assert!((found - expected).abs() < TOLERANCE, "{differences:?}: {found}, {expected}");
    }
}

#[test]
fn decisions_are_those_of_optuna() {
    for case in fixture("pruners.json")["pruners"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (pruner, direction) = (pruner(name), direction(&case["direction"]));
        let study = case["study"].as_str().unwrap();
        let mut trials: Vec<Trial> = Vec::new();
        for recorded in case["trials"].as_array().unwrap() {
            let own = trials.len();
            trials.push(trial(own as u64, TrialState::Running, None));
            let decisions = recorded["decisions"].as_array().unwrap();
            for (step, expected) in decisions.iter().enumerate() {
                let report = number(&recorded["curve"][step]);
                trials[own].intermediate.insert(step as u64 + 1, report);
                let seen = testing::shared(&trials);
                let view = PrunerView { study, direction, trials: &seen, trial: &seen[own] };
                let verdict = pruner.judge(&view);
                assert_eq!(verdict.prune, expected == true, "{name}: trial {own}, step {step}");
                trials[own].system_attrs.extend(verdict.attrs);
            }
            let pruned = decisions.last() == Some(&Value::Bool(true));
            trials[own].state = if pruned { TrialState::Pruned } else { TrialState::Complete };
            trials[own].values =
                Some(number(&recorded["value"])).filter(|_| !pruned).into_iter().collect();
        }
    }
}
