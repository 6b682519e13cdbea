//! The loop of a search: ask, measure, tell; alone or beside other workers.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use adapruner_study::{
    ActiveTrial, Direction, Outcome, RandomSampler, Space, Study, TpeSampler, Trial, TrialState,
    best_of,
    pruner::{NopPruner, PercentilePruner, SuccessiveHalvingPruner, WilcoxonPruner},
    since_best,
};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{
    configuration::Configuration,
    folder::{Exclusive, StudyFolder, WORKER, Worker},
    objective::{Measured, Objective, TrialCost},
    record::SearchRecord,
    settings::{Arm, EarlyStop, SamplerChoice, SearchSettings},
    space::{SearchSpace, Varied},
};
use crate::progress::Progress;

/// Losses: the smaller the better.
pub(super) const DIRECTION: Direction = Direction::Minimize;
/// Trial attribute: what it took.
pub(super) const COST: &str = "cost";
/// Trial attribute: why it failed.
pub(super) const REASON: &str = "reason";
/// Study attribute: what the search is made of.
const BASIS: &str = "basis";
/// Study attribute: its space.
pub(super) const SPACE: &str = "space";
/// Study attribute: how its trials are stopped.
const EARLY_STOP: &str = "early_stop";
/// Study attribute: its arm.
pub(super) const ARM: &str = "arm";

/// How long a worker on another machine may be silent before its trial is given
/// up: longer than any chunk takes.
const SILENCE: Duration = Duration::from_secs(600);
/// How often a worker looks whether others have ended.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It has its trials.
    Trials,
    /// The time was over.
    Time,
    /// No new best trial for long.
    NoImprovement,
    /// It was interrupted.
    Interrupted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trials => "all trials are done",
            Self::Time => "the time was over",
            Self::NoImprovement => "nothing improved for long",
            Self::Interrupted => "interrupted",
        })
    }
}

/// One arm of a search, ready to run.
pub struct Search<'a> {
    /// What trials share.
    pub objective: &'a Objective,
    /// Where its trials are kept.
    pub folder: &'a StudyFolder,
    /// What it is made of.
    pub record: &'a SearchRecord,
    /// What all arms are told.
    pub settings: &'a SearchSettings,
    /// What this arm is.
    pub arm: &'a Arm,
    /// Its space.
    pub space: SearchSpace,
}

