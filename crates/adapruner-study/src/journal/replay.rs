//! The state that a journal's records add up to: one state machine for all backends.
//!
//! The rules are Optuna's. Ids count: a study has the number of studies before it, a trial that
//! of trials of all studies. A record that contradicts the state (a second study of a name, a
//! change of a finished trial) is ignored by all readers in the same way, so they agree; its
//! writer gets a [`Rejected`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::distribution::{conflict, items, read as read_distribution};
use super::record::{Attrs, NewTrial, Operation, Record};
use crate::distribution::{Distribution, ParamValue};
use crate::trial::{Direction, Trial, TrialState};

/// Begins the names of the workers of this implementation.
pub(crate) const WORKER_PREFIX: &str = "adapruner-";
/// System attribute of a trial: when its worker last said that it is alive.
pub(crate) const HEARTBEAT: &str = "adapruner:heartbeat";
/// Begins the system attribute of a trial that holds a subset parameter.
pub(crate) const SUBSET: &str = "adapruner:subset:";

/// The name of the integer parameter by which Optuna sees the size of a subset.
pub(crate) fn size_name(name: &str) -> String {
    format!("{name}.n")
}

/// What a subset parameter is kept as: its system attribute's value.
pub(crate) fn subset_to_json(distribution: &Distribution, value: &ParamValue) -> Option<Value> {
    match (distribution, value) {
        (Distribution::Subset { pool, least, most }, ParamValue::Subset(items)) => {
            Some(json!({"pool": pool, "least": least, "most": most, "items": items}))
        }
        _ => None,
    }
}

fn subset_from_json(value: &Value) -> Result<(Distribution, ParamValue), String> {
    let attributes = json!({"name": "SubsetDistribution", "attributes": value}).to_string();
    let distribution = read_distribution(&attributes)?;
    let items = items(&value["items"]).map(ParamValue::Subset);
    match items.filter(|items| super::distribution::value_fault(&distribution, items).is_none()) {
        Some(items) => Ok((distribution, items)),
        None => Err(format!("expected ascending items of the pool, found {value}")),
    }
}

/// Why a record changed nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rejected {
    /// There is a study of that name.
    DuplicateStudy,
    /// There is no such study (any more).
    NoStudy,
    /// There is no such trial.
    NoTrial,
    /// The trial, by id, is finished.
    Finished(u64),
    /// Another worker runs the trial, by id.
    Taken(u64),
    /// Earlier trials have the parameter with another distribution.
    Conflict { trial: u64, message: String },
}

/// A study and its trials.
#[derive(Debug, Clone)]
pub(crate) struct StudyEntry {
    pub(crate) name: String,
    pub(crate) directions: Vec<Option<Direction>>,
    pub(crate) deleted: bool,
    pub(crate) user: BTreeMap<String, Value>,
    pub(crate) system: BTreeMap<String, Value>,
    /// Ids of its trials, by number.
    pub(crate) trials: Vec<u64>,
    /// Of each parameter, the first trial that has it and its distribution there.
    first: BTreeMap<String, (u64, Distribution)>,
}

/// A trial and its worker.
#[derive(Debug, Clone)]
pub(crate) struct TrialEntry {
    pub(crate) trial: Arc<Trial>,
    pub(crate) study: u64,
    /// The worker that created it.
    pub(crate) creator: String,
    /// The worker that runs it.
    pub(crate) owner: Option<String>,
    /// Latest moment of which it is known that the owner was alive, by clocks.
    pub(crate) alive_ms: Option<i64>,
    /// The same by this process: `None` if that was before it looked.
    pub(crate) alive: Option<Instant>,
}

/// The state after some records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    pub(crate) studies: Vec<StudyEntry>,
    pub(crate) trials: Vec<TrialEntry>,
    /// Number of records seen.
    pub(crate) records: u64,
}

type Applied = Result<Option<Rejected>, String>;

impl Replay {
    /// The study, unless deleted.
    pub(crate) fn study(&self, id: u64) -> Option<&StudyEntry> {
        self.studies.get(usize::try_from(id).ok()?).filter(|study| !study.deleted)
    }

