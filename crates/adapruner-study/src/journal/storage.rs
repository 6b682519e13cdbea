//! A storage that replays a journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::backend::Backend;
use super::file::FileBackend;
use super::record::{Attrs, Operation};
use super::replay::{HEARTBEAT, Replay, TrialEntry, WORKER_PREFIX, Watching};
use super::state::{Known, State, finished, no_study, refusal, running};
use super::time;
use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::storage::{
    Attrs as AttrMap, Beginning, Begun, Change, Decide, Seen, Silence, Storage, StudyId,
};
use crate::trial::{Direction, Trial, TrialState};

/// Minimum interval between heartbeats of a trial.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

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

impl<B: Backend> Storage for JournalStorage<B> {
    fn open_study(&self, name: &str, directions: &[Direction]) -> Result<StudyId> {
        let failed = |message: String| Error::Study { name: name.into(), message };
        if directions.is_empty() {
            return Err(failed("expected an objective, found none".into()));
        }
        let mut state = self.fresh()?;
        if state.replay.find_study(name).is_none() {
            let directions = directions.iter().copied().map(Some).collect();
            let operation = Operation::CreateStudy { name: name.into(), directions };
            // If another was faster, theirs is opened.
            state.commit(&self.worker, &[operation])?;
        }
        let (id, study) = state
            .replay
            .find_study(name)
            .ok_or_else(|| failed("was deleted while it was opened".into()))?;
        let found = &study.directions;
        if found.len() != directions.len() {
            let of =
                |n: usize| if n == 1 { "one objective".into() } else { format!("{n} objectives") };
            let (expected, found) = (of(directions.len()), of(found.len()));
            return Err(failed(format!("expected {expected}, found {found}")));
        }
        if !found.iter().zip(directions).all(|(found, expected)| *found == Some(*expected)) {
            return Err(failed(format!("expected the directions {directions:?}, found {found:?}")));
        }
        Ok(StudyId(id))
    }

    fn directions(&self, study: &str) -> Result<Vec<Direction>> {
        let state = self.fresh()?;
        let (_, entry) = state
            .replay
            .find_study(study)
            .ok_or_else(|| Error::Study { name: study.into(), message: "does not exist".into() })?;
        Ok(entry.directions.iter().copied().collect::<Option<_>>().unwrap_or_default())
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

/// A name that no other worker has; the machine and process are for people.
#[expect(clippy::disallowed_methods, reason = "asks the system, not a file of the user")]
fn worker() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "host" } else { host.trim() };
    let (process, unique) = (std::process::id(), rand::random::<u128>());
    format!("{WORKER_PREFIX}{host}-{process}-{unique:032x}")
}
