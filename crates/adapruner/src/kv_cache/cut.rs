//! How a cache target is reached: whole attention sublayers by measured loss, or groups by score.

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig, text::TokenSet};
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{
    Error as PruneError, KvMode, LayerPlan, Layout, PlanOptions, PrunePlan, Scores, plan,
};

use super::{CacheBy, CacheRecord, CacheTarget, RemovedSublayer, of_head};
use crate::{
    advice::advised,
    attention,
    error::{Context, Error, Result},
    greedy::Goal,
    pipeline::{self, TokensRecord},
    progress::Progress,
};

/// Resolution of the bisection over ratios of the attention's parameters.
const STEP: f64 = 1e-4;

impl CacheTarget {
    /// `options` with the attention that has to go for the cache to fit, and how that was
    /// chosen; `samples` are for measured losses. A model that fits keeps its attention.
    ///
    /// # Errors
    /// A share that these options do not reach (the message says what they reach); no samples
    /// where losses are measured; errors of [`plan()`]; a loss that is not finite; no memory.
    pub fn choose(
        &self,
        checkpoint: &Checkpoint,
        (scores, options): (&Scores, &PlanOptions),
        samples: Option<&TokenSet>,
        (placement, progress): (&Placement, &dyn Progress),
    ) -> Result<(PlanOptions, CacheRecord)> {
        let config = &checkpoint.config;
        if self.left(config, options, &[]) <= self.budget() {
            return Ok((options.clone(), self.record(config, options, None, Vec::new())));
        }
        match self.by {
            CacheBy::Score => {
                let found = self.by_groups(checkpoint, scores, options)?;
                let record = self.record(config, &found, None, Vec::new());
                Ok((found, record))
            }
            CacheBy::Loss => {
                let candidates = self.candidates(config, options)?;
                let samples =
                    samples.context("target-kv-cache: no samples to measure losses on")?;
                let few = samples.few(attention::SAMPLES);
                let residency = pipeline::residency(checkpoint, placement);
                let dense = Decoder::load(checkpoint, placement, residency)?;
                let goal = Goal {
                    worth: &|layer| of_layer(config, layer, self.context),
                    reached: &|gone| self.left(config, options, gone) <= self.budget(),
                };
                let windows = &few.windows;
                let (order, _) =
                    attention::order(checkpoint, &dense, windows, (&candidates, &goal), progress)?;
                let layers: Vec<usize> = order.iter().map(|(layer, _)| *layer).collect();
                let (found, taken) = self.by_sublayers(config, options, &layers)?;
                let goes = |layer: usize| {
                    found.drop_attention.contains(&layer)
                        || found.drop_groups.get(layer).is_some_and(|&groups| groups > 0)
                };
                let measured = order[..taken].iter().filter(|(layer, _)| goes(*layer));
                let measured =
                    measured.map(|&(layer, cost)| RemovedSublayer { layer, cost }).collect();
                let samples = Some(TokensRecord::of(&few));
                let record = self.record(config, &found, samples, measured);
                Ok((found, record))
            }
        }
    }

    /// [`CacheTarget::choose`] with an order of attention sublayers that is known already.
    ///
    /// # Errors
    /// Those of [`CacheTarget::choose`], measuring apart.
    pub fn choose_in_order(
        &self,
        checkpoint: &Checkpoint,
        (scores, options): (&Scores, &PlanOptions),
        order: &[usize],
    ) -> Result<(PlanOptions, CacheRecord)> {
        let config = &checkpoint.config;
        let found = match self.by {
            _ if self.left(config, options, &[]) <= self.budget() => options.clone(),
            CacheBy::Score => self.by_groups(checkpoint, scores, options)?,
            CacheBy::Loss => {
                self.candidates(config, options)?;
                self.by_sublayers(config, options, order)?.0
            }
        };
        let record = self.record(config, &found, None, Vec::new());
        Ok((found, record))
    }

    /// `options` with the first attention sublayers of `order` that have to go, protected ones
    /// skipped, and how many of it that takes. Of the last one only as many key-value groups go
    /// as are needed, where heads go by groups.
    ///
    /// # Errors
    /// A share that is not reached without all of them.
    pub fn by_sublayers(
        &self,
        config: &ModelConfig,
        options: &PlanOptions,
        order: &[usize],
    ) -> Result<(PlanOptions, usize)> {
        let layers = config.layers.len();
        let mut found = options.clone();
        for (at, &layer) in order.iter().enumerate() {
            let left = self.left(config, &found, &[]);
            if left <= self.budget() {
                return Ok((self.restored(config, options, found, &order[..at]), at));
            }
            let spared = options.protects(layer, layers) || !config.layers[layer].has_attention();
            if spared || found.drop_attention.contains(&layer) {
                continue;
            }
            let each = of_head(config, layer, self.context).max(1);
            let needed = (left - self.budget()).div_ceil(each) as usize;
            if needed < config.layers[layer].kv_heads && options.kv_mode == KvMode::Groups {
                found.drop_groups.resize(layers, 0);
                found.drop_groups[layer] = needed;
            } else {
                found.drop_attention.push(layer);
                found.drop_attention.sort_unstable();
            }
        }
        let least = self.left(config, &found, &[]);
        if least <= self.budget() {
            return Ok((self.restored(config, options, found, order), order.len()));
        }
        Err(self.unreachable(least, options))
    }