    /// The trial of an id.
    pub(crate) fn trial(&self, id: u64) -> Option<&TrialEntry> {
        self.trials.get(usize::try_from(id).ok()?)
    }

    /// The study of a name, with its id.
    pub(crate) fn find_study(&self, name: &str) -> Option<(u64, &StudyEntry)> {
        (0..).zip(&self.studies).find(|(_, study)| !study.deleted && study.name == name)
    }

    /// Takes in one record; `now` where it was written while this process looked.
    ///
    /// # Errors
    ///
    /// Only if the record cannot be understood; nothing has changed then.
    pub(crate) fn apply(&mut self, record: Record, now: Option<Instant>) -> Applied {
        let Record { worker, operation } = record;
        let rejected = match operation {
            Operation::CreateStudy { name, directions } => self.create_study(name, directions),
            Operation::DeleteStudy { study } => {
                self.change_study(study, |study| study.deleted = true)
            }
            Operation::StudyAttr { study, attrs, key, value } => {
                self.change_study(study, |study| {
                    let map = match attrs {
                        Attrs::User => &mut study.user,
                        Attrs::System => &mut study.system,
                    };
                    map.insert(key, value);
                })
            }
            Operation::CreateTrial { study, trial } => {
                self.create_trial(study, *trial, worker, now)?
            }
            Operation::SetParam { trial, name, distribution, value } => {
                let param = (distribution, value);
                match self.updatable(trial) {
                    Err(rejected) => Some(rejected),
                    Ok(at) => self.set_param(at, name, param, &worker, now),
                }
            }
            Operation::SetState { trial, state, values, at_ms } => match self.updatable(trial) {
                Err(rejected) => Some(rejected),
                Ok(at) => self.set_state(at, state, values, at_ms, worker, now),
            },
            Operation::Report { trial, step, value } => self.change(trial, &worker, now, |trial| {
                trial.intermediate.insert(step, value);
            }),
            Operation::TrialAttr { trial, attrs, key, value } => match self.updatable(trial) {
                Err(rejected) => Some(rejected),
                Ok(at) => self.set_attr(at, attrs, key, value, &worker, now)?,
            },
            Operation::DiscardTrials => None,
        };
        self.records += 1;
        Ok(rejected)
    }

    fn create_study(
        &mut self,
        name: String,
        directions: Vec<Option<Direction>>,
    ) -> Option<Rejected> {
        if self.find_study(&name).is_some() {
            return Some(Rejected::DuplicateStudy);
        }
        self.studies.push(StudyEntry {
            name,
            directions,
            deleted: false,
            user: BTreeMap::new(),
            system: BTreeMap::new(),
            trials: Vec::new(),
            first: BTreeMap::new(),
        });
        None
    }

    fn change_study(&mut self, id: u64, with: impl FnOnce(&mut StudyEntry)) -> Option<Rejected> {
        if self.study(id).is_none() {
            return Some(Rejected::NoStudy);
        }
        with(&mut self.studies[id as usize]);
        None
    }

    fn create_trial(
        &mut self,
        study: u64,
        new: NewTrial,
        worker: String,
        now: Option<Instant>,
    ) -> Applied {
        let Some(entry) = self.study(study) else {
            return Ok(Some(Rejected::NoStudy));
        };
        let state = new.state.unwrap_or(TrialState::Running);
        let trial = Trial {
            number: entry.trials.len() as u64,
            state,
            values: entry.values(new.values),
            params: BTreeMap::new(),
            intermediate: new.intermediate,
            user_attrs: BTreeMap::new(),
            system_attrs: BTreeMap::new(),
            started_ms: new.started_ms,
            ended_ms: new.ended_ms,
        };
        let mut entry = TrialEntry {
            trial: Arc::new(trial),
            study,
            owner: (state == TrialState::Running).then(|| worker.clone()),
            creator: worker,
            alive_ms: new.started_ms,
            alive: now,
        };
        // Subsets first: they tell what of the rest is only their echo.
        for (key, value) in new.system {
            entry.set_attr(Attrs::System, key, value)?;
        }
        for (name, param) in new.params {
            entry.set_param(name, param);
        }
        for (key, value) in new.user {
            entry.set_attr(Attrs::User, key, value)?;
        }
        let params = entry.trial.params.clone();
        let (id, number) = (self.trials.len() as u64, entry.trial.number);
        self.trials.push(entry);
        let study = &mut self.studies[study as usize];
        study.trials.push(id);
        for (name, (distribution, _)) in params {
            study.note(name, number, distribution);
        }
        Ok(None)
    }

