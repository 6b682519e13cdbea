//! A storage that replays a journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::backend::{Backend, Exchange, Line};
use super::distribution::{FIXED, external_to_json};
use super::file::FileBackend;
use super::params::{check, optuna_param};
use super::record::{self, Attrs, NewTrial, Operation};
use super::replay::subset_to_json;
use super::replay::{
    HEARTBEAT, Rejected, Replay, SUBSET, StudyEntry, TrialEntry, WORKER_PREFIX, Watching,
};
use super::{json, time};
use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::storage::{
    Attrs as AttrMap, Beginning, Begun, Change, Decide, Seen, Silence, Storage, StudyId,
};
use crate::trial::{Direction, Trial, TrialState};

/// How far apart the signs of life of a trial are, at the least.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// The trials of studies, by id of the study.
type Known = BTreeMap<u64, Vec<Arc<Trial>>>;

/// Studies in a journal.
#[derive(Debug)]
pub struct JournalStorage<B> {
    state: Mutex<State<B>>,
    /// The trials as of the last reading, for those who cannot wait for a call to
    /// a remote journal that is under way.
    known: Arc<Mutex<Known>>,
    /// Whether the backend is remote.
    remote: bool,
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
    known: Arc<Mutex<Known>>,
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

    /// Opens the journal in a file that is there, to be read.
    ///
    /// # Errors
    ///
    /// Those of [`file`](Self::file), and where there is none.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(FileBackend::read(path.as_ref())?)
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
        let known = Arc::new(Mutex::new(Known::new()));
        let remote = backend.is_remote();
        let state = State {
            backend,
            offset: 0,
            replay: Replay::default(),
            beats: BTreeMap::new(),
            known: known.clone(),
        };
        Self {
            state: Mutex::new(state),
            known,
            remote,
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

    fn watching(&self, state: &State<B>) -> Watching {
        Watching { opened: self.opened, reachable_since: state.backend.reachable_since() }
    }

    /// The state with all records so far.
    fn fresh(&self) -> Result<MutexGuard<'_, State<B>>> {
        let mut state = self.lock();
        state.sync(&self.worker, true)?;
        Ok(state)
    }

    /// The state in which a trial is known, and its id.
    fn knowing(&self, study: StudyId, number: u64) -> Result<(MutexGuard<'_, State<B>>, u64)> {
        let mut state = self.lock();
        // What is written is judged by the journal's order anyway, so nothing needs
        // to be read before, unless the trial is new.
        if state.trial_id(study, number).is_err() {
            state.sync(&self.worker, true)?;
        }
        let id = state.trial_id(study, number)?;
        Ok((state, id))
    }

    /// Writes operations on a trial.
    fn write(
        &self,
        state: &mut State<B>,
        (study, number): (StudyId, u64),
        operations: &[Operation],
    ) -> Result<()> {
        match state.commit(&self.worker, operations)?.into_iter().next() {
            None => Ok(()),
            Some(rejected) => Err(refusal(rejected, study, number, operations)),
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
        let value_of = match attrs {
            Attrs::User => Change::UserAttr { key, value },
            Attrs::System => Change::SystemAttr { key, value },
        };
        Storage::change(self, study, number, &[value_of])
    }
}

impl<B: Backend> State<B> {
    /// Takes in the records that were added, and gives what of those by
    /// `worker` was rejected. `live` is false for what was there long before.
    fn sync(&mut self, worker: &str, live: bool) -> Result<Vec<Rejected>> {
        let lines = self.backend.read_from(self.offset)?;
        self.take_in(lines, worker, live)
    }

