//! What a pass is made of, and what it costs.
//!
//! A pass takes `Σ cost · units`. The units ([`Work`]) are counts that a configuration tells, and
//! a smaller model has no more of any of them; costs are not negative. So a plan that removes more
//! is never predicted to be slower.
//!
//! Axes: `T` tokens, `N` query heads, `K` key-value heads, `D` head width, `H` hidden, `V`
//! vocabulary.

use adapruner_checkpoint::ModelConfig;
use serde::{Deserialize, Serialize};

use super::Timed;

/// Numbers of units that a pass consists of; of a cost model, the seconds of one unit each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// The pass itself: 1.
    pub fixed: f64,
    /// Layers.
    pub layers: f64,
    /// Attention sublayers.
    pub attention: f64,
    /// Parameters of the layers that a token meets, times the tokens of the pass.
    pub weights: f64,
    /// Parameters of the output projection, `V·H`; it runs for one token.
    pub head: f64,
    /// Numbers of keys and values that are read, `Σ 2·K·D` over the tokens that are seen.
    pub cached: f64,
    /// Products of queries and keys, `Σ N·D` over pairs of tokens.
    pub scores: f64,
}

impl Work {
    /// Units of a kind of pass of a model of `config`: one over a prompt of `tokens`, or one
    /// that generates a token after a context of `tokens`.
    pub fn of(config: &ModelConfig, timed: Timed, tokens: usize) -> Self {
        let (h, d) = (config.hidden_size as u64, config.head_dim as u64);
        let head = config.vocab_size as u64 * h;
        let positions = config.learned_positions().unwrap_or(0) as u64 * h;
        let ends = positions + if config.tie_word_embeddings { head } else { 2 * head };
        let weights = config.active_parameters().saturating_sub(ends);
        let passed = match timed {
            Timed::Prompt => tokens as u64,
            Timed::Decode => 1,
        };
        let (mut attention, mut cached, mut scores) = (0_u64, 0_u64, 0_u64);
        for (layer, widths) in config.layers.iter().enumerate().filter(|(_, w)| w.has_attention()) {
            let window = config.window(layer).unwrap_or(usize::MAX);
            let (seen, pairs) = match timed {
                Timed::Prompt => (tokens as u64, pairs(tokens as u64, window as u64)),
                Timed::Decode => {
                    let seen = (tokens + 1).min(window) as u64;
                    (seen, seen)
                }
            };
            attention += 1;
            cached += 2 * widths.kv_heads as u64 * d * seen;
            scores += widths.query_heads as u64 * d * pairs;
        }
        Self {
            fixed: 1.0,
            layers: config.layers.len() as f64,
            attention: attention as f64,
            weights: (weights * passed) as f64,
            head: head as f64,
            cached: cached as f64,
            scores: scores as f64,
        }
    }

    /// In the order of the fields.
    pub fn values(&self) -> [f64; 7] {
        let Self { fixed, layers, attention, weights, head, cached, scores } = *self;
        [fixed, layers, attention, weights, head, cached, scores]
    }

    /// From values in the order of the fields.
    pub fn from_values(values: [f64; 7]) -> Self {
        let [fixed, layers, attention, weights, head, cached, scores] = values;
        Self { fixed, layers, attention, weights, head, cached, scores }
    }

    /// Seconds of so many units at these costs.
    pub fn seconds(&self, costs: &Self) -> f64 {
        self.values().iter().zip(costs.values()).map(|(units, cost)| units * cost).sum()
    }
}

/// Pairs of a token and one that it sees, itself among them, in `tokens` of which each sees at
/// most `window`.
fn pairs(tokens: u64, window: u64) -> u64 {
    let window = window.min(tokens);
    window * (window + 1) / 2 + (tokens - window) * window
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_counted_as_they_are_seen() {
        for (tokens, window) in [(1, 9), (5, 9), (5, 5), (5, 1), (7, 3)] {
            let each = (1..=tokens).map(|seen: u64| seen.min(window)).sum::<u64>();
            assert_eq!(pairs(tokens, window), each, "{tokens} {window}");
        }
    }

    #[test]
    fn a_token_meets_every_weight_of_the_layers_and_of_the_head_once() {
        let layers = vec![
            LayerWidths { query_heads: 4, kv_heads: 2, ffn: 5 },
            LayerWidths { query_heads: 0, kv_heads: 0, ffn: 5 },
        ];
        let config = ModelConfig::new(Architecture::Llama, 6, 2, 11, layers);
        let work = Work::of(&config, Timed::Decode, 9);
        // The embedding is a look-up; the final norm is counted with the layers.
        assert_eq!(work.weights + work.head, (config.parameters() - 66) as f64);
        assert_eq!((work.layers, work.attention), (2.0, 1.0));
        assert_eq!((work.cached, work.scores), (2.0 * 2.0 * 2.0 * 10.0, 4.0 * 2.0 * 10.0));
        let prompt = Work::of(&config, Timed::Prompt, 9);
        assert_eq!(prompt.weights, 9.0 * work.weights);
        assert_eq!((prompt.head, prompt.scores), (work.head, 4.0 * 2.0 * 45.0));
    }

    proptest! {
        /// Of every part that goes: no unit becomes more.
        #[test]
        fn a_smaller_model_is_never_predicted_to_be_slower(
            layers in prop::collection::vec((0_usize..4, 1_usize..3, 1_usize..40), 1..6),
            vocabulary in 2_usize..90,
            costs in prop::array::uniform7(0.0..1.0_f64),
            (layer, what, amount) in (0_usize..6, 0_usize..5, 1_usize..20),
            tokens in 1_usize..70,
            window in prop::option::of(1_usize..80),
            tied in any::<bool>(),
        ) {
            let widths = layers.iter().map(|&(kv_heads, group, ffn)| LayerWidths {
                query_heads: kv_heads * group,
                kv_heads,
                ffn,
            });
            let config = ModelConfig::new(Architecture::Llama, 8, 4, vocabulary, widths.collect());
            let windows = window.map_or_else(Vec::new, |w| {
                (0..layers.len()).map(|at| (at % 2 == 0).then_some(w)).collect()
            });
            let config = ModelConfig { windows, tie_word_embeddings: tied, ..config };
            let mut smaller = config.layers.clone();
            let at = layer % smaller.len();
            let mut vocab_size = config.vocab_size;
            match what {
                0 => smaller[at].ffn = smaller[at].ffn.saturating_sub(amount).max(1),
                1 => (smaller[at].query_heads, smaller[at].kv_heads) = (0, 0),
                2 if smaller[at].kv_heads > 1 => {
                    smaller[at].query_heads -= smaller[at].group_size();
                    smaller[at].kv_heads -= 1;
                }
                3 if smaller.len() > 1 => {
                    smaller[at] = LayerWidths { query_heads: 0, kv_heads: 0, ffn: 0 };
                }
                _ => vocab_size = vocab_size.saturating_sub(amount).max(1),
            }
            let smaller = ModelConfig { vocab_size, ..config.with_layers(smaller) };
            let costs = Work::from_values(costs);
            for timed in [Timed::Prompt, Timed::Decode] {
                let seconds = |of: &ModelConfig| Work::of(of, timed, tokens).seconds(&costs);
                prop_assert!(seconds(&smaller) <= seconds(&config) * (1.0 + 1e-12));
            }
        }
    }
}