    /// Where the trial is, if it can still change.
    fn updatable(&self, id: u64) -> Result<usize, Rejected> {
        match self.trial(id) {
            None => Err(Rejected::NoTrial),
            Some(entry) if entry.trial.state.is_finished() => Err(Rejected::Finished(id)),
            Some(_) => Ok(id as usize),
        }
    }

    fn change(
        &mut self,
        id: u64,
        worker: &str,
        now: Option<Instant>,
        with: impl FnOnce(&mut Trial),
    ) -> Option<Rejected> {
        match self.updatable(id) {
            Err(rejected) => Some(rejected),
            Ok(at) => {
                self.trials[at].heard(worker, now);
                with(self.trials[at].trial_mut());
                None
            }
        }
    }

    /// Notes a parameter, unless earlier trials have it otherwise.
    fn set_param(
        &mut self,
        at: usize,
        name: String,
        param: (Distribution, ParamValue),
        worker: &str,
        now: Option<Instant>,
    ) -> Option<Rejected> {
        let entry = &mut self.trials[at];
        entry.heard(worker, now);
        if entry.is_echo(&name) {
            return None;
        }
        let study = &mut self.studies[entry.study as usize];
        if let Some(message) = study.conflict(&name, &param.0) {
            return Some(Rejected::Conflict { trial: at as u64, message });
        }
        study.note(name.clone(), entry.trial.number, param.0.clone());
        entry.set_param(name, param);
        None
    }

    fn set_state(
        &mut self,
        at: usize,
        state: TrialState,
        values: Option<Vec<f64>>,
        at_ms: Option<i64>,
        worker: String,
        now: Option<Instant>,
    ) -> Option<Rejected> {
        let entry = &mut self.trials[at];
        let values = values.map(|values| self.studies[entry.study as usize].values(Some(values)));
        match state {
            TrialState::Running if entry.trial.state == TrialState::Running => {
                return Some(Rejected::Taken(at as u64));
            }
            TrialState::Running => {
                entry.trial_mut().started_ms = at_ms;
                entry.alive_ms = at_ms;
                entry.alive = now;
                entry.owner = Some(worker);
            }
            TrialState::Complete | TrialState::Pruned | TrialState::Failed => {
                entry.trial_mut().ended_ms = at_ms;
            }
            TrialState::Waiting => entry.owner = None,
        }
        entry.trial_mut().state = state;
        if let Some(values) = values {
            entry.trial_mut().values = values;
        }
        None
    }

    fn set_attr(
        &mut self,
        at: usize,
        attrs: Attrs,
        key: String,
        value: Value,
        worker: &str,
        now: Option<Instant>,
    ) -> Applied {
        if attrs == Attrs::System
            && let Some(name) = key.strip_prefix(SUBSET)
        {
            let param = subset_from_json(&value).map_err(|error| format!("{key}: {error}"))?;
            return Ok(self.set_param(at, name.into(), param, worker, now));
        }
        let entry = &mut self.trials[at];
        entry.heard(worker, now);
        if attrs == Attrs::System && key == HEARTBEAT {
            entry.alive = now;
        }
        entry.set_attr(attrs, key, value)?;
        Ok(None)
    }
}

impl StudyEntry {
    /// The values of a trial; none where there are not as many as objectives.
    fn values(&self, found: Option<Vec<f64>>) -> Vec<f64> {
        found.filter(|values| values.len() == self.directions.len()).unwrap_or_default()
    }

