//! Distributions and spaces.

use std::collections::BTreeMap;

use adapruner_study::{Distribution, ParamValue, Space};
use proptest::prelude::*;

fn fault(distribution: Distribution) -> String {
    distribution.validate("p").unwrap_err().to_string()
}

#[test]
fn distributions_that_make_no_sense_are_refused() {
    let found = [
        (Distribution::float(1.0, 0.0), "expected low ≤ high, found 1 and 0"),
        (Distribution::float(f64::NAN, 0.0), "expected finite bounds, found NaN and 0"),
        (Distribution::float(f64::MIN, f64::MAX), "expected finite bounds"),
        (Distribution::float_log(0.0, 1.0), "expected low > 0 for a logarithm, found 0"),
        (Distribution::float_step(0.0, 1.0, 0.0), "expected a step > 0, found 0"),
        (Distribution::float_step(0.0, 1.0, 0.3), "as 0.8999999999999999, found 1"),
        (Distribution::int(3, 2), "expected low ≤ high, found 3 and 2"),
        (Distribution::int(0, i64::MAX), "expected integers within ±2^53"),
        (Distribution::int_log(0, 3), "expected low ≥ 1 for a logarithm, found 0"),
        (Distribution::int_step(0, 10, 4), "as 8, found 10"),
        (Distribution::int_step(0, 10, -1), "expected a step ≥ 1, found -1"),
        (Distribution::categorical::<&str>([]), "expected at least one choice, found none"),
        (Distribution::categorical(["a", "a"]), "found Text(\"a\") twice"),
        (Distribution::categorical([f64::NAN]), "expected finite choices, found NaN"),
        (Distribution::subset(3, 4), "found least 4, most 4, pool 3"),
        (Distribution::subset(3, 0), "found least 0, most 0, pool 3"),
        (Distribution::subset(usize::MAX, 1), "expected a pool of at most"),
    ];
    for (distribution, expected) in found {
        let message = fault(distribution);
        assert!(message.starts_with("parameter p: ") && message.contains(expected), "{message}");
    }
}

#[test]
fn values_off_the_grid_are_not_contained() {
    let steps = Distribution::float_step(0.0, 1.0, 0.1);
    assert!(steps.contains(&ParamValue::Float(0.1 + 0.2)));
    assert!(!steps.contains(&ParamValue::Float(0.25)));
    assert!(!steps.contains(&ParamValue::Float(f64::NAN)));
    assert!(!steps.contains(&ParamValue::Int(0)));
    let ints = Distribution::int_step(-4, 20, 3);
    assert!(ints.contains(&ParamValue::Int(-1)) && !ints.contains(&ParamValue::Int(0)));
    let subset = Distribution::subset(5, 2);
    assert!(subset.contains(&ParamValue::Subset(vec![0, 4])));
    for wrong in [vec![4, 0], vec![1, 1], vec![1, 5], vec![1], vec![0, 1, 2]] {
        assert!(!subset.contains(&ParamValue::Subset(wrong)));
    }
}

#[test]
fn spaces_that_make_no_sense_are_refused() {
    let message = |space: Result<Space, adapruner_study::Error>| space.unwrap_err().to_string();
    let twice = Space::builder().int("a", 0, 1).float("a", 0.0, 1.0).build();
    assert!(message(twice).contains("parameter a: expected one parameter of this name"));
    let unknown = Space::builder().when("k", ["x"], |s| s.int("a", 0, 1)).build();
    assert!(message(unknown).contains("parameter a: expected parameter k before it"));
    let number = Space::builder().int("k", 0, 1);
    let number = number.when("k", [0], |s| s.int("a", 0, 1)).build();
    assert!(message(number).contains("expected k to be categorical"));
    let choice = Space::builder().categorical("k", ["x", "y"]);
    let choice = choice.when("k", ["z"], |s| s.int("a", 0, 1)).build();
    assert!(message(choice).contains("found Text(\"z\")"));
    let none = Space::builder().categorical("k", ["x"]);
    let none = none.when("k", Vec::<&str>::new(), |s| s.int("a", 0, 1)).build();
    assert!(message(none).contains("expected at least one choice of k"));
    assert!(message(Space::builder().int("", 0, 1).build()).contains("expected a name"));
}

fn nested() -> Space {
    Space::builder()
        .categorical("kind", ["a", "b", "c"])
        .when("kind", ["b", "c"], |space| {
            space
                .categorical("inner", ["p", "q"])
                .when("inner", ["q"], |space| space.int("depth", 1, 6))
                .float("width", 0.0, 1.0)
        })
        .float("always", 0.0, 1.0)
        .build()
        .unwrap()
}

/// Names that exist with these choices.
fn existing(kind: usize, inner: usize) -> Vec<String> {
    let params = nested().walk(|name, distribution| {
        Ok(match (name, distribution.only_value()) {
            ("kind", _) => ParamValue::Category(kind),
            ("inner", _) => ParamValue::Category(inner),
            ("depth", _) => ParamValue::Int(2),
            (_, _) => ParamValue::Float(0.5),
        })
    });
    params.unwrap().into_keys().collect()
}

#[test]
fn conditions_nest() {
    assert_eq!(existing(0, 1), ["always", "kind"]);
    assert_eq!(existing(1, 0), ["always", "inner", "kind", "width"]);
    assert_eq!(existing(2, 1), ["always", "depth", "inner", "kind", "width"]);
}

#[test]
fn values_are_checked_against_the_space() {
    let values = |of: &[(&str, ParamValue)]| -> BTreeMap<String, ParamValue> {
        of.iter().map(|(name, value)| ((*name).into(), value.clone())).collect()
    };
    let kind = |index| ("kind", ParamValue::Category(index));
    let always = ("always", ParamValue::Float(0.5));
    let width = ("width", ParamValue::Float(0.5));
    assert_eq!(nested().check(&values(&[kind(0), always.clone()])).unwrap().len(), 2);
    let message = |of: &[_]| nested().check(&values(of)).unwrap_err().to_string();
    assert_eq!(message(&[kind(0)]), "parameter always: expected a value");
    let orphan = message(&[kind(0), always.clone(), width]);
    assert!(orphan.starts_with("parameter width: expected no value"), "{orphan}");
    assert!(message(&[kind(7), always]).contains("found Category(7)"));
}

proptest! {
    /// No bounds make validity checks or containment panic.
    #[test]
    fn checks_never_panic(
        low in any::<i64>(), high in any::<i64>(), step in any::<i64>(), log in any::<bool>(),
        a in any::<f64>(), b in any::<f64>(), width in any::<f64>(),
        pool in any::<usize>(), least in any::<usize>(), most in any::<usize>(),
        value in any::<i64>(), number in any::<f64>(),
    ) {
        let values = [
            ParamValue::Int(value), ParamValue::Float(number), ParamValue::Category(pool),
            ParamValue::Subset(vec![least, most]),
        ];
        for distribution in [
            Distribution::Int { low, high, step, log },
            Distribution::Float { low: a, high: b, step: Some(width), log },
            Distribution::Float { low: a, high: b, step: None, log },
            Distribution::Subset { pool, least, most },
        ] {
            let _ = distribution.validate("p");
            for value in &values {
                let _ = distribution.contains(value);
            }
        }
    }
}
