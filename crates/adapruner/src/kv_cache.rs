//! The key-value cache as a budget: `--target-kv-cache`.
//!
//! A cache holds keys and values of `t` tokens for every layer with attention, `2·K·D` numbers a
//! token, where `t` is the context, or the window of a layer that has a smaller one: what is
//! behind a window is not read again, and programs that serve models let go of it. A model's
//! bytes per token are those of the whole cache at a context, divided by the context; without
//! windows they are the same at every context.
//!
//! What goes is chosen in one of two ways ([`CacheBy`]): whole attention sublayers by measured
//! loss, each time the one whose removal costs least loss per byte, and of the last one only as
//! many key-value groups as are needed; or key-value groups by score, spread over the layers as
//! the plan's other cuts are, at least one group of each layer staying.
//!
//! Axes: `K` key-value heads, `D` head width.

use std::fmt;

use adapruner_checkpoint::{Checkpoint, ModelConfig, text::TokenSet};
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{
    Error as PruneError, KvMode, LayerPlan, Layout, PlanOptions, PrunePlan, Scores, plan,
};
use serde::{Deserialize, Serialize};

use crate::{
    advice::advised,
    attention,
    error::{Context, Error, Result},
    footprint::Bytes,
    greedy::Goal,
    pipeline::{self, TokensRecord},
    progress::Progress,
};

/// Bytes of a number of the cache, in 16 bits as llama.cpp and transformers keep it.
const CACHED: u64 = 2;
/// Resolution of the bisection over ratios of the attention's parameters.
const STEP: f64 = 1e-4;

/// Bytes that a key-value head of a layer takes in the whole cache of `context` tokens.
fn of_head(config: &ModelConfig, layer: usize, context: usize) -> u64 {
    let tokens = config.window(layer).map_or(context, |window| window.min(context));
    2 * CACHED * (config.head_dim * tokens) as u64
}

/// Bytes of the whole cache of a model at a context of so many tokens.
pub fn cache_bytes(config: &ModelConfig, context: usize) -> u64 {
    let layers = config.layers.iter().enumerate();
    layers.map(|(layer, of)| of.kv_heads as u64 * of_head(config, layer, context)).sum()
}

/// Bytes of the cache for each token of a context, rounded up.
pub fn bytes_per_token(config: &ModelConfig, context: usize) -> u64 {
    cache_bytes(config, context).div_ceil(context.max(1) as u64)
}

/// How what leaves the cache is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheBy {
    /// Whole attention sublayers, by the loss of calibration samples without them.
    Loss,
    /// Key-value groups, by their scores.
    Score,
}

adapruner_choice::choice!(CacheBy, "way to cut the cache", {
    Loss => "loss",
    Score => "score",
});

/// The share of a model's cache that may stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CacheTarget {
    /// The share, above 0 and below 1.
    pub share: f64,
    /// How what goes is chosen.
    pub by: CacheBy,
    /// Tokens that the cache is counted at.
    pub context: usize,
    /// Bytes of the original's cache at that context.
    pub bytes_before: u64,
}

/// An attention sublayer that left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RemovedSublayer {
    /// Its layer.
    pub layer: usize,
    /// Increase of the loss when it was removed after those before it, in nats per predicted
    /// token.
    pub cost: f64,
}

/// How a cache was brought to its share; layers are those of the model without the layers that
/// were removed whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The share that may stay.
    pub share: f64,
    /// The share that stays by the attention that goes for it.
    pub reached: f64,
    /// Tokens that the cache is counted at.
    pub context: usize,
    /// How what goes was chosen.
    pub by: CacheBy,
    /// The samples that losses were measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<TokensRecord>,
    /// Attention sublayers in the order of their removal, where that was measured; of the last
    /// one perhaps only groups went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<RemovedSublayer>,
    /// Layers without attention.
    pub sublayers: Vec<usize>,
    /// Key-value groups that each layer loses, first layer first; none where no layer loses some
    /// of its groups.
    pub groups: Vec<usize>,
}

impl fmt::Display for CacheRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share, reached, sublayers, groups, by, context, .. } = self;
        write!(f, "{reached:.4} of it stays ({share} asked, at {context} tokens), without ")?;
        let counted = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            more => Some(format!("{more} {what}s")),
        };
        let parts = [
            counted(sublayers.len(), "attention sublayer"),
            counted(groups.iter().sum(), "key-value group"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => write!(f, "a cut"),
            false => write!(f, "{}, by {by}", parts.join(" and ")),
        }
    }
}

