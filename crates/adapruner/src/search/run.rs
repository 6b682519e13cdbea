//! The loop of a search: ask, measure, tell; alone or beside other workers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use adapruner_prune::PrunePlan;
use adapruner_study::{
    ActiveTrial, Direction, Outcome, RandomSampler, Space, Study, TpeSampler, Trial, TrialState,
    best_of, front_of,
    pruner::{NopPruner, PercentilePruner, SuccessiveHalvingPruner, WilcoxonPruner},
    since_best,
    storage::Silence,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    configuration::Configuration,
    folder::{Exclusive, StudyFolder, WORKER, Worker},
    front::{BYTES, PARAMETERS, SECONDS, directions},
    objective::{Measured, Objective, TrialCost},
    record::SearchRecord,
    settings::{Arm, EarlyStop, SamplerChoice, SearchSettings},
    space::{SearchSpace, Varied},
};
use crate::{
    advice::advised,
    error::{Context, Error, Result, ensure},
    progress::Progress,
};

/// Losses: the smaller the better.
pub(super) const DIRECTION: Direction = Direction::Minimize;
/// Trial attribute: its cost.
pub(super) const COST: &str = "cost";
/// Trial attribute: why it failed.
pub(super) const REASON: &str = "reason";
/// Study attribute: the search's inputs.
const BASIS: &str = "basis";
/// Study attribute: its space.
pub(super) const SPACE: &str = "space";
/// Study attribute: its early stopping.
const EARLY_STOP: &str = "early_stop";
/// Study attribute: its objectives, where there are several.
pub(super) const OBJECTIVES: &str = "objectives";
/// Study attribute: its arm.
pub(super) const ARM: &str = "arm";

