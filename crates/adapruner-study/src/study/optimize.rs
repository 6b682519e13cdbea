//! Runs an objective until a limit, a callback or an error stops it.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sampler::counts;
use crate::study::unsent::OnDrop;
use crate::study::{ActiveTrial, Outcome, Study, since_best};
use crate::trial::Trial;

/// How often to check whether the last trials of other processes have ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Tells the time.
pub trait Clock: Sync {
    /// Time since some moment that stays the same.
    fn now(&self) -> Duration;
}

/// The clock of the system, since it was created.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Called after each trial; returns whether to continue.
type Callback<'a> = dyn Fn(&Study, &Trial) -> bool + Sync + 'a;

/// When to stop, and with how many workers.
///
/// Without any limit it runs until the callback or an error stops it.
#[derive(Clone, Copy)]
pub struct Optimize<'a> {
    trials: Option<u64>,
    finished: Option<u64>,
    time: Option<Duration>,
    no_improvement: Option<u64>,
    workers: usize,
    heartbeat: Option<Duration>,
    clock: Option<&'a dyn Clock>,
    callback: Option<&'a Callback<'a>>,
}

impl std::fmt::Debug for Optimize<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Optimize")
            .field("trials", &self.trials)
            .field("finished", &self.finished)
            .field("time", &self.time)
            .field("no_improvement", &self.no_improvement)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Default for Optimize<'_> {
    fn default() -> Self {
        Self {
            trials: None,
            finished: None,
            time: None,
            no_improvement: None,
            workers: 1,
            heartbeat: None,
            clock: None,
            callback: None,
        }
    }
}

impl<'a> Optimize<'a> {
    /// No limits, one worker.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops after this many trials of this call.
    #[must_use]
    pub fn trials(mut self, trials: u64) -> Self {
        self.trials = Some(trials);
        self
    }

    /// Stops when the study has this many trials that are complete or pruned,
    /// those of earlier calls among them: what a resumed study wants. All workers
    /// together, also of other processes, begin no more than that.
    #[must_use]
    pub fn finished(mut self, trials: u64) -> Self {
        self.finished = Some(trials);
        self
    }

    /// Starts no trial once this much time has passed.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Stops when this many trials in a row finished (failures not counted)
    /// without a new best one (of several objectives: one of the front), those of earlier
    /// calls among them.
    #[must_use]
    pub fn no_improvement(mut self, trials: u64) -> Self {
        self.no_improvement = Some(trials);
        self
    }

    /// Runs this many threads, at least 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Notes this often that the running trials are alive, from a thread of its
    /// own ([`Study::attend`]).
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = Some(every);
        self
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: &'a dyn Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Calls this after each trial, in its worker; false stops.
    #[must_use]
    pub fn callback(mut self, callback: &'a Callback<'a>) -> Self {
        self.callback = Some(callback);
        self
    }
}

/// Why [`Study::optimize`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The requested number of trials.
    Trials,
    /// The time was up.
    Time,
    /// No new best trial for long.
    NoImprovement,
    /// The callback.
    Callback,
}

/// What [`Study::optimize`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Trials that were run.
    pub trials: u64,
    /// Why it stopped.
    pub reason: StopReason,
}

/// What workers share.
#[derive(Default)]
struct Progress {
    started: u64,
    /// Trials that are begun and not told, those that have no number yet among
    /// them.
    on_the_way: u64,
    stop: Option<StopReason>,
    error: Option<Error>,
}

