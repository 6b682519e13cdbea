//! A storage that replays a journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::backend::Backend;
use super::distribution::{FIXED, external_to_json};
use super::file::FileBackend;
use super::params::{check, optuna_param};
use super::record::{self, Attrs, NewTrial, Operation};
use super::replay::subset_to_json;
use super::replay::{HEARTBEAT, Rejected, Replay, SUBSET, StudyEntry, WORKER_PREFIX};
use super::{json, time};
use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::storage::{Storage, StudyId};
use crate::trial::{Direction, Trial, TrialState};

/// How far apart the signs of life of a trial are, at the least.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Studies in a journal.
#[derive(Debug)]
pub struct JournalStorage<B> {
    state: Mutex<State<B>>,
    /// Names this storage in its records; no other has the name.
    worker: String,
    interval: Duration,
    opened: Instant,
}

#[derive(Debug)]
struct State<B> {
    backend: B,
    offset: u64,
    replay: Replay,
    /// Last sign of life written for a trial.
    beats: BTreeMap<u64, Instant>,
}

impl JournalStorage<FileBackend> {
    /// Opens the journal in a file, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be opened, [`Error::Journal`] if it
    /// cannot be understood.
    pub fn file(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(FileBackend::open(path.as_ref())?)
    }
}

impl<B: Backend> JournalStorage<B> {
    /// Opens a journal.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or [`Error::Journal`] if it cannot be understood.
    pub fn open(backend: B) -> Result<Self> {
        let storage = Self::empty(backend);
        storage.lock().sync(&storage.worker, false)?;
        Ok(storage)
    }

    /// A storage that has not read its journal yet.
    pub(crate) fn empty(backend: B) -> Self {
        let state = State { backend, offset: 0, replay: Replay::default(), beats: BTreeMap::new() };
        Self {
            state: Mutex::new(state),
            worker: worker(),
            interval: HEARTBEAT_INTERVAL,
            opened: Instant::now(),
        }
    }

    /// Writes signs of life at most once in `interval` (30 seconds by default)
    /// for each trial, so that they do not fill the journal. To
    /// [`fail_stale`](Storage::fail_stale) a grace of less than twice that is as
    /// good as twice that.
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // What panicked while it held the lock left the state at a whole record.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with all records so far.
    fn fresh(&self) -> Result<MutexGuard<'_, State<B>>> {
        let mut state = self.lock();
        state.sync(&self.worker, true)?;
        Ok(state)
    }

    /// Changes a trial by what `operations` makes of its id.
    fn change(
        &self,
        study: StudyId,
        number: u64,
        operations: impl FnOnce(u64, &StudyEntry, &Trial) -> Result<Vec<Operation>>,
    ) -> Result<()> {
        let mut state = self.fresh()?;
        let id = state.trial_id(study, number)?;
        let trial = &state.replay.trials[id as usize].trial;
        if trial.state.is_finished() {
            return Err(finished(number));
        }
        let operations = operations(id, state.study(study)?, trial)?;
        match state.commit(&self.worker, &operations)?.into_iter().next() {
            None => Ok(()),
            Some(rejected) => Err(refusal(rejected, study, number, &operations)),
        }
    }

    fn set_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        attrs: Attrs,
        key: &str,
        value: Value,
    ) -> Result<()> {
        let key = key.to_owned();
        let Some(number) = number else {
            let mut state = self.fresh()?;
            state.study(study)?;
            let operation = Operation::StudyAttr { study: study.0, attrs, key, value };
            return match state.commit(&self.worker, &[operation])?.is_empty() {
                true => Ok(()),
                false => Err(no_study(study)),
            };
        };
        if attrs == Attrs::System && (key == HEARTBEAT || key.starts_with(SUBSET)) {
            let message = format!("the system attribute {key} is reserved");
            return Err(Error::Trial { number, message });
        }
        self.change(study, number, |trial, _, _| {
            Ok(vec![Operation::TrialAttr { trial, attrs, key, value }])
        })
    }
}

impl<B: Backend> State<B> {
    /// Takes in the records that were added, and gives what of those by
    /// `worker` was rejected. `live` is false for what was there long before.
    fn sync(&mut self, worker: &str, live: bool) -> Result<Vec<Rejected>> {
        let lines = self.backend.read_from(self.offset)?;
        let now = live.then(Instant::now);
        let mut all = Vec::new();
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
        Ok(all)
    }

    /// Writes operations, and gives those that came too late.
    fn commit(&mut self, worker: &str, operations: &[Operation]) -> Result<Vec<Rejected>> {
        let records: Vec<String> =
            operations.iter().map(|operation| record::write(worker, operation)).collect();
        self.backend.append(&records)?;
        self.sync(worker, true)
    }

