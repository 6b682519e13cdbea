//! A storage's view of its journal, and how it adds records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};

use super::backend::{Backend, Exchange, Line};
use super::distribution::{FIXED, external_to_json};
use super::params::{check, optuna_param};
use super::record::{self, Attrs, NewTrial, Operation};
use super::replay::{HEARTBEAT, Rejected, Replay, SUBSET, StudyEntry, subset_to_json};
use super::{json, time};
use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::storage::{Attrs as AttrMap, Change, StudyId};
use crate::trial::{Trial, TrialState};

/// The trials of studies, by id of the study.
pub(super) type Known = BTreeMap<u64, Vec<Arc<Trial>>>;

#[derive(Debug)]
pub(super) struct State<B> {
    pub(super) backend: B,
    pub(super) offset: u64,
    pub(super) replay: Replay,
    /// Last sign of life written for a trial.
    pub(super) beats: BTreeMap<u64, Instant>,
    pub(super) known: Arc<Mutex<Known>>,
}

impl<B: Backend> State<B> {
    /// Takes in the records that were added, and gives what of those by
    /// `worker` was rejected. `live` is false for what was there long before.
    pub(super) fn sync(&mut self, worker: &str, live: bool) -> Result<Vec<Rejected>> {
        let lines = self.backend.read_from(self.offset)?;
        self.take_in(lines, worker, live)
    }

    pub(super) fn take_in(
        &mut self,
        lines: Vec<Line>,
        worker: &str,
        live: bool,
    ) -> Result<Vec<Rejected>> {
        let now = live.then(Instant::now);
        let mut all = Vec::new();
        let news = !lines.is_empty();
        for line in lines {
            let applied = record::read(&line.text).and_then(|record| {
                let own = record.worker == worker;
                Ok(self.replay.apply(record, now)?.filter(|_| own))
            });
            match applied {
                Ok(rejected) => all.extend(rejected),
                Err(message) => {
                    let place = self.backend.place(self.replay.records);
                    return Err(Error::Journal { place, message });
                }
            }
            self.offset = line.end;
        }
        if news && self.backend.is_remote() {
            let studies = (0..).zip(&self.replay.studies);
            let trials = studies.map(|(id, study)| (id, self.trials_of(study)));
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = trials.collect();
        }
        Ok(all)
    }

    pub(super) fn trials_of(&self, study: &StudyEntry) -> Vec<Arc<Trial>> {
        study.trials.iter().map(|id| self.replay.trials[*id as usize].trial.clone()).collect()
    }

    /// Writes operations, and gives those that came too late.
    pub(super) fn commit(
        &mut self,
        worker: &str,
        operations: &[Operation],
    ) -> Result<Vec<Rejected>> {
        // Without a condition they are always added.
        Ok(self.commit_unless(worker, operations, None)?.unwrap_or_default())
    }

    /// As [`State::commit`]; `None`, and nothing written, if others have begun
    /// more than so many trials that were not known.
    pub(super) fn commit_unless(
        &mut self,
        worker: &str,
        operations: &[Operation],
        others: Option<u64>,
    ) -> Result<Option<Vec<Rejected>>> {
        let records: Vec<String> =
            operations.iter().map(|operation| record::write(worker, operation)).collect();
        let Exchange { lines, added } = self.backend.exchange(&records, self.offset, others)?;
        let rejected = self.take_in(lines, worker, true)?;
        Ok(added.then_some(rejected))
    }

    pub(super) fn study(&self, study: StudyId) -> Result<&StudyEntry> {
        self.replay.study(study.0).ok_or_else(|| no_study(study))
    }

    pub(super) fn trial_id(&self, study: StudyId, number: u64) -> Result<u64> {
        let trials = &self.study(study)?.trials;
        let id = usize::try_from(number).ok().and_then(|number| trials.get(number));
        id.copied().ok_or_else(|| no_trial(number, trials.len()))
    }

