//! Checks of parameters before they enter a journal.

use super::distribution::{fault, value_fault};
use super::replay::{StudyEntry, size_name};
use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};

/// Refuses what must not enter the journal: an invalid distribution or value, one that
/// contradicts earlier trials, and a name that means the size of a subset. `find` knows the
/// trial's other parameters.
pub(super) fn check<'a>(
    study: &StudyEntry,
    name: &str,
    distribution: &Distribution,
    value: &ParamValue,
    find: impl Fn(&str) -> Option<&'a Distribution>,
) -> Result<()> {
    let message = fault(distribution)
        .or_else(|| value_fault(distribution, value))
        .or_else(|| study.conflict(name, distribution))
        .or_else(|| ambiguity(name, distribution, find));
    match message {
        None => Ok(()),
        Some(message) => Err(Error::Space { name: name.into(), message }),
    }
}

fn ambiguity<'a>(
    name: &str,
    distribution: &Distribution,
    find: impl Fn(&str) -> Option<&'a Distribution>,
) -> Option<String> {
    let is_subset = |d: Option<&Distribution>| matches!(d, Some(Distribution::Subset { .. }));
    let size_of_other = name.strip_suffix(".n").is_some_and(|other| is_subset(find(other)));
    let size_is_other = is_subset(Some(distribution)) && find(&size_name(name)).is_some();
    (size_of_other || size_is_other)
        .then(|| "the size of a subset and another parameter have one name".into())
}

/// What Optuna sees of a parameter: of a subset its size, where that varies.
pub(super) fn optuna_param(
    name: &str,
    distribution: &Distribution,
    value: &ParamValue,
) -> Option<(String, (Distribution, ParamValue))> {
    match (distribution, value) {
        (Distribution::Subset { least, most, .. }, ParamValue::Subset(items)) => {
            let [low, high, n] =
                [*least, *most, items.len()].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
            let size = Distribution::Int { low, high, step: 1, log: false };
            (low < high).then(|| (size_name(name), (size, ParamValue::Int(n))))
        }
        _ => Some((name.into(), (distribution.clone(), value.clone()))),
    }
}
