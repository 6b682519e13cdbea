//! Studies: trials of one objective, or of several, in a storage.

mod active;
mod optimize;
mod unsent;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::front::front_of;
use crate::journal::FIXED;
use crate::pruner::{NopPruner, Pruner};
use crate::sampler::tpe::{badness, rank_values};
use crate::sampler::{PROPOSED, Params, Sampler, View, counts, proposed_attr};
use crate::space::Space;
use crate::storage::{Attrs, Beginning, Change, Seen, Silence, Storage, StudyId};
use crate::trial::{CONSTRAINTS, Direction, Trial, TrialState};

use unsent::Here;

pub use active::ActiveTrial;
pub use optimize::{Clock, Optimize, StopReason, Summary, SystemClock};

/// Study attribute prefix: trials that [`Study::resume`] or [`Study::give_up`]
/// gave up.
const STALE: &str = "study:stale:";
/// Trial attribute: the queued trial, given up, whose values it has.
const AGAIN: &str = "study:again";
/// Trial attribute: the draw, where it is not the trial's number.
const DRAW: &str = "study:draw";

/// How an evaluation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a value. NaN is a failure, as in Optuna; infinities are values.
    Complete(f64),
    /// With a value for each objective, in the order of the study's directions. If one is
    /// NaN it is a failure.
    Values(Vec<f64>),
    /// Stopped early; the last report becomes the value, unless it is NaN.
    Pruned,
    /// Stopped early with an estimate of the value, which becomes the value
    /// unless it is NaN: for objectives whose last report is none, as where the
    /// Wilcoxon pruner compares losses of single instances.
    PrunedAt(f64),
    /// Outside of what is allowed or can be evaluated, by so much (positive; what
    /// is not counts as 1): kept as Optuna keeps violated constraints, of a trial
    /// that was stopped. It counts as a trial, is never the best one, and the
    /// sampler ranks it behind all others, by how much it is outside.
    Infeasible(f64),
    /// Without a value, for reasons that say nothing of its parameters; the
    /// sampler does not see it.
    Failed,
}

/// Trials of one objective, or of several.
///
/// Any number of threads and processes may work on a study at the same time.
///
/// # Going on after an interruption
///
/// A proposal follows from the seed, the history and the number of the draw. A trial whose
/// worker died is marked as failed by [`Study::resume`] (its worker was silent) or
/// [`Study::give_up`] (it is known to be dead); its number is not used again, but its draw is:
/// the next trial takes the smallest draw that no trial has; if the trial was queued, with its
/// values. So a study that was killed and resumed makes the proposals of one that was not, in
/// the same order. Trials that failed by themselves keep their draws; otherwise a failing
/// proposal would be repeated forever.
pub struct Study {
    storage: Arc<dyn Storage>,
    id: StudyId,
    name: String,
    directions: Vec<Direction>,
    sampler: Box<dyn Sampler>,
    pruner: Box<dyn Pruner>,
    /// Held while a trial is created and its values proposed, so each thread sees the other's
    /// values.
    asking: Mutex<()>,
    /// The trials that run here, with changes that the storage does not have yet.
    here: Here,
}

impl std::fmt::Debug for Study {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Study")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("directions", &self.directions)
            .finish_non_exhaustive()
    }
}

impl Study {
    /// Creates a study, or opens the one of this name; nothing is pruned.
    ///
    /// # Errors
    ///
    /// If the storage has one of another direction or cannot be used.
    pub fn open(
        storage: Arc<dyn Storage>,
        name: &str,
        direction: Direction,
        sampler: impl Sampler + 'static,
    ) -> Result<Self> {
        Self::open_multi(storage, name, &[direction], sampler)
    }