    /// Marks running trials as failed, and gives the numbers of those that did
    /// not end by themselves in between.
    pub(super) fn fail(&mut self, worker: &str, ids: Vec<u64>) -> Result<Vec<u64>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let at_ms = Some(time::now_ms());
        let fail = |trial: &u64| Operation::SetState {
            trial: *trial,
            state: TrialState::Failed,
            values: None,
            at_ms,
        };
        let operations: Vec<Operation> = ids.iter().map(fail).collect();
        let rejected = self.commit(worker, &operations)?;
        let failed = ids.into_iter().filter(|id| !rejected.contains(&Rejected::Finished(*id)));
        Ok(failed.map(|id| self.replay.trials[id as usize].trial.number).collect())
    }

    /// Writes the creation of a trial, and gives its number; `None` if others
    /// have begun more than so many trials that were not known.
    pub(super) fn create(
        &mut self,
        worker: &str,
        study: StudyId,
        trial: NewTrial,
        others: Option<u64>,
    ) -> Result<Option<u64>> {
        self.study(study)?;
        let before = self.replay.trials.len();
        let operation = Operation::CreateTrial { study: study.0, trial: Box::new(trial) };
        if self.commit_unless(worker, &[operation], others)?.is_none() {
            return Ok(None);
        }
        // Others may have added theirs in between.
        let mut added = self.replay.trials[before..].iter();
        let own = added.find(|entry| entry.creator == worker);
        own.map(|entry| Some(entry.trial.number)).ok_or_else(|| no_study(study))
    }

    /// Takes a trial from the queue; `None` if another was faster, or others have
    /// begun more than so many trials that were not known.
    pub(super) fn claim(
        &mut self,
        worker: &str,
        trial: u64,
        user: &AttrMap,
        others: Option<u64>,
    ) -> Result<Option<u64>> {
        let mut operations = vec![Operation::SetState {
            trial,
            state: TrialState::Running,
            values: None,
            at_ms: Some(time::now_ms()),
        }];
        operations.extend(user.iter().map(|(key, value)| Operation::TrialAttr {
            trial,
            attrs: Attrs::User,
            key: key.clone(),
            value: value.clone(),
        }));
        let rejected = self.commit_unless(worker, &operations, others)?;
        let claimed = rejected.is_some_and(|rejected| rejected.is_empty());
        Ok(claimed.then(|| self.replay.trials[trial as usize].trial.number))
    }

    /// The oldest queued trial, by id.
    pub(super) fn waiting(&self, study: StudyId) -> Result<Option<u64>> {
        let mut ids = self.study(study)?.trials.iter().copied();
        let waits = |id: &u64| self.replay.trials[*id as usize].trial.state == TrialState::Waiting;
        Ok(ids.find(waits))
    }

    /// What is queued: a trial that waits with these parameters.
    pub(super) fn queued(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<NewTrial> {
        let mut trial = NewTrial { state: Some(TrialState::Waiting), ..NewTrial::default() };
        let mut fixed = Map::new();
        for (name, (distribution, value)) in &params {
            let find = |other: &str| params.get(other).map(|(d, _)| d);
            check(self.study(study)?, name, distribution, value, find)?;
            let external = external_to_json(distribution, value);
            if let Ok(external) = json::parse(external.as_bytes()) {
                fixed.insert(name.clone(), json::plain(external));
            }
            if let Some(subset) = subset_to_json(distribution, value) {
                trial.user.insert(name.clone(), subset["items"].clone());
                trial.system.insert(format!("{SUBSET}{name}"), subset);
            }
            trial.params.extend(optuna_param(name, distribution, value));
        }
        trial.system.insert(FIXED.into(), Value::Object(fixed));
        Ok(trial)
    }

    /// The operations that make changes of a trial.
    pub(super) fn operations(
        &self,
        study: StudyId,
        id: u64,
        changes: &[Change],
    ) -> Result<Vec<Operation>> {
        let trial = &self.replay.trials[id as usize].trial;
        let number = trial.number;
        if trial.state.is_finished() {
            return Err(finished(number));
        }
        let mut known: BTreeMap<&str, &Distribution> =
            trial.params.iter().map(|(name, (of, _))| (name.as_str(), of)).collect();
        let mut operations = Vec::with_capacity(changes.len());
        let attr = |attrs, key: &str, value: &Value| Operation::TrialAttr {
            trial: id,
            attrs,
            key: key.into(),
            value: value.clone(),
        };
        for change in changes {
            match change {
                Change::Param { name, distribution, value } => {
                    check(self.study(study)?, name, distribution, value, |other| {
                        known.get(other).copied()
                    })?;
                    known.insert(name, distribution);
                    if let Some(subset) = subset_to_json(distribution, value) {
                        operations.push(attr(Attrs::System, &format!("{SUBSET}{name}"), &subset));
                        operations.push(attr(Attrs::User, name, &subset["items"]));
                    }
                    let param = optuna_param(name, distribution, value);
                    operations.extend(param.map(|(name, (distribution, value))| {
                        Operation::SetParam { trial: id, name, distribution, value }
                    }));
                }
                Change::Report { step, value } => {
                    operations.push(Operation::Report { trial: id, step: *step, value: *value });
                }
                Change::UserAttr { key, value } => operations.push(attr(Attrs::User, key, value)),
                Change::SystemAttr { key, value } => {
                    if key == HEARTBEAT || key.starts_with(SUBSET) {
                        let message = format!("the system attribute {key} is reserved");
                        return Err(Error::Trial { number, message });
                    }
                    operations.push(attr(Attrs::System, key, value));
                }
                Change::Finish { state, values } => {
                    check_end(number, *state, values, self.study(study)?.directions.len())?;
                    operations.push(Operation::SetState {
                        trial: id,
                        state: *state,
                        values: Some(values.clone()).filter(|values| !values.is_empty()),
                        at_ms: Some(time::now_ms()),
                    });
                }
            }
        }
        Ok(operations)
    }
}