    fn take_in(&mut self, lines: Vec<Line>, worker: &str, live: bool) -> Result<Vec<Rejected>> {
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

    fn trials_of(&self, study: &StudyEntry) -> Vec<Arc<Trial>> {
        study.trials.iter().map(|id| self.replay.trials[*id as usize].trial.clone()).collect()
    }

    /// Writes operations, and gives those that came too late.
    fn commit(&mut self, worker: &str, operations: &[Operation]) -> Result<Vec<Rejected>> {
        // Without a condition they are always added.
        Ok(self.commit_unless(worker, operations, None)?.unwrap_or_default())
    }

    /// As [`State::commit`]; `None`, and nothing written, if others have begun
    /// more than so many trials that were not known.
    fn commit_unless(
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

    /// Writes the creation of a trial, and gives its number; `None` if others
    /// have begun more than so many trials that were not known.
    fn create(
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
    fn claim(
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
    fn waiting(&self, study: StudyId) -> Result<Option<u64>> {
        let mut ids = self.study(study)?.trials.iter().copied();
        let waits = |id: &u64| self.replay.trials[*id as usize].trial.state == TrialState::Waiting;
        Ok(ids.find(waits))
    }

    /// What is queued: a trial that waits with these parameters.
    fn queued(
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
    fn operations(&self, study: StudyId, id: u64, changes: &[Change]) -> Result<Vec<Operation>> {
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
                Change::Finish { state, value } => {
                    check_end(number, *state, *value)?;
                    operations.push(Operation::SetState {
                        trial: id,
                        state: *state,
                        values: value.map(|value| vec![value]),
                        at_ms: Some(time::now_ms()),
                    });
                }
            }
        }
        Ok(operations)
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
        let begun = self.begin(study, &AttrMap::new(), &mut |_| {
            Some(Beginning::New { system: AttrMap::new() })
        })?;
        begun.map(|begun| begun.number).ok_or_else(|| no_study(study))
    }

    fn begin(
        &self,
        study: StudyId,
        user: &AttrMap,
        decide: &mut Decide<'_>,
    ) -> Result<Option<Begun>> {
        let mut state = self.lock();
        // Whether what is known was read just now. Where it says to begin, that
        // need not be: what others began since is judged when it is written.
        let mut fresh = !self.remote;
        if fresh || state.study(study).is_err() {
            state.sync(&self.worker, true)?;
        }
        loop {
            let entry = state.study(study)?;
            let trials = state.trials_of(entry);
            let decided = decide(Seen { trials: &trials, system: &entry.system });
            let (begun, queued) = match decided {
                None if fresh => return Ok(None),
                None => {
                    state.sync(&self.worker, true)?;
                    fresh = true;
                    continue;
                }
                Some(Beginning::Next { others }) => match state.waiting(study)? {
                    // Or the attributes might be those of a trial that another took.
                    Some(trial) => (state.claim(&self.worker, trial, user, Some(0))?, true),
                    None => {
                        let trial = running(user, AttrMap::new());
                        (state.create(&self.worker, study, trial, others)?, false)
                    }
                },
                Some(Beginning::New { system }) => {
                    let others = (!system.is_empty()).then_some(0);
                    let trial = running(user, system);
                    (state.create(&self.worker, study, trial, others)?, false)
                }
            };
            if let Some(number) = begun {
                return Ok(Some(Begun { number, queued }));
            }
            // What others did came with the answer.
            fresh = true;
        }
    }

    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64> {
        let mut state = self.fresh()?;
        let trial = state.queued(study, params)?;
        let number = state.create(&self.worker, study, trial, None)?;
        number.ok_or_else(|| no_study(study))
    }

    fn enqueue_first(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<Option<u64>> {
        let mut state = self.fresh()?;
        while state.study(study)?.trials.is_empty() {
            let trial = state.queued(study, params.clone())?;
            // Of another study, perhaps.
            if let Some(number) = state.create(&self.worker, study, trial, Some(0))? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>> {
        let mut state = self.fresh()?;
        while let Some(trial) = state.waiting(study)? {
            let claimed = state.claim(&self.worker, trial, &AttrMap::new(), None)?;
            if claimed.is_some() {
                return Ok(claimed);
            }
        }
        Ok(None)
    }

    fn change(&self, study: StudyId, number: u64, changes: &[Change]) -> Result<()> {
        let (mut state, id) = self.knowing(study, number)?;
        let operations = state.operations(study, id, changes)?;
        self.write(&mut state, (study, number), &operations)
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
        Ok(state.trials_of(state.study(study)?))
    }

    fn known_trials(&self, study: StudyId) -> Result<Vec<Arc<Trial>>> {
        if self.remote {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            return known.get(&study.0).cloned().ok_or_else(|| no_study(study));
        }
        let state = self.lock();
        Ok(state.trials_of(state.study(study)?))
    }

    fn is_remote(&self) -> bool {
        self.remote
    }

    fn silences(&self, study: StudyId) -> Result<Vec<Silence>> {
        let state = self.fresh()?;
        let (at, watching) = (time::now_ms(), self.watching(&state));
        let entries = state.study(study)?.trials.iter();
        let entries = entries.map(|id| &state.replay.trials[*id as usize]);
        let running = entries.filter(|entry| entry.trial.state == TrialState::Running);
        let silence = |entry: &TrialEntry| Silence {
            number: entry.trial.number,
            silent: entry.silent(watching, at),
        };
        Ok(running.map(silence).collect())
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
        let (mut state, id) = self.knowing(study, number)?;
        if state.replay.trials[id as usize].trial.state.is_finished() {
            return Err(finished(number));
        }
        let (attrs, key) = (Attrs::System, HEARTBEAT.to_owned());
        let value = time::now_ms().into();
        let sign = Operation::TrialAttr { trial: id, attrs, key, value };
        self.write(&mut state, (study, number), &[sign])?;
        drop(state);
        if let Ok(trial) = trial {
            self.lock().beats.insert(trial, Instant::now());
        }
        Ok(())
    }

    fn fail_stale(&self, study: StudyId, grace: Duration) -> Result<Vec<u64>> {
        let grace = grace.max(self.interval * 2);
        let mut state = self.fresh()?;
        let (at, watching) = (time::now_ms(), self.watching(&state));
        let stale = |id: &u64| {
            let silent = state.replay.trials[*id as usize].silent(watching, at);
            silent.is_some_and(|silent| silent > grace)
        };
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

/// A new trial that runs, with attributes.
fn running(user: &AttrMap, system: AttrMap) -> NewTrial {
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
fn check_end(number: u64, state: TrialState, value: Option<f64>) -> Result<()> {
    let failed = |message: String| Err(Error::Trial { number, message });
    match (state, value) {
        (TrialState::Running | TrialState::Waiting, _) => {
            failed(format!("cannot end as {state:?}"))
        }
        (TrialState::Complete, None) => failed("is complete without a value".into()),
        (TrialState::Failed, Some(value)) => {
            failed(format!("failed, expected no value, found {value}"))
        }
        (_, Some(value)) if value.is_nan() => failed("expected a value, found NaN".into()),
        (TrialState::Complete | TrialState::Pruned | TrialState::Failed, _) => Ok(()),
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
