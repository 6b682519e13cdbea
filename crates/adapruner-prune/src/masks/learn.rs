//! Steps and measurements of mask learning.

use std::sync::atomic::{AtomicBool, Ordering};

use adapruner_checkpoint::Digest;
use adapruner_model::{
    Decoder, Error as ModelError,
    train::{
        MaskGradients, PassOptions,
        adamw::{self, AdamW},
        schedule::{Decay, Schedule},
    },
    wide::in_f64,
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    batch::{StepPart, Teacher},
    gates::{Gates, Kept},
    options::MaskOptions,
    state::{MaskRecord, MaskState, Position},
};
use crate::{
    error::{Error, Result, refuse_experts},
    plan::PrunePlan,
    scores::Scores,
};

/// A measurement on the held-out samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// After which step; 0 is the plan.
    pub step: u64,
    /// Mean loss of the hard mask, in nats per predicted token.
    pub loss: f64,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskStep {
    /// Counted from 1.
    pub step: u64,
    /// Mean loss of its samples before it (see [`MaskLoss`](super::MaskLoss)).
    pub loss: f64,
    /// Its learning rate.
    pub rate: f64,
    /// Units that the mask behind it keeps in place of as many of the plan's.
    pub exchanged: usize,
    /// The loss on held-out samples behind it, where it was measured.
    pub held_out: Option<f64>,
}

/// Why a learning ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum MaskEnd {
    /// All steps were made.
    Finished,
    /// The loss on held-out samples did not fall any more.
    EarlyStopped,
    /// A loss or gradient was not finite.
    Diverged {
        /// In which step, counted from 1.
        in_step: u64,
        /// What was found.
        message: String,
    },
    /// It was told to stop; the state was saved.
    Interrupted,
}

/// What a learning came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskOutcome {
    /// Why it ended.
    #[serde(flatten)]
    pub ended: MaskEnd,
    /// Steps that were made.
    pub steps: u64,
    /// The step whose mask is kept; 0 is the plan.
    pub kept_step: u64,
    /// Loss of the plan on held-out samples, in nats per predicted token.
    pub held_out_before: f64,
    /// Loss of the mask that is kept.
    pub held_out_after: f64,
    /// Units that it keeps in place of as many of the plan's.
    pub exchanged: usize,
    /// All measurements.
    pub measured: Vec<Measured>,
}

/// A plan whose units were learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnedMasks {
    /// The plan.
    pub plan: PrunePlan,
    /// How it came about.
    pub outcome: MaskOutcome,
}

/// Told of every step, and given states to keep.
pub trait MaskWatch {
    /// A step was made, of `total`.
    fn step(&mut self, step: &MaskStep, total: u64);

    /// `done` of `all` held-out samples were measured.
    fn measuring(&mut self, _done: u64, _all: u64) {}

    /// A state that may be saved, made on demand.
    ///
    /// # Errors
    /// Where it could not be kept; the learning ends.
    fn save(&mut self, _state: &dyn Fn() -> MaskState) -> Result<()> {
        Ok(())
    }
}

impl MaskWatch for () {
    fn step(&mut self, _: &MaskStep, _: u64) {}
}

/// A learning: of which units, from what, under what.
pub struct MaskLearning<'a> {
    /// The dense model.
    pub dense: &'a Decoder,
    /// The plan it begins with.
    pub plan: &'a PrunePlan,
    /// The static scores it begins with.
    pub scores: &'a Scores,
    /// Samples that are learned from, two or more tokens each.
    pub train: &'a [Vec<u32>],
    /// Samples that choose the step.
    pub held_out: &'a [Vec<u32>],
    /// Its options.
    pub options: &'a MaskOptions,
    /// Whether blocks are recomputed in the backward pass.
    pub checkpointing: bool,
    /// Most tokens that run together (but at least one sample).
    pub micro_tokens: usize,
    /// What its states are bound to, beside plan, scores and options.
    pub record: MaskRecord,
}

