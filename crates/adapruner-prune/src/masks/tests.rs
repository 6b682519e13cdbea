//! Gates: budgets, first masks, plans, and which samples make a step.

use std::collections::BTreeSet;

use adapruner_checkpoint::{Architecture, Digest, LayerWidths, ModelConfig};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    GatedUnit, MaskBudget, MaskLoss, MaskOptions,
    gates::Gates,
    learn::batch,
    options::GatedUnit::{Ffn, KvGroups, Sublayers},
};
use crate::{LayerPlan, Layout, PrunePlan, Scores, scores::LayerScores};

fn config(layers: Vec<LayerWidths>) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-5,
        mlp_bias: true,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        ..ModelConfig::new(Architecture::Llama, 24, 4, 50, layers)
    }
}

fn options(units: &[GatedUnit], budget: MaskBudget) -> MaskOptions {
    MaskOptions {
        steps: 10,
        units: units.iter().copied().collect(),
        budget,
        loss: MaskLoss::Text,
        batch: 2,
        rate: 0.05,
        rate_end: 0.005,
        spread: 1.0,
        measure_every: 5,
        patience: None,
        seed: 1,
    }
}

/// Layers of 6 query heads in 3 groups and 20 channels; the first stays whole.
fn model() -> ModelConfig {
    config(vec![LayerWidths { query_heads: 6, kv_heads: 3, ffn: 20 }; 5])
}

struct Drawn {
    plan: PrunePlan,
    scores: Scores,
}

/// A plan of any units, and scores that have nothing to do with it, with many ties:
/// channels of all layers but the first, groups of layers 1 and 2, the sublayer of layer
/// 3; widths are multiples of `multiple`.
fn drawn(config: &ModelConfig, multiple: usize, seed: u64) -> Drawn {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut some = |of: usize, keep: usize| {
        let mut all: Vec<usize> = (0..of).collect();
        all.shuffle(&mut rng);
        all.truncate(keep);
        all.sort_unstable();
        all
    };
    let mut layers: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
    for (layer, kept) in layers.iter_mut().enumerate().skip(1) {
        kept.ffn = some(20, multiple * (1 + layer % (18 / multiple)));
        if layer < 3 {
            kept.kv_heads = some(3, layer);
            kept.query_heads = kept.kv_heads.iter().flat_map(|k| [2 * k, 2 * k + 1]).collect();
        }
    }
    (layers[3].query_heads, layers[3].kv_heads) = (Vec::new(), Vec::new());
    let mut draw = |count: usize| -> Vec<f64> {
        (0..count).map(|_| f64::from(rng.random_range(0..4_u8))).collect()
    };
    let layer = |w: &LayerWidths| LayerScores {
        kv_groups: draw(w.kv_heads),
        query_heads: draw(w.query_heads),
        ffn: draw(w.ffn),
    };
    let scores = Scores { layers: config.layers.iter().map(layer).collect() };
    let plan = PrunePlan::keeping(config, Digest::of_bytes(b"a model"), layers);
    Drawn { plan: PrunePlan { multiple_of: multiple, ..plan }, scores }
}

const ALL: [GatedUnit; 3] = [Ffn, KvGroups, Sublayers];

proptest! {
    #[test]
    fn the_first_mask_is_the_plan_and_every_other_has_its_budget(
        multiple in 1_usize..5,
        free: bool,
        seed: u64,
    ) {
        let config = model();
        let Drawn { plan, scores } = drawn(&config, multiple, seed);
        let budget = if free { MaskBudget::Free } else { MaskBudget::PerLayer };
        let mut gates = Gates::new(&config, &plan, &scores, &options(&ALL, budget)).unwrap();
        prop_assert_eq!(gates.kept(), gates.planned());
        let same = gates.plan(&config, &plan, &gates.kept()).unwrap();
        prop_assert_eq!(&same, &plan);
        prop_assert_eq!(gates.exchanged(&gates.kept()), 0);

        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        for parameter in gates.parameters_mut() {
            // Few different numbers, so that many tie.
            let moved = |v: &mut f32| *v = f32::from(rng.random_range(-3_i8..4));
            parameter.values.iter_mut().for_each(moved);
        }
        let kept = gates.kept();
        prop_assert_eq!(&kept, &gates.clone().kept());
        let learned = gates.plan(&config, &plan, &kept).unwrap();
        prop_assert_eq!(learned.parameters_after, plan.parameters_after);
        prop_assert_eq!(learned.reached_ratio, plan.reached_ratio);
        prop_assert_eq!(&learned.layers[0], &plan.layers[0]);
        for (layer, (kept, planned)) in learned.layers.iter().zip(&plan.layers).enumerate().skip(1) {
            prop_assert!(!kept.ffn.is_empty() && kept.ffn.len() % multiple == 0);
            if !free {
                prop_assert_eq!(kept.ffn.len(), planned.ffn.len(), "layer {}", layer);
            }
        }
        let dropped = learned.layers.iter().filter(|kept| kept.kv_heads.is_empty()).count();
        prop_assert_eq!(dropped, 1);

        // The masks say the same as the plan.
        let masks = gates.masks(&kept).unwrap();
        for ((layer, projection), mask) in masks {
            let ones = mask.sum_all().unwrap().to_scalar::<f32>().unwrap() as usize;
            let kept = &learned.layers[layer];
            let width = if projection.is_attention() { 4 * kept.query_heads.len() } else { kept.ffn.len() };
            prop_assert_eq!(ones, width, "layer {}, {}", layer, projection);
        }
    }
}