    /// Gives back sublayers that need not go after those behind them in `order` went: those of
    /// layers with a window are small.
    fn restored(
        &self,
        config: &ModelConfig,
        options: &PlanOptions,
        mut found: PlanOptions,
        order: &[usize],
    ) -> PlanOptions {
        for &layer in order.iter().rev().filter(|layer| !options.drop_attention.contains(layer)) {
            let others = found.drop_attention.iter().copied().filter(|&other| other != layer);
            let without = PlanOptions { drop_attention: others.collect(), ..found.clone() };
            if self.left(config, &without, &[]) <= self.budget() {
                found = without;
            }
        }
        found
    }

    /// The layers whose attention may go, if that is enough.
    fn candidates(&self, config: &ModelConfig, options: &PlanOptions) -> Result<Vec<usize>> {
        if options.layout == Layout::Uniform {
            return Err(advised(
                "target-kv-cache: removed attention sublayers make layers differ, but the layout is \
                 uniform",
                "cut groups of every layer (--kv-cache-by score), or leave --layout uniform out",
            ));
        }
        let layers = config.layers.len();
        let free = |layer: &usize| {
            config.layers[*layer].has_attention()
                && !options.protects(*layer, layers)
                && !options.drop_attention.contains(layer)
        };
        let candidates: Vec<usize> = (0..layers).filter(free).collect();
        let least = self.left(config, options, &candidates);
        if least > self.budget() {
            return Err(self.unreachable(least, options));
        }
        Ok(candidates)
    }

    /// `options` with the fewest key-value groups of every layer that have to go: as many as a
    /// plan of the attention alone takes of each layer.
    fn by_groups(
        &self,
        checkpoint: &Checkpoint,
        scores: &Scores,
        options: &PlanOptions,
    ) -> Result<PlanOptions> {
        let (config, digest) = (&checkpoint.config, checkpoint.digest()?);
        if options.kv_mode == KvMode::QueryHeads {
            return Err(advised(
                "target-kv-cache: query heads hold no keys and values, but the kv-mode is \
                 query-heads",
                "cut whole groups (--kv-mode groups), or whole attention sublayers (--kv-cache-by \
                 loss)",
            ));
        }
        let heads = PlanOptions { attention_share: Some(1.0), ..options.clone() };
        // Without what is dropped by name, which a small ratio would not reach.
        let free = PlanOptions { drop_attention: Vec::new(), ..heads };
        let groups = |ratio| -> Result<PlanOptions> {
            let made = plan(scores, config, digest, &PlanOptions { ratio, ..free.clone() })?;
            let lost = made.layers.iter().zip(&config.layers).enumerate();
            let lost =
                lost.map(|(layer, (kept, of))| match options.drop_attention.contains(&layer) {
                    true => 0,
                    false => of.kv_heads - kept.kv_heads.len(),
                });
            Ok(PlanOptions { drop_groups: lost.collect(), ..options.clone() })
        };
        let fits = |options: &PlanOptions| self.left(config, options, &[]) <= self.budget();
        let all = attention_ratio(config);
        let most = match groups(all) {
            Ok(found) => Some((all, found)),
            Err(Error::Prune(PruneError::Unreachable { largest, .. })) if largest > 0.0 => {
                Some((largest, groups(largest)?))
            }
            Err(Error::Prune(PruneError::Unreachable { .. })) => None,
            Err(error) => return Err(error),
        };
        let (mut high, mut best) = match most {
            Some((ratio, found)) if fits(&found) => (ratio, found),
            Some((_, found)) => {
                return Err(self.unreachable(self.left(config, &found, &[]), options));
            }
            None => return Err(self.unreachable(self.left(config, options, &[]), options)),
        };
        let mut low = 0.0;
        while high - low > STEP {
            let middle = f64::midpoint(low, high);
            match groups(middle) {
                Ok(found) if fits(&found) => (high, best) = (middle, found),
                Ok(_) => low = middle,
                Err(Error::Prune(PruneError::Unreachable { .. })) => low = middle,
                Err(error) => return Err(error),
            }
        }
        Ok(self.given_back(config, scores, best))
    }

    /// Gives back groups that need not go, the most important first.
    fn given_back(
        &self,
        config: &ModelConfig,
        scores: &Scores,
        mut options: PlanOptions,
    ) -> PlanOptions {
        if options.layout == Layout::Uniform {
            return options;
        }
        loop {
            let spare = self.budget() - self.left(config, &options, &[]);
            // The most important group that a layer loses, against the mean of its layer.
            let last = |layer: usize| {
                let mut all = scores.layers[layer].kv_groups.clone();
                all.sort_by(f64::total_cmp);
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                all[options.drop_groups[layer] - 1] / mean.abs().max(f64::MIN_POSITIVE)
            };
            let loses = (0..config.layers.len()).filter(|&layer| options.drop_groups[layer] > 0);
            let fits = loses.filter(|&layer| of_head(config, layer, self.context) <= spare);
            let Some(layer) = fits.max_by(|&a, &b| last(a).total_cmp(&last(b))) else {
                return options;
            };
            options.drop_groups[layer] -= 1;
        }
    }
}

/// Bytes of a layer's part of the cache.
fn of_layer(config: &ModelConfig, layer: usize, context: usize) -> f64 {
    (config.layers[layer].kv_heads as u64 * of_head(config, layer, context)).max(1) as f64
}

/// Share of a model's parameters that its attention sublayers have.
fn attention_ratio(config: &ModelConfig) -> f64 {
    let all: Vec<usize> =
        (0..config.layers.len()).filter(|&layer| config.layers[layer].has_attention()).collect();
    let mut layers: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
    for layer in all {
        layers[layer].query_heads.clear();
        layers[layer].kv_heads.clear();
    }
    let digest = Digest::of_bytes(&[]);
    PrunePlan::keeping(config, digest, layers).reached_ratio.clamp(STEP, 1.0 - STEP)
}
