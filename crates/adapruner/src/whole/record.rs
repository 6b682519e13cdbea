//! `run.json`: which stages are done, from which inputs, and their results.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::Path,
};

use adapruner_checkpoint::{
    Digest,
    atomic::{StateDir, StateKind},
    input, sealed,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Stage, StageName};
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
        "models.json",
        "report.html",
    ],
};

/// Digest of everything that decides a stage's result: version, model, command, the tables it
/// reads, the files that these name, and the stages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(Digest);

impl Fingerprint {
    /// Of a stage that follows `before`; `tables` is the whole configuration.
    ///
    /// # Errors
    /// A file that is named and cannot be read.
    pub fn of(
        stage: &Stage,
        model: &Digest,
        tables: &Value,
        before: Option<&Self>,
    ) -> Result<Self> {
        let read: BTreeMap<&str, &Value> = stage
            .name
            .tables()
            .iter()
            .filter_map(|&table| Some((table, tables.get(table)?)))
            .collect();
        let command = recorded(&stage.arguments);
        let mut named = BTreeSet::new();
        read.values().for_each(|table| words(table, &mut named));
        named.extend(stage.inputs.iter().cloned());
        let mut files = BTreeMap::new();
        for name in named {
            let path = Path::new(&name);
            if path.is_file() {
                let digest = Digest::of_file(path)?;
                files.insert(name, digest);
            }
        }
        let text = serde_json::to_string(&(VERSION, model, command, read, files, before))?;
        Ok(Self(Digest::of_bytes(text.as_bytes())))
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
    /// Its inputs.
    pub fingerprint: Fingerprint,
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

    /// The result of a stage, if it is done and its inputs have not changed since.
    pub fn done(&self, stage: &Stage, fingerprint: &Fingerprint) -> Option<&Finished> {
        let finished = self.stages.iter().find(|f| f.stage == stage.name.to_string())?;
        let there = stage.output.as_ref().is_none_or(|output| output.exists());
        (finished.fingerprint == *fingerprint && there).then_some(finished)
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
