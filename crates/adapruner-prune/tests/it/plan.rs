//! Plans keep to their budget and their options.

use adapruner_checkpoint::{LayerWidths, ModelConfig};
use adapruner_prune::{
    Allocation, Curve, Error, KvMode, LayerPlan, Layout, Normalisation, PlanOptions, PrunePlan,
    Scores, plan, plan_dropped,
};
use proptest::prelude::*;

use crate::common::{any_config, config, digest, random_scores, widths};

fn make(scores: &Scores, config: &ModelConfig, options: &PlanOptions) -> PrunePlan {
    let plan = plan(scores, config, digest(), options).unwrap();
    plan.validate(config).unwrap();
    plan
}

/// SmolLM2-135M's shape.
fn smollm() -> ModelConfig {
    ModelConfig {
        hidden_size: 576,
        head_dim: 64,
        vocab_size: 49152,
        ..config(vec![widths(9, 3, 1536); 30])
    }
}

#[test]
fn a_real_shape_is_cut_to_the_requested_ratio() {
    let config = smollm();
    let scores = random_scores(&config, 1);
    for ratio in [0.05, 0.2, 0.3, 0.45] {
        for attention_share in [Some(0.0), Some(0.15), None] {
            let options =
                PlanOptions { attention_share, protect: (4, 2), ..PlanOptions::new(ratio) };
            let plan = make(&scores, &config, &options);
            // One channel is 1728 of 134.5 million parameters.
            assert!((plan.reached_ratio - ratio).abs() < 1e-5, "{}", plan.reached_ratio);
            for layer in [0, 1, 2, 3, 28, 29] {
                assert_eq!(plan.layers[layer].widths(), config.layers[layer]);
            }
        }
    }
}

#[test]
fn equal_layers_lose_equally_many_channels_give_or_take_one() {
    let config = smollm();
    let plan = make(&random_scores(&config, 2), &config, &PlanOptions::new(0.2));
    let kept: Vec<usize> = plan.layers.iter().map(|l| l.ffn.len()).collect();
    let (least, most) = (kept.iter().min().unwrap(), kept.iter().max().unwrap());
    assert!(most - least <= 1, "{kept:?}");
    assert!(plan.layers.iter().all(|l| l.query_heads.len() == 9 && l.kv_heads.len() == 3));
}

#[test]
fn the_least_important_channels_go() {
    let config = config(vec![widths(4, 2, 20); 3]);
    let scores = random_scores(&config, 3);
    let plan = make(&scores, &config, &PlanOptions::new(0.2));
    for (kept, scores) in plan.layers.iter().zip(&scores.layers) {
        let (mut worst_kept, mut best_gone) = (f64::MAX, f64::MIN);
        for (j, &score) in scores.ffn.iter().enumerate() {
            if kept.ffn.contains(&j) {
                worst_kept = worst_kept.min(score);
            } else {
                best_gone = best_gone.max(score);
            }
        }
        assert!(best_gone < worst_kept);
    }
}

#[test]
fn heads_take_the_share_they_are_given() {
    let config = smollm();
    let scores = random_scores(&config, 4);
    let removed_heads = |attention_share, kv_mode| {
        let options = PlanOptions { attention_share, kv_mode, ..PlanOptions::new(0.2) };
        let plan = make(&scores, &config, &options);
        let attention: usize = plan
            .layers
            .iter()
            .map(|l| (9 - l.query_heads.len() + 3 - l.kv_heads.len()) * 2 * 64 * 576)
            .sum();
        attention as f64 / (plan.parameters_before - plan.parameters_after) as f64
    };
    // Half a key-value group of 589824 (or one head in each of three groups, 221184)
    // of the 26.9 million parameters removed.
    for share in [0.0, 0.1, 0.25] {
        assert!((removed_heads(Some(share), KvMode::Groups) - share).abs() < 0.0111);
        assert!((removed_heads(Some(share), KvMode::QueryHeads) - share).abs() < 0.0083);
    }
    // Heads are a quarter of a layer here, so at equal ratios they give a quarter.
    assert!((removed_heads(None, KvMode::Groups) - 0.25).abs() < 0.0111);
}