/// A new trial that runs, with attributes.
pub(super) fn running(user: &AttrMap, system: AttrMap) -> NewTrial {
    let bare = user.is_empty() && system.is_empty();
    NewTrial {
        // As Optuna begins trials, where nothing else is to be said.
        state: (!bare).then_some(TrialState::Running),
        user: user.clone(),
        system,
        started_ms: Some(time::now_ms()),
        ..NewTrial::default()
    }
}

/// Refuses an end that no trial can have.
pub(super) fn check_end(
    number: u64,
    state: TrialState,
    values: &[f64],
    objectives: usize,
) -> Result<()> {
    let failed = |message: String| Err(Error::Trial { number, message });
    match (state, values) {
        (TrialState::Running | TrialState::Waiting, _) => {
            failed(format!("cannot end as {state:?}"))
        }
        (TrialState::Complete, []) => failed("is complete without a value".into()),
        (TrialState::Failed, [value, ..]) => {
            failed(format!("failed, expected no value, found {value}"))
        }
        (_, [_, ..]) if values.len() != objectives => {
            let found = values.len();
            failed(format!("expected a value for each of {objectives} objectives, found {found}"))
        }
        (_, values) if values.iter().any(|value| value.is_nan()) => {
            failed("expected a value, found NaN".into())
        }
        (TrialState::Complete | TrialState::Pruned | TrialState::Failed, _) => Ok(()),
    }
}

pub(super) fn refusal(
    rejected: Rejected,
    study: StudyId,
    number: u64,
    operations: &[Operation],
) -> Error {
    let message = match rejected {
        Rejected::DuplicateStudy | Rejected::NoStudy => return no_study(study),
        Rejected::NoTrial => "does not exist".into(),
        Rejected::Finished(_) => return finished(number),
        Rejected::Taken(_) => "is run by another worker".into(),
        Rejected::Conflict { message, .. } => {
            let name = operations.iter().find_map(|operation| match operation {
                Operation::SetParam { name, .. } => Some(name.as_str()),
                Operation::TrialAttr { key, .. } => key.strip_prefix(SUBSET),
                Operation::CreateStudy { .. }
                | Operation::DeleteStudy { .. }
                | Operation::StudyAttr { .. }
                | Operation::CreateTrial { .. }
                | Operation::SetState { .. }
                | Operation::Report { .. }
                | Operation::DiscardTrials => None,
            });
            return Error::Space { name: name.unwrap_or_default().into(), message };
        }
    };
    Error::Trial { number, message }
}

pub(super) fn finished(number: u64) -> Error {
    Error::Trial { number, message: "expected an unfinished trial, but it is finished".into() }
}

pub(super) fn no_study(study: StudyId) -> Error {
    Error::Study { name: format!("#{}", study.0), message: "does not exist".into() }
}

pub(super) fn no_trial(number: u64, trials: usize) -> Error {
    Error::Trial { number, message: format!("does not exist, the study has {trials}") }
}