    /// Why no more trials can have a parameter with this distribution.
    pub(crate) fn conflict(&self, name: &str, distribution: &Distribution) -> Option<String> {
        self.first.get(name).and_then(|(_, old)| conflict(old, distribution))
    }

    fn note(&mut self, name: String, number: u64, distribution: Distribution) {
        let first = self.first.entry(name).or_insert_with(|| (number, distribution.clone()));
        if number < first.0 {
            *first = (number, distribution);
        }
    }
}

impl TrialEntry {
    /// The trial, to be changed; those who have seen it keep what they saw.
    fn trial_mut(&mut self) -> &mut Trial {
        Arc::make_mut(&mut self.trial)
    }

    /// Takes in a sign of life.
    fn heard(&mut self, worker: &str, now: Option<Instant>) {
        if now.is_some() && self.owner.as_deref() == Some(worker) {
            self.alive = now;
        }
    }

    /// Whether a parameter's name is that of the size of a subset.
    fn is_echo(&self, name: &str) -> bool {
        let subset = name.strip_suffix(".n").and_then(|name| self.trial.params.get(name));
        matches!(subset, Some((Distribution::Subset { .. }, _)))
    }

    fn set_param(&mut self, name: String, param: (Distribution, ParamValue)) {
        if !self.is_echo(&name) {
            self.trial_mut().params.insert(name, param);
        }
    }

    fn set_attr(&mut self, attrs: Attrs, key: String, value: Value) -> Result<(), String> {
        match attrs {
            Attrs::System => {
                if key == HEARTBEAT {
                    self.alive_ms = value.as_i64().or(self.alive_ms);
                } else if let Some(name) = key.strip_prefix(SUBSET) {
                    let param = subset_from_json(&value).map_err(|e| format!("{key}: {e}"))?;
                    self.trial_mut().params.insert(name.into(), param);
                } else {
                    self.trial_mut().system_attrs.insert(key, value);
                }
            }
            Attrs::User => {
                let echo = match self.trial.params.get(&key) {
                    Some((_, ParamValue::Subset(chosen))) => items(&value).as_ref() == Some(chosen),
                    _ => false,
                };
                if !echo {
                    self.trial_mut().user_attrs.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// How long its worker, one of this implementation, has been silent; `None` if
    /// it does not run, or runs elsewhere. Clocks of several machines may differ,
    /// and clocks may be set: what this process has heard itself counts more than
    /// they.
    pub(crate) fn silent(&self, watching: Watching, now_ms: i64) -> Option<Duration> {
        let ours = self.owner.as_ref().is_some_and(|owner| owner.starts_with(WORKER_PREFIX));
        if self.trial.state != TrialState::Running || !ours {
            return None;
        }
        Some(match (watching.reachable_since, self.alive) {
            // What was said before could not be heard.
            (Some(since), alive) => alive.unwrap_or(watching.opened).max(since).elapsed(),
            (None, Some(alive)) => alive.elapsed(),
            (None, None) => {
                let dated = now_ms.saturating_sub(self.alive_ms.unwrap_or(i64::MIN));
                let dated = Duration::from_millis(u64::try_from(dated).unwrap_or(0));
                watching.opened.elapsed().max(dated)
            }
        })
    }
}

/// From when on this process hears workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watching {
    /// When it opened the journal.
    pub(crate) opened: Instant,
    /// Since when it could reach the journal again, if there was a break.
    pub(crate) reachable_since: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_subset_is_read_back() {
        let distribution = Distribution::Subset { pool: 9, least: 1, most: 3 };
        let value = ParamValue::Subset(vec![0, 8]);
        let json = subset_to_json(&distribution, &value).unwrap();
        assert_eq!(subset_from_json(&json).unwrap(), (distribution.clone(), value));
        assert!(
            subset_from_json(&json!({"pool": 9, "least": 1, "most": 3, "items": [9]})).is_err()
        );
    }
}