#[test]
fn heads_make_up_for_channels_that_are_too_few() {
    let config = config(vec![widths(8, 8, 4); 3]);
    let scores = random_scores(&config, 20);
    let with = |attention_share| {
        let options = PlanOptions { attention_share, ..PlanOptions::new(0.6) };
        plan(&scores, &config, digest(), &options)
    };
    // Of 11448 parameters 6869 are to go. At equal ratios heads give 6280, that is 16
    // of 384; the nine channels of 72 that can go are too few for the rest.
    let plan = with(None).unwrap();
    assert_eq!(plan.layers.iter().map(|l| 8 - l.kv_heads.len()).sum::<usize>(), 17);
    assert_eq!(plan.layers.iter().map(|l| 4 - l.ffn.len()).sum::<usize>(), 5);
    assert!(matches!(with(Some(0.0)), Err(Error::Unreachable { .. })));
}

#[test]
fn query_heads_go_one_from_every_group() {
    let config = config(vec![widths(6, 2, 30); 2]);
    let mut scores = random_scores(&config, 5);
    scores.layers[0].query_heads = vec![0.3, 0.1, 0.2, 5.0, 6.0, 4.0];
    let options = PlanOptions {
        kv_mode: KvMode::QueryHeads,
        attention_share: Some(1.0),
        ..PlanOptions::new(0.1)
    };
    let plan = make(&scores, &config, &options);
    assert_eq!(plan.layers[0].query_heads, [0, 2, 3, 4]);
    assert_eq!(plan.layers[0].kv_heads, [0, 1]);
}

#[test]
fn uniform_layers_stay_alike() {
    let config = smollm();
    let scores = random_scores(&config, 6);
    for (ratio, attention_share, multiple_of, tolerance) in
        // Half a step: one channel of 30 layers is 0.039 points, 32 are 1.23.
        [(0.2, Some(0.0), 1, 0.0002), (0.2, Some(0.3), 1, 0.0002), (0.2, None, 32, 0.0062)]
    {
        let options = PlanOptions {
            layout: Layout::Uniform,
            attention_share,
            multiple_of,
            ..PlanOptions::new(ratio)
        };
        let plan = make(&scores, &config, &options);
        let first = plan.layers[0].widths();
        assert!(plan.layers.iter().all(|l| l.widths() == first));
        assert_eq!(first.ffn % multiple_of, 0);
        assert!((plan.reached_ratio - ratio).abs() < tolerance, "{}", plan.reached_ratio);
        assert_eq!(first.kv_heads, if attention_share == Some(0.3) { 2 } else { first.kv_heads });
    }
}

#[test]
fn changed_widths_are_multiples() {
    let config = smollm();
    for multiple_of in [32, 256] {
        let options = PlanOptions { multiple_of, protect: (4, 2), ..PlanOptions::new(0.2) };
        let plan = make(&random_scores(&config, 7), &config, &options);
        assert!(plan.layers.iter().all(|l| l.ffn.len() % multiple_of == 0));
        let half = multiple_of as f64 * 1728.0 / config.parameters() as f64 / 2.0;
        assert!((plan.reached_ratio - 0.2).abs() <= half, "{}", plan.reached_ratio);
    }
}

#[test]
fn dropped_sublayers_go_whole_and_channels_make_up() {
    let config = smollm();
    let options = PlanOptions { drop_attention: vec![7, 20, 7], ..PlanOptions::new(0.2) };
    let plan = make(&random_scores(&config, 8), &config, &options);
    for (layer, kept) in plan.layers.iter().enumerate() {
        assert_eq!(kept.query_heads.is_empty(), layer == 7 || layer == 20);
        assert_eq!(kept.kv_heads.is_empty(), layer == 7 || layer == 20);
    }
    assert!((plan.reached_ratio - 0.2).abs() < 1e-5);
}