    /// Creates a study of several objectives, or opens the one of this name: trials end with
    /// [`Outcome::Values`], and the results are [`Study::front`]. There are no reports and no
    /// early stopping, as in Optuna.
    ///
    /// # Errors
    ///
    /// If `directions` is empty, the storage has one of other directions or cannot be used.
    pub fn open_multi(
        storage: Arc<dyn Storage>,
        name: &str,
        directions: &[Direction],
        sampler: impl Sampler + 'static,
    ) -> Result<Self> {
        let id = storage.open_study(name, directions)?;
        Ok(Self {
            storage,
            id,
            name: name.into(),
            directions: directions.to_vec(),
            sampler: Box::new(sampler),
            pruner: Box::new(NopPruner),
            asking: Mutex::new(()),
            here: Here::default(),
        })
    }

    /// Sets the pruner for early stopping.
    #[must_use]
    pub fn with_pruner(mut self, pruner: impl Pruner + 'static) -> Self {
        self.pruner = Box::new(pruner);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of each objective, whether small or large values are good.
    pub fn directions(&self) -> &[Direction] {
        &self.directions
    }

    /// The direction of the only objective; `else_` says what there is not with several.
    fn only_direction(&self, else_: &str) -> Result<Direction> {
        match self.directions[..] {
            [direction] => Ok(direction),
            ref several => Err(Error::Study {
                name: self.name.clone(),
                message: format!("expected one objective, found {}: {else_}", several.len()),
            }),
        }
    }

    /// All trials by number, as they are now. Cheap: shared, not copied.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    pub fn trials(&self) -> Result<Vec<Arc<Trial>>> {
        self.storage.trials(self.id)
    }

    /// All trials as of the last call that read the storage; reads nothing. Where
    /// workers run elsewhere, theirs may be further.
    ///
    /// # Errors
    ///
    /// If the study is no longer there.
    pub fn known_trials(&self) -> Result<Vec<Arc<Trial>>> {
        self.storage.known_trials(self.id)
    }

