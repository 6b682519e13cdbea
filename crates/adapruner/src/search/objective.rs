//! What a trial does: scores → plan → slice → evaluate.

use std::{collections::BTreeSet, time::Instant};

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig, text::TokenSet};
use adapruner_eval::{ChunkedWindows, flops};
use adapruner_model::{Decoder, Residency};
use adapruner_prune::{
    Evidence, PlanOptions, PrunePlan, Scores, StatsBank, Terms, Unmet, apply, plan, score,
};
use serde::{Deserialize, Serialize};

use super::configuration::{Configuration, OrderScales};
use crate::{
    error::{Context, Result},
    kv_cache::{CacheRecord, CacheTarget},
    speed::Calibration,
    statistics,
    statistics::Wanted,
    target::Target,
};

/// Everything that trials share and that does not depend on a trial.
pub struct Objective {
    /// The model, its tensors held in memory.
    pub(super) dense: Checkpoint,
    /// Its digest.
    pub(super) digest: Digest,
    /// The decoder beside which pruned models are loaded. It does not run, so it holds packed
    /// forms only of the weights that they leave uncut.
    pub(super) beside: Decoder,
    /// Statistics of the whole pool.
    pub(super) bank: StatsBank,
    /// The pool itself.
    pub(super) pool: TokenSet,
    /// How the orders compare.
    pub(super) scales: OrderScales,
    /// Layers in the order in which their attention sublayers are best removed.
    pub(super) cheapest: Vec<usize>,
    /// What every plan has in common.
    pub(super) plan: PlanOptions,
    /// The search-evaluation text.
    pub(super) windows: ChunkedWindows,
    /// Loss of the dense model on each chunk, in nats per predicted token.
    pub(super) dense_losses: Vec<f64>,
    /// Maximum tokens per batch when collecting statistics; `None` to choose.
    pub(super) batch_tokens: Option<usize>,
    /// Memory for collecting statistics in a trial, in addition to what is held.
    pub(super) memory: u64,
    /// What predicts a trial's seconds, where they are an objective.
    pub(super) calibration: Option<Calibration>,
}

/// Seconds, tokens and operations of a piece of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Tokens that were run.
    pub tokens: u64,
    /// Floating-point operations, by count of the matrix products.
    pub flops: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.tokens += other.tokens;
        self.flops += other.flops;
    }
}

/// Cost of a trial, by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialCost {
    /// Scores, from the bank or (baseline) from a backward pass.
    pub score: Cost,
    /// The plan.
    pub plan: Cost,
    /// Slicing the weights.
    pub slice: Cost,
    /// Running the search-evaluation text.
    pub evaluate: Cost,
}

impl TrialCost {
    /// All phases together.
    pub fn total(&self) -> Cost {
        let mut total = Cost::default();
        for part in [self.score, self.plan, self.slice, self.evaluate] {
            total += part;
        }
        total
    }
}

/// Result of a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Mean loss over the chunks that were run, in nats per predicted token,
    /// each brought to the difficulty of the whole text (see
    /// [`Objective::measure`]).
    pub loss: f64,
    /// Whether all chunks were run.
    pub complete: bool,
}

/// What turns a configuration into a plan.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
    /// Statistics.
    pub bank: &'a StatsBank,
    /// Which of their samples count.
    pub samples: &'a [usize],
    /// How the orders compare.
    pub scales: &'a OrderScales,
    /// Layers in the order in which their attention sublayers are best removed.
    pub cheapest: &'a [usize],
    /// What every plan has in common.
    pub options: &'a PlanOptions,
}

impl Basis<'_> {
    /// Scores.
    pub fn scores(&self, config: &ModelConfig, configuration: &Configuration) -> Result<Scores> {
        let evidence = Evidence {
            config,
            bank: Some(self.bank),
            samples: Some(self.samples),
            checkpoint: None,
            seed: 0,
        };
        let importance = configuration.importance(self.scales);
        Ok(score(importance, configuration.grouping, &evidence)?)
    }

    /// Scores and plans.
    pub fn plan(
        &self,
        config: &ModelConfig,
        digest: Digest,
        configuration: &Configuration,
        cost: &mut TrialCost,
    ) -> Result<PrunePlan> {
        let scores = timed(&mut cost.score, || self.scores(config, configuration))?;
        let options = configuration.plan_options(self.options, self.cheapest, config.layers.len());
        timed(&mut cost.plan, || Ok(plan(&scores, config, digest, &options)?))
    }

    /// Scores, and the plan that meets what is asked for.
    pub fn aimed(
        &self,
        checkpoint: &Checkpoint,
        configuration: &Configuration,
        aim: &Aim<'_>,
    ) -> Result<Aimed> {
        let (config, digest) = (&checkpoint.config, checkpoint.digest()?);
        let scores = self.scores(config, configuration)?;
        let options = configuration.plan_options(self.options, self.cheapest, config.layers.len());
        let (options, kv_cache) = match aim.kv_cache {
            Some(cache) => {
                let (options, record) =
                    cache.choose_in_order(checkpoint, (&scores, &options), self.cheapest)?;
                (options, Some(record))
            }
            None => (options, None),
        };
        let plan = match aim.target {
            Some(target) => {
                let plan = target.plan(checkpoint, &scores, &options)?;
                plan.context("target: the model meets it as it is")?
            }
            None => plan(&scores, config, digest, &options)?,
        };
        Ok(Aimed { plan, scores, options, kv_cache })
    }
}