#[test]
fn a_global_ranking_takes_the_least_of_all_layers() {
    let config = config(vec![widths(4, 2, 20); 3]);
    let mut scores = random_scores(&config, 9);
    scores.layers[1].ffn.iter_mut().for_each(|s| *s *= 1e-3);
    let with = |allocation| {
        let options = PlanOptions { allocation, ..PlanOptions::new(0.15) };
        let plan = make(&scores, &config, &options);
        plan.layers.iter().map(|l| l.ffn.len()).collect::<Vec<_>>()
    };
    let raw = with(Allocation::Global(Normalisation::None));
    assert_eq!((raw[0], raw[2]), (20, 20), "layer 1 gives all: {raw:?}");
    let local = with(Allocation::Local);
    assert!(local.iter().max().unwrap() - local.iter().min().unwrap() <= 1, "{local:?}");
    // Normalised by their mean, the scores of layer 1 are like any other's.
    let normalised = with(Allocation::Global(Normalisation::Mean));
    assert!(normalised.iter().all(|&f| f < 20), "{normalised:?}");
}

#[test]
fn a_curve_takes_more_where_it_is_high_and_the_same_in_all() {
    let config = config(vec![widths(4, 2, 200); 5]);
    let scores = random_scores(&config, 9);
    let with = |linear, quadratic| {
        let allocation = Allocation::Curve(Curve { linear, quadratic });
        let plan = make(&scores, &config, &PlanOptions { allocation, ..PlanOptions::new(0.15) });
        let gone = plan.layers.iter().map(|l| 200 - l.ffn.len()).collect::<Vec<_>>();
        (gone, plan.parameters_after)
    };
    let (flat, parameters) = with(0.0, 0.0);
    assert!(flat.iter().max().unwrap() - flat.iter().min().unwrap() <= 1, "{flat:?}");
    let (late, after) = with(0.8, 0.0);
    assert!(late.is_sorted() && late[0] * 5 < late[4], "{late:?}");
    assert_eq!(after, parameters);
    let (early, _) = with(-0.8, 0.0);
    assert_eq!(early.iter().rev().copied().collect::<Vec<_>>(), late);
    let (ends, _) = with(0.0, 0.8);
    assert!(ends[0] > ends[2] && ends[4] > ends[2], "{ends:?}");
}

#[test]
fn one_global_ranking_mixes_heads_and_channels() {
    let config = smollm();
    let mut scores = random_scores(&config, 10);
    // A head of layer 5 that is worth less per parameter than any channel, among
    // heads that are worth more.
    scores.layers.iter_mut().flat_map(|l| &mut l.kv_groups).for_each(|s| *s = 1e6);
    scores.layers[5].kv_groups[1] = 1e-9;
    let options = PlanOptions {
        attention_share: None,
        allocation: Allocation::Global(Normalisation::None),
        ..PlanOptions::new(0.1)
    };
    let plan = make(&scores, &config, &options);
    assert_eq!(plan.layers[5].kv_heads, [0, 2]);
    assert_eq!(plan.layers.iter().map(|l| l.kv_heads.len()).sum::<usize>(), 89);
    assert!((plan.reached_ratio - 0.1).abs() < 1e-5);
}

#[test]
fn ratios_out_of_range_are_refused() {
    let config = smollm();
    let scores = random_scores(&config, 11);
    for ratio in [0.0, -0.1, 1.0, 1.5, f64::NAN, f64::INFINITY] {
        let error = plan(&scores, &config, digest(), &PlanOptions::new(ratio)).unwrap_err();
        assert!(matches!(error, Error::Option { option: "ratio", .. }), "{ratio}: {error}");
    }
}

#[test]
fn an_unreachable_ratio_says_what_can_be_reached_and_how() {
    let config = smollm();
    let scores = random_scores(&config, 12);
    for allocation in [Allocation::Local, Allocation::Global(Normalisation::Mean)] {
        let options = PlanOptions { protect: (10, 10), allocation, ..PlanOptions::new(0.5) };
        let error = plan(&scores, &config, digest(), &options).unwrap_err();
        let Error::Unreachable { largest, ref hint, .. } = error else { panic!("{error}") };
        assert!(error.to_string().contains(&largest.to_string()));
        for offer in ["protected", "attention share", "dropped attention"] {
            assert!(hint.contains(offer), "{hint}");
        }
        // Ten layers of 1535 removable channels, give or take 0.1 points.
        let most = 10.0 * 1535.0 * 1728.0 / config.parameters() as f64;
        assert!((largest - most).abs() < 0.0012, "{largest} {most}");
        make(&scores, &config, &PlanOptions { ratio: largest, ..options.clone() });
        let beyond = PlanOptions { ratio: largest + 0.01, ..options };
        assert!(plan(&scores, &config, digest(), &beyond).is_err());
    }
}