impl Search<'_> {
    /// Opens its study, or makes it.
    ///
    /// # Errors
    /// A study of that name with another space or another way of stopping; a
    /// journal that is damaged.
    pub fn open(&self) -> Result<Study> {
        let name = self.arm.study();
        let storage = self.folder.storage(self.settings.storage.as_deref())?;
        let seed = self.arm.seed;
        let study = match self.arm.sampler() {
            SamplerChoice::Tpe => Study::open(storage, &name, DIRECTION, TpeSampler::new(seed)),
            SamplerChoice::Random => {
                Study::open(storage, &name, DIRECTION, RandomSampler::new(seed))
            }
        }?;
        let study = match self.early_stop() {
            EarlyStop::Wilcoxon => study.with_pruner(WilcoxonPruner::default()),
            EarlyStop::Median => study.with_pruner(PercentilePruner::median()),
            EarlyStop::Halving => study.with_pruner(SuccessiveHalvingPruner::default()),
            EarlyStop::Off => study.with_pruner(NopPruner),
        };
        let attrs = study.user_attrs()?;
        for (key, now) in [
            (BASIS, serde_json::to_value(self.record.identity())?),
            (SPACE, serde_json::to_value(&self.space)?),
            (EARLY_STOP, serde_json::to_value(self.early_stop())?),
        ] {
            match attrs.get(key) {
                Some(then) => ensure!(
                    *then == now,
                    "{}: study {name} has another {}: {}",
                    self.folder.root().display(),
                    key.replace('_', " "),
                    first_difference(then, &now)
                ),
                None => study.set_user_attr(key, now)?,
            }
        }
        if !attrs.contains_key(ARM) {
            study.set_user_attr(ARM, serde_json::to_value(self.arm)?)?;
        }
        Ok(study)
    }

    /// Runs trials until the arm has enough, the time is over, nothing improves,
    /// or `stop` is set.
    ///
    /// # Errors
    /// A journal that cannot be written, damaged weights, a search in which no
    /// trial succeeds.
    pub fn run(&self, study: &Study, stop: &AtomicBool, progress: &dyn Progress) -> Result<Ended> {
        let worker = self.folder.sign_on()?;
        let space = self.space.study_space()?;
        let wanted = self.wanted();
        let begun = Instant::now();
        let before = finished(&study.trials()?);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(Ended::Interrupted);
            }
            let passed = begun.elapsed().as_secs_f64() / 60.0;
            if self.settings.minutes.is_some_and(|most| passed >= most) {
                return Ok(Ended::Time);
            }
            self.give_up_orphans(study)?;
            let trials = study.trials()?;
            let (done, running) = (finished(&trials), count(&trials, TrialState::Running));
            self.show(&trials, before, begun, wanted, progress);
            refuse_hopeless(&trials)?;
            if done >= wanted {
                return Ok(Ended::Trials);
            }
            if self
                .settings
                .patience
                .is_some_and(|most| since_best(&trials, DIRECTION) as u64 >= most)
            {
                return Ok(Ended::NoImprovement);
            }
            if done + running >= wanted {
                // The trials of others may fail.
                thread::sleep(PATIENCE);
                continue;
            }
            self.trial(study, &space, &worker, wanted, stop)?;
        }
    }

    /// When trials are given up: every draw of the baseline counts.
    fn early_stop(&self) -> EarlyStop {
        match self.arm.varied {
            Varied::Baseline => EarlyStop::Off,
            Varied::Joint | Varied::Data | Varied::Metric => self.settings.early_stop,
        }
    }

    /// Trials that this arm needs: one where there is nothing to search.
    fn wanted(&self) -> u64 {
        if self.space.searched().next().is_none() { 1 } else { self.arm.trials }
    }

    /// Gives up the trials of workers that are gone.
    fn give_up_orphans(&self, study: &Study) -> Result<()> {
        let shared = self.settings.storage.is_some();
        let orphans = || self.folder.orphans(&study.trials()?, shared);
        let found = orphans()?;
        if found.unknown {
            // Of workers elsewhere, silence is all that tells.
            study.resume(SILENCE)?;
        }
        if found.gone.is_empty() {
            return Ok(());
        }
        // A worker that is just starting a trial has not signed it yet.
        let _alone = self.folder.alone(Exclusive::Starting)?;
        let given = study.give_up(&orphans()?.gone)?;
        if !given.is_empty() {
            tracing::info!("trials of workers that are gone are given up: {given:?}");
        }
        Ok(())
    }

    /// Starts a trial that is signed by its worker, unless the others' are
    /// enough.
    fn start<'s>(
        &self,
        study: &'s Study,
        space: &Space,
        worker: &Worker,
        wanted: u64,
    ) -> Result<Option<(ActiveTrial<'s>, Configuration)>> {
        let _alone = self.folder.alone(Exclusive::Starting)?;
        let trials = study.trials()?;
        if finished(&trials) + count(&trials, TrialState::Running) >= wanted {
            return Ok(None);
        }
        if trials.is_empty() && self.arm.varied != Varied::Baseline {
            // Known to be good: nothing that a search finds is worse.
            let layers = self.objective.dense.config.layers.len();
            study.enqueue(self.space.neutral(layers, self.arm.seed)?)?;
        }
        let mut trial = study.ask()?;
        trial.set_user_attr(WORKER, Value::from(worker.name()))?;
        trial.heartbeat()?;
        let params = trial.suggest_space(space)?;
        let configuration = self.space.configuration(&params)?;
        Ok(Some((trial, configuration)))
    }

    fn trial(
        &self,
        study: &Study,
        space: &Space,
        worker: &Worker,
        wanted: u64,
        stop: &AtomicBool,
    ) -> Result<()> {
        let Some((trial, configuration)) = self.start(study, space, worker, wanted)? else {
            return Ok(());
        };
        let mut cost = TrialCost::default();
        let measured = self.measure(&trial, &configuration, &mut cost, stop);
        let outcome = match measured {
            Ok(Some(measured)) => {
                if measured.complete {
                    Outcome::Complete(measured.loss)
                } else {
                    Outcome::PrunedAt(measured.loss)
                }
            }
            // Interrupted: as if it had never begun.
            Ok(None) => {
                study.give_up(&[trial.number()])?;
                return Ok(());
            }
            Err(error) if is_of_the_configuration(&error) => {
                let reason = format!("{error:#}");
                tracing::info!("trial {} failed: {reason}", trial.number());
                trial.set_user_attr(REASON, Value::from(reason))?;
                Outcome::Failed
            }
            Err(error) => {
                // Another worker or a later run shall try it again.
                study.give_up(&[trial.number()])?;
                return Err(error.context(format!("trial {}", trial.number())));
            }
        };
        trial.set_user_attr(COST, serde_json::to_value(cost)?)?;
        study.tell(trial.number(), outcome)?;
        Ok(())
    }

    /// Scores, plans, slices and evaluates; `None` if interrupted.
    fn measure(
        &self,
        trial: &ActiveTrial<'_>,
        configuration: &Configuration,
        cost: &mut TrialCost,
        stop: &AtomicBool,
    ) -> Result<Option<Measured>> {
        let plan = self.objective.plan(configuration, cost)?;
        let (mut sum, mut interrupted) = (0.0, false);
        let measured = self.objective.measure(&plan, cost, |chunk, loss| {
            sum += loss;
            let shown = match self.early_stop() {
                // The signed-rank test pairs single chunks.
                EarlyStop::Wilcoxon | EarlyStop::Off => loss,
                EarlyStop::Median | EarlyStop::Halving => sum / (chunk + 1) as f64,
            };
            trial.report(chunk as u64, shown)?;
            trial.heartbeat()?;
            interrupted = stop.load(Ordering::Relaxed);
            Ok(!interrupted && (chunk + 1 == self.objective.chunks() || !trial.should_prune()?))
        })?;
        Ok((!interrupted || measured.complete).then_some(measured))
    }

    fn show(
        &self,
        trials: &[Arc<Trial>],
        before: u64,
        begun: Instant,
        wanted: u64,
        progress: &dyn Progress,
    ) {
        let done = finished(trials);
        let best = best_of(trials, DIRECTION).map_or_else(String::new, |trial| {
            format!("best {:.4} (trial {})", trial.value.unwrap_or(f64::NAN), trial.number)
        });
        let last = trials.iter().rev().find(|trial| trial.state.is_finished());
        let last = last.map_or_else(String::new, |trial| match trial.value {
            Some(value) => format!("trial {} {value:.4}", trial.number),
            None => format!("trial {} failed", trial.number),
        });
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let rate = (done - before.min(done)) as f64 / minutes.max(1e-9);
        progress.note(&format!("{last}, {best}, {rate:.1} trials/min"));
        progress.at("search", done.min(wanted), wanted);
    }
}

