//! What was asked of a plan and not reached is said, with what would help.

use adapruner_checkpoint::ModelConfig;
use adapruner_prune::{KvMode, Layout, PlanOptions, PrunePlan, Unmet, plan};
use proptest::prelude::*;

use crate::common::{any_config, config, digest, plan_or_largest, random_scores, tried, widths};

fn made(config: &ModelConfig, options: &PlanOptions) -> (PrunePlan, Vec<Unmet>) {
    let plan = plan(&random_scores(config, 1), config, digest(), options).unwrap();
    plan.validate(config).unwrap();
    let unmet = plan.unmet(config, options);
    (plan, unmet)
}

fn share(share: f64) -> PlanOptions {
    PlanOptions { attention_share: Some(share), ..PlanOptions::new(0.2) }
}

/// One key-value head a layer: no group can go, whatever the share.
#[test]
fn a_share_that_no_head_can_give_is_said() {
    let multi_query = config(vec![widths(4, 1, 40); 3]);
    for asked in [0.2, 0.5, 1.0] {
        let (plan, unmet) = made(&multi_query, &share(asked));
        assert_eq!(plan.reached_attention_share, Some(0.0));
        assert_eq!(plan.requested_attention_share, Some(asked));
        let of_share = |unmet: &&Unmet| unmet.option == "attention-share";
        let Unmet { message, hint, .. } = unmet.iter().find(of_share).unwrap();
        assert!(message.contains(&format!("{asked} asked, 0.000 reached")), "{message}");
        assert!(message.contains("1 key-value head"), "{message}");
        assert!(hint.contains("kv-mode query-heads") && hint.contains("drop-attention"), "{hint}");
        let text = plan.table(&multi_query).unwrap().to_string();
        let said = format!("0.0 % of that from attention (asked for {:.1} %)", 100.0 * asked);
        assert!(text.ends_with(&said), "{text}");
    }
    // What the hint names helps.
    let by_head = PlanOptions { kv_mode: KvMode::QueryHeads, ..share(0.5) };
    let (plan, _) = made(&multi_query, &by_head);
    assert!(plan.attention_share(&multi_query) > 0.2);
    // Single heads: neither way gives any, and a uniform layout drops no sublayer.
    let single = config(vec![widths(1, 1, 40); 3]);
    let (_, unmet) = made(&single, &PlanOptions { layout: Layout::Uniform, ..share(0.5) });
    let unmet = unmet.iter().find(|unmet| unmet.option == "attention-share").unwrap();
    assert_eq!(unmet.hint, "attention-share 0.00");
}

#[test]
fn what_is_reached_is_not_said() {
    let wide =
        ModelConfig { hidden_size: 576, head_dim: 64, ..config(vec![widths(9, 3, 1536); 30]) };
    for options in
        [PlanOptions::new(0.2), share(0.2), PlanOptions { attention_share: None, ..share(0.0) }]
    {
        let (plan, unmet) = made(&wide, &options);
        assert_eq!(unmet, [], "{:?}", plan.reached_attention_share);
    }
    // Sublayers that were named go whatever the share is.
    let dropped = PlanOptions { drop_attention: vec![3, 4], ..PlanOptions::new(0.2) };
    let (plan, unmet) = made(&wide, &dropped);
    assert!(plan.attention_share(&wide) > 0.02 && unmet.is_empty(), "{unmet:?}");
}

#[test]
fn widths_that_stay_odd_and_ratios_that_are_far_off_are_said() {
    let odd = config(vec![widths(4, 2, 100); 4]);
    let options = PlanOptions { multiple_of: 8, protect: (1, 1), ..PlanOptions::new(0.2) };
    let (plan, unmet) = made(&odd, &options);
    assert_eq!(plan.layers[0].ffn.len(), 100);
    let found = unmet.iter().find(|unmet| unmet.option == "multiple-of").unwrap();
    assert!(found.message.contains("2 of 4 layers") && found.message.contains("layer 0 has 100"));
    // Whole layers' widths by 8 at once: up to half a step off.
    let steps = PlanOptions { multiple_of: 32, layout: Layout::Uniform, ..PlanOptions::new(0.3) };
    let (plan, unmet) = made(&config(vec![widths(4, 2, 96); 4]), &steps);
    let found = unmet.iter().find(|unmet| unmet.option == "ratio").unwrap();
    assert!((plan.reached_ratio - 0.3).abs() > 0.001);
    assert!(found.message.contains("0.3 asked") && found.hint.contains("per-layer"), "{found:?}");
}

/// A plan for other options than those it is held against.
#[test]
fn a_protected_layer_that_was_cut_is_said() {
    let config = config(vec![widths(4, 2, 40); 3]);
    let (plan, _) = made(&config, &PlanOptions::new(0.2));
    let spared = PlanOptions { protect: (0, 1), ..PlanOptions::new(0.2) };
    let unmet = plan.unmet(&config, &spared);
    assert!(
        unmet.iter().any(|u| u.option == "protect" && u.message.contains("layer 2")),
        "{unmet:?}"
    );
}

/// The share in plan and table is the share of the parameters that are gone.
#[test]
fn shares_follow_from_the_parameters() {
    const CASES: u32 = 64;
    let drawn = (any_config(), any::<u64>(), 0.02..0.5, proptest::option::of(0.0..=1.0));
    let with_both = tried(CASES, drawn, |(config, seed, ratio, attention_share)| {
        let options = PlanOptions { attention_share, ..PlanOptions::new(ratio) };
        let Some(plan) = plan_or_largest(&config, seed, &options)? else { return Ok(false) };
        let channels: Vec<_> = plan
            .layers
            .iter()
            .zip(&config.layers)
            .map(|(kept, widths)| adapruner_checkpoint::LayerWidths {
                ffn: kept.ffn.len(),
                ..*widths
            })
            .collect();
        // The parameters of the model with all its attention.
        let without_heads = config.with_layers(channels).parameters();
        let gone = plan.parameters_before - plan.parameters_after;
        let of_heads = without_heads - plan.parameters_after;
        let expected = if gone == 0 { 0.0 } else { of_heads as f64 / gone as f64 };
        prop_assert!((plan.attention_share(&config) - expected).abs() < 1e-12);
        prop_assert_eq!(
            plan.table(&config).unwrap().reached_attention_share,
            plan.reached_attention_share
        );
        let asked = attention_share.unwrap_or(expected);
        let said = plan.unmet(&config, &options).iter().any(|u| u.option == "attention-share");
        prop_assert_eq!(said, (asked - expected).abs() > 0.01);
        Ok(expected > 0.0)
    });
    assert!(with_both > 5, "of {CASES} plans {with_both} took heads");
}