#[test]
fn contradictions_are_refused_with_a_hint() {
    let config = smollm();
    let scores = random_scores(&config, 13);
    let base = PlanOptions::new(0.2);
    let uniform = PlanOptions { layout: Layout::Uniform, ..base.clone() };
    for (options, option) in [
        (PlanOptions { protect: (4, 2), ..uniform.clone() }, "protect"),
        (PlanOptions { drop_attention: vec![3], ..uniform.clone() }, "drop-attention"),
        (
            PlanOptions { allocation: Allocation::Global(Normalisation::None), ..uniform },
            "allocation",
        ),
        (PlanOptions { protect: (20, 10), ..base.clone() }, "protect"),
        (PlanOptions { protect: (usize::MAX, 1), ..base.clone() }, "protect"),
        (PlanOptions { drop_attention: vec![30], ..base.clone() }, "drop-attention"),
        (
            PlanOptions { drop_attention: vec![1], protect: (2, 0), ..base.clone() },
            "drop-attention",
        ),
        (
            PlanOptions { drop_attention: (0..30).collect(), ..PlanOptions::new(0.05) },
            "drop-attention",
        ),
        (PlanOptions { attention_share: Some(1.1), ..base.clone() }, "attention-share"),
        (PlanOptions { attention_share: Some(f64::NAN), ..base.clone() }, "attention-share"),
        (PlanOptions { multiple_of: 0, ..base }, "multiple-of"),
    ] {
        match plan(&scores, &config, digest(), &options) {
            Err(ref error @ Error::Option { option: found, .. }) => {
                assert_eq!(found, option);
                assert!(error.hint().is_some(), "{error}");
            }
            other => panic!("{option}: {other:?}"),
        }
    }
    let mixed = ModelConfig { layers: vec![widths(9, 3, 1536), widths(9, 3, 1535)], ..config };
    let uniform = PlanOptions { layout: Layout::Uniform, ..PlanOptions::new(0.1) };
    let error = plan(&random_scores(&mixed, 1), &mixed, digest(), &uniform).unwrap_err();
    assert!(matches!(error, Error::Option { option: "layout", .. }), "{error}");
}

#[test]
fn scores_of_another_model_or_not_a_number_are_refused() {
    let config9 = config(vec![widths(4, 2, 9)]);
    let options = PlanOptions::new(0.1);
    let other = random_scores(&config(vec![widths(4, 2, 8)]), 1);
    assert!(plan(&other, &config9, digest(), &options).is_err());
    let mut bad = random_scores(&config9, 1);
    bad.layers[0].query_heads[3] = f64::NAN;
    assert!(matches!(
        plan(&bad, &config9, digest(), &options),
        Err(Error::Score { layer: 0, unit: 3, .. })
    ));
}

#[test]
fn names_of_options_are_read_as_written() {
    for text in ["local", "global:none", "global:mean", "global:rank"] {
        assert_eq!(text.parse::<Allocation>().unwrap().to_string(), text);
    }
    assert_eq!("global".parse::<Allocation>().unwrap(), Allocation::Global(Normalisation::Mean));
    for text in ["uniform", "per-layer"] {
        assert_eq!(text.parse::<Layout>().unwrap().to_string(), text);
    }
    for text in ["groups", "query-heads"] {
        assert_eq!(text.parse::<KvMode>().unwrap().to_string(), text);
    }
    assert!("globally".parse::<Allocation>().is_err());
    let curve = Allocation::Curve(Curve { linear: -0.5, quadratic: 0.25 });
    assert_eq!(curve.to_string().parse::<Allocation>().unwrap(), curve);
    let half = Allocation::Curve(Curve { linear: 1.0, quadratic: 0.0 });
    assert_eq!("curve:linear=1".parse::<Allocation>().unwrap(), half);
    for bad in ["global:", "local:", "curve", "curve:", "curve:linear", "curve:cubic=1"] {
        assert!(bad.parse::<Allocation>().is_err(), "{bad}");
    }
    let options = PlanOptions {
        allocation: Allocation::Global(Normalisation::Rank),
        ..PlanOptions::new(0.3)
    };
    let json = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<PlanOptions>(&json).unwrap(), options);
}