/// Channels that the plan keeps by the scores themselves keep their order and get the
/// spread that is asked for.
#[test]
fn scores_begin_standardised_within_a_layer() {
    let config = config(vec![LayerWidths { query_heads: 2, kv_heads: 1, ffn: 40 }; 2]);
    let of = |scale: f64| (0..40).map(|at| scale * (f64::from(at) * 0.7).sin()).collect::<Vec<_>>();
    let scores = Scores {
        layers: [1.0, 1000.0]
            .map(|scale| LayerScores {
                kv_groups: vec![1.0],
                query_heads: vec![1.0; 2],
                ffn: of(scale),
            })
            .to_vec(),
    };
    let mut order: Vec<usize> = (0..40).collect();
    order.sort_by(|&a, &b| of(1.0)[b].total_cmp(&of(1.0)[a]));
    let layer = |keep: usize| {
        let mut ffn = order[..keep].to_vec();
        ffn.sort_unstable();
        LayerPlan { query_heads: vec![0, 1], kv_heads: vec![0], ffn }
    };
    let plan = PrunePlan::keeping(&config, Digest::of_bytes(b"a"), vec![layer(30), layer(10)]);
    let options = MaskOptions { spread: 0.7, ..options(&[Ffn], MaskBudget::Free) };
    let gates = Gates::new(&config, &plan, &scores, &options).unwrap();
    assert_eq!(gates.names().collect::<Vec<_>>(), ["ffn.0", "ffn.1"]);
    for (parameter, keep) in gates.parameters().zip([30, 10]) {
        let values: Vec<f64> = parameter.values.iter().map(|&v| v.into()).collect();
        let mean = values.iter().sum::<f64>() / 40.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40.0;
        assert!((variance.sqrt() - 0.7).abs() < 1e-3, "{}", variance.sqrt());
        assert!(order.windows(2).all(|pair| values[pair[0]] >= values[pair[1]]));
        // 0 lies in the middle between kept and removed.
        let (least, most) = (values[order[keep - 1]], values[order[keep]]);
        assert!(least > 0.0 && (least + most).abs() < 1e-6, "{least} {most}");
    }
}

#[test]
fn what_gates_cannot_hold_is_refused() {
    let config = model();
    let Drawn { plan, scores } = drawn(&config, 2, 1);
    let refused = |config: &ModelConfig, plan: &PrunePlan, units: &[GatedUnit], budget| {
        let error = Gates::new(config, plan, &scores, &options(units, budget)).err();
        error.unwrap_or_else(|| panic!("{units:?} were taken")).to_string()
    };
    let per_layer = MaskBudget::PerLayer;

    // Nothing is cut there.
    let layers = config.layers.iter().map(LayerPlan::whole).collect();
    let mut whole = PrunePlan::keeping(&config, plan.model_digest, layers);
    whole.requested_ratio = 0.1;
    for (unit, says) in [
        (Ffn, "removes no feed-forward channels"),
        (KvGroups, "removes no key-value groups"),
        (Sublayers, "drops no attention sublayer"),
    ] {
        let error = refused(&config, &whole, &[unit], per_layer);
        assert!(error.starts_with("learn-units") && error.contains(says), "{error}");
    }

    // Free widths of a layout that is uniform, or that are no multiples.
    let layers =
        vec![LayerPlan { ffn: (0..10).collect(), ..LayerPlan::whole(&config.layers[0]) }; 5];
    let keeping = PrunePlan::keeping(&config, plan.model_digest, layers);
    let uniform = PrunePlan { layout: Layout::Uniform, ..keeping.clone() };
    let error = refused(&config, &uniform, &[Ffn], MaskBudget::Free);
    assert!(error.contains("the layout is uniform"), "{error}");
    Gates::new(&config, &uniform, &scores, &options(&[Ffn], per_layer)).unwrap();
    let odd = PrunePlan { multiple_of: 4, ..keeping };
    let error = refused(&config, &odd, &[Ffn], MaskBudget::Free);
    assert!(error.contains("multiples of 4, but layer 0 keeps 10"), "{error}");

    // Sublayers with biases, or of different sizes.
    let biased = ModelConfig { attention_bias: true.into(), ..config.clone() };
    let again = PrunePlan::keeping(&biased, plan.model_digest, plan.layers.clone());
    let error = refused(&biased, &again, &[Sublayers], per_layer);
    assert!(error.contains("biases"), "{error}");
    let mut uneven = config.clone();
    uneven.layers[3] = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 20 };
    let layers: Vec<LayerPlan> = uneven
        .layers
        .iter()
        .enumerate()
        .map(|(at, widths)| match at {
            2 => LayerPlan { query_heads: vec![], kv_heads: vec![], ..LayerPlan::whole(widths) },
            _ => LayerPlan { ffn: vec![1, 2], ..LayerPlan::whole(widths) },
        })
        .collect();
    let again = PrunePlan::keeping(&uneven, plan.model_digest, layers);
    let of = |w: &LayerWidths| LayerScores {
        kv_groups: vec![1.0; w.kv_heads],
        query_heads: vec![1.0; w.query_heads],
        ffn: vec![1.0; w.ffn],
    };
    let uneven_scores = Scores { layers: uneven.layers.iter().map(of).collect() };
    let result = Gates::new(&uneven, &again, &uneven_scores, &options(&[Sublayers], per_layer));
    let error = result.err().unwrap().to_string();
    assert!(error.contains("layer 3") && error.contains("number of parameters"), "{error}");
}

