//! What items of a subset add to an objective whose utilities are known.

use std::sync::Arc;

use adapruner_study::effects::{ItemEffect, item_effects};
use adapruner_study::sampler::View;
use adapruner_study::{
    Direction, Distribution, Error, ParamValue, RandomSampler, Sampler, Trial, TrialState, testing,
};

const POOL: usize = 40;

/// In ±0.5; the first is worth most.
fn utility(item: usize) -> f64 {
    if item == 0 { 2.0 } else { ((item as f64) * 0.618_033_988_749_895).fract() - 0.5 }
}

fn average() -> f64 {
    (0..POOL).map(utility).sum::<f64>() / POOL as f64
}

fn params() -> [(&'static str, Distribution); 4] {
    [
        ("set", Distribution::Subset { pool: POOL, least: 4, most: 10 }),
        ("another", Distribution::subset(6, 2)),
        ("x", Distribution::float(-1.0, 1.0)),
        ("kind", Distribution::categorical(["a", "b"])),
    ]
}

/// Random trials; `value` of the set and of x, the size and the kind.
fn history(n: u64, value: impl Fn(&[usize], f64, usize) -> f64) -> Vec<Trial> {
    let random = RandomSampler::new(6);
    let of = |number: u64| {
        let mut trial = testing::trial(number, TrialState::Complete, None);
        let view = View { directions: &[Direction::Minimize], trials: &[], draw: number };
        for (name, of) in params() {
            let value = random.single(&view, name, &of).unwrap();
            trial.params.insert(name.into(), (of, value));
        }
        let kind = trial.params["kind"].1.as_category().unwrap();
        let x = trial.params["x"].1.as_float().unwrap();
        trial.values = vec![value(trial.params["set"].1.as_subset().unwrap(), x, kind)];
        trial
    };
    (0..n).map(of).collect()
}

fn additive(set: &[usize], x: f64, kind: usize) -> f64 {
    let items = set.iter().map(|&item| utility(item)).sum::<f64>();
    // Numbers matter more than all items.
    300.0 + items + 3.0 * x + 2.0 * kind as f64 - 0.5 * set.len() as f64
}

fn effects(trials: &[Trial], direction: Direction, name: &str) -> Result<Vec<ItemEffect>, Error> {
    item_effects(&testing::shared(trials), direction, name)
}

#[test]
fn effects_are_the_utilities() {
    let trials = history(600, additive);
    let found = effects(&trials, Direction::Minimize, "set").unwrap();
    assert_eq!(found.len(), POOL);
    for (item, effect) in found.iter().enumerate() {
        let expected = utility(item) - average();
        let error = (effect.mean - expected).abs();
        // The surrogate allows for noise of 0.3 deviations of the value, which is
        // not there: shrinkage is what is left.
        assert!(error < 0.12 && error < 2.0 * effect.deviation, "{item}: {effect:?}, {expected}");
        assert!((0.02..0.12).contains(&effect.deviation), "{item}: {effect:?}");
        let of = |trial: &&Trial| trial.params["set"].1.as_subset().unwrap().contains(&item);
        assert_eq!(effect.chosen, trials.iter().filter(of).count());
    }
    // In units of the objective, whatever its scale.
    let scaled = history(600, |set, x, kind| 1000.0 * additive(set, x, kind));
    let scaled = effects(&scaled, Direction::Minimize, "set").unwrap();
    for (a, b) in found.iter().zip(&scaled) {
        assert!((1000.0 * a.mean - b.mean).abs() < 1e-6);
        assert!((1000.0 * a.deviation - b.deviation).abs() < 1e-6);
    }
}

/// The sign is that of the value, not of what is good. (Bad outliers, of which
/// there are none here, are other ones then.)
#[test]
fn the_sign_is_that_of_the_value() {
    let trials = history(200, additive);
    let small = effects(&trials, Direction::Minimize, "set").unwrap();
    let large = effects(&trials, Direction::Maximize, "set").unwrap();
    assert!(small[0].mean > 1.0);
    for (a, b) in small.iter().zip(&large) {
        assert!((a.mean - b.mean).abs() < 1e-9 && (a.deviation - b.deviation).abs() < 1e-9);
    }
}

/// Trials that all differ in one number, with an item that goes along with it.
#[test]
fn numbers_are_controlled_for() {
    let mut trials = history(300, |_, _, _| 0.0);
    for trial in &mut trials {
        let x = trial.params["x"].1.as_float().unwrap();
        let mut set: Vec<usize> = trial.params["set"].1.as_subset().unwrap().to_vec();
        set.retain(|item| *item != 7);
        if set.len() < 4 {
            set = vec![1, 2, 3, 4];
        }
        if x + 0.5 * (trial.number as f64 * 0.37).sin() > 0.0 && set.len() < 10 {
            set.push(7);
            set.sort_unstable();
        }
        trial.values = vec![5.0 * x];
        trial.params.get_mut("set").unwrap().1 = ParamValue::Subset(set);
    }
    let controlled = effects(&trials, Direction::Minimize, "set").unwrap()[7];
    trials.iter_mut().for_each(|trial| drop(trial.params.remove("x")));
    let confounded = effects(&trials, Direction::Minimize, "set").unwrap()[7];
    assert!(controlled.mean.abs() < 0.3, "{controlled:?}");
    assert!(confounded.mean > 3.0, "{confounded:?}");
}

#[test]
fn what_is_not_known_is_uncertain() {
    let mut trials = history(30, additive);
    trials.push(Trial { state: TrialState::Failed, values: Vec::new(), ..trials[0].clone() });
    let found = effects(&trials, Direction::Minimize, "set").unwrap();
    assert!(found.iter().all(|effect| effect.deviation > 0.2));
    let trials = trials[..8].iter().cloned().map(|mut trial| {
        // No trial has item 39.
        let set = trial.params["set"].1.as_subset().unwrap().to_vec();
        let set = set.into_iter().filter(|item| *item != 39).collect();
        let of = Distribution::Subset { pool: POOL, least: 1, most: 10 };
        trial.params.insert("set".into(), (of, ParamValue::Subset(set)));
        trial
    });
    let found = effects(&trials.collect::<Vec<_>>(), Direction::Minimize, "set").unwrap();
    assert_eq!(found[39].chosen, 0);
    assert!(found[39].mean.abs() < found[39].deviation);
}

#[test]
fn several_subsets_have_each_their_own() {
    let value = |set: &[usize], _: f64, _: usize| set.iter().map(|&item| utility(item)).sum();
    let mut trials = history(400, value);
    for trial in &mut trials {
        let another = trial.params["another"].1.as_subset().unwrap();
        let extra = if another.contains(&2) { 4.0 } else { 0.0 };
        trial.values.iter_mut().for_each(|value| *value += extra);
    }
    let another = effects(&trials, Direction::Maximize, "another").unwrap();
    assert_eq!(another.len(), 6);
    // The average item is worth a sixth of it.
    assert!((another[2].mean - 4.0 * 5.0 / 6.0).abs() < 0.3, "{another:?}");
    assert!((another[0].mean + 4.0 / 6.0).abs() < 0.3, "{another:?}");
    let set = effects(&trials, Direction::Maximize, "set").unwrap();
    assert!((set[0].mean - utility(0) + average()).abs() < 0.3, "{:?}", set[0]);
}

#[test]
fn nothing_to_tell_by_is_an_error() {
    let of = |trials: &[Trial], name: &str| {
        effects(trials, Direction::Minimize, name).unwrap_err().to_string()
    };
    let trials = history(5, |_, _, _| 1.0);
    assert_eq!(
        of(&trials, "set"),
        "parameter set: expected trials of different values, found 5 that do not differ"
    );
    assert_eq!(
        of(&trials, "x"),
        "parameter x: expected a subset parameter in finished trials, found none in 5"
    );
    assert!(of(&[], "set").ends_with("found none in 0"));
    let infinite = history(5, |_, _, _| f64::INFINITY);
    assert!(of(&infinite, "set").contains("different values"));
    // Of another pool: not counted, and neither are damaged values.
    let mut mixed = history(6, additive);
    let items = ParamValue::Subset(vec![0, 1, 2, 90]);
    mixed[0].params.get_mut("set").unwrap().1 = items.clone();
    mixed[1].params.insert("set".into(), (Distribution::subset(99, 4), items));
    let found = effects(&mixed, Direction::Minimize, "set").unwrap();
    assert_eq!(found.len(), POOL);
    let shared: Vec<Arc<Trial>> = testing::shared(&mixed[2..]);
    assert_eq!(found, item_effects(&shared, Direction::Minimize, "set").unwrap());
}