fn any_allocation() -> impl Strategy<Value = Allocation> {
    prop_oneof![
        Just(Allocation::Local),
        (-2.0..2.0, -2.0..2.0)
            .prop_map(|(linear, quadratic)| { Allocation::Curve(Curve { linear, quadratic }) }),
        proptest::sample::select(&Normalisation::ALL[..]).prop_map(Allocation::Global),
    ]
}

prop_compose! {
    fn any_options()(
        ratio in 0.001_f64..0.9,
        uniform in any::<bool>(),
        protect in (0_usize..3, 0_usize..3),
        attention_share in proptest::option::of(0.0..=1.0),
        multiple_of in 1_usize..9,
        by_group in any::<bool>(),
        drop_attention in proptest::collection::vec(0_usize..6, 0..3),
        drop_layers in proptest::collection::vec(0_usize..6, 0..3),
        allocation in any_allocation(),
    ) -> PlanOptions {
        let kv_mode = if by_group { KvMode::Groups } else { KvMode::QueryHeads };
        let layout = if uniform { Layout::Uniform } else { Layout::PerLayer };
        let options = PlanOptions {
            layer_weights: None,
            ratio, layout, protect, attention_share, multiple_of, kv_mode, drop_attention,
            drop_layers, drop_groups: Vec::new(), allocation,
        };
        if uniform {
            PlanOptions {
                protect: (0, 0),
                drop_attention: Vec::new(),
                allocation: Allocation::Local,
                ..options
            }
        } else {
            options
        }
    }
}