    /// All trials: as they are now where the storage is at hand, as of the last call
    /// where it is remote, which is as fresh as what the last trial was told.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    pub fn recent_trials(&self) -> Result<Vec<Arc<Trial>>> {
        if self.storage.is_remote() { self.known_trials() } else { self.trials() }
    }

    /// The running trials, and how long nothing was heard of their workers.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    pub fn silences(&self) -> Result<Vec<Silence>> {
        self.storage.silences(self.id)
    }

    /// The best complete trial that is feasible; of equal ones the first.
    ///
    /// # Errors
    ///
    /// If the study has several objectives or the storage cannot be read.
    pub fn best_trial(&self) -> Result<Option<Arc<Trial>>> {
        let direction = self.only_direction("there is a front of trials, and no best one")?;
        Ok(best_of(&self.trials()?, direction).cloned())
    }

    /// The complete trials, all feasible, that no other dominates, by number; of one
    /// objective the best ones.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    pub fn front(&self) -> Result<Vec<Arc<Trial>>> {
        Ok(front_of(&self.trials()?, &self.directions).into_iter().cloned().collect())
    }

    /// Queues a trial with these values; [`Study::ask`] gives queued ones first.
    ///
    /// # Errors
    ///
    /// If a value is not of its distribution or the storage cannot be written.
    pub fn enqueue(&self, params: Params) -> Result<u64> {
        check_queued(&params)?;
        self.storage.enqueue_trial(self.id, params)
    }

    /// Queues a trial as [`Study::enqueue`], unless the study has one already. Of
    /// several workers one does.
    ///
    /// # Errors
    ///
    /// As [`Study::enqueue`].
    pub fn enqueue_first(&self, params: Params) -> Result<Option<u64>> {
        check_queued(&params)?;
        self.storage.enqueue_first(self.id, params)
    }

    /// Gives up trials whose worker was silent for longer than `grace`: they
    /// become failed, and their draws are made again. Their numbers.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    pub fn resume(&self, grace: Duration) -> Result<Vec<u64>> {
        let silences = self.storage.silences(self.id)?;
        let silent = silences.iter().filter(|of| of.silent.is_some_and(|silent| silent > grace));
        // First, so that nothing is lost if this process is killed in between.
        self.draw_again(&silent.map(|of| of.number).collect::<Vec<_>>())?;
        self.storage.fail_stale(self.id, grace)
    }

    /// Gives up those of the trials `numbers` that are running, whose workers are
    /// known to be dead, as [`Study::resume`] gives up those of silent ones.
    /// Their numbers, ascending.
    ///
    /// # Errors
    ///
    /// If there is no trial of one of the numbers, or the storage cannot be
    /// written.
    pub fn give_up(&self, numbers: &[u64]) -> Result<Vec<u64>> {
        let trials = self.trials()?;
        let mut running = Vec::new();
        for number in numbers {
            let index = usize::try_from(*number).ok();
            let trial = index.and_then(|index| trials.get(index)).ok_or_else(|| {
                let message = format!("does not exist, the study has {}", trials.len());
                Error::Trial { number: *number, message }
            })?;
            if trial.state == TrialState::Running {
                running.push(*number);
            }
        }
        running.sort_unstable();
        running.dedup();
        // First, so that nothing is lost if this process is killed in between.
        self.draw_again(&running)?;
        running.iter().for_each(|number| self.here.forget(*number));
        self.storage.fail_running(self.id, &running)
    }

    /// Notes that the draws of these trials are to be repeated once they are marked as failed.
    fn draw_again(&self, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            let key = format!("{STALE}{number}");
            self.storage.set_system_attr(self.id, None, &key, Value::Bool(true))?;
        }
        Ok(())
    }

    /// Starts a trial: the oldest queued one (by [`Study::enqueue`], or by
    /// Optuna's `enqueue_trial`), or a new one. Its values are proposed as it
    /// asks for them. Queued values that it does not ask for are passed over; one
    /// that is not of its distribution is an error when it is asked for (Optuna
    /// warns of numbers that are out of bounds, and uses them).
    ///
    /// # Errors
    ///
    /// If the storage cannot be used or the sampler cannot work with the history.
    pub fn ask(&self) -> Result<ActiveTrial<'_>> {
        self.ask_unless(None)?.ok_or_else(|| self.none_begun())
    }

    /// As [`Study::ask`], unless `wanted` trials are under way or done.
    fn ask_unless(&self, wanted: Option<u64>) -> Result<Option<ActiveTrial<'_>>> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(trial) = self.start(wanted, &Attrs::new())? else { return Ok(None) };
        if !trial.joint.is_empty() {
            let value = proposed_attr(&trial.joint);
            self.put(trial.number, vec![Change::SystemAttr { key: PROPOSED.into(), value }])?;
        }
        Ok(Some(trial))
    }

    /// Starts a trial with values for all of a space.
    ///
    /// # Errors
    ///
    /// As [`Study::ask`]; and if a queued trial has values that are not of the
    /// space.
    pub fn ask_in(&self, space: &Space) -> Result<(ActiveTrial<'_>, Params)> {
        let begun = self.ask_within(None, &Attrs::new(), space)?;
        begun.ok_or_else(|| self.none_begun())
    }

    /// Starts a trial with values for all of a space and the attributes `user`,
    /// unless `wanted` trials are under way or done (complete, stopped early or
    /// infeasible). However many workers ask at once, no more than `wanted` are
    /// begun. Trials that are given up do not count.
    ///
    /// # Errors
    ///
    /// As [`Study::ask_in`].
    pub fn ask_within(
        &self,
        wanted: Option<u64>,
        user: &Attrs,
        space: &Space,
    ) -> Result<Option<(ActiveTrial<'_>, Params)>> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut trial) = self.start(wanted, user)? else { return Ok(None) };
        let params = trial.suggest_space(space)?;
        Ok(Some((trial, params)))
    }

    fn none_begun(&self) -> Error {
        Error::Study { name: self.name.clone(), message: "expected a new trial, found none".into() }
    }

    fn start(&self, wanted: Option<u64>, user: &Attrs) -> Result<Option<ActiveTrial<'_>>> {
        let (mut lost, mut draw) = (None, None);
        let mut decide = |seen: Seen<'_>| {
            let others = match wanted {
                None => None,
                Some(wanted) => Some(wanted.checked_sub(taken(seen.trials) + 1)?),
            };
            let stale = stale(seen.system);
            lost = if stale.is_empty() { None } else { lost_from_queue(seen.trials, &stale) };
            draw = None;
            let number = seen.trials.len() as u64;
            let queued = seen.trials.iter().any(|trial| trial.state == TrialState::Waiting);
            // Those that wait have their numbers kept for them.
            let next = match (queued, &lost) {
                (true, None) => number,
                (false, _) | (_, Some(_)) => next_draw(seen.trials, number, &stale),
            };
            let mut system = Attrs::new();
            if let Some(lost) = &lost {
                system.insert(AGAIN.into(), Value::from(lost.number));
            }
            if next != number {
                system.insert(DRAW.into(), Value::from(next));
            }
            if system.is_empty() {
                return Some(Beginning::Next { others });
            }
            draw = Some(next);
            Some(Beginning::New { system })
        };
        let Some(begun) = self.storage.begin(self.id, user, &mut decide)? else { return Ok(None) };
        let number = begun.number;
        self.here.enter(number);
        let mut trials = self.storage.known_trials(self.id)?;
        let own = trials.iter().position(|trial| trial.number == number);
        let own = own.map(|at| trials.remove(at)).ok_or_else(|| Error::Trial {
            number,
            message: "expected the trial that was created, found none".into(),
        })?;
        let draw = draw.unwrap_or(number);
        let view = View { directions: &self.directions, trials: &trials, draw };
        let joint = self.sampler.joint(&view)?;
        Ok(Some(ActiveTrial {
            study: self,
            number,
            draw,
            history: trials,
            joint,
            queued: begun.queued.then_some(own).or(lost),
            params: Params::new(),
        }))
    }

    /// Finishes a trial.
    ///
    /// # Errors
    ///
    /// If there is no such trial, it is finished, it has not as many values as the study has
    /// objectives, or the storage cannot be written.
    pub fn tell(&self, number: u64, outcome: Outcome) -> Result<TrialState> {
        let a_number = |value: f64| Some(value).filter(|value| !value.is_nan());
        let (state, values) = match &outcome {
            Outcome::Complete(value) => ended(&[*value]),
            Outcome::Values(values) => ended(values),
            Outcome::Failed => (TrialState::Failed, Vec::new()),
            Outcome::Infeasible(_) => (TrialState::Pruned, Vec::new()),
            Outcome::PrunedAt(value) => {
                (TrialState::Pruned, a_number(*value).into_iter().collect())
            }
            Outcome::Pruned => {
                let trials = self.as_here(self.trials()?);
                let trial = trials.iter().find(|trial| trial.number == number);
                let last = trial.and_then(|t| t.intermediate.last_key_value());
                (TrialState::Pruned, last.and_then(|(_, v)| a_number(*v)).into_iter().collect())
            }
        };
        let mut changes = Vec::new();
        if let Outcome::Infeasible(by) = outcome {
            let by = if by > 0.0 && by.is_finite() { by } else { 1.0 };
            changes.push(Change::SystemAttr { key: CONSTRAINTS.into(), value: json!([by]) });
        }
        changes.push(Change::Finish { state, values });
        let told = self.send(number, changes);
        self.here.forget(number);
        told.map(|()| state)
    }

    /// Sets an attribute of the study.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    pub fn set_user_attr(&self, key: &str, value: Value) -> Result<()> {
        self.storage.set_user_attr(self.id, None, key, value)
    }

    /// The study's attributes that its user set.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    pub fn user_attrs(&self) -> Result<BTreeMap<String, Value>> {
        Ok(self.storage.study_attrs(self.id)?.0)
    }
}