/// Trials that are complete or were stopped early.
pub(super) fn finished(trials: &[Arc<Trial>]) -> u64 {
    count(trials, TrialState::Complete) + count(trials, TrialState::Pruned)
}

fn count(trials: &[Arc<Trial>], state: TrialState) -> u64 {
    trials.iter().filter(|trial| trial.state == state).count() as u64
}

/// Trials that fail before any succeeds, after which the search is refused.
const HOPELESS: usize = 20;

/// Refuses a search in which nothing succeeds.
fn refuse_hopeless(trials: &[Arc<Trial>]) -> Result<()> {
    let failed: Vec<&str> = trials
        .iter()
        .filter(|trial| trial.state == TrialState::Failed)
        .filter_map(|trial| trial.user_attrs.get(REASON)?.as_str())
        .collect();
    match failed.last() {
        Some(last) if finished(trials) == 0 && failed.len() >= HOPELESS => {
            bail!("search: none of {} trials succeeded, the last: {last}", failed.len())
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether an error says something of the configuration that was tried, not of
/// the machine or the files.
fn is_of_the_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(
                adapruner_prune::Error::Unreachable { .. }
                    | adapruner_prune::Error::Option { .. }
                    | adapruner_prune::Error::Score { .. }
            )
        ) || matches!(cause.downcast_ref(), Some(adapruner_eval::Error::Loss { .. }))
    })
}

/// Where two JSON values differ first.
fn first_difference(then: &Value, now: &Value) -> String {
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            let differing = a.iter().find(|(key, value)| b.get(*key) != Some(value));
            differing.map_or_else(String::new, |(key, value)| match b.get(key) {
                Some(other) => format!("{key}: {}", first_difference(value, other)),
                None => format!("{key} is missing"),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let differing = a.iter().zip(b).find(|(x, y)| x != y);
            differing.map_or_else(String::new, |(x, y)| first_difference(x, y))
        }
        _ => format!("it was {then}, now {now}"),
    }
}