/// Parameters of the largest step of width under these options.
fn unit(config: &ModelConfig, options: &PlanOptions) -> u64 {
    let channel = 3 * config.hidden_size as u64 + if config.mlp_bias { 2 } else { 0 };
    let layers = match options.layout {
        Layout::Uniform => config.layers.len(),
        Layout::PerLayer => 1,
    };
    channel * (options.multiple_of * layers * config.expert_count()) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_reach_their_ratio_or_say_what_can(
        config in any_config(),
        options in any_options(),
        seed in any::<u64>(),
    ) {
        let config = match options.layout {
            Layout::Uniform => {
                ModelConfig { layers: vec![config.layers[0]; config.layers.len()], ..config }
            }
            Layout::PerLayer => config,
        };
        let scores = random_scores(&config, seed);
        let before = config.parameters();
        match plan(&scores, &config, digest(), &options) {
            Ok(plan) => {
                plan.validate(&config).unwrap();
                let removed = (before - plan.parameters_after) as f64;
                let tolerance = (unit(&config, &options) as f64).max(0.001 * before as f64) + 1.0;
                prop_assert!((removed - options.ratio * before as f64).abs() <= tolerance);
                check_kept(&plan, &config, &options)?;
            }
            Err(Error::Unreachable { largest, .. }) => {
                prop_assert!(largest < options.ratio);
                if largest > 0.0 {
                    let options = PlanOptions { ratio: largest, ..options };
                    let plan = plan(&scores, &config, digest(), &options).unwrap();
                    check_kept(&plan, &config, &options)?;
                }
            }
            Err(Error::Option { .. }) => {}
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }

    #[test]
    fn more_ratio_removes_more(
        config in any_config(),
        options in any_options(),
        seed in any::<u64>(),
        more in 0.0_f64..0.3,
    ) {
        let scores = random_scores(&config, seed);
        let larger = PlanOptions { ratio: (options.ratio + more).min(0.99), ..options.clone() };
        if let (Ok(a), Ok(b)) = (
            plan(&scores, &config, digest(), &options),
            plan(&scores, &config, digest(), &larger),
        ) {
            // Either may be rounded to the nearest step of width.
            let slack = unit(&config, &options).max(config.parameters() / 1000);
            prop_assert!(b.parameters_after <= a.parameters_after + slack);
        }
    }

    #[test]
    fn channels_alone_are_removed_in_one_order(
        config in any_config(),
        seed in any::<u64>(),
        ratios in (0.01_f64..0.4, 0.01_f64..0.4),
    ) {
        let scores = random_scores(&config, seed);
        let allocation = Allocation::Global(Normalisation::Mean);
        let with = |ratio| {
            let options = PlanOptions { allocation, ..PlanOptions::new(ratio) };
            plan(&scores, &config, digest(), &options)
        };
        let (less, more) = (ratios.0.min(ratios.1), ratios.0.max(ratios.1));
        if let (Ok(less), Ok(more)) = (with(less), with(more)) {
            prop_assert!(more.parameters_after <= less.parameters_after);
            for (less, more) in less.layers.iter().zip(&more.layers) {
                prop_assert!(more.ffn.iter().all(|j| less.ffn.contains(j)));
            }
        }
    }

    #[test]
    fn the_same_request_gives_the_same_plan(
        config in any_config(),
        options in any_options(),
        seed in any::<u64>(),
    ) {
        let scores = random_scores(&config, seed);
        let a = plan(&scores, &config, digest(), &options).map_err(|e| e.to_string());
        let b = plan(&scores, &config, digest(), &options).map_err(|e| e.to_string());
        prop_assert_eq!(a, b);
    }
}

/// Whatever the budget: protection, floors, ratios of heads, multiples.
fn check_kept(
    plan: &PrunePlan,
    config: &ModelConfig,
    options: &PlanOptions,
) -> Result<(), TestCaseError> {
    for (layer, (kept, &before)) in plan.layers.iter().zip(&config.layers).enumerate() {
        let after = kept.widths();
        if options.drop_layers.contains(&layer) {
            prop_assert_eq!(kept, &LayerPlan::NOTHING);
            continue;
        }
        if options.protects(layer, config.layers.len()) {
            prop_assert_eq!(after, before);
        }
        let [width, left] = [before, after].map(|widths| config.expert_width(&widths));
        prop_assert!(left == width || left % options.multiple_of == 0);
        prop_assert!(left >= options.multiple_of.min(width));
        if options.drop_attention.contains(&layer) || !before.has_attention() {
            prop_assert!(!after.has_attention());
            continue;
        }
        prop_assert!(after.kv_heads >= 1);
        prop_assert_eq!(after.query_heads % after.kv_heads, 0);
        match options.kv_mode {
            KvMode::Groups => prop_assert_eq!(after.group_size(), before.group_size()),
            KvMode::QueryHeads => prop_assert_eq!(after.kv_heads, before.kv_heads),
        }
        if options.attention_share == Some(0.0) {
            prop_assert_eq!(after, LayerWidths { ffn: after.ffn, ..before });
        }
    }
    Ok(())
}

/// Channels that go from each layer.
fn gone(plan: &PrunePlan, config: &ModelConfig) -> Vec<usize> {
    plan.layers.iter().zip(&config.layers).map(|(kept, all)| all.ffn - kept.ffn.len()).collect()
}

#[test]
fn layers_lose_in_proportion_to_their_weights() {
    let config = config(vec![widths(4, 2, 400); 4]);
    let scores = random_scores(&config, 6);
    let of = |allocation, layer_weights| {
        let options = PlanOptions { allocation, layer_weights, ..PlanOptions::new(0.2) };
        let plan = make(&scores, &config, &options);
        (gone(&plan, &config), plan.parameters_after)
    };
    let (even, after) = of(Allocation::Local, None);
    assert_eq!(of(Allocation::Local, Some(vec![2.5; 4])), (even.clone(), after));
    let total: usize = even.iter().sum();
    let (found, found_after) = of(Allocation::Local, Some(vec![0.0, 1.0, 2.0, 1.0]));
    assert_eq!((found.iter().sum::<usize>(), found_after), (total, after));
    for (found, share) in found.iter().zip([0.0, 0.25, 0.5, 0.25]) {
        assert!((*found as f64 - share * total as f64).abs() <= 1.0, "{found}");
    }
    // Weights multiply what a curve takes: 1 − x over depth times 1, 1, 1, 0.
    let curve = Allocation::Curve(Curve { linear: -1.0, quadratic: 0.0 });
    let (found, _) = of(curve, Some(vec![1.0, 1.0, 1.0, 0.0]));
    for (found, share) in found.iter().zip([0.5, 1.0 / 3.0, 1.0 / 6.0, 0.0]) {
        assert!((*found as f64 - share * total as f64).abs() <= 1.0, "{found}");
    }
}

#[test]
fn weights_that_make_no_sense_are_refused() {
    let config = config(vec![widths(4, 2, 40); 3]);
    let scores = random_scores(&config, 6);
    let refused = |layout, allocation, weights: &[f64]| {
        let layer_weights = Some(weights.to_vec());
        let options = PlanOptions { layout, allocation, layer_weights, ..PlanOptions::new(0.2) };
        plan(&scores, &config, digest(), &options).unwrap_err().to_string()
    };
    for weights in [&[1.0, 1.0][..], &[1.0, f64::NAN, 1.0], &[1.0, -1.0, 1.0], &[0.0; 3]] {
        let message = refused(Layout::PerLayer, Allocation::Local, weights);
        assert!(message.contains("layer-weights"), "{message}");
    }
    let message = refused(Layout::Uniform, Allocation::Local, &[1.0; 3]);
    assert!(message.contains("uniform"), "{message}");
    let global = Allocation::Global(Normalisation::Mean);
    assert!(refused(Layout::PerLayer, global, &[1.0; 3]).contains("global"));
}

/// Layers that are dropped count towards the ratio and the attention share; the others give the
/// rest, also where all that stay are alike.
#[test]
fn dropped_layers_count_and_the_others_give_the_rest() {
    let config = config(vec![widths(4, 2, 400); 5]);
    let scores = random_scores(&config, 6);
    let before = config.parameters() as f64;
    for layout in [Layout::PerLayer, Layout::Uniform] {
        let drop_layers = vec![1, 3];
        let options = PlanOptions { drop_layers, layout, ..PlanOptions::new(0.5) };
        let plan = make(&scores, &config, &options);
        assert_eq!(plan.kept_layers(), [0, 2, 4]);
        assert!((plan.reached_ratio - 0.5).abs() < 0.005, "{}", plan.reached_ratio);
        assert!(plan.unmet(&config, &options).is_empty());
        let pruned = plan.pruned_config(&config);
        assert_eq!((pruned.layers.len(), pruned.parameters()), (3, plan.parameters_after));
        assert_eq!(pruned.uniform_widths().is_some(), layout == Layout::Uniform);
        let attention = 2 * (2 * 4 + 2 * 2) * 4 * 24 + 2 * 24;
        let share = attention as f64 / (plan.reached_ratio * before);
        assert!((plan.attention_share(&config) - share).abs() < 1e-9);
    }
    let refused = |drop_layers, protect| {
        let options = PlanOptions { drop_layers, protect, ..PlanOptions::new(0.5) };
        plan(&scores, &config, digest(), &options).unwrap_err().to_string()
    };
    assert!(refused(vec![5], (0, 0)).contains("no layer 5"));
    assert!(refused(vec![0], (1, 0)).contains("layer 0 is protected"));
    assert!(refused((0..5).collect(), (0, 0)).contains("all 5 layers go"));
    let more = PlanOptions { drop_layers: vec![0, 1, 2], ..PlanOptions::new(0.1) };
    let error = plan(&scores, &config, digest(), &more).unwrap_err().to_string();
    assert!(error.contains("3 layers are 0."), "{error}");
}

/// Layers that go whole leave little: heads do not go beyond that for an attention share, and what
/// is offered can be reached.
#[test]
fn a_share_asks_for_no_more_than_dropped_layers_leave() {
    let layers = [(4, 2, 25), (1, 1, 30), (6, 2, 10), (6, 3, 37), (1, 1, 9), (2, 2, 38)];
    let layers = layers.into_iter().map(|(n, k, ffn)| widths(n, k, ffn)).collect();
    let config = ModelConfig { attention_bias: true.into(), ..config(layers) };
    let scores = random_scores(&config, 0);
    let of = |ratio| PlanOptions {
        attention_share: Some(0.876_058_047_114_084_3),
        kv_mode: KvMode::QueryHeads,
        drop_layers: vec![4, 5],
        ..PlanOptions::new(ratio)
    };
    for hundredths in 29..60 {
        let ratio = f64::from(hundredths) / 100.0;
        match plan(&scores, &config, digest(), &of(ratio)) {
            Ok(found) => assert!((found.reached_ratio - ratio).abs() < 0.02, "{ratio}"),
            Err(Error::Unreachable { largest, .. }) => {
                plan(&scores, &config, digest(), &of(largest)).unwrap();
            }
            Err(Error::Option { option: "drop-layers", .. }) => {}
            Err(other) => panic!("{ratio}: {other}"),
        }
    }
}

#[test]
fn named_groups_go_first_and_count_towards_the_ratio() {
    let config = config(vec![widths(6, 3, 40); 4]);
    let scores = random_scores(&config, 11);
    let drop_groups = vec![2, 0, 1, 0];
    let named = PlanOptions { drop_groups, drop_attention: vec![3], ..PlanOptions::new(0.3) };
    let only = plan_dropped(&scores, &config, digest(), &named).unwrap().unwrap();
    only.validate(&config).unwrap();
    let cut = make(&scores, &config, &named);
    for plan in [&only, &cut] {
        let kept: Vec<usize> = plan.layers.iter().map(|of| of.kv_heads.len()).collect();
        assert_eq!(kept, [1, 3, 2, 0]);
        // The least important ones of the layer.
        let groups = &scores.layers[0].kv_groups;
        let best = (0..3).max_by(|&a, &b| groups[a].total_cmp(&groups[b])).unwrap();
        assert_eq!(plan.layers[0].kv_heads, [best]);
        assert_eq!(plan.layers[0].query_heads, [2 * best, 2 * best + 1]);
    }
    assert!(only.layers.iter().all(|of| of.ffn.len() == 40));
    assert_eq!(only.requested_ratio, only.reached_ratio);
    assert!(cut.reached_ratio > only.reached_ratio && (cut.reached_ratio - 0.3).abs() < 0.01);
    // A share of attention takes what is missing of it, and no more.
    let all = PlanOptions { attention_share: Some(1.0), ..named.clone() };
    let all = make(&scores, &config, &all);
    assert!(all.layers[0].kv_heads.len() == 1 && all.layers[3].kv_heads.is_empty());
    assert!(all.layers[1].kv_heads.len() < 3, "{all:?}");
    let none = PlanOptions::new(0.3);
    assert_eq!(plan_dropped(&scores, &config, digest(), &none).unwrap(), None);
}

#[test]
fn groups_that_cannot_go_are_refused() {
    let config = config(vec![widths(6, 3, 40); 4]);
    let scores = random_scores(&config, 12);
    let refused = |options: PlanOptions| match plan(&scores, &config, digest(), &options) {
        Err(Error::Option { option, message, hint: Some(_) }) => format!("{option}: {message}"),
        other => panic!("{other:?}"),
    };
    let of = |drop_groups: Vec<usize>| PlanOptions { drop_groups, ..PlanOptions::new(0.3) };
    assert!(refused(of(vec![1])).contains("expected 4 numbers, one a layer, found 1"));
    assert!(refused(of(vec![3, 0, 0, 0])).contains("which has 3: one must stay"));
    let heads = PlanOptions { kv_mode: KvMode::QueryHeads, ..of(vec![1; 4]) };
    assert!(refused(heads).contains("the kv-mode is query-heads"));
    let spared = PlanOptions { protect: (1, 0), ..of(vec![1; 4]) };
    assert!(refused(spared).contains("layer 0 is protected"));
    let uniform = PlanOptions { layout: Layout::Uniform, ..of(vec![1, 0, 0, 0]) };
    assert!(refused(uniform).contains("the layout is uniform"));
    let small = PlanOptions { ratio: 0.01, ..of(vec![2; 4]) };
    assert!(refused(small).contains("8 key-value groups are"));
    make(&scores, &config, &PlanOptions { layout: Layout::Uniform, ..of(vec![1; 4]) });
}