fn check_queued(params: &Params) -> Result<()> {
    for (name, (distribution, value)) in params {
        distribution.validate(name)?;
        if !distribution.contains(value) {
            let message = format!("expected a value of {distribution:?}, found {value:?}");
            return Err(Error::Space { name: name.clone(), message });
        }
    }
    Ok(())
}

/// How a trial with these values ends.
fn ended(values: &[f64]) -> (TrialState, Vec<f64>) {
    if values.iter().any(|value| value.is_nan()) {
        return (TrialState::Failed, Vec::new());
    }
    (TrialState::Complete, values.to_vec())
}

/// Trials that are under way or done.
fn taken(trials: &[Arc<Trial>]) -> u64 {
    let running = |trial: &Trial| trial.state == TrialState::Running;
    trials.iter().filter(|trial| running(trial) || counts(trial)).count() as u64
}

/// Numbers of the trials whose draws are to be made again, once they are failed.
fn stale(system: &Attrs) -> Vec<u64> {
    system.keys().filter_map(|key| key.strip_prefix(STALE)?.parse().ok()).collect()
}

fn is_given_up(trial: &Trial, stale: &[u64]) -> bool {
    trial.state == TrialState::Failed && stale.contains(&trial.number)
}

/// The smallest draw that no earlier trial has, but for those given up.
fn next_draw(trials: &[Arc<Trial>], number: u64, stale: &[u64]) -> u64 {
    if stale.is_empty() {
        return number;
    }
    let live = trials.iter().filter(|t| t.number < number && !is_given_up(t, stale));
    let mut taken: Vec<u64> = live.map(|t| attr(t, DRAW).unwrap_or(t.number)).collect();
    taken.sort_unstable();
    taken.dedup();
    let free = taken.iter().zip(0..).position(|(taken, draw)| *taken != draw);
    free.unwrap_or(taken.len()) as u64
}

