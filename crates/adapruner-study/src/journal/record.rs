//! The records of a journal: one operation each, as one line of JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::distribution::{self, distribution_to_json, internal_to_json};
use super::replay::WORKER_PREFIX;
use super::{json, time};
use crate::distribution::{Distribution, ParamValue};
use crate::trial::{Direction, TrialState};

/// Whose attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attrs {
    User,
    System,
}

impl Attrs {
    fn key(self) -> &'static str {
        match self {
            Self::User => "user_attr",
            Self::System => "system_attr",
        }
    }
}

/// A trial that begins with more than its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NewTrial {
    pub(crate) state: Option<TrialState>,
    pub(crate) values: Option<Vec<f64>>,
    pub(crate) started_ms: Option<i64>,
    pub(crate) ended_ms: Option<i64>,
    pub(crate) params: BTreeMap<String, (Distribution, ParamValue)>,
    pub(crate) intermediate: BTreeMap<u64, f64>,
    pub(crate) user: BTreeMap<String, Value>,
    pub(crate) system: BTreeMap<String, Value>,
}

/// One operation. Studies and trials are named by Optuna's implicit ids.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    CreateStudy {
        name: String,
        directions: Vec<Option<Direction>>,
    },
    DeleteStudy {
        study: u64,
    },
    StudyAttr {
        study: u64,
        attrs: Attrs,
        key: String,
        value: Value,
    },
    CreateTrial {
        study: u64,
        trial: Box<NewTrial>,
    },
    SetParam {
        trial: u64,
        name: String,
        distribution: Distribution,
        value: ParamValue,
    },
    SetState {
        trial: u64,
        state: TrialState,
        values: Option<Vec<f64>>,
        at_ms: Option<i64>,
    },
    Report {
        trial: u64,
        step: u64,
        value: f64,
    },
    TrialAttr {
        trial: u64,
        attrs: Attrs,
        key: String,
        value: Value,
    },
    /// Written by another implementation; without meaning here, as in Optuna.
    DiscardTrials,
}

/// An operation and who asked for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) worker: String,
    pub(crate) operation: Operation,
}

/// The key of a line's check, its last field: the CRC-32 of the line without it,
/// in hexadecimal digits. Optuna passes over it.
const CHECK: &str = "check";

/// The line of an operation, without its end.
pub(crate) fn write(worker: &str, operation: &Operation) -> String {
    let line = unchecked(worker, operation);
    let check = crc32fast::hash(line.as_bytes());
    format!("{},\"{CHECK}\":\"{check:08x}\"}}", &line[..line.len() - 1])
}

/// Holds a line against its check, if it has one.
///
/// # Errors
/// A line that was changed since it was written.
fn verify(line: &[u8], fields: &Fields<'_>) -> Result<(), String> {
    /// Every field that this program writes.
    const KNOWN: [&str; 25] = [
        CHECK,
        "op_code",
        "worker_id",
        "study_name",
        "directions",
        "study_id",
        "trial_id",
        "trial_ids",
        "user_attr",
        "system_attr",
        "user_attrs",
        "system_attrs",
        "datetime_start",
        "datetime_complete",
        "state",
        "value",
        "values",
        "params",
        "distributions",
        "intermediate_values",
        "param_name",
        "param_value_internal",
        "distribution",
        "step",
        "intermediate_value",
    ];
    let Some(found) = fields.0.get(CHECK) else {
        // A check whose own name was damaged is one that is missing.
        let ours = fields.text("worker_id").is_ok_and(|worker| worker.starts_with(WORKER_PREFIX));
        let foreign = fields.0.keys().find(|key| ours && !KNOWN.contains(&key.as_str()));
        return match foreign {
            Some(key) => Err(format!("damaged: {key:?} is not a field of this program")),
            None => Ok(()),
        };
    };
    let end = format!(",\"{CHECK}\":{found}}}");
    let whole = line.strip_suffix(end.as_bytes()).is_some_and(|rest| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(rest);
        hasher.update(b"}");
        found.as_str() == Some(&format!("{:08x}", hasher.finalize()))
    });
    if whole { Ok(()) } else { Err("damaged: the line is not what was written".into()) }
}

