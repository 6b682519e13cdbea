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

mod cut;

use std::fmt;

use adapruner_checkpoint::ModelConfig;
use adapruner_prune::PlanOptions;
use serde::{Deserialize, Serialize};

use crate::{
    advice::advised,
    caution::Caution,
    error::{Error, Result},
    footprint::Bytes,
    pipeline::TokensRecord,
};

/// Bytes of a number of the cache, in 16 bits as llama.cpp and transformers keep it.
const CACHED: u64 = 2;

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
    pub fn missed(&self, config: &ModelConfig) -> Option<Caution> {
        (!self.holds(config)).then(|| Caution {
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

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};
    use adapruner_prune::KvMode;

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