impl MaskLearning<'_> {
    /// Learns from the beginning or from an earlier state.
    ///
    /// # Errors
    /// Options out of range or that contradict the plan, a state of another learning, a
    /// loss of the plan that is not finite, damaged weights, no memory.
    pub fn run(
        &self,
        earlier: Option<MaskState>,
        stop: &AtomicBool,
        watch: &mut dyn MaskWatch,
    ) -> Result<LearnedMasks> {
        let Self { options, plan, dense, .. } = *self;
        refuse_experts(dense.config(), "learn-masks", "learning masks")?;
        options.check(self.train.len() + self.held_out.len(), self.held_out.len())?;
        let mut gates = Gates::new(dense.config(), plan, self.scores, options)?;
        let record = self.bound(&gates)?;
        let (mut position, mut best) = match earlier {
            Some(state) => state.restore(&record, &mut gates)?,
            None => {
                let planned = gates.planned();
                let before = Measured { step: 0, loss: self.measure(&gates, &planned, watch)? };
                let measured = vec![before];
                (Position { step: 0, best: before, stale: 0, measured }, planned)
            }
        };
        let mut teacher = Teacher::new(dense, options.loss, gates.first_layer());
        let ended = loop {
            if position.step >= options.steps {
                break MaskEnd::Finished;
            }
            if options.patience.is_some_and(|patience| position.stale >= patience) {
                break MaskEnd::EarlyStopped;
            }
            if stop.load(Ordering::Relaxed) {
                watch.save(&|| MaskState::new(&record, &position, &gates, &best))?;
                break MaskEnd::Interrupted;
            }
            let step = position.step + 1;
            let made = self.step(&mut gates, &mut teacher, position.step);
            let (loss, rate) = match made {
                Ok(made) => made,
                Err(error) => break diverged(error, step)?,
            };
            position.step = step;
            let kept = gates.kept();
            let mut held_out = None;
            if step == options.steps || step.is_multiple_of(options.measure_every) {
                let loss = match self.measure(&gates, &kept, watch) {
                    Ok(loss) => loss,
                    Err(error) => break diverged(error, step)?,
                };
                held_out = Some(loss);
                let found = Measured { step, loss };
                position.measured.push(found);
                if loss < position.best.loss {
                    (position.best, position.stale, best) = (found, 0, kept.clone());
                } else {
                    position.stale += 1;
                }
                watch.save(&|| MaskState::new(&record, &position, &gates, &best))?;
            }
            let exchanged = gates.exchanged(&kept);
            watch.step(&MaskStep { step, loss, rate, exchanged, held_out }, options.steps);
        };
        let outcome = MaskOutcome {
            ended,
            steps: position.step,
            kept_step: position.best.step,
            held_out_before: position.measured.first().map_or(f64::NAN, |first| first.loss),
            held_out_after: position.best.loss,
            exchanged: gates.exchanged(&best),
            measured: position.measured,
        };
        let plan = match outcome.kept_step {
            0 => plan.clone(),
            _ => gates.plan(dense.config(), plan, &best)?,
        };
        Ok(LearnedMasks { plan, outcome })
    }

    /// What states are bound to.
    fn bound(&self, gates: &Gates) -> Result<MaskRecord> {
        let options = self.options;
        let mut record = self.record.clone();
        let units: Vec<String> = options.units.iter().map(ToString::to_string).collect();
        let patience = options.patience.map_or("none".to_owned(), |patience| patience.to_string());
        let start = gates.parameters().flat_map(|p| &p.values).flat_map(|s| s.to_le_bytes());
        let start: Vec<u8> = start.collect();
        record.extend(
            [
                ("plan", self.plan.digest()?.to_string()),
                ("first scores", Digest::of_bytes(&start).to_string()),
                ("learn-masks", options.steps.to_string()),
                ("learn-units", units.join(",")),
                ("mask-budget", options.budget.to_string()),
                ("mask-loss", options.loss.to_string()),
                ("mask-batch", options.batch.to_string()),
                ("mask-rate", format!("{:?}", options.rate)),
                ("mask-rate-end", format!("{:?}", options.rate_end)),
                ("mask-every", options.measure_every.to_string()),
                ("mask-patience", patience),
                ("seed", options.seed.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        Ok(record)
    }

    /// One step, counted from 0: the loss before it and its rate.
    fn step(&self, gates: &mut Gates, teacher: &mut Teacher<'_>, step: u64) -> Result<(f64, f64)> {
        let options = self.options;
        let decoder = self.dense.with_masks(&gates.masks(&gates.kept())?)?;
        let samples = batch(self.train.len(), options.batch, options.seed, step);
        let rows = samples.iter().map(|&at| self.train[at].len()).sum::<usize>();
        let pass = PassOptions { checkpointing: self.checkpointing };
        let (mut sums, mut loss) = (MaskGradients::new(), 0.0);
        for part in self.parts(&samples) {
            let sequences: Vec<Vec<u32>> = part.iter().map(|&at| self.train[at].clone()).collect();
            let part = StepPart {
                samples: part,
                sequences: &sequences,
                predicted: rows - samples.len(),
                rows,
            };
            loss += teacher.learn(&decoder, &part, &pass, &mut sums)?;
        }
        let gradients = gates.gradients(&sums)?;
        let norm = adamw::norm(gradients.iter().map(Vec::as_slice));
        if !norm.is_finite() {
            return Err(Error::MaskGradient(norm));
        }
        let falling = Schedule {
            rate: options.rate - options.rate_end,
            decay: Decay::Cosine,
            warmup: 0,
            total: options.steps,
        };
        let rate = options.rate_end + falling.at(step);
        for (parameter, gradient) in gates.parameters_mut().zip(&gradients) {
            AdamW::default().step(parameter, gradient, rate, step + 1);
        }
        Ok((loss, rate))
    }

    /// Samples that run together.
    fn parts<'a>(&self, samples: &'a [usize]) -> Vec<&'a [usize]> {
        let (mut parts, mut rest) = (Vec::new(), samples);
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |at: &&usize| {
                tokens += self.train[**at].len();
                tokens <= self.micro_tokens
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (part, later) = rest.split_at(count);
            parts.push(part);
            rest = later;
        }
        parts
    }

    fn measure(&self, gates: &Gates, kept: &Kept, watch: &mut dyn MaskWatch) -> Result<f64> {
        let decoder = self.dense.with_masks(&gates.masks(kept)?)?;
        let mut told = |done, all| watch.measuring(done, all);
        mean_loss(&decoder, self.held_out, self.micro_tokens, &mut told)
    }
}