fn unchecked(worker: &str, operation: &Operation) -> String {
    let (code, object) = fields(operation, json::Object::new());
    let head = json::Object::new().field("op_code", code).field("worker_id", json::text(worker));
    let (head, body) = (head.close(), object.close());
    let comma = if body.len() > 2 { "," } else { "" };
    format!("{}{comma}{}", &head[..head.len() - 1], &body[1..])
}

fn fields(operation: &Operation, object: json::Object) -> (u8, json::Object) {
    let one = |key: &str, value: &Value| json::Object::new().field(key, value).close();
    match operation {
        Operation::CreateStudy { name, directions } => {
            let directions: Vec<u8> = directions.iter().map(|d| direction_code(*d)).collect();
            let object = object.field("study_name", json::text(name));
            (0, object.field("directions", Value::from(directions)))
        }
        Operation::DeleteStudy { study } => (1, object.field("study_id", study)),
        Operation::StudyAttr { study, attrs, key, value } => {
            let code = if *attrs == Attrs::User { 2 } else { 3 };
            (code, object.field("study_id", study).field(attrs.key(), one(key, value)))
        }
        Operation::CreateTrial { study, trial } => {
            let object =
                object.field("study_id", study).field("datetime_start", moment(trial.started_ms));
            match trial.state {
                None => (4, object),
                Some(state) => (4, template(object, state, trial)),
            }
        }
        Operation::SetParam { trial, name, distribution, value } => {
            let object = object
                .field("trial_id", trial)
                .field("param_name", json::text(name))
                .field("param_value_internal", internal_to_json(value))
                .field("distribution", json::text(&distribution_to_json(distribution)));
            (5, object)
        }
        Operation::SetState { trial, state, values, at_ms } => {
            let object = object
                .field("trial_id", trial)
                .field("state", state_code(*state))
                .field("values", floats(values.as_deref()));
            let key = if state.is_finished() { "datetime_complete" } else { "datetime_start" };
            (6, object.field(key, moment(*at_ms)))
        }
        Operation::Report { trial, step, value } => {
            let object = object.field("trial_id", trial).field("step", step);
            (7, object.field("intermediate_value", json::float(*value)))
        }
        Operation::TrialAttr { trial, attrs, key, value } => {
            let code = if *attrs == Attrs::User { 8 } else { 9 };
            (code, object.field("trial_id", trial).field(attrs.key(), one(key, value)))
        }
        Operation::DiscardTrials => (10, object),
    }
}

/// The fields of a trial that is made in one record.
fn template(object: json::Object, state: TrialState, trial: &NewTrial) -> json::Object {
    let maps = |map: &BTreeMap<String, Value>| json::Object::new().fields(map).close();
    let params = trial.params.iter();
    let distributions = params.clone().map(|(k, (d, _))| (k, json::text(&distribution_to_json(d))));
    let values = params.map(|(name, (_, value))| (name, internal_to_json(value)));
    let steps = trial.intermediate.iter().map(|(step, v)| (step.to_string(), json::float(*v)));
    let object = object
        .field("state", state_code(state))
        .field("value", "null")
        .field("values", floats(trial.values.as_deref()))
        .field("distributions", json::Object::new().fields(distributions).close())
        .field("params", json::Object::new().fields(values).close())
        .field("user_attrs", maps(&trial.user))
        .field("system_attrs", maps(&trial.system))
        .field("intermediate_values", json::Object::new().fields(steps).close());
    match trial.ended_ms {
        None => object,
        Some(_) => object.field("datetime_complete", moment(trial.ended_ms)),
    }
}

fn floats(values: Option<&[f64]>) -> String {
    let list = |v: &[f64]| v.iter().map(|v| json::float(*v)).collect::<Vec<_>>().join(",");
    values.map_or("null".into(), |values| format!("[{}]", list(values)))
}

fn moment(ms: Option<i64>) -> String {
    ms.map_or("null".into(), |ms| json::text(&time::format(ms)))
}

fn direction_code(direction: Option<Direction>) -> u8 {
    match direction {
        None => 0,
        Some(Direction::Minimize) => 1,
        Some(Direction::Maximize) => 2,
    }
}

fn state_code(state: TrialState) -> u8 {
    match state {
        TrialState::Running => 0,
        TrialState::Complete => 1,
        TrialState::Pruned => 2,
        TrialState::Failed => 3,
        TrialState::Waiting => 4,
    }
}