impl Study {
    /// Evaluates an objective again and again.
    ///
    /// An objective that returns [`Outcome::Failed`] is a failed trial, and the
    /// next one begins. One that returns an error is a failed trial too, and the
    /// last one: other workers finish theirs, then the error is returned.
    ///
    /// # Errors
    ///
    /// That of the objective, as [`Error::Objective`], or of the storage; of
    /// several workers the first one.
    pub fn optimize<E, F>(&self, options: &Optimize<'_>, objective: F) -> Result<Summary>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Fn(&mut ActiveTrial<'_>) -> Result<Outcome, E> + Sync,
    {
        let system = SystemClock::default();
        let clock = options.clock.unwrap_or(&system);
        let run = Run {
            study: self,
            options,
            clock,
            begun: clock.now(),
            progress: Mutex::new(Progress::default()),
            changed: Condvar::new(),
        };
        let work = || {
            thread::scope(|scope| {
                let workers: Vec<_> =
                    (1..options.workers).map(|_| scope.spawn(|| run.work(&objective))).collect();
                run.work(&objective);
                for worker in workers {
                    if let Err(panic) = worker.join() {
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        };
        match options.heartbeat {
            Some(every) => self.attend(every, work),
            None => work(),
        }
        let progress = run.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (progress.error, progress.stop) {
            (Some(error), _) => Err(error),
            (None, reason) => Ok(Summary {
                trials: progress.started,
                reason: reason.unwrap_or(StopReason::Trials),
            }),
        }
    }
}

/// One call of [`Study::optimize`].
struct Run<'a> {
    study: &'a Study,
    options: &'a Optimize<'a>,
    clock: &'a dyn Clock,
    begun: Duration,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// What a worker does next.
enum Step {
    Start,
    Stop(StopReason),
    /// Until another worker's trial ends.
    Wait,
}

impl Run<'_> {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work<E, F>(&self, objective: &F)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Fn(&mut ActiveTrial<'_>) -> Result<Outcome, E> + Sync,
    {
        loop {
            match self.may_start() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
            match self.run_one(objective) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    fn fail(&self, error: Error) {
        self.progress().error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Whether a trial may begin; it is counted then. What is asked of the
    /// history is asked under the lock, so that no two workers take the last
    /// place.
    fn may_start(&self) -> Result<bool> {
        let mut progress = self.progress();
        loop {
            if progress.stop.is_some() || progress.error.is_some() {
                return Ok(false);
            }
            match self.next_step(&progress)? {
                Step::Start => break,
                Step::Stop(reason) => {
                    progress.stop = Some(reason);
                    self.changed.notify_all();
                    return Ok(false);
                }
                Step::Wait => {
                    progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        progress.started += 1;
        progress.on_the_way += 1;
        Ok(true)
    }

    fn next_step(&self, progress: &Progress) -> Result<Step> {
        let options = self.options;
        if options.trials.is_some_and(|trials| progress.started >= trials) {
            return Ok(Step::Stop(StopReason::Trials));
        }
        let passed = self.clock.now().saturating_sub(self.begun);
        if options.time.is_some_and(|time| passed >= time) {
            return Ok(Step::Stop(StopReason::Time));
        }
        if options.finished.is_none() && options.no_improvement.is_none() {
            return Ok(Step::Start);
        }
        let trials = self.study.trials()?;
        let since = since_best(&trials, &self.study.directions) as u64;
        if options.no_improvement.is_some_and(|most| since >= most) {
            return Ok(Step::Stop(StopReason::NoImprovement));
        }
        let Some(wanted) = options.finished else { return Ok(Step::Start) };
        let finished = trials.iter().filter(|trial| counts(trial)).count() as u64;
        Ok(if finished >= wanted {
            Step::Stop(StopReason::Trials)
        } else if finished + progress.on_the_way >= wanted {
            // They may fail.
            Step::Wait
        } else {
            Step::Start
        })
    }

    /// Runs a trial; whether to go on.
    fn run_one<E, F>(&self, objective: &F) -> Result<bool>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Fn(&mut ActiveTrial<'_>) -> Result<Outcome, E> + Sync,
    {
        let ended = OnDrop(|| {
            self.progress().on_the_way -= 1;
            self.changed.notify_all();
        });
        let Some(mut trial) = self.study.ask_unless(self.options.finished)? else {
            // Others, elsewhere, have the last ones, which may fail.
            drop(ended);
            self.progress().started -= 1;
            thread::sleep(PATIENCE);
            return Ok(true);
        };
        let number = trial.number();
        let silent = OnDrop(|| {
            if thread::panicking() {
                // Or the others would wait for it; the panic is told in its own way.
                let _ = self.study.tell(number, Outcome::Failed);
            }
        });
        let result = objective(&mut trial);
        let outcome = result.as_ref().map_or(Outcome::Failed, Outcome::clone);
        let told = self.study.tell(number, outcome);
        drop((silent, ended));
        told?;
        if let Err(error) = result {
            return Err(Error::Objective { number, source: error.into() });
        }
        if let Some(callback) = self.options.callback {
            let trials = self.study.trials()?;
            let trial = trials.iter().find(|trial| trial.number == number);
            if trial.is_some_and(|trial| !callback(self.study, trial)) {
                self.progress().stop.get_or_insert(StopReason::Callback);
                return Ok(false);
            }
        }
        Ok(true)
    }
}