/// The mean negative log-likelihood of some samples, in nats per predicted token; the
/// same whatever runs together. `told` hears (samples done, samples in all).
///
/// # Errors
/// A loss that is not finite, samples of fewer than two tokens or with ids outside the
/// vocabulary, damaged weights, no memory.
pub fn mean_loss(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    micro_tokens: usize,
    told: &mut dyn FnMut(u64, u64),
) -> Result<f64> {
    let (mut sum, mut predicted, mut done) = (0.0, 0, 0);
    for alike in samples.chunk_by(|a, b| a.len() == b.len()) {
        let length = alike[0].len();
        for part in alike.chunks((micro_tokens / length.max(1)).max(1)) {
            let losses = decoder.nll(&decoder.tokens(part)?)?;
            let losses = in_f64(&losses.detach())?.flatten_all()?.to_vec1::<f64>()?;
            if let Some(at) = losses.iter().position(|loss| !loss.is_finite()) {
                let sample = done + at / (length - 1).max(1);
                return Err(ModelError::Loss { sample, loss: losses[at] }.into());
            }
            // One after the other, so that it does not matter what runs together.
            losses.iter().for_each(|loss| sum += loss);
            predicted += losses.len();
            done += part.len();
            told(done as u64, samples.len() as u64);
        }
    }
    Ok(sum / predicted.max(1) as f64)
}

/// The end that an error is, where a loss or gradient was not finite.
fn diverged(error: Error, step: u64) -> Result<MaskEnd> {
    if matches!(
        error,
        Error::MaskGradient(_) | Error::Model(ModelError::Loss { .. } | ModelError::Matching(_))
    ) {
        return Ok(MaskEnd::Diverged { in_step: step, message: error.to_string() });
    }
    Err(error)
}

/// The training samples of a step, counted from 0: a function of seed and step. An epoch
/// is as many whole steps as there are samples for.
pub(super) fn batch(samples: usize, batch: usize, seed: u64, step: u64) -> Vec<usize> {
    let steps = (samples / batch.max(1)).max(1) as u64;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(step / steps);
    let mut order: Vec<usize> = (0..samples).collect();
    order.shuffle(&mut generator);
    let first = (step % steps) as usize * batch;
    order[first..(first + batch).min(samples)].to_vec()
}