/// What a plan of a configuration is to meet beside, or instead of, a ratio.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aim<'a> {
    /// What decides the ratio.
    pub target: Option<&'a Target>,
    /// The share of the cache that may stay.
    pub kv_cache: Option<&'a CacheTarget>,
}

/// A plan that meets an aim, and what it was made by.
pub(super) struct Aimed {
    pub plan: PrunePlan,
    pub scores: Scores,
    pub options: PlanOptions,
    pub kv_cache: Option<CacheRecord>,
}

impl Aimed {
    /// Requests that the plan does not meet.
    pub fn unmet(&self, config: &ModelConfig) -> Vec<Unmet> {
        // A target has found its ratio.
        let options = PlanOptions { ratio: self.plan.requested_ratio, ..self.options.clone() };
        self.plan.unmet(config, &options)
    }
}

fn timed<T>(cost: &mut Cost, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let made = work();
    cost.seconds += start.elapsed().as_secs_f64();
    made
}

impl Objective {
    /// Number of chunks of the search-evaluation text.
    pub fn chunks(&self) -> usize {
        self.windows.len()
    }

    /// Loss of the dense model on the search-evaluation text, in nats per
    /// predicted token.
    pub fn dense_loss(&self) -> f64 {
        let weighed = (0..self.chunks())
            .map(|chunk| self.dense_losses[chunk] * self.windows.tokens(chunk) as f64);
        let tokens: u64 = (0..self.chunks()).map(|chunk| self.windows.tokens(chunk)).sum();
        weighed.sum::<f64>() / tokens as f64
    }

    /// The plan of a configuration.
    ///
    /// # Errors
    /// A ratio that the configuration cannot reach; scores that are not finite.
    pub fn plan(&self, configuration: &Configuration, cost: &mut TrialCost) -> Result<PrunePlan> {
        self.plan_at(configuration, self.plan.ratio, cost)
    }

    /// The plan of a configuration at another ratio than the search's.
    ///
    /// # Errors
    /// Those of [`Objective::plan`].
    pub fn plan_at(
        &self,
        configuration: &Configuration,
        ratio: f64,
        cost: &mut TrialCost,
    ) -> Result<PrunePlan> {
        let own;
        let all;
        let (bank, samples) = if configuration.importance(&self.scales).needs_batch_terms() {
            own = timed(&mut cost.score, || self.collect(&configuration.samples))?;
            all = own.all_samples();
            let tokens = own.header().tokens();
            cost.score.tokens += tokens as u64;
            let length = tokens / all.len().max(1);
            cost.score.flops += flops::observed(&self.dense.config, all.len(), length, true);
            (&own, all.as_slice())
        } else {
            (&self.bank, configuration.samples.as_slice())
        };
        let basis = Basis {
            bank,
            samples,
            scales: &self.scales,
            cheapest: &self.cheapest,
            options: &PlanOptions { ratio, ..self.plan.clone() },
        };
        basis.plan(&self.dense.config, self.digest, configuration, cost)
    }

    /// Statistics of some samples with the terms that do not separate.
    fn collect(&self, samples: &[usize]) -> Result<StatsBank> {
        let chosen: Vec<Vec<u32>> =
            samples.iter().map(|&sample| self.pool.windows[sample].clone()).collect();
        let wanted = Wanted {
            samples: &chosen,
            terms: Terms::Full,
            batch: true,
            batch_tokens: self.batch_tokens,
            calibration_digest: self.pool.digest,
            seed: 0,
        };
        let (placement, residency) = (self.beside.placement(), self.beside.residency());
        let weights = match residency {
            // The tensors are held already; their packed forms are new.
            Residency::Resident => {
                let packed = placement.packed_bytes();
                let packed = (packed.forward + packed.back + packed.few) as u64;
                self.dense.config.parameters() * packed
            }
            Residency::Streamed => statistics::streamed(&self.dense, placement),
        };
        let cut = statistics::cut(&self.dense, &wanted, weights, self.memory)?;
        let decoder = Decoder::load(&self.dense, placement, residency)?;
        statistics::collected(&decoder, self.digest, &wanted, cut.cuts, &())
    }