/// The first queued trial that was given up and has not been made again, with
/// nothing but what was queued.
fn lost_from_queue(trials: &[Arc<Trial>], stale: &[u64]) -> Option<Arc<Trial>> {
    let again: Vec<u64> =
        trials.iter().filter(|t| !is_given_up(t, stale)).filter_map(|t| attr(t, AGAIN)).collect();
    let lost = trials.iter().find(|t| {
        let queued = t.system_attrs.contains_key(FIXED);
        queued && is_given_up(t, stale) && !again.contains(&t.number)
    })?;
    let mut lost = Trial::clone(lost);
    let fixed = lost.system_attrs.get(FIXED)?.as_object().cloned().unwrap_or_default();
    lost.params.retain(|name, _| fixed.contains_key(name));
    Some(Arc::new(lost))
}

fn attr(trial: &Trial, key: &str) -> Option<u64> {
    trial.system_attrs.get(key).and_then(Value::as_u64)
}

/// The best complete trial that is feasible; of equal ones the first.
pub fn best_of(trials: &[Arc<Trial>], direction: Direction) -> Option<&Arc<Trial>> {
    let value = |trial: &Trial| badness(trial.value(), direction);
    let complete = trials.iter().filter(|t| t.state == TrialState::Complete && !t.is_infeasible());
    complete.filter(|t| !value(t).is_nan()).min_by(|a, b| rank_values(value(a), value(b)))
}

/// How many trials finished, failures not counted, after the best one (of several
/// objectives: the last that improved the front); all of them where there is none.
pub fn since_best(trials: &[Arc<Trial>], directions: &[Direction]) -> usize {
    let front = front_of(trials, directions);
    // One that equals an earlier one is no improvement.
    let is_first = |at: usize| !front[..at].iter().any(|other| other.values == front[at].values);
    let after = (0..front.len()).filter(|at| is_first(*at)).map(|at| front[at].number).max();
    trials.iter().filter(|t| counts(t) && after.is_none_or(|best| t.number > best)).count()
}
