//! The slimmer shapes that a cost model is calibrated on.

use adapruner_checkpoint::{LayerWidths, ModelConfig};
use adapruner_prune::LayerPlan;

/// Shapes in which everything is cut at once.
const MIXED: u64 = 4;

/// A slimmer shape of a model. Which units it keeps does not matter for its speed: the first ones.
pub(super) struct Slim {
    /// In a few words.
    pub(super) name: String,
    /// What stays of each layer.
    pub(super) layers: Vec<LayerPlan>,
    /// Tokens that stay.
    pub(super) tokens: usize,
}

/// A number from 0 to 1 for each `at` (SplitMix64, Steele et al. 2014).
fn drawn(at: u64) -> f64 {
    let mut x = at.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first `ffn` channels of each expert, `groups` key-value groups and `each` query heads of
/// every group of a layer.
fn first(
    config: &ModelConfig,
    widths: &LayerWidths,
    ffn: f64,
    groups: f64,
    each: f64,
) -> LayerPlan {
    let part = |share: f64, of: usize| ((share * of as f64).round() as usize).clamp(1, of.max(1));
    let (experts, width) = (config.expert_count(), config.expert_width(widths));
    let kept = part(ffn, width);
    let ffn = (0..experts).flat_map(|expert| expert * width..expert * width + kept).collect();
    if !widths.has_attention() {
        return LayerPlan { ffn, ..LayerPlan::NOTHING };
    }
    let size = widths.group_size();
    let (groups, each) = (part(groups, widths.kv_heads), part(each, size));
    let query_heads = (0..groups).flat_map(|group| group * size..group * size + each).collect();
    LayerPlan { query_heads, kv_heads: (0..groups).collect(), ffn }
}

/// Every shape that a model of `config` can have of these: each kind of unit halved, and some in
/// which everything is cut.
pub(super) fn shapes(config: &ModelConfig) -> Vec<Slim> {
    let (all, vocabulary) = (&config.layers, config.vocab_size);
    let each = |layer: &dyn Fn(usize, &LayerWidths) -> LayerPlan| -> Vec<LayerPlan> {
        all.iter().enumerate().map(|(at, widths)| layer(at, widths)).collect()
    };
    let every = |ffn: f64, groups: f64, heads: f64| {
        each(&|_, widths| first(config, widths, ffn, groups, heads))
    };
    let without = |kept: LayerPlan| LayerPlan { ffn: kept.ffn, ..LayerPlan::NOTHING };
    let slim = |name: &str, layers| Slim { name: name.to_owned(), layers, tokens: vocabulary };
    let mut found = Vec::new();
    if all.len() > 1 {
        let odd = each(&|at, widths| match at % 2 {
            0 => LayerPlan::whole(widths),
            _ => LayerPlan::NOTHING,
        });
        found.push(slim("half of the layers", odd));
    }
    let odd = each(&|at, widths| match at % 2 {
        0 => without(LayerPlan::whole(widths)),
        _ => LayerPlan::whole(widths),
    });
    found.push(slim("half of the attention sublayers", odd));
    found.push(slim("half of the channels", every(0.5, 1.0, 1.0)));
    found.push(slim("half of the groups", every(1.0, 0.5, 1.0)));
    found.push(slim("half of the query heads", every(1.0, 1.0, 0.5)));
    found.push(Slim {
        tokens: vocabulary.div_ceil(2),
        ..slim("half of the tokens", every(1.0, 1.0, 1.0))
    });
    for mixed in 0..MIXED {
        let draw = |at: usize, what: u64| drawn((mixed * 100_003 + at as u64) * 8 + what);
        let share = |at, what| 0.25 + 0.75 * draw(at, what);
        let layers = each(&|at, widths| {
            let kept = first(config, widths, share(at, 0), share(at, 1), share(at, 2));
            match (draw(at, 3), draw(at, 4)) {
                // The first layer stays: one of them must.
                (gone, _) if gone < 0.25 && at > 0 => LayerPlan::NOTHING,
                (_, gone) if gone < 0.25 => without(kept),
                (_, _) => kept,
            }
        });
        let tokens = (share(all.len(), 5) * vocabulary as f64).ceil() as usize;
        let name = format!("mixed {}", mixed + 1);
        found.push(Slim { name, layers, tokens: tokens.clamp(1, vocabulary) });
    }
    found.retain(|slim| {
        let smaller = |(kept, widths): (&LayerPlan, &LayerWidths)| kept.widths() != *widths;
        slim.tokens < vocabulary || slim.layers.iter().zip(all).any(smaller)
    });
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use adapruner_checkpoint::{Architecture, Digest};
    use adapruner_prune::PrunePlan;

    use super::*;

    #[test]
    fn every_shape_is_a_plan_of_its_model_and_no_two_are_the_same() {
        let widths = LayerWidths { query_heads: 6, kv_heads: 3, ffn: 40 };
        for architecture in [Architecture::Llama, Architecture::Mixtral] {
            let config = ModelConfig::new(architecture, 8, 4, 90, vec![widths; 6]);
            let shapes = shapes(&config);
            assert_eq!(shapes.len(), 10);
            let mut seen = BTreeSet::new();
            for Slim { name, layers, tokens } in shapes {
                let plan = PrunePlan::keeping(&config, Digest::of_bytes(b"m"), layers);
                if plan.parameters_after < plan.parameters_before {
                    plan.validate(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
                } else {
                    assert!(tokens < config.vocab_size, "{name}");
                }
                let shape = plan.layers.iter().map(|of| format!("{:?}", of.widths()));
                assert!(seen.insert((shape.collect::<Vec<_>>(), tokens)), "{name}");
            }
        }
    }

    #[test]
    fn what_a_model_has_one_of_is_not_halved() {
        let widths = LayerWidths { query_heads: 1, kv_heads: 1, ffn: 4 };
        let config = ModelConfig::new(Architecture::Llama, 8, 4, 90, vec![widths]);
        let names: Vec<String> = shapes(&config).into_iter().map(|of| of.name).collect();
        for gone in ["half of the layers", "half of the groups", "half of the query heads"] {
            assert!(!names.contains(&gone.to_owned()), "{names:?}");
        }
    }
}
