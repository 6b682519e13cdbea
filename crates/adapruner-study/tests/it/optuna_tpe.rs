//! Splits, kernels and densities against Optuna 5.0 (fixtures/generate/optuna_tpe.py,
//! optuna_infeasible.py, optuna_several.py).

use std::collections::BTreeMap;
use std::sync::Arc;

use adapruner_study::front::{greedy_subset, hypervolume, ranks, reference_point};
use adapruner_study::sampler::tpe::{ParzenEstimator, good_count, split};
use adapruner_study::{Direction, Distribution, ParamValue, Trial, TrialState, best_of, front_of};
use serde_json::Value;

/// Densities far in the tails lose digits in different places.
const TOLERANCE: f64 = 1e-9;

pub fn fixture(name: &str) -> Value {
    let path = format!("{}/../../fixtures/optuna/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A number, or the text of one that JSON has not.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

pub fn direction(value: &Value) -> Direction {
    serde_json::from_value(value.clone()).unwrap()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn distribution(of: &Value) -> Distribution {
    let log = of["log"] == true;
    match of["kind"].as_str().unwrap() {
        "float" => Distribution::Float {
            low: number(&of["low"]),
            high: number(&of["high"]),
            step: of["step"].as_f64(),
            log,
        },
        "int" => Distribution::Int {
            low: of["low"].as_i64().unwrap(),
            high: of["high"].as_i64().unwrap(),
            step: of["step"].as_i64().unwrap(),
            log,
        },
        _ => Distribution::categorical(0..of["choices"].as_i64().unwrap()),
    }
}

fn value(of: &Distribution, internal: f64) -> ParamValue {
    match of {
        Distribution::Float { .. } => ParamValue::Float(internal),
        Distribution::Int { .. } => ParamValue::Int(internal as i64),
        Distribution::Categorical { .. } => ParamValue::Category(internal as usize),
        Distribution::Subset { .. } => unreachable!("Optuna has none"),
    }
}

fn internal(value: &ParamValue) -> f64 {
    match value {
        ParamValue::Float(v) => *v,
        ParamValue::Int(v) => *v as f64,
        ParamValue::Category(v) => *v as f64,
        ParamValue::Subset(_) => unreachable!("Optuna has none"),
    }
}

pub fn trial(number: u64, state: TrialState, value: Option<f64>) -> Trial {
    Trial {
        number,
        state,
        values: value.into_iter().collect(),
        params: BTreeMap::new(),
        intermediate: BTreeMap::new(),
        user_attrs: BTreeMap::new(),
        system_attrs: BTreeMap::new(),
        started_ms: None,
        ended_ms: None,
    }
}

fn history(case: &Value, space: &[(String, Distribution)]) -> Vec<Trial> {
    let of = |(i, recorded): (usize, &Value)| {
        let state = match recorded["state"].as_str().unwrap() {
            "complete" => TrialState::Complete,
            "pruned" => TrialState::Pruned,
            "running" => TrialState::Running,
            _ => TrialState::Failed,
        };
        let mut trial = trial(i as u64, state, None);
        let values =
            recorded["values"].as_array().map(|values| values.iter().map(number).collect());
        let single = || Some(&recorded["value"]).filter(|value| !value.is_null()).map(number);
        trial.values = values.unwrap_or_else(|| single().into_iter().collect());
        for (step, report) in recorded["reports"].as_object().unwrap() {
            trial.intermediate.insert(step.parse().unwrap(), number(report));
        }
        if let Some(attrs) = recorded["system_attrs"].as_object() {
            trial.system_attrs = attrs.clone().into_iter().collect();
        }
        for ((name, of), x) in space.iter().zip(numbers(&recorded["params"])) {
            trial.params.insert(name.clone(), (of.clone(), value(of, x)));
        }
        trial
    };
    case["trials"].as_array().unwrap().iter().enumerate().map(of).collect()
}

fn close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error < TOLERANCE || found == expected, "{what}: {found}, expected {expected}");
    }
}

#[test]
fn splits_kernels_and_densities_are_those_of_optuna() {
    let fixture = fixture("densities.json");
    let expected: Vec<u64> = serde_json::from_value(fixture["good_counts"].clone()).unwrap();
    for (n, expected) in expected.iter().enumerate() {
        assert_eq!(good_count(n, 1) as u64, *expected, "of {n}");
    }
    compare(&fixture);
}