/// Whether a line may begin a trial: creates one, or takes one from the queue.
/// Only by its first bytes, so that a script of a server can tell the same; what
/// begins in another way than both implementations write it may be anything.
pub(crate) fn is_claim(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"{\"op_code\":") else { return true };
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let starts =
        |part: &[u8]| part.starts_with(b"\"state\":0") || part.starts_with(b"\"state\": 0");
    rest.starts_with(b"4,")
        || rest.starts_with(b"6,") && (0..rest.len()).any(|at| starts(&rest[at..]))
}

/// Reads a line.
pub(crate) fn read(line: &[u8]) -> Result<Record, String> {
    let value = json::parse(line)?;
    let fields = Fields(value.as_object().ok_or("expected an object")?);
    verify(line, &fields)?;
    let code = fields.id("op_code")?;
    let (user, system) = (Attrs::User, Attrs::System);
    let operation = match code {
        0 => Operation::CreateStudy {
            name: fields.text("study_name")?.into(),
            directions: fields.list("directions", direction)?,
        },
        1 => Operation::DeleteStudy { study: fields.id("study_id")? },
        2 | 3 => {
            let attrs = if code == 2 { user } else { system };
            let (key, value) = fields.single(attrs.key())?;
            Operation::StudyAttr { study: fields.id("study_id")?, attrs, key, value }
        }
        4 => Operation::CreateTrial {
            study: fields.id("study_id")?,
            trial: Box::new(fields.new_trial()?),
        },
        5 => {
            let distribution = distribution::read(fields.text("distribution")?)?;
            let value = distribution::internal(&distribution, fields.get("param_value_internal")?)?;
            let name = fields.text("param_name")?.into();
            Operation::SetParam { trial: fields.id("trial_id")?, name, distribution, value }
        }
        6 => {
            let state = state(fields.get("state")?)?;
            let at = match state {
                TrialState::Running => Some("datetime_start"),
                TrialState::Waiting => None,
                TrialState::Complete | TrialState::Pruned | TrialState::Failed => {
                    Some("datetime_complete")
                }
            };
            let values = match fields.get("values")?.is_null() {
                true => None,
                false => Some(fields.list("values", float)?),
            };
            let at_ms = at.map(|key| fields.moment(key)).transpose()?.flatten();
            Operation::SetState { trial: fields.id("trial_id")?, state, values, at_ms }
        }
        7 => Operation::Report {
            trial: fields.id("trial_id")?,
            step: fields.id("step")?,
            value: float(fields.get("intermediate_value")?)?,
        },
        8 | 9 => {
            let attrs = if code == 8 { user } else { system };
            let (key, value) = fields.single(attrs.key())?;
            Operation::TrialAttr { trial: fields.id("trial_id")?, attrs, key, value }
        }
        10 => Operation::DiscardTrials,
        other => {
            return Err(format!(
                "operation {other} is not known: expected 0 to 10, as Optuna 5 writes them; \
                 a newer version may have written it"
            ));
        }
    };
    Ok(Record { worker: fields.text("worker_id")?.into(), operation })
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, key: &str) -> Result<&Value, String> {
        self.0.get(key).ok_or_else(|| format!("{key} is missing"))
    }

    fn id(&self, key: &str) -> Result<u64, String> {
        let value = self.get(key)?;
        value.as_u64().ok_or_else(|| format!("{key}: expected an integer ≥ 0, found {value}"))
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let value = self.get(key)?;
        value.as_str().ok_or_else(|| format!("{key}: expected a text, found {value}"))
    }

    fn list<T>(&self, key: &str, item: fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
        let value = self.get(key)?;
        let items =
            value.as_array().ok_or_else(|| format!("{key}: expected a list, found {value}"))?;
        items.iter().map(item).collect::<Result<_, _>>().map_err(|error| format!("{key}: {error}"))
    }

    /// An object; empty where it is not there.
    fn object(&self, key: &str) -> Result<Vec<(&String, &Value)>, String> {
        match self.0.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => Ok(fields.iter().collect()),
            Some(value) => Err(format!("{key}: expected an object, found {value}")),
        }
    }

    fn single(&self, key: &str) -> Result<(String, Value), String> {
        match self.object(key)?[..] {
            [(name, value)] => Ok((name.clone(), json::plain(value.clone()))),
            ref other => Err(format!("{key}: expected one attribute, found {}", other.len())),
        }
    }

    fn moment(&self, key: &str) -> Result<Option<i64>, String> {
        let value = self.get(key)?;
        match value.as_str().and_then(time::parse) {
            None if value.is_null() => Ok(None),
            None => Err(format!("{key}: expected a date and time, found {value}")),
            moment => Ok(moment),
        }
    }

    fn new_trial(&self) -> Result<NewTrial, String> {
        let attrs = |key| -> Result<BTreeMap<String, Value>, String> {
            let fields = self.object(key)?.into_iter();
            Ok(fields.map(|(key, value)| (key.clone(), json::plain(value.clone()))).collect())
        };
        let mut trial = NewTrial {
            state: self.0.get("state").map(state).transpose()?,
            started_ms: self.moment("datetime_start")?,
            user: attrs("user_attrs")?,
            system: attrs("system_attrs")?,
            ..NewTrial::default()
        };
        if self.0.contains_key("datetime_complete") {
            trial.ended_ms = self.moment("datetime_complete")?;
        }
        let present = |key: &str| self.0.get(key).is_some_and(|value| !value.is_null());
        if present("values") {
            trial.values = Some(self.list("values", float)?);
        } else if present("value") {
            trial.values = Some(vec![float(self.get("value")?)?]);
        }
        let distributions = Value::Object(
            self.object("distributions")?
                .into_iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        );
        for (name, value) in self.object("params")? {
            let text = distributions[name.as_str()].as_str();
            let text = text.ok_or_else(|| format!("parameter {name}: no distribution"))?;
            let distribution = distribution::read(text)?;
            let value = distribution::internal(&distribution, value)?;
            trial.params.insert(name.clone(), (distribution, value));
        }
        for (step, value) in self.object("intermediate_values")? {
            let step = step.parse().map_err(|_| format!("expected a step, found {step}"))?;
            trial.intermediate.insert(step, float(value)?);
        }
        Ok(trial)
    }
}

