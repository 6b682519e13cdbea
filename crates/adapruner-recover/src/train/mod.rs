//! Training: steps, validations, states.
//!
//! The loss of a step is the mean over all target tokens of its sequences, in nats, however
//! they are split into micro-batches (as in transformers since 4.46). A step is a function of
//! seed, data and parameters, so a training that is killed and resumed from its last state
//! makes the same steps.
//!
//! | module | content |
//! |---|---|
//! | [`options`] | options of a training |
//! | [`epochs`] | which step belongs to which epoch |
//! | [`trainer`] | a model whose adapter or parameters are trained |
//! | [`batch`] | sequences as loss terms of the model |
//! | [`state`] | the state on disk |
//! | [`log`] | the log, one line per step |

pub mod batch;
pub mod epochs;
pub mod log;
pub mod options;
pub mod state;
pub mod trainer;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use adapruner_checkpoint::atomic::{StateDir, StateKind};
use adapruner_model::{
    Decoder,
    train::{
        Batch, HiddenMatch, PassOptions, adamw,
        schedule::{Schedule, Spent},
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Dataset, Example, batches},
    distill::Teacher,
    error::{Error, Result},
};
use epochs::Epochs;
use log::{Entry, Log};
use options::{Record, TrainOptions};
use state::{Best, Part, Position};
use trainer::{Trainer, mixed};

/// File names in a training's folder.
pub const STATE: &str = "state.safetensors";
/// The parameters of the best validation.
pub const BEST: &str = "best.safetensors";
/// The log.
pub const LOG: &str = "log.jsonl";

/// The folder of a training. `teacher.bin` is what a caller keeps its
/// [`TeacherCache`](crate::distill::TeacherCache) in.
pub static FOLDER: StateKind =
    StateKind { name: "training", known_by: &[STATE], owned: &[STATE, BEST, LOG, "teacher.bin"] };

/// A loss this many times the first step's has exploded, if it is also above the loss of
/// uniform predictions, `ln V`.
const EXPLODED: f64 = 4.0;

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All steps were made.
    Finished,
    /// The validation loss did not fall any more.
    EarlyStopped,
    /// The time was up.
    TimeUp,
    /// It was interrupted; its state is saved.
    Interrupted,
}

/// Outcome of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it ended.
    pub ended: Ended,
    /// How far it came.
    #[serde(flatten)]
    pub position: Position,
    /// All steps that were planned.
    pub planned_steps: u64,
    /// The validation loss before the first step, where there is a validation
    /// set and the training was not resumed.
    pub validation_before: Option<f64>,
    /// The step whose parameters were kept: that of the best validation, or the
    /// last.
    pub kept_step: u64,
}

/// A training: trainer, data, options, and the place of its files.
pub struct Training<'a, 'b> {
    /// The model.
    pub trainer: &'a mut Trainer<'b>,
    /// The sequences.
    pub data: &'a Dataset,
    /// Its options.
    pub options: &'a TrainOptions,
    /// Inputs that its files are bound to, besides the options.
    pub record: Record,
    /// The teacher, for distillation.
    pub teacher: Option<Teacher<'a>>,
    /// Where its files are.
    pub folder: &'a StateDir,
}

/// Receives every step with the number of all steps, and the progress of validations.
pub trait Watch {
    /// A step was made.
    fn step(&mut self, entry: &Entry, total: u64);

    /// `done` of `all` sequences were validated on.
    fn validating(&mut self, _done: u64, _all: u64) {}
}

impl Watch for () {
    fn step(&mut self, _: &Entry, _: u64) {}
}