    /// Prunes by a plan and measures chunk by chunk, some of them in one batch. `report`
    /// receives a chunk and its loss, and returns whether to continue.
    ///
    /// A chunk's loss is reported as its excess over the dense model's on the same
    /// chunk, plus the dense model's mean: chunks differ in difficulty far more
    /// than trials do, and this way any part of them estimates the whole. Over all
    /// chunks it is the plain mean.
    ///
    /// `None` if `stop` returns true; it is checked before each block.
    ///
    /// # Errors
    /// Weights that are damaged, a loss that is not finite, what `report` returns.
    pub fn measure(
        &self,
        plan: &PrunePlan,
        cost: &mut TrialCost,
        stop: &dyn Fn() -> bool,
        mut report: impl FnMut(usize, f64) -> Result<bool>,
    ) -> Result<Option<Measured>> {
        let decoder = timed(&mut cost.slice, || {
            let pruned = apply(&self.dense, plan)?;
            Ok(self.beside.load_beside(&pruned)?)
        })?;
        let unchanged = plan.unchanged(&self.dense.config);
        let dense = self.dense_loss();
        let (mut sum, mut tokens, mut done) = (0.0, 0_u64, 0);
        'groups: while done < self.chunks() {
            let group = done..(done + self.windows.together(done)).min(self.chunks());
            let losses = timed(&mut cost.evaluate, || {
                Ok(self.windows.nll_unless(&decoder, unchanged, group.clone(), stop)?)
            })?;
            let Some(losses) = losses else { return Ok(None) };
            let group_tokens: u64 = group.clone().map(|chunk| self.windows.tokens(chunk)).sum();
            let window = self.windows.window();
            cost.evaluate.tokens += group_tokens;
            cost.evaluate.flops += flops::forward(
                decoder.config(),
                group_tokens as usize / window,
                window,
                unchanged.min(self.windows.leading()),
            );
            for (chunk, loss) in group.zip(losses) {
                let adjusted = loss - self.dense_losses[chunk] + dense;
                sum += adjusted * self.windows.tokens(chunk) as f64;
                tokens += self.windows.tokens(chunk);
                done += 1;
                if !report(chunk, adjusted)? {
                    break 'groups;
                }
            }
        }
        Ok(Some(Measured { loss: sum / tokens as f64, complete: done == self.chunks() }))
    }

    /// The pruned model of a configuration, as a checkpoint.
    ///
    /// # Errors
    /// Those of [`Objective::plan`].
    pub fn pruned(&self, configuration: &Configuration) -> Result<(PrunePlan, Checkpoint)> {
        let plan = self.plan(configuration, &mut TrialCost::default())?;
        let pruned = apply(&self.dense, &plan).context("the best trial's plan")?;
        Ok((plan, pruned))
    }

    /// Cost of a trial of the naive loop: the gradients of a number of samples in one backward
    /// pass, and the whole text through all layers of a model pruned by `plan`; operations and
    /// tokens only.
    pub fn naive(&self, samples: usize, plan: &PrunePlan) -> Cost {
        let length = self.pool.windows.first().map_or(0, Vec::len);
        let config = plan.pruned_config(&self.dense.config);
        let (windows, window) = (self.windows.windows(), self.windows.window());
        Cost {
            seconds: 0.0,
            tokens: (samples * length + windows * window) as u64,
            flops: flops::backward(&self.dense.config, samples, length)
                + flops::forward(&config, windows, window, 0),
        }
    }

    /// Pairs of chosen samples that are nearly one text: more than half of the
    /// runs of eight tokens of one are in the other.
    pub fn near_duplicates(&self, samples: &[usize]) -> Vec<(usize, usize)> {
        const RUN: usize = 8;
        let runs: Vec<(usize, BTreeSet<&[u32]>)> =
            samples.iter().map(|&at| (at, self.pool.windows[at].windows(RUN).collect())).collect();
        let mut pairs = Vec::new();
        for (place, (a, runs_a)) in runs.iter().enumerate() {
            for (b, runs_b) in &runs[place + 1..] {
                let shared = runs_a.intersection(runs_b).count();
                if 2 * shared > runs_a.len().min(runs_b.len()).max(1) {
                    pairs.push((*a, *b));
                }
            }
        }
        pairs
    }
}
