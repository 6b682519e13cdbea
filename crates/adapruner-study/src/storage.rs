//! Where studies are kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::trial::{Direction, Trial, TrialState};

/// A study within its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StudyId(pub u64);

/// Keeps studies and their trials.
pub trait Storage: Send + Sync {
    /// Creates the study or opens it; the direction must agree.
    ///
    /// # Errors
    ///
    /// If there is one of another direction.
    fn open_study(&self, name: &str, direction: Direction) -> Result<StudyId>;

    /// Creates a running trial; its number.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    fn create_trial(&self, study: StudyId) -> Result<u64>;

    /// Creates a waiting trial with these parameters; its number.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64>;

    /// Takes the oldest waiting trial, if any: the first one to do so wins.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>>;

    /// Sets a parameter of a running trial.
    ///
    /// # Errors
    ///
    /// If there is no such trial or it is finished.
    fn set_param(
        &self,
        study: StudyId,
        number: u64,
        name: &str,
        distribution: &Distribution,
        value: &ParamValue,
    ) -> Result<()>;

    /// Reports a value at a step of a running trial.
    ///
    /// # Errors
    ///
    /// If there is no such trial or it is finished.
    fn report(&self, study: StudyId, number: u64, step: u64, value: f64) -> Result<()>;

    /// Finishes a trial.
    ///
    /// # Errors
    ///
    /// If there is no such trial or it is finished already.
    fn finish(
        &self,
        study: StudyId,
        number: u64,
        state: TrialState,
        value: Option<f64>,
    ) -> Result<()>;

    /// Sets an attribute of the user, of a trial or (None) the study.
    ///
    /// # Errors
    ///
    /// If there is no such trial or it is finished.
    fn set_user_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()>;

    /// Sets an attribute of the system, of a trial or (None) the study.
    ///
    /// # Errors
    ///
    /// If there is no such trial or it is finished.
    fn set_system_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()>;

    /// All trials by number, as they are now.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    fn trials(&self, study: StudyId) -> Result<Vec<Trial>>;

    /// The study's attributes: the user's and the system's.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    fn study_attrs(
        &self,
        study: StudyId,
    ) -> Result<(BTreeMap<String, Value>, BTreeMap<String, Value>)>;

    /// Notes that the worker of a trial is alive.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    fn heartbeat(&self, study: StudyId, number: u64) -> Result<()>;

    /// Marks running trials whose worker was silent for longer than `grace` as
    /// failed; their numbers.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    fn fail_stale(&self, study: StudyId, grace: Duration) -> Result<Vec<u64>>;
}

/// Keeps studies in memory, for one process.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    studies: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    direction: Direction,
    trials: Vec<Trial>,
    beats: Vec<SystemTime>,
    user: BTreeMap<String, Value>,
    system: BTreeMap<String, Value>,
}

impl MemoryStorage {
    /// No studies yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        // Every change is a single step: what a panic left is whole.
        self.studies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, study: StudyId, act: impl FnOnce(&mut Kept) -> Result<T>) -> Result<T> {
        let mut studies = self.lock();
        let found = usize::try_from(study.0).ok().and_then(|i| studies.get_mut(i));
        act(found.ok_or_else(|| Error::Journal {
            place: format!("study {}", study.0),
            message: "expected a study of this storage".into(),
        })?)
    }

    fn change(&self, study: StudyId, number: u64, act: impl FnOnce(&mut Trial)) -> Result<()> {
        self.with(study, |kept| {
            let trial = usize::try_from(number).ok().and_then(|i| kept.trials.get_mut(i));
            let trial = trial.ok_or_else(|| Error::Trial {
                number,
                message: "expected a trial of the study".into(),
            })?;
            if trial.state.is_finished() {
                let message = format!("expected an unfinished trial, found {:?}", trial.state);
                return Err(Error::Trial { number, message });
            }
            act(trial);
            Ok(())
        })
    }
}