    fn study(&self, study: StudyId) -> Result<&StudyEntry> {
        self.replay.study(study.0).ok_or_else(|| no_study(study))
    }

    fn trial_id(&self, study: StudyId, number: u64) -> Result<u64> {
        let trials = &self.study(study)?.trials;
        let id = usize::try_from(number).ok().and_then(|number| trials.get(number));
        id.copied().ok_or_else(|| no_trial(number, trials.len()))
    }

    /// Marks running trials as failed, and gives the numbers of those that did
    /// not end by themselves in between.
    fn fail(&mut self, worker: &str, ids: Vec<u64>) -> Result<Vec<u64>> {
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

    /// Writes the creation of a trial, and gives its number.
    fn create(&mut self, worker: &str, study: StudyId, trial: NewTrial) -> Result<u64> {
        self.sync(worker, true)?;
        self.study(study)?;
        let before = self.replay.trials.len();
        let trial = Box::new(trial);
        self.commit(worker, &[Operation::CreateTrial { study: study.0, trial }])?;
        // Others may have added theirs in between.
        let mut added = self.replay.trials[before..].iter();
        let own = added.find(|entry| entry.creator == worker);
        own.map(|entry| entry.trial.number).ok_or_else(|| no_study(study))
    }
}

impl<B: Backend> Storage for JournalStorage<B> {
    fn open_study(&self, name: &str, direction: Direction) -> Result<StudyId> {
        let mut state = self.fresh()?;
        if state.replay.find_study(name).is_none() {
            let directions = vec![Some(direction)];
            let operation = Operation::CreateStudy { name: name.into(), directions };
            // If another was faster, theirs is opened.
            state.commit(&self.worker, &[operation])?;
        }
        let failed = |message: String| Error::Study { name: name.into(), message };
        let (id, study) = state
            .replay
            .find_study(name)
            .ok_or_else(|| failed("was deleted while it was opened".into()))?;
        match study.directions[..] {
            [Some(found)] if found == direction => Ok(StudyId(id)),
            [found] => {
                Err(failed(format!("expected the direction {direction:?}, found {found:?}")))
            }
            _ => {
                let found = study.directions.len();
                Err(failed(format!("expected one objective, found {found}")))
            }
        }
    }

    fn study_names(&self) -> Result<Vec<String>> {
        let state = self.fresh()?;
        let there = state.replay.studies.iter().filter(|study| !study.deleted);
        Ok(there.map(|study| study.name.clone()).collect())
    }