/// Interval of a worker's heartbeat.
const ALIVE: Duration = Duration::from_secs(5);
/// How long a worker on another machine may be silent before its trial is given up. The
/// heartbeat has its own thread, independent of the trial.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a worker checks whether others have ended.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it waits before it reports for whom.
const QUIET: Duration = Duration::from_secs(2);
/// How long an interrupted search may take to finish by itself.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It has its trials.
    Trials,
    /// Its time was up.
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
    /// Settings of all arms.
    pub settings: &'a SearchSettings,
    /// This arm.
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
            SamplerChoice::Tpe => {
                Study::open_multi(storage, &name, &self.directions(), TpeSampler::new(seed))
            }
            SamplerChoice::Random => {
                Study::open_multi(storage, &name, &self.directions(), RandomSampler::new(seed))
            }
        }
        .with_context(|| self.folder.root().display().to_string())?;
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
        if let Some(front) = &self.settings.front
            && !attrs.contains_key(OBJECTIVES)
        {
            study.set_user_attr(OBJECTIVES, serde_json::to_value(&front.objectives)?)?;
        }
        if !attrs.contains_key(ARM) {
            study.set_user_attr(ARM, serde_json::to_value(self.arm)?)?;
        }
        Ok(study)
    }

    /// Runs trials until the arm has enough, the time is over, nothing improves,
    /// or `stop` is set. Where that takes longer than some seconds after `stop` is
    /// set, the trial at work is given up and `leave` called, to end the program.
    ///
    /// # Errors
    /// A journal that cannot be written, damaged weights, a search in which no
    /// trial is feasible.
    pub fn run(
        &self,
        study: &Study,
        stop: &AtomicBool,
        leave: &(dyn Fn() + Sync),
        progress: &dyn Progress,
    ) -> Result<Ended> {
        let at_work = Mutex::new(None);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                if !late(stop, &over) {
                    return;
                }
                let number = *at_work.lock().unwrap_or_else(PoisonError::into_inner);
                // A server that is not there must not keep it.
                let given_up = scope.spawn(move || {
                    number.map(|number: u64| study.give_up(&[number]).map(drop)).transpose()
                });
                let begun = Instant::now();
                while !given_up.is_finished() && begun.elapsed() < QUIET {
                    thread::park_timeout(PATIENCE);
                }
                leave();
            });
            let ended = study.attend(ALIVE, || self.trials(study, stop, &at_work, progress));
            over.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            ended
        })
    }

    fn trials(
        &self,
        study: &Study,
        stop: &AtomicBool,
        at_work: &Mutex<Option<u64>>,
        progress: &dyn Progress,
    ) -> Result<Ended> {
        let worker = self.folder.sign_on()?;
        let space = self.space.study_space()?;
        let wanted = self.wanted();
        let begun = Instant::now();
        let before = finished(&study.trials()?);
        let mut looked: Option<Instant> = None;
        let mut waiting: Option<Waiting> = None;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(Ended::Interrupted);
            }
            let passed = begun.elapsed().as_secs_f64() / 60.0;
            if self.settings.minutes.is_some_and(|most| passed >= most) {
                return Ok(Ended::Time);
            }
            if waiting.is_some() || looked.is_none_or(|at| at.elapsed() >= ALIVE) {
                self.give_up_orphans(study)?;
                looked = Some(Instant::now());
            }
            let trials = study.recent_trials()?;
            let (done, running) = (finished(&trials), count(&trials, TrialState::Running));
            self.show(&trials, before, begun, wanted, progress);
            refuse_infeasible(&trials, wanted)?;
            if done >= wanted {
                return Ok(Ended::Trials);
            }
            if self
                .settings
                .patience
                .is_some_and(|most| since_best(&trials, &self.directions()) as u64 >= most)
            {
                return Ok(Ended::NoImprovement);
            }
            let begun_one = done + running < wanted
                && self.trial(study, &space, &worker, (wanted, at_work), stop)?;
            if begun_one {
                waiting = None;
            } else {
                // The trials of others may fail.
                waiting.get_or_insert_default().tell(study, progress)?;
                thread::sleep(PATIENCE);
            }
        }
    }

    /// One for each objective.
    fn directions(&self) -> Vec<Direction> {
        directions(self.settings.front.as_ref().map_or(1, |front| front.objectives.len()))
    }

    /// When trials are stopped early; never for the baseline, whose every draw counts.
    fn early_stop(&self) -> EarlyStop {
        match self.arm.varied {
            Varied::Baseline => EarlyStop::Off,
            Varied::Joint | Varied::Data | Varied::Metric => self.settings.early_stop,
        }
    }

    /// Trials that this arm needs: one where there is nothing to search.
    fn wanted(&self) -> u64 {
        let searched = self.space.searched().next().is_some() || self.space.ratio.is_some();
        if !searched { 1 } else { self.arm.trials }
    }

    /// Gives up the trials of workers that are gone.
    fn give_up_orphans(&self, study: &Study) -> Result<()> {
        let shared = self.settings.storage.is_some();
        let orphans = || self.folder.orphans(&study.trials()?, shared);
        let found = orphans()?;
        if found.unknown {
            // Workers elsewhere are judged by silence alone.
            study.resume(SILENCE)?;
        }
        if found.gone.is_empty() {
            return Ok(());
        }
        // A worker that is just starting a trial has not signed it yet.
        let _alone = self.folder.alone(Exclusive::Starting)?;
        let given = study.give_up(&orphans()?.gone)?;
        if !given.is_empty() {
            tracing::info!("giving up trials of dead workers: {given:?}");
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
        if study.known_trials()?.is_empty() && self.arm.varied != Varied::Baseline {
            // A known good start, so a search never ends worse.
            let layers = self.objective.dense.config.layers.len();
            study.enqueue_first(self.space.start(layers, self.arm.seed)?)?;
        }
        let signed = [(WORKER.to_owned(), Value::from(worker.name()))].into();
        let Some((trial, params)) = study.ask_within(Some(wanted), &signed, space)? else {
            return Ok(None);
        };
        let configuration = self.space.configuration(&params)?;
        Ok(Some((trial, configuration)))
    }

    /// Runs a trial, unless the others' are enough; whether it did.
    fn trial(
        &self,
        study: &Study,
        space: &Space,
        worker: &Worker,
        (wanted, at_work): (u64, &Mutex<Option<u64>>),
        stop: &AtomicBool,
    ) -> Result<bool> {
        let Some((trial, configuration)) = self.start(study, space, worker, wanted)? else {
            return Ok(false);
        };
        let number = trial.number();
        let set = |to| *at_work.lock().unwrap_or_else(PoisonError::into_inner) = to;
        set(Some(number));
        let told = self.carry_out(study, &trial, &configuration, stop);
        set(None);
        match told {
            Err(error) if was_given_up(&error, number) => {
                tracing::warn!(
                    "trial {number}: nothing was heard of this worker for {} s, so others gave its \
                     trial up; what it found is not used",
                    SILENCE.as_secs()
                );
                Ok(true)
            }
            told => told.map(|()| true),
        }
    }

    /// Measures a trial and tells the study.
    fn carry_out(
        &self,
        study: &Study,
        trial: &ActiveTrial<'_>,
        configuration: &Configuration,
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut cost = TrialCost::default();
        let measured = self.measure(trial, configuration, &mut cost, stop);
        let outcome = match measured {
            Ok(Some((measured, plan))) => {
                if let Some(front) = &self.settings.front {
                    let (sizes, values) = front.values(self.objective, &plan, measured.loss)?;
                    trial.set_user_attr(PARAMETERS, Value::from(sizes.parameters))?;
                    if let Some(bytes) = sizes.bytes {
                        trial.set_user_attr(BYTES, Value::from(bytes))?;
                    }
                    if let Some(seconds) = sizes.seconds {
                        trial.set_user_attr(SECONDS, Value::from(seconds))?;
                    }
                    Outcome::Values(values)
                } else if measured.complete {
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
            Err(error) if was_given_up(&error, trial.number()) => return Err(error),
            Err(error) => match error.violation() {
                Some(by) => {
                    let reason = error.in_full();
                    tracing::info!("trial {} is infeasible: {reason}", trial.number());
                    trial.set_user_attr(REASON, Value::from(reason))?;
                    Outcome::Infeasible(by)
                }
                // Another worker or a later run shall try it again.
                None => {
                    study.give_up(&[trial.number()])?;
                    return Err(error.within(format!("trial {}", trial.number())));
                }
            },
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
    ) -> Result<Option<(Measured, PrunePlan)>> {
        let plan = self.objective.plan(configuration, cost)?;
        let stopped = || stop.load(Ordering::Relaxed);
        if stopped() {
            return Ok(None);
        }
        let (mut sum, mut interrupted) = (0.0, false);
        let measured = self.objective.measure(&plan, cost, &stopped, |chunk, loss| {
            sum += loss;
            interrupted = stopped();
            if self.settings.front.is_some() {
                return Ok(!interrupted);
            }
            let shown = match self.early_stop() {
                // The signed-rank test pairs single chunks.
                EarlyStop::Wilcoxon | EarlyStop::Off => loss,
                EarlyStop::Median | EarlyStop::Halving => sum / (chunk + 1) as f64,
            };
            trial.report(chunk as u64, shown)?;
            Ok(!interrupted && (chunk + 1 == self.objective.chunks() || !trial.should_prune()?))
        })?;
        let measured = measured.filter(|measured| !interrupted || measured.complete);
        Ok(measured.map(|measured| (measured, plan)))
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
        let best = match &self.settings.front {
            Some(_) => format!("{} on the front", front_of(trials, &self.directions()).len()),
            None => best_of(trials, DIRECTION).map_or_else(String::new, |trial| {
                format!("best {:.4} (trial {})", trial.value().unwrap_or(f64::NAN), trial.number)
            }),
        };
        let last = trials.iter().rev().find(|trial| trial.state.is_finished());
        let last = last.map_or_else(String::new, |trial| match trial.values[..] {
            [] => format!("trial {} failed", trial.number),
            ref values => {
                let values: Vec<String> = values.iter().map(|value| short(*value)).collect();
                format!("trial {} {}", trial.number, values.join(" "))
            }
        });
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let rate = (done - before.min(done)) as f64 / minutes.max(1e-9);
        progress.note(&format!("{last}, {best}, {rate:.1} trials/min"));
        progress.at("search", done.min(wanted), wanted);
    }
}

/// A loss, a count or seconds.
fn short(value: f64) -> String {
    if value.fract() == 0.0 {
        value.to_string()
    } else if value.abs() < 0.01 {
        format!("{value:.3e}")
    } else {
        format!("{value:.4}")
    }
}

/// Whether `stop` is set and the search is not over some seconds later.
fn late(stop: &AtomicBool, over: &AtomicBool) -> bool {
    let mut since = None;
    while !over.load(Ordering::Relaxed) {
        if stop.load(Ordering::Relaxed) {
            let since: &Instant = since.get_or_insert_with(Instant::now);
            if since.elapsed() > LAST_CALL {
                return true;
            }
        }
        thread::park_timeout(PATIENCE);
    }
    false
}

/// A wait for the trials of others.
struct Waiting {
    since: Instant,
    /// The last message.
    said: Vec<(u64, bool)>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { since: Instant::now(), said: Vec::new() }
    }
}

impl Waiting {
    /// After a while, reports whose trials it is waiting for and until when: on changes, and
    /// once more for silent workers.
    fn tell(&mut self, study: &Study, progress: &dyn Progress) -> Result<()> {
        if self.since.elapsed() < QUIET {
            return Ok(());
        }
        let silences = study.silences()?;
        let is_silent = |of: &Silence| of.silent.is_none_or(|silent| silent > 2 * ALIVE);
        let now: Vec<(u64, bool)> = silences.iter().map(|of| (of.number, is_silent(of))).collect();
        if now == self.said || now.is_empty() {
            return Ok(());
        }
        let trials = study.known_trials()?;
        let each = silences.iter().map(|of| {
            let trial = trials.iter().find(|trial| trial.number == of.number);
            let worker = trial.and_then(|trial| trial.user_attrs.get(WORKER)?.as_str());
            let worker = worker.unwrap_or("an unknown worker");
            match of.silent {
                None => format!("trial {} of another program, which is never given up", of.number),
                Some(silent) => format!(
                    "trial {} of {worker}, last heard of {} s ago{}",
                    of.number,
                    silent.as_secs(),
                    if is_silent(of) {
                        let left = SILENCE.saturating_sub(silent).as_secs();
                        format!(", given up in {left} s without a heartbeat")
                    } else {
                        String::new()
                    }
                ),
            }
        });
        let message = format!("waiting for {}", each.collect::<Vec<_>>().join("; "));
        progress.note(&message);
        if now.iter().any(|(_, silent)| *silent) {
            tracing::warn!("{message}");
        } else {
            tracing::info!("{message}");
        }
        self.said = now;
        Ok(())
    }
}

/// Trials that are complete, were stopped early or are infeasible.
pub(super) fn finished(trials: &[Arc<Trial>]) -> u64 {
    count(trials, TrialState::Complete) + count(trials, TrialState::Pruned)
}

fn count(trials: &[Arc<Trial>], state: TrialState) -> u64 {
    trials.iter().filter(|trial| trial.state == state).count() as u64
}

/// Infeasible trials before any is feasible, after which the search is refused.
const HOPELESS: u64 = 20;

/// Refuses a search in which nothing is feasible.
fn refuse_infeasible(trials: &[Arc<Trial>], wanted: u64) -> Result<()> {
    let infeasible = || trials.iter().filter(|trial| trial.is_infeasible());
    let found = infeasible().count() as u64;
    if found == 0 || found < finished(trials) || found < HOPELESS.min(wanted) {
        return Ok(());
    }
    let last = infeasible().filter_map(|trial| trial.user_attrs.get(REASON)?.as_str()).next_back();
    Err(advised(
        format!(
            "search: none of {found} trials is feasible, the last: {}",
            last.unwrap_or("for a reason that is not noted")
        ),
        "a smaller --ratio, or a table [space] that spares fewer layers (--show-space lists what is \
         searched), and a new --study",
    ))
}

/// Whether others gave up a trial of this worker because it was silent.
fn was_given_up(error: &Error, number: u64) -> bool {
    matches!(
        error.root(),
        Error::Study(adapruner_study::Error::Trial { number: of, .. }) if *of == number
    )
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
        // Dimensions, each with its name before it.
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).all(|x| x[0].is_string()) => {
            let only = |of: &[Value], other: &[Value]| {
                let lacks = |name: &&str| other.iter().all(|x| x[0] != **name);
                let names: Vec<&str> = of.iter().filter_map(|x| x[0].as_str()).collect();
                names.into_iter().filter(lacks).collect::<Vec<_>>().join(", ")
            };
            match (only(a, b), only(b, a)) {
                (gone, new) if gone.is_empty() => format!("it was without {new}"),
                (gone, new) if new.is_empty() => format!("it was with {gone}"),
                (gone, new) => format!("it was with {gone} and without {new}"),
            }
        }
        _ => format!("it was {then}, now {now}"),
    }
}