impl CacheTarget {
    /// A share of the cache of `original`, at its full context unless another is named.
    ///
    /// # Errors
    /// A share that is not between 0 and 1; a context of 0 or beyond the model's; a model without
    /// attention.
    pub fn of(
        original: &ModelConfig,
        share: f64,
        by: CacheBy,
        context: Option<usize>,
    ) -> Result<Self> {
        check_share(share)?;
        let context = checked_context(original, context)?;
        let bytes_before = cache_bytes(original, context);
        if bytes_before == 0 {
            return Err(advised(
                "target-kv-cache: the model has no attention, so no key-value cache",
                "leave it out",
            ));
        }
        Ok(Self { share, by, context, bytes_before })
    }

    /// Bytes that may stay.
    fn budget(&self) -> u64 {
        // Of a share that is typed with few digits a byte more or less is no matter.
        (self.share * self.bytes_before as f64 + 1e-6).floor() as u64
    }

    /// The share of the original's cache that a model of `config` has.
    pub fn share_of(&self, config: &ModelConfig) -> f64 {
        cache_bytes(config, self.context) as f64 / self.bytes_before as f64
    }

    /// Whether the cache of a model of `config` fits.
    pub fn holds(&self, config: &ModelConfig) -> bool {
        cache_bytes(config, self.context) <= self.budget()
    }

    /// Bytes that stay of a model of `config` without what `options` drop and without the
    /// attention of `gone`.
    fn left(&self, config: &ModelConfig, options: &PlanOptions, gone: &[usize]) -> u64 {
        let stays = |layer: &usize| {
            !gone.contains(layer)
                && !options.drop_attention.contains(layer)
                && !options.drop_layers.contains(layer)
        };
        let heads = |layer: usize| {
            let dropped = options.drop_groups.get(layer).copied().unwrap_or(0);
            config.layers[layer].kv_heads.saturating_sub(dropped) as u64
        };
        let layers = (0..config.layers.len()).filter(stays);
        layers.map(|layer| heads(layer) * of_head(config, layer, self.context)).sum()
    }

    fn unreachable(&self, least: u64, options: &PlanOptions) -> Error {
        let hint = match (options.protect, self.by) {
            ((0, 0), CacheBy::Loss) => "whole layers can go too: --drop-layers N",
            ((0, 0), CacheBy::Score) => {
                "whole attention sublayers make it smaller still: --kv-cache-by loss"
            }
            (_, CacheBy::Loss) => "no protected layers (--protect 0,0) make it smaller still",
            (_, CacheBy::Score) => {
                "no protected layers (--protect 0,0) and whole attention sublayers (--kv-cache-by \
                 loss) make it smaller still"
            }
        };
        advised(
            format!(
                "target-kv-cache: {} asked, these options reach {:.4} at the least",
                self.share,
                least as f64 / self.bytes_before as f64
            ),
            hint,
        )
    }

    /// `options` with the attention that has to go for the cache to fit, and how that was
    /// chosen; `samples` are for measured losses. A model that fits keeps its attention.
    ///
    /// # Errors
    /// A share that these options do not reach (the message says what they reach); no samples
    /// where losses are measured; errors of [`plan`]; a loss that is not finite; no memory.
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

    fn record(
        &self,
        config: &ModelConfig,
        options: &PlanOptions,
        samples: Option<TokensRecord>,
        measured: Vec<RemovedSublayer>,
    ) -> CacheRecord {
        let left = self.left(config, options, &[]);
        CacheRecord {
            share: self.share,
            reached: left as f64 / self.bytes_before as f64,
            context: self.context,
            by: self.by,
            samples,
            measured,
            sublayers: options.drop_attention.clone(),
            groups: options.drop_groups.clone(),
        }
    }

    /// What a model's cache takes, and what may stay of it, in words.
    pub fn missed(&self, config: &ModelConfig) -> Option<crate::caution::Caution> {
        (!self.holds(config)).then(|| crate::caution::Caution {
            message: format!(
                "target-kv-cache: {} asked, {:.4} reached ({} for {} tokens)",
                self.share,
                self.share_of(config),
                Bytes(cache_bytes(config, self.context)),
                self.context
            ),
            hint: "learned masks moved key-value groups between layers with different windows: \
                   leave them out, or ask for a little less"
                .into(),
        })
    }
}

/// Bytes of a layer's part of the cache.
fn of_layer(config: &ModelConfig, layer: usize, context: usize) -> f64 {
    (config.layers[layer].kv_heads as u64 * of_head(config, layer, context)).max(1) as f64
}

/// Refuses what is no share of a cache.
///
/// # Errors
/// A share that is not above 0 and below 1.
pub fn check_share(share: f64) -> Result<()> {
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(advised(
        format!("target-kv-cache: expected a share above 0 and below 1, found {share}"),
        "it is the share of the key-value cache that may stay: 0.5, or 50%, halves it",
    ))
}