impl Kept {
    fn push(
        &mut self,
        state: TrialState,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> u64 {
        let number = self.trials.len() as u64;
        self.trials.push(Trial {
            number,
            state,
            value: None,
            params,
            intermediate: BTreeMap::new(),
            user_attrs: BTreeMap::new(),
            system_attrs: BTreeMap::new(),
            started_ms: (state == TrialState::Running).then(now_ms),
            ended_ms: None,
        });
        self.beats.push(SystemTime::now());
        number
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Storage for MemoryStorage {
    fn open_study(&self, name: &str, direction: Direction) -> Result<StudyId> {
        let mut studies = self.lock();
        if let Some(at) = studies.iter().position(|kept| kept.name == name) {
            let found = studies[at].direction;
            if found != direction {
                return Err(Error::Journal {
                    place: format!("study {name}"),
                    message: format!("expected direction {direction:?}, found {found:?}"),
                });
            }
            return Ok(StudyId(at as u64));
        }
        studies.push(Kept {
            name: name.into(),
            direction,
            trials: Vec::new(),
            beats: Vec::new(),
            user: BTreeMap::new(),
            system: BTreeMap::new(),
        });
        Ok(StudyId(studies.len() as u64 - 1))
    }

    fn create_trial(&self, study: StudyId) -> Result<u64> {
        self.with(study, |kept| Ok(kept.push(TrialState::Running, BTreeMap::new())))
    }

    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64> {
        self.with(study, |kept| Ok(kept.push(TrialState::Waiting, params)))
    }

    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>> {
        self.with(study, |kept| {
            let waiting = kept.trials.iter_mut().find(|t| t.state == TrialState::Waiting);
            Ok(waiting.map(|trial| {
                trial.state = TrialState::Running;
                trial.started_ms = Some(now_ms());
                kept.beats[trial.number as usize] = SystemTime::now();
                trial.number
            }))
        })
    }

    fn set_param(
        &self,
        study: StudyId,
        number: u64,
        name: &str,
        distribution: &Distribution,
        value: &ParamValue,
    ) -> Result<()> {
        self.change(study, number, |trial| {
            trial.params.insert(name.into(), (distribution.clone(), value.clone()));
        })
    }

    fn report(&self, study: StudyId, number: u64, step: u64, value: f64) -> Result<()> {
        self.change(study, number, |trial| {
            trial.intermediate.insert(step, value);
        })
    }

    fn finish(
        &self,
        study: StudyId,
        number: u64,
        state: TrialState,
        value: Option<f64>,
    ) -> Result<()> {
        self.change(study, number, |trial| {
            trial.state = state;
            trial.value = value;
            trial.ended_ms = Some(now_ms());
        })
    }

    fn set_user_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()> {
        match number {
            None => self.with(study, |kept| {
                kept.user.insert(key.into(), value);
                Ok(())
            }),
            Some(number) => self.change(study, number, |trial| {
                trial.user_attrs.insert(key.into(), value);
            }),
        }
    }

    fn set_system_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()> {
        match number {
            None => self.with(study, |kept| {
                kept.system.insert(key.into(), value);
                Ok(())
            }),
            Some(number) => self.change(study, number, |trial| {
                trial.system_attrs.insert(key.into(), value);
            }),
        }
    }

    fn trials(&self, study: StudyId) -> Result<Vec<Trial>> {
        self.with(study, |kept| Ok(kept.trials.clone()))
    }

    fn study_attrs(
        &self,
        study: StudyId,
    ) -> Result<(BTreeMap<String, Value>, BTreeMap<String, Value>)> {
        self.with(study, |kept| Ok((kept.user.clone(), kept.system.clone())))
    }

    fn heartbeat(&self, study: StudyId, number: u64) -> Result<()> {
        self.with(study, |kept| {
            if let Some(beat) = usize::try_from(number).ok().and_then(|i| kept.beats.get_mut(i)) {
                *beat = SystemTime::now();
            }
            Ok(())
        })
    }

    fn fail_stale(&self, study: StudyId, grace: Duration) -> Result<Vec<u64>> {
        self.with(study, |kept| {
            let now = SystemTime::now();
            let mut failed = Vec::new();
            for (trial, beat) in kept.trials.iter_mut().zip(&kept.beats) {
                let silent = now.duration_since(*beat).unwrap_or_default();
                if trial.state == TrialState::Running && silent > grace {
                    trial.state = TrialState::Failed;
                    trial.ended_ms = Some(now_ms());
                    failed.push(trial.number);
                }
            }
            Ok(failed)
        })
    }
}