fn float(value: &Value) -> Result<f64, String> {
    json::number(value).ok_or_else(|| format!("expected a number, found {value}"))
}

fn direction(value: &Value) -> Result<Option<Direction>, String> {
    match value.as_u64() {
        Some(0) => Ok(None),
        Some(1) => Ok(Some(Direction::Minimize)),
        Some(2) => Ok(Some(Direction::Maximize)),
        _ => Err(format!("expected 0, 1 or 2, found {value}")),
    }
}

fn state(value: &Value) -> Result<TrialState, String> {
    match value.as_u64() {
        Some(0) => Ok(TrialState::Running),
        Some(1) => Ok(TrialState::Complete),
        Some(2) => Ok(TrialState::Pruned),
        Some(3) => Ok(TrialState::Failed),
        Some(4) => Ok(TrialState::Waiting),
        _ => Err(format!("state: expected 0 to 4, found {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> [Operation; 4] {
        [
            Operation::CreateStudy {
                name: "s".into(),
                directions: vec![Some(Direction::Minimize)],
            },
            Operation::SetState {
                trial: 3,
                state: TrialState::Complete,
                values: Some(vec![4.25]),
                at_ms: Some(1_700_000_000_000),
            },
            Operation::Report { trial: 3, step: 1, value: f64::NAN },
            Operation::TrialAttr {
                trial: 3,
                attrs: Attrs::User,
                key: "check".into(),
                value: "a \"check\":\"00000000\"}".into(),
            },
        ]
    }

    #[test]
    fn every_flipped_bit_of_a_line_is_an_error() {
        for operation in operations() {
            let mut line = write("adapruner-host-1-2", &operation).into_bytes();
            assert!(read(&line).is_ok(), "{operation:?}");
            for bit in 0..line.len() * 8 {
                line[bit / 8] ^= 1 << (bit % 8);
                let text = String::from_utf8_lossy(&line).into_owned();
                assert!(read(&line).is_err(), "bit {bit}: {text}");
                line[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn lines_of_earlier_versions_and_of_optuna_have_no_check() {
        for operation in operations() {
            for worker in ["adapruner-host-1-2", "optuna-host"] {
                let line = unchecked(worker, &operation);
                let record = read(line.as_bytes()).unwrap();
                assert_eq!(record.worker, worker);
                let checked = write(worker, &operation);
                let rewritten = read(checked.as_bytes()).unwrap();
                assert_eq!(format!("{record:?}"), format!("{rewritten:?}"));
            }
        }
    }
}