impl<'a> Training<'a, '_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Trains from the beginning or from the saved state; afterwards the trainer
    /// holds the parameters that are kept.
    ///
    /// # Errors
    /// Options out of range, a state of another training, a loss that is not
    /// finite or explodes, no memory, a disk that is full.
    pub fn run(&mut self, stop: &AtomicBool, watch: &mut dyn Watch) -> Result<Outcome> {
        self.options.check()?;
        self.record.extend(self.options.record());
        self.record.insert("data".into(), self.data.digest.to_string());
        let mut epochs = Epochs::new(&self.data.train, self.options);
        let path = self.path(STATE);
        let saved = state::read(&path, &mut self.trainer.parameters, &self.record, Part::All)?;
        let mut position = saved.clone().unwrap_or_default();
        if position.best.is_some() {
            // Better now than after hours.
            state::check(&self.path(BEST))?;
        }
        let mut log = Log::open((self.folder, LOG), position.step)?;
        let clock = Clock { before: position.seconds, since: Instant::now() };
        let mut validation_before = None;
        if saved.is_none() {
            validation_before = self.validation(&mut position, watch)?;
        }
        let mut last_save = Instant::now();
        let ended = loop {
            if position.step >= epochs.total {
                break Ended::Finished;
            }
            if stop.load(Ordering::Relaxed) {
                self.save(&mut position, &clock)?;
                break Ended::Interrupted;
            }
            if self.options.max_seconds.is_some_and(|most| clock.seconds() >= most) {
                break Ended::TimeUp;
            }
            if self.options.patience.is_some_and(|patience| position.stale >= patience) {
                break Ended::EarlyStopped;
            }
            let Some(mut entry) = self.step(&mut epochs, &position, &clock, stop)? else {
                continue;
            };
            position.step = entry.step;
            position.tokens = entry.tokens;
            position.first_loss.get_or_insert(entry.loss);
            let last = position.step == epochs.total;
            if last || position.step.is_multiple_of(self.options.validate_every) {
                entry.validation_loss = self.validation(&mut position, watch)?;
            }
            entry.seconds = clock.seconds();
            log.push(&entry)?;
            watch.step(&entry, epochs.total);
            let due = last_save.elapsed().as_secs_f64() >= self.options.save_seconds;
            if last || due || position.step.is_multiple_of(self.options.save_every) {
                self.save(&mut position, &clock)?;
                last_save = Instant::now();
            }
        };
        if ended != Ended::Interrupted {
            let validated = position.last_validation.is_some_and(|v| v.step == position.step);
            if !validated {
                self.validation(&mut position, watch)?;
            }
            self.save(&mut position, &clock)?;
        }
        let kept_step = self.keep(&position, ended)?;
        let planned_steps = epochs.total;
        Ok(Outcome { ended, position, planned_steps, validation_before, kept_step })
    }

    fn save(&self, position: &mut Position, clock: &Clock) -> Result<()> {
        position.seconds = clock.seconds();
        state::write(
            (self.folder, STATE),
            &self.trainer.parameters,
            position,
            &self.record,
            Part::All,
        )
    }

    /// Takes back the parameters of the best validation.
    fn keep(&mut self, position: &Position, ended: Ended) -> Result<u64> {
        let path = self.path(BEST);
        match position.best {
            Some(best) if best.step != position.step && ended != Ended::Interrupted => {
                let parameters = &mut self.trainer.parameters;
                let found = state::read(&path, parameters, &self.record, Part::Values)?;
                Ok(found.ok_or_else(|| state::missing(&path))?.step)
            }
            Some(_) | None => Ok(position.step),
        }
    }

    /// One step; `None` where it was told to stop in its midst.
    fn step(
        &mut self,
        epochs: &mut Epochs<'_>,
        position: &Position,
        clock: &Clock,
        stop: &AtomicBool,
    ) -> Result<Option<Entry>> {
        let begun = Instant::now();
        let (epoch, batch) = epochs.step(position.step);
        let examples = &self.data.train;
        let learned: usize = batch.iter().map(|&at| examples[at].targets()).sum();
        let options = PassOptions { checkpointing: self.options.checkpointing };
        let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        let (mut tokens, mut terms, mut hidden) = (0, [0.0; 2], 0.0);
        let all: usize = batch.iter().map(|&at| examples[at].ids.len()).sum();
        let matched = self.matched()?;
        let layers: Vec<usize> = (0..self.trainer.layers()).collect();
        // What the whole gradient is divided by is no count of the matched rows.
        let share = learned as f64 / (all * layers.len()) as f64;
        let seed = mixed(self.options.seed, position.step);
        let mut whole = None;
        for (part, rows) in
            batches::filled(examples, &batch, self.options.micro_tokens).iter().enumerate()
        {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if whole.is_none() || self.trainer.drops_out() {
                whole = Some(self.trainer.decoder(Some(mixed(seed, part as u64)))?);
            }
            let Some(decoder) = &whole else { continue };
            let cache = self.teacher.map(|teacher| teacher.probabilities);
            let (sequences, terms_of) =
                batch::of(examples, rows, self.options.distillation, cache)?;
            let states = match matched {
                Some((_, teacher)) => teacher.block_outputs(&sequences, &layers)?,
                None => BTreeMap::new(),
            };
            let target = |layer: usize| Ok(states[&layer].clone());
            let matching = matched.map(|(weight, _)| HiddenMatch {
                weight: weight * share,
                layers: layers.clone(),
                target: &target,
            });
            let batch = Batch { sequences: &sequences, terms: terms_of, hidden: matching };
            let found = self.trainer.gradients(decoder, &batch, &options);
            let found = found.map_err(|e| at_step(e, position.step + 1))?;
            for (sum, term) in terms.iter_mut().zip(&found.terms) {
                *sum += term;
            }
            hidden += found.hidden;
            tokens += sequences.iter().map(Vec::len).sum::<usize>() as u64;
            add(&mut sums, found.gradients);
        }
        drop(whole);
        let step = position.step + 1;
        let [own, teacher] = terms.map(|term| term / learned as f64);
        let hidden = hidden / learned as f64;
        let loss = own + teacher + hidden;
        self.check_loss(step, loss, position)?;
        let schedule = self.schedule(epochs.total);
        let rate = match self.options.max_seconds {
            Some(budget) => {
                schedule.within(position.step, Spent { seconds: clock.seconds(), budget })
            }
            None => schedule.at(position.step),
        };
        let gradient_norm = self.update(sums, learned, step, rate)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Some(Entry {
            step,
            epoch: epoch + 1,
            loss,
            teacher_loss: self.options.distillation.map(|_| teacher),
            hidden_loss: matched.map(|_| hidden),
            validation_loss: None,
            learning_rate: rate,
            gradient_norm,
            tokens: position.tokens + tokens,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            seconds: clock.seconds(),
        }))
    }

    /// The weight of the matching of hidden states, and whose they are to be.
    fn matched(&self) -> Result<Option<(f64, &'a Decoder)>> {
        let Some(weight) = self.options.distillation.and_then(|d| d.hidden) else {
            return Ok(None);
        };
        let teacher = self.teacher.and_then(|teacher| teacher.hidden);
        let missing = || Error::option("match-hidden", "a teacher that runs along is missing");
        Ok(Some((weight, teacher.ok_or_else(missing)?)))
    }

    fn schedule(&self, total: u64) -> Schedule {
        let TrainOptions { rate, decay, warmup, .. } = *self.options;
        Schedule { rate, decay, warmup, total }
    }

    /// Moves the parameters; the gradient's norm before clipping.
    fn update(
        &mut self,
        mut sums: BTreeMap<String, Vec<f32>>,
        learned: usize,
        step: u64,
        rate: f64,
    ) -> Result<f64> {
        let share = (1.0 / learned as f64) as f32;
        sums.values_mut().flatten().for_each(|g| *g *= share);
        let norm = adamw::norm(sums.values().map(Vec::as_slice));
        if !norm.is_finite() {
            let message = "a finite norm expected; nothing was changed".into();
            return Err(Error::Diverged { step, what: "gradient norm", value: norm, message });
        }
        if let Some(most) = self.options.max_norm {
            let clip = adamw::clip(norm, most);
            sums.values_mut().flatten().for_each(|g| *g *= clip);
        }
        for (name, parameter) in &mut self.trainer.parameters {
            self.options.optimizer.step(parameter, &sums[name], rate, step);
        }
        Ok(norm)
    }

    fn check_loss(&self, step: u64, value: f64, position: &Position) -> Result<()> {
        let diverged = |message| Err(Error::Diverged { step, what: "loss", value, message });
        if !value.is_finite() {
            return diverged("a finite number of nats expected".into());
        }
        let nothing = (self.trainer.vocabulary() as f64).ln();
        let limit = position.first_loss.map(|first| EXPLODED * first.max(nothing));
        match limit {
            Some(limit) if value > limit => diverged(format!(
                "at most {limit:.3} expected, {EXPLODED} times what training began with"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Validates after a step and keeps the parameters if they are the best.
    fn validation(
        &mut self,
        position: &mut Position,
        watch: &mut dyn Watch,
    ) -> Result<Option<f64>> {
        let Some(loss) = self.validate(watch)? else { return Ok(None) };
        let found = Best { step: position.step, loss };
        position.last_validation = Some(found);
        if position.best.is_none_or(|best| loss < best.loss) {
            position.best = Some(found);
            position.stale = 0;
            let parameters = &self.trainer.parameters;
            state::write((self.folder, BEST), parameters, position, &self.record, Part::Values)?;
        } else {
            position.stale += 1;
        }
        Ok(Some(loss))
    }

    /// The mean loss of the validation set, in nats per learned token; `None`
    /// where there is none.
    ///
    /// # Errors
    /// No memory.
    pub fn validate(&self, watch: &mut dyn Watch) -> Result<Option<f64>> {
        let examples = &self.data.validation;
        let learned: usize = examples.iter().map(Example::targets).sum();
        if learned == 0 {
            return Ok(None);
        }
        let decoder = self.trainer.decoder(None)?;
        let mut total = 0.0;
        let all = examples.len() as u64;
        let mut done = 0;
        let order: Vec<usize> = (0..examples.len()).collect();
        for rows in batches::filled(examples, &order, self.options.micro_tokens) {
            total += batch::loss(&decoder, examples, &rows)?;
            done += rows.len() as u64;
            watch.validating(done, all);
        }
        Ok(Some(total / learned as f64))
    }
}

/// A loss that is not finite, with the step at which it was.
fn at_step(error: Error, step: u64) -> Error {
    let Error::Model(adapruner_model::Error::Loss { sample, loss: value }) = error else {
        return error;
    };
    let message = format!("in sequence {sample} of a part, a finite number of nats expected");
    Error::Diverged { step, what: "loss", value, message }
}

/// Seconds of a training, those before a stop included.
struct Clock {
    before: f64,
    since: Instant,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }
}

fn add(sums: &mut BTreeMap<String, Vec<f32>>, part: BTreeMap<String, Vec<f32>>) {
    for (name, gradient) in part {
        match sums.get_mut(&name) {
            Some(sum) => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            None => drop(sums.insert(name, gradient)),
        }
    }
}