/// Infeasible trials are ranked behind all others, by how much they violate
/// (fixtures/generate/optuna_infeasible.py).
#[test]
fn infeasible_trials_are_the_worst_as_in_optuna() {
    let fixture = fixture("infeasible.json");
    compare(&fixture);
    for case in fixture["cases"].as_array().unwrap() {
        let trials: Vec<_> = history(case, &space(case)).into_iter().map(Arc::new).collect();
        let best = best_of(&trials, direction(&case["direction"]));
        assert_eq!(best.map(|best| best.number), case["best"].as_u64(), "{}", case["name"]);
    }
}

/// Of several objectives good trials are those of the lowest nondominated ranks, and the
/// front is that of `best_trials` (fixtures/generate/optuna_several.py).
#[test]
fn several_objectives_are_split_as_in_optuna() {
    let fixture = fixture("several.json");
    for (n, expected) in fixture["good_counts"].as_array().unwrap().iter().enumerate() {
        assert_eq!(Some(good_count(n, 2) as u64), expected.as_u64(), "of {n}");
    }
    compare(&fixture);
    for case in fixture["cases"].as_array().unwrap() {
        let trials: Vec<_> = history(case, &space(case)).into_iter().map(Arc::new).collect();
        let front = front_of(&trials, &directions(case));
        let front: Vec<f64> = front.iter().map(|trial| trial.number as f64).collect();
        assert_eq!(front, numbers(&case["front"]), "{}", case["name"]);
    }
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

#[test]
fn hypervolumes_and_ranks_are_those_of_optuna() {
    for case in fixture("several.json")["volumes"].as_array().unwrap() {
        let (points, reference) = (rows(&case["points"]), numbers(&case["reference"]));
        let volume = [hypervolume(&points, &reference)];
        close(&volume, &[number(&case["volume"])], "volume");
        for (field, until) in [("ranks", points.len()), ("ranks_of_five", 5)] {
            let ranks: Vec<f64> = ranks(&points, until).iter().map(|rank| *rank as f64).collect();
            assert_eq!(ranks, numbers(&case[field]));
        }
    }
}

#[test]
fn subsets_of_large_hypervolume_are_those_of_optuna() {
    for case in fixture("several.json")["subsets"].as_array().unwrap() {
        let points = rows(&case["points"]);
        let reference = reference_point(&points);
        assert_eq!(reference, numbers(&case["reference"]));
        let count = case["count"].as_u64().unwrap() as usize;
        let mut chosen: Vec<f64> =
            greedy_subset(&points, count, &reference).iter().map(|at| *at as f64).collect();
        chosen.sort_by(f64::total_cmp);
        assert_eq!(chosen, numbers(&case["chosen"]));
    }
}

/// Of one objective or of several.
fn directions(case: &Value) -> Vec<Direction> {
    let several = case["directions"].as_array();
    several.map_or_else(
        || vec![direction(&case["direction"])],
        |of| of.iter().map(direction).collect(),
    )
}

fn space(case: &Value) -> Vec<(String, Distribution)> {
    let of = |of: &Value| (of["name"].as_str().unwrap().into(), distribution(of));
    case["space"].as_array().unwrap().iter().map(of).collect()
}

fn compare(fixture: &Value) {
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let space = space(case);
        let distributions: Vec<&Distribution> = space.iter().map(|(_, of)| of).collect();
        let trials = history(case, &space);
        let finished =
            trials.iter().filter(|t| matches!(t.state, TrialState::Complete | TrialState::Pruned));
        let of = directions(case);
        let good = good_count(finished.count(), of.len());
        let split = split(&trials, &of, good);
        let points: Vec<Vec<f64>> =
            case["points"].as_array().unwrap().iter().map(numbers).collect();
        let equal = of.len() > 1;
        for (side, trials, equal) in [("good", split.good, equal), ("bad", split.bad, false)] {
            let what = format!("{name}, {side}");
            let expected = &case[side];
            let of: Vec<f64> = trials.iter().map(|trial| trial.number as f64).collect();
            assert_eq!(of, numbers(&expected["numbers"]), "{what}");
            let observations: Vec<Vec<f64>> = trials
                .iter()
                .map(|t| t.params.values().map(|(_, v)| internal(v)).collect())
                .collect();
            let estimate = if equal { ParzenEstimator::equal } else { ParzenEstimator::new };
            let found = estimate(&distributions, &observations).unwrap();
            close(found.weights(), &numbers(&expected["weights"]), &what);
            for (i, kernels) in expected["kernels"].as_array().unwrap().iter().enumerate() {
                let Some((means, widths)) = found.kernels(i) else {
                    assert!(kernels.is_null(), "{what}");
                    continue;
                };
                close(means, &numbers(&kernels["means"]), &what);
                close(widths, &numbers(&kernels["widths"]), &what);
            }
            close(&found.log_densities(&points), &numbers(&expected["log_densities"]), &what);
        }
    }
}