#[test]
fn options_out_of_range_are_named() {
    let fine = options(&[Ffn], MaskBudget::PerLayer);
    fine.check(10, 8).unwrap();
    let refused = |options: MaskOptions, samples: usize, held_out: usize| {
        options.check(samples, held_out).unwrap_err().to_string()
    };
    let error = refused(fine.clone(), 9, 8);
    assert!(error.contains("at least 10 are needed, found 9"), "{error}");
    for (options, name) in [
        (MaskOptions { steps: 0, ..fine.clone() }, "learn-masks"),
        (MaskOptions { batch: 0, ..fine.clone() }, "mask-batch"),
        (MaskOptions { measure_every: 0, ..fine.clone() }, "mask-every"),
        (MaskOptions { patience: Some(0), ..fine.clone() }, "mask-patience"),
        (MaskOptions { units: BTreeSet::new(), ..fine.clone() }, "learn-units"),
        (MaskOptions { rate: f64::NAN, ..fine.clone() }, "mask-rate"),
        (MaskOptions { rate_end: -1.0, ..fine.clone() }, "mask-rate-end"),
        (MaskOptions { rate_end: 0.06, ..fine.clone() }, "mask-rate-end"),
        (MaskOptions { spread: f64::INFINITY, ..fine.clone() }, "mask-spread"),
    ] {
        let error = refused(options, 100, 8);
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
    assert!(refused(fine.clone(), 100, 0).starts_with("mask-held-out: "));
    assert!(refused(fine, usize::MAX - 1, usize::MAX).contains("mask-samples"));
}

#[test]
fn names_are_read_as_they_are_written() {
    for unit in ALL {
        assert_eq!(unit.to_string().parse(), Ok(unit));
    }
    for budget in [MaskBudget::PerLayer, MaskBudget::Free] {
        assert_eq!(budget.to_string().parse(), Ok(budget));
    }
    for loss in [MaskLoss::Text, MaskLoss::Logits, MaskLoss::Hidden] {
        assert_eq!(loss.to_string().parse(), Ok(loss));
    }
    assert!(
        "heads"
            .parse::<GatedUnit>()
            .unwrap_err()
            .to_string()
            .contains("ffn, kv-groups or sublayers")
    );
}

/// Every sample comes once an epoch, but for those that make no whole step, and another
/// seed or epoch has another order.
#[test]
fn steps_take_the_samples_in_turn() {
    let epoch = |seed: u64, first: u64| -> Vec<usize> {
        (first..first + 4).flat_map(|step| batch(14, 3, seed, step)).collect()
    };
    let (one, two) = (epoch(1, 0), epoch(1, 4));
    for order in [&one, &two] {
        let different: BTreeSet<&usize> = order.iter().collect();
        assert_eq!(different.len(), 12, "{order:?}");
        assert!(order.iter().all(|&at| at < 14));
    }
    assert_ne!(one, two);
    assert_eq!(one, epoch(1, 0));
    assert_ne!(one, epoch(2, 0));
    assert_eq!(batch(3, 3, 1, 0).len(), 3);
}