    fn create_trial(&self, study: StudyId) -> Result<u64> {
        let trial = NewTrial { started_ms: Some(time::now_ms()), ..NewTrial::default() };
        self.lock().create(&self.worker, study, trial)
    }

    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64> {
        let mut state = self.fresh()?;
        let mut trial = NewTrial { state: Some(TrialState::Waiting), ..NewTrial::default() };
        let mut fixed = Map::new();
        for (name, (distribution, value)) in &params {
            let find = |other: &str| params.get(other).map(|(d, _)| d);
            check(state.study(study)?, name, distribution, value, find)?;
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
        state.create(&self.worker, study, trial)
    }

    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>> {
        let mut state = self.fresh()?;
        loop {
            let entry = state.study(study)?;
            let waiting =
                entry.trials.iter().copied().find(|id| {
                    state.replay.trials[*id as usize].trial.state == TrialState::Waiting
                });
            let Some(trial) = waiting else { return Ok(None) };
            let operation = Operation::SetState {
                trial,
                state: TrialState::Running,
                values: None,
                at_ms: Some(time::now_ms()),
            };
            // Rejected if another was faster.
            if state.commit(&self.worker, &[operation])?.is_empty() {
                return Ok(Some(state.replay.trials[trial as usize].trial.number));
            }
        }
    }

    fn set_param(
        &self,
        study: StudyId,
        number: u64,
        name: &str,
        distribution: &Distribution,
        value: &ParamValue,
    ) -> Result<()> {
        self.change(study, number, |trial, study, found| {
            let find = |other: &str| found.params.get(other).map(|(d, _)| d);
            check(study, name, distribution, value, find)?;
            let mut operations = Vec::new();
            if let Some(subset) = subset_to_json(distribution, value) {
                let items = subset["items"].clone();
                let attr = |attrs, key, value| Operation::TrialAttr { trial, attrs, key, value };
                operations.push(attr(Attrs::System, format!("{SUBSET}{name}"), subset));
                operations.push(attr(Attrs::User, name.into(), items));
            }
            let param = optuna_param(name, distribution, value);
            operations.extend(param.map(|(name, (distribution, value))| Operation::SetParam {
                trial,
                name,
                distribution,
                value,
            }));
            Ok(operations)
        })
    }

    fn report(&self, study: StudyId, number: u64, step: u64, value: f64) -> Result<()> {
        self.change(study, number, |trial, _, _| Ok(vec![Operation::Report { trial, step, value }]))
    }

    fn finish(
        &self,
        study: StudyId,
        number: u64,
        state: TrialState,
        value: Option<f64>,
    ) -> Result<()> {
        let failed = |message: String| Err(Error::Trial { number, message });
        match (state, value) {
            (TrialState::Running | TrialState::Waiting, _) => {
                return failed(format!("cannot end as {state:?}"));
            }
            (TrialState::Complete, None) => return failed("is complete without a value".into()),
            (TrialState::Failed, Some(value)) => {
                return failed(format!("failed, expected no value, found {value}"));
            }
            (_, Some(value)) if value.is_nan() => {
                return failed("expected a value, found NaN".into());
            }
            (TrialState::Complete | TrialState::Pruned | TrialState::Failed, _) => {}
        }
        let values = value.map(|value| vec![value]);
        self.change(study, number, |trial, _, _| {
            Ok(vec![Operation::SetState { trial, state, values, at_ms: Some(time::now_ms()) }])
        })
    }

    fn set_user_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()> {
        self.set_attr(study, number, Attrs::User, key, value)
    }

    fn set_system_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()> {
        self.set_attr(study, number, Attrs::System, key, value)
    }

    fn trials(&self, study: StudyId) -> Result<Vec<Arc<Trial>>> {
        let state = self.fresh()?;
        let ids = state.study(study)?.trials.iter();
        Ok(ids.map(|id| state.replay.trials[*id as usize].trial.clone()).collect())
    }

    fn study_attrs(
        &self,
        study: StudyId,
    ) -> Result<(BTreeMap<String, Value>, BTreeMap<String, Value>)> {
        let state = self.fresh()?;
        let study = state.study(study)?;
        Ok((study.user.clone(), study.system.clone()))
    }

    fn heartbeat(&self, study: StudyId, number: u64) -> Result<()> {
        let trial = {
            let state = self.lock();
            let trial = state.trial_id(study, number);
            let recent = |beat: &Instant| beat.elapsed() < self.interval;
            if let Ok(trial) = trial
                && state.beats.get(&trial).is_some_and(recent)
            {
                return Ok(());
            }
            trial
        };
        self.change(study, number, |trial, _, _| {
            let (attrs, key) = (Attrs::System, HEARTBEAT.to_owned());
            Ok(vec![Operation::TrialAttr { trial, attrs, key, value: time::now_ms().into() }])
        })?;
        if let Ok(trial) = trial {
            self.lock().beats.insert(trial, Instant::now());
        }
        Ok(())
    }

    fn fail_stale(&self, study: StudyId, grace: Duration) -> Result<Vec<u64>> {
        let grace = grace.max(self.interval * 2);
        let mut state = self.fresh()?;
        let at = time::now_ms();
        let stale = |id: &u64| state.replay.trials[*id as usize].is_stale(grace, self.opened, at);
        let ids: Vec<u64> = state.study(study)?.trials.iter().copied().filter(stale).collect();
        state.fail(&self.worker, ids)
    }

    fn fail_running(&self, study: StudyId, numbers: &[u64]) -> Result<Vec<u64>> {
        let mut state = self.fresh()?;
        state.study(study)?;
        let mut ids = Vec::new();
        for number in numbers {
            let id = state.trial_id(study, *number)?;
            let running = state.replay.trials[id as usize].trial.state == TrialState::Running;
            if running && !ids.contains(&id) {
                ids.push(id);
            }
        }
        state.fail(&self.worker, ids)
    }
}

fn refusal(rejected: Rejected, study: StudyId, number: u64, operations: &[Operation]) -> Error {
    let message = match rejected {
        Rejected::DuplicateStudy | Rejected::NoStudy => return no_study(study),
        Rejected::NoTrial => "is not there".into(),
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

fn finished(number: u64) -> Error {
    Error::Trial { number, message: "expected an unfinished trial, but it is finished".into() }
}

fn no_study(study: StudyId) -> Error {
    Error::Study { name: format!("#{}", study.0), message: "is not there".into() }
}

fn no_trial(number: u64, trials: usize) -> Error {
    Error::Trial { number, message: format!("is not there, the study has {trials}") }
}

/// A name that no other worker has; the machine and process are for people.
#[expect(clippy::disallowed_methods, reason = "asks the system, not a file of the user")]
fn worker() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "host" } else { host.trim() };
    let (process, unique) = (std::process::id(), rand::random::<u128>());
    format!("{WORKER_PREFIX}{host}-{process}-{unique:032x}")
}
