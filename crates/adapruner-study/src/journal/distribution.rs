//! The JSON form of distributions and values.
//!
//! Floats, integers and categories as Optuna writes them. A subset parameter is unknown to
//! Optuna; its form is `{"name": "SubsetDistribution", "attributes": {"pool", "least",
//! "most"}}`, which never occurs in a journal's parameter records (see [`super`] for what
//! does).

use serde_json::{Value, json};

use super::json;
use crate::distribution::{Choice, Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::trial::Trial;

/// Integers up to here are exact as floats, which is what Optuna writes.
const EXACT: i64 = 1 << 53;

/// The JSON text of a distribution, as Optuna's `distribution_to_json`.
pub fn distribution_to_json(distribution: &Distribution) -> String {
    let (name, attributes) = match distribution {
        Distribution::Float { low, high, step, log } => {
            let step = step.map_or("null".into(), json::float);
            let (low, high) = (json::float(*low), json::float(*high));
            (
                "FloatDistribution",
                format!(r#"{{"step": {step}, "low": {low}, "high": {high}, "log": {log}}}"#),
            )
        }
        Distribution::Int { low, high, step, log } => (
            "IntDistribution",
            format!(r#"{{"log": {log}, "step": {step}, "low": {low}, "high": {high}}}"#),
        ),
        Distribution::Categorical { choices } => {
            let choices: Vec<String> = choices.iter().map(choice_to_json).collect();
            ("CategoricalDistribution", format!(r#"{{"choices": [{}]}}"#, choices.join(", ")))
        }
        Distribution::Subset { pool, least, most } => (
            "SubsetDistribution",
            format!(r#"{{"pool": {pool}, "least": {least}, "most": {most}}}"#),
        ),
    };
    format!(r#"{{"name": "{name}", "attributes": {attributes}}}"#)
}

/// Reads the JSON text of a distribution, also under the names of Optuna before
/// version 3. A choice that is no scalar is taken as its JSON text.
///
/// # Errors
///
/// [`Error::Journal`] with the place `distribution` if the text is no
/// distribution or its bounds make no sense.
pub fn distribution_from_json(text: &str) -> Result<Distribution> {
    read(text).map_err(|message| Error::Journal { place: "distribution".into(), message })
}

/// As [`distribution_from_json`], with only the message.
pub(crate) fn read(text: &str) -> Result<Distribution, String> {
    let value = json::parse(text.as_bytes()).map_err(|error| format!("{text}: {error}"))?;
    let name = value["name"].as_str().ok_or_else(|| format!("{text}: expected a name"))?;
    let attributes = &value["attributes"];
    let float = |key: &str| {
        json::number(&attributes[key])
            .ok_or_else(|| format!("{name}: {key}: expected a number, found {}", attributes[key]))
    };
    let int = |key: &str| {
        integer(&attributes[key])
            .ok_or_else(|| format!("{name}: {key}: expected an integer, found {}", attributes[key]))
    };
    let size = |key: &str| int(key).and_then(|n| usize::try_from(n).map_err(|e| e.to_string()));
    let step = || if attributes["step"].is_null() { Ok(None) } else { float("step").map(Some) };
    let int_step = || if attributes["step"].is_null() { Ok(1) } else { int("step") };
    let log = attributes["log"].as_bool().unwrap_or(false);
    let (low, high) = ("low", "high");
    let distribution = match name {
        "FloatDistribution" => {
            Distribution::Float { low: float(low)?, high: float(high)?, step: step()?, log }
        }
        "UniformDistribution" => {
            Distribution::Float { low: float(low)?, high: float(high)?, step: None, log: false }
        }
        "LogUniformDistribution" => {
            Distribution::Float { low: float(low)?, high: float(high)?, step: None, log: true }
        }
        "DiscreteUniformDistribution" => {
            let step = Some(float("q")?);
            Distribution::Float { low: float(low)?, high: float(high)?, step, log: false }
        }
        "IntDistribution" => {
            Distribution::Int { low: int(low)?, high: int(high)?, step: int_step()?, log }
        }
        "IntUniformDistribution" => {
            Distribution::Int { low: int(low)?, high: int(high)?, step: int_step()?, log: false }
        }
        "IntLogUniformDistribution" => {
            Distribution::Int { low: int(low)?, high: int(high)?, step: 1, log: true }
        }
        "CategoricalDistribution" => {
            let choices = attributes["choices"]
                .as_array()
                .ok_or_else(|| format!("{name}: expected a list of choices"))?;
            Distribution::Categorical { choices: choices.iter().map(choice).collect() }
        }
        "SubsetDistribution" => {
            Distribution::Subset { pool: size("pool")?, least: size("least")?, most: size("most")? }
        }
        other => return Err(format!("expected a distribution, found {other}")),
    };
    match fault(&distribution) {
        None => Ok(distribution),
        Some(message) => Err(format!("{name}: {message}")),
    }
}

/// What makes Optuna refuse a distribution, so that it must not get into a
/// journal.
pub(crate) fn fault(distribution: &Distribution) -> Option<String> {
    let (bounds, step, log) = match distribution {
        Distribution::Float { low, high, step, log } => {
            ((*low <= *high, *low > 0.0), step.is_none_or(|s| s > 0.0 && !log), *log)
        }
        Distribution::Int { low, high, step, log } => {
            ((low <= high, *low >= 1), *step >= 1 && (*step == 1 || !log), *log)
        }
        Distribution::Categorical { choices } => {
            return choices.is_empty().then(|| "expected at least one choice, found none".into());
        }
        Distribution::Subset { pool, least, most } => {
            let valid = *least >= 1 && least <= most && most <= pool;
            return (!valid).then(|| {
                format!("expected 1 ≤ least ≤ most ≤ pool, found {least}, {most}, {pool}")
            });
        }
    };
    match (bounds, step) {
        ((true, positive), true) if positive || !log => None,
        _ => Some(format!(
            "expected ordered bounds, a positive step and a logarithm only of positive numbers without steps, found {distribution:?}"
        )),
    }
}

/// Why a value cannot be one of the distribution's kind.
pub(crate) fn value_fault(distribution: &Distribution, value: &ParamValue) -> Option<String> {
    let valid = match (distribution, value) {
        (Distribution::Float { .. }, ParamValue::Float(value)) => value.is_finite(),
        (Distribution::Int { .. }, ParamValue::Int(_)) => true,
        (Distribution::Categorical { choices }, ParamValue::Category(index)) => {
            *index < choices.len()
        }
        (Distribution::Subset { pool, .. }, ParamValue::Subset(items)) => {
            items.is_sorted_by(|a, b| a < b) && items.last().is_none_or(|last| last < pool)
        }
        (
            Distribution::Float { .. }
            | Distribution::Int { .. }
            | Distribution::Categorical { .. }
            | Distribution::Subset { .. },
            ParamValue::Float(_)
            | ParamValue::Int(_)
            | ParamValue::Category(_)
            | ParamValue::Subset(_),
        ) => false,
    };
    (!valid).then(|| format!("expected a value of {distribution:?}, found {value:?}"))
}

/// Why a parameter with distribution `old` in another trial cannot have `new`
/// in this one: the rule of Optuna, and one pool for all subsets.
pub(crate) fn conflict(old: &Distribution, new: &Distribution) -> Option<String> {
    let same = match (old, new) {
        (Distribution::Float { log: a, .. }, Distribution::Float { log: b, .. })
        | (Distribution::Int { log: a, .. }, Distribution::Int { log: b, .. }) => a == b,
        (Distribution::Categorical { choices: a }, Distribution::Categorical { choices: b }) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Distribution::Subset { pool: a, .. }, Distribution::Subset { pool: b, .. }) => a == b,
        (
            Distribution::Float { .. }
            | Distribution::Int { .. }
            | Distribution::Categorical { .. }
            | Distribution::Subset { .. },
            Distribution::Float { .. }
            | Distribution::Int { .. }
            | Distribution::Categorical { .. }
            | Distribution::Subset { .. },
        ) => false,
    };
    (!same).then(|| format!("expected what earlier trials have, {old:?}, found {new:?}"))
}

/// Equality of choices as Python has it: `1`, `1.0` and `True` are the same,
/// and NaN equals itself.
fn equal(a: &Choice, b: &Choice) -> bool {
    let number = |choice: &Choice| match choice {
        Choice::Bool(value) => Some(f64::from(u8::from(*value))),
        Choice::Int(value) => Some(*value as f64),
        Choice::Float(value) => Some(*value),
        Choice::None | Choice::Text(_) => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b || a.is_nan() && b.is_nan(),
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => a == b,
    }
}

/// A value in Optuna's internal form; of a subset, its size.
pub(crate) fn internal_to_json(value: &ParamValue) -> String {
    match value {
        ParamValue::Float(value) => json::float(*value),
        ParamValue::Int(value) if (-EXACT..=EXACT).contains(value) => json::float(*value as f64),
        ParamValue::Int(value) => value.to_string(),
        ParamValue::Category(index) => index.to_string(),
        ParamValue::Subset(items) => json::float(items.len() as f64),
    }
}

/// Reads a value in Optuna's internal form.
pub(crate) fn internal(distribution: &Distribution, value: &Value) -> Result<ParamValue, String> {
    let found = match distribution {
        Distribution::Float { .. } => json::number(value).map(ParamValue::Float),
        Distribution::Int { .. } => truncated(value).map(ParamValue::Int),
        Distribution::Categorical { choices } => truncated(value)
            .and_then(|index| usize::try_from(index).ok())
            .filter(|index| *index < choices.len())
            .map(ParamValue::Category),
        Distribution::Subset { .. } => None,
    };
    found.ok_or_else(|| format!("expected an internal value of {distribution:?}, found {value}"))
}

/// A value as the objective sees it: what Optuna's `fixed_params` hold.
pub(crate) fn external_to_json(distribution: &Distribution, value: &ParamValue) -> String {
    match (distribution, value) {
        (Distribution::Categorical { choices }, ParamValue::Category(index)) => {
            choices.get(*index).map_or("null".into(), choice_to_json)
        }
        (_, ParamValue::Float(value)) => json::float(*value),
        (_, ParamValue::Int(value)) => value.to_string(),
        (_, ParamValue::Category(index)) => index.to_string(),
        (_, ParamValue::Subset(items)) => json!(items).to_string(),
    }
}

/// System attribute of a queued trial: the values that it shall have, by name.
pub(crate) const FIXED: &str = "fixed_params";

/// The value that a queued trial has fixed for a parameter: already set, or
/// named in the attribute `fixed_params`, where Python's `enqueue_trial` puts
/// it. `None` if there is none, or none of the distribution.
pub fn fixed_param(trial: &Trial, name: &str, distribution: &Distribution) -> Option<ParamValue> {
    if let Some((old, value)) = trial.params.get(name) {
        let fits = conflict(old, distribution).is_none() && distribution.contains(value);
        return fits.then(|| value.clone());
    }
    let value = trial.system_attrs.get(FIXED)?.get(name)?;
    let found = match distribution {
        Distribution::Float { .. } => ParamValue::Float(json::number(value)?),
        Distribution::Int { .. } => ParamValue::Int(integer(value)?),
        Distribution::Categorical { choices } => {
            let value = choice(value);
            ParamValue::Category(choices.iter().position(|choice| equal(choice, &value))?)
        }
        Distribution::Subset { .. } => ParamValue::Subset(items(value)?),
    };
    distribution.contains(&found).then_some(found)
}

/// The items of a subset.
pub(crate) fn items(value: &Value) -> Option<Vec<usize>> {
    value.as_array()?.iter().map(|item| usize::try_from(item.as_u64()?).ok()).collect()
}

fn choice_to_json(choice: &Choice) -> String {
    match choice {
        Choice::None => "null".into(),
        Choice::Bool(value) => value.to_string(),
        Choice::Int(value) => value.to_string(),
        Choice::Float(value) => json::float(*value),
        Choice::Text(value) => json::text(value),
    }
}

fn choice(value: &Value) -> Choice {
    match value {
        Value::Null => Choice::None,
        Value::Bool(value) => Choice::Bool(*value),
        Value::Number(number) if number.is_i64() => Choice::Int(number.as_i64().unwrap_or(0)),
        Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            match (json::number(value), value.as_str()) {
                (Some(number), _) => Choice::Float(number),
                (None, Some(text)) => Choice::Text(text.into()),
                (None, None) => Choice::Text(json::plain(value.clone()).to_string()),
            }
        }
    }
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| truncated(value).filter(|n| value.as_f64() == Some(*n as f64)))
}

/// Python's `int()` of a number.
fn truncated(value: &Value) -> Option<i64> {
    let limit = 2f64.powi(63);
    value.as_i64().or_else(|| {
        let number = value.as_f64()?.trunc();
        (-limit <= number && number < limit).then_some(number as i64)
    })
}
