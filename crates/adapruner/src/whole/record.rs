//! `run.json`: which stages are done, from which inputs, and their results.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt,
    path::Path,
};

use adapruner_checkpoint::{
    Digest,
    atomic::{StateDir, StateKind},
    input, sealed,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Stage, StageName, Table};
use crate::{VERSION, error::Result, manifest::ModelRecord};

/// File name of the record in a run's folder.
pub const RECORD: &str = "run.json";

/// Locked by a run at work.
pub const RUN_LOCK: &str = "run.lock";
/// Locked by a stage at work.
pub const STAGE_LOCK: &str = "stage.lock";

/// What the stage `evaluate` measured.
pub const COMPARISON: &str = "models.json";

/// The folder of a whole run.
pub static RUN: StateKind = StateKind {
    name: "run",
    known_by: &[RECORD],
    owned: &[
        RECORD,
        RUN_LOCK,
        STAGE_LOCK,
        "study",
        "pruned",
        "recovered",
        COMPARISON,
        "report.html",
    ],
};

/// Digest of everything that decides a stage's result ([`Inputs`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(Digest);

/// Everything that decides a stage's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Version of the program.
    version: String,
    /// The dense model.
    model: Digest,
    /// The stage's command.
    command: Vec<String>,
    /// The tables of the configuration that it reads.
    tables: BTreeMap<String, Value>,
    /// The files that these and the command name.
    files: BTreeMap<String, Digest>,
    /// The stages before it.
    before: Option<Fingerprint>,
}

impl Inputs {
    /// Of a stage that follows `before`; `tables` is the whole configuration.
    ///
    /// # Errors
    /// A file that is named and cannot be read.
    pub fn of(
        stage: &Stage,
        model: &Digest,
        tables: &[(Table, Value)],
        before: Option<Fingerprint>,
    ) -> Result<Self> {
        let read = tables.iter().filter(|(table, _)| table.decides(stage.name));
        let tables: BTreeMap<String, Value> =
            read.map(|(table, value)| (table.to_string(), value.clone())).collect();
        let mut named = BTreeSet::new();
        tables.values().for_each(|table| words(table, &mut named));
        named.extend(stage.inputs.iter().cloned());
        let mut files = BTreeMap::new();
        for name in named {
            let path = Path::new(&name);
            if path.is_file() {
                let digest = Digest::of_file(path)?;
                files.insert(name, digest);
            }
        }
        let command = recorded(&stage.arguments);
        Ok(Self { version: VERSION.to_owned(), model: *model, command, tables, files, before })
    }

    /// Their digest.
    ///
    /// # Errors
    /// None that is known: text and numbers always are JSON.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(Fingerprint(Digest::of_bytes(serde_json::to_string(self)?.as_bytes())))
    }

    /// What differs from the inputs of an earlier run, the first of it.
    fn changed_since(&self, earlier: &Self) -> String {
        if earlier.version != self.version {
            return format!("adapruner was {}, now {}", earlier.version, self.version);
        }
        if earlier.model != self.model {
            return "the model has changed".to_owned();
        }
        let tables = self.tables.keys().chain(earlier.tables.keys());
        let of = |inputs: &Self, table: &str| inputs.tables.get(table).cloned();
        let mut tables = tables.filter_map(|table| {
            let [then, now] = [earlier, self].map(|inputs| of(inputs, table).unwrap_or_default());
            let (key, then, now) = difference(&then, &now)?;
            Some(format!("[{table}] {key}: was {then}, now {now}"))
        });
        if let Some(table) = tables.next() {
            return table;
        }
        let mut files = self.files.iter().filter(|&(name, digest)| {
            earlier.files.get(name).is_none_or(|earlier| earlier != digest)
        });
        let gone = earlier.files.keys().find(|name| !self.files.contains_key(*name));
        if let Some(name) = files.next().map(|(name, _)| name).or(gone) {
            return format!("{name} has changed");
        }
        if earlier.command != self.command {
            return format!("its command was adapruner {}", earlier.command.join(" "));
        }
        "a stage before it runs again".to_owned()
    }
}

/// The first setting that differs between two tables, with both values.
fn difference(then: &Value, now: &Value) -> Option<(String, Value, Value)> {
    let none = serde_json::Map::new();
    let [before, after] = [then, now].map(|table| table.as_object().unwrap_or(&none));
    let mut keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    keys.find_map(|key| {
        let [then, now] = [before, after].map(|table| table.get(key).cloned().unwrap_or_default());
        (then != now).then(|| (key.clone(), then, now))
    })
}

/// Where a stage of a run stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum StageState {
    /// Done, from the same inputs.
    Done,
    /// Not done yet.
    Open,
    /// Done, but not from these inputs, or what it left is gone: why it runs again.
    Stale(String),
}

impl fmt::Display for StageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Open => f.write_str("to do"),
            Self::Stale(why) => write!(f, "runs again: {why}"),
        }
    }
}

/// Every text of a table, those that name a file among them.
fn words(value: &Value, to: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            to.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| words(value, to)),
        Value::Object(fields) => fields.values().for_each(|value| words(value, to)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A stage that is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finished {
    /// Which.
    pub stage: String,
    /// The command that did it.
    pub command: Vec<String>,
    /// Digest of its inputs.
    pub fingerprint: Fingerprint,
    /// Its inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// Wall-clock seconds; of the last run only, where a stage was resumed.
    pub seconds: f64,
    /// The command's output.
    pub result: Value,
}

/// The manifest of a whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of the program.
    pub adapruner: String,
    /// The dense model.
    pub model: ModelRecord,
    /// The configuration, as it was read.
    pub config: Value,
    /// Stages that are done, in their order.
    pub stages: Vec<Finished>,
}

impl RunRecord {
    /// A run in which nothing is done.
    pub fn new(model: ModelRecord, config: Value) -> Self {
        Self { adapruner: VERSION.to_owned(), model, config, stages: Vec::new() }
    }

    /// The record of an earlier run, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read or is no such record.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = input::read_if_there(path, input::RECORD)?;
        Ok(bytes.map(|bytes| sealed::from_json(path, &bytes)).transpose()?)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// A full disk, no permission.
    pub fn write(&self, folder: &StateDir) -> Result<()> {
        Ok(folder.write(RECORD, &sealed::json(self)?)?)
    }

    /// Where a stage with these inputs stands.
    ///
    /// # Errors
    /// Those of [`Inputs::fingerprint`].
    pub fn state(&self, stage: &Stage, inputs: &Inputs) -> Result<StageState> {
        let name = stage.name.to_string();
        let Some(finished) = self.stages.iter().find(|finished| finished.stage == name) else {
            return Ok(StageState::Open);
        };
        if finished.fingerprint != inputs.fingerprint()? {
            let why = finished.inputs.as_ref().map_or_else(
                || "an earlier version did not record its inputs".to_owned(),
                |earlier| inputs.changed_since(earlier),
            );
            return Ok(StageState::Stale(why));
        }
        Ok(match &stage.output {
            Some(output) if !output.exists() => {
                StageState::Stale(format!("{} is gone", output.display()))
            }
            Some(_) | None => StageState::Done,
        })
    }

    /// Records the result of a stage; later stages are then no longer done.
    pub fn finish(&mut self, name: StageName, finished: Finished) {
        self.stages.retain(|f| f.stage.parse::<StageName>().is_ok_and(|other| other < name));
        self.stages.push(finished);
    }
}

/// Arguments as they are recorded.
pub fn recorded<S: AsRef<OsStr>>(arguments: &[S]) -> Vec<String> {
    arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect()
}