/// A context that is named, or the model's own.
///
/// # Errors
/// 0, or more tokens than the model was made for.
pub fn checked_context(config: &ModelConfig, context: Option<usize>) -> Result<usize> {
    let most = config.max_position_embeddings;
    match context {
        None => Ok(most),
        Some(context) if (1..=most).contains(&context) => Ok(context),
        Some(context) => Err(advised(
            format!(
                "budget-context: expected from 1 to the model's {most} tokens, found {context}"
            ),
            "inspect shows a model's context",
        )),
    }
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
    let digest = adapruner_checkpoint::Digest::of_bytes(&[]);
    PrunePlan::keeping(config, digest, layers).reached_ratio.clamp(STEP, 1.0 - STEP)
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};

    use super::*;

    fn config(windows: Vec<Option<usize>>) -> ModelConfig {
        let layers = [(9, 3, 7), (0, 0, 7), (4, 4, 7)]
            .map(|(query_heads, kv_heads, ffn)| LayerWidths { query_heads, kv_heads, ffn });
        let config = ModelConfig::new(Architecture::Llama, 24, 4, 50, layers.to_vec());
        ModelConfig { windows, max_position_embeddings: 100, ..config }
    }

    #[test]
    fn a_cache_holds_keys_and_values_of_every_layer_with_attention() {
        let config = config(Vec::new());
        assert_eq!(bytes_per_token(&config, 100), 2 * 2 * (3 + 4) * 4);
        assert_eq!(bytes_per_token(&config, 1), bytes_per_token(&config, 77));
        assert_eq!(cache_bytes(&config, 10), 10 * bytes_per_token(&config, 10));
    }

    #[test]
    fn layers_with_a_window_hold_no_more_than_that() {
        let config = config(vec![Some(10), None, None]);
        assert_eq!(cache_bytes(&config, 100), 2 * 2 * 4 * (3 * 10 + 4 * 100));
        assert_eq!(cache_bytes(&config, 10), 2 * 2 * 4 * (3 * 10 + 4 * 10));
        // 43 tokens' heads of 700: a little more than 9 bytes of 16 a head.
        assert_eq!(bytes_per_token(&config, 100), (2 * 2 * 4 * 430_u64).div_ceil(100));
    }

    #[test]
    fn of_the_last_sublayer_only_the_groups_go_that_must() {
        let windowed_config = config;
        let config = config(Vec::new());
        let target = |share| CacheTarget::of(&config, share, CacheBy::Loss, None).unwrap();
        let options = PlanOptions::new(0.5);
        let of = |share: f64, order: &[usize]| {
            let (found, taken) = target(share).by_sublayers(&config, &options, order).unwrap();
            (found.drop_attention, found.drop_groups, taken)
        };
        // 7 heads: 5 may stay, 3, 4.
        assert_eq!(of(5.0 / 7.0, &[2, 0]), (vec![], vec![0, 0, 2], 1));
        assert_eq!(of(3.0 / 7.0, &[2, 0]), (vec![2], vec![], 1));
        assert_eq!(of(0.4, &[2, 0]), (vec![2], vec![1, 0, 0], 2));
        assert_eq!(of(0.5, &[0, 2]), (vec![0], vec![0, 0, 1], 2));
        let spared = PlanOptions { protect: (1, 0), ..options.clone() };
        let error = target(0.2).by_sublayers(&config, &spared, &[2, 0]).unwrap_err().to_string();
        assert!(error.contains("0.2 asked, these options reach 0.4286"), "{error}");
        // A small layer that went first comes back once a large one makes room.
        let windowed = windowed_config(vec![Some(1), None, None]);
        let half = CacheTarget::of(&windowed, 0.51, CacheBy::Loss, None).unwrap();
        let (found, _) = half.by_sublayers(&windowed, &PlanOptions::new(0.5), &[0, 2]).unwrap();
        assert_eq!((found.drop_attention, found.drop_groups), (vec![], vec![0, 0, 2]));
        // Query heads alone leave keys and values: the sublayer goes whole.
        let heads = PlanOptions { kv_mode: KvMode::QueryHeads, ..options };
        let (found, _) = target(5.0 / 7.0).by_sublayers(&config, &heads, &[2, 0]).unwrap();
        assert_eq!((found.drop_attention, found.drop_groups), (vec![2], vec![]));
    }

    #[test]
    fn shares_and_contexts_that_make_no_sense_are_refused() {
        let config = config(Vec::new());
        for share in [0.0, 1.0, -0.5, 1.5, f64::NAN] {
            assert!(CacheTarget::of(&config, share, CacheBy::Score, None).is_err(), "{share}");
        }
        for context in [0, 101] {
            assert!(CacheTarget::of(&config, 0.5, CacheBy::Score, Some(context)).is_err());
        }
    }
}
