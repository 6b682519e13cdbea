//! The pruned model computes what the masked original computes.

use std::collections::BTreeSet;

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig, names};
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{
    Allocation, Error, KvMode, LayerPlan, Normalisation, PlanOptions, PrunePlan, apply, mask, plan,
    without_layers,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::common::{
    any_config, config, digest, plan_or_largest, random_checkpoint, random_ids, random_scores,
    tried, widths,
};

/// The same sums without their zero terms, in another order, through up to six
/// layers of f32: a few hundred times 6e-8 of logits near 1.
const TOLERANCE: f32 = 1e-4;

fn logits(checkpoint: &Checkpoint, ids: &[Vec<u32>]) -> Tensor {
    let decoder = Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    let (rows, tokens) = (ids.len(), ids[0].len());
    let ids = Tensor::from_vec(ids.concat(), (rows, tokens), &Device::Cpu).unwrap();
    decoder.logits(&ids).unwrap()
}

fn finite(values: &Tensor) -> bool {
    values.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|value| value.is_finite())
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Everything at once: groups of three, biases, a dropped sublayer.
fn example() -> (ModelConfig, Checkpoint, PrunePlan) {
    let config = ModelConfig {
        attention_bias: true.into(),
        mlp_bias: true,
        tie_word_embeddings: false,
        ..config(vec![widths(9, 3, 20), widths(6, 2, 17), widths(4, 4, 11)])
    };
    let options = PlanOptions {
        attention_share: Some(0.8),
        drop_attention: vec![1],
        ..PlanOptions::new(0.35)
    };
    let plan = plan(&random_scores(&config, 1), &config, digest(), &options).unwrap();
    (config.clone(), random_checkpoint(&config, 1), plan)
}

#[test]
fn the_example_is_sliced_and_masked_alike() {
    let (config, dense, plan) = example();
    assert!(plan.layers.iter().all(|l| l.ffn.len() > 1));
    assert!(plan.layers[0].kv_heads.len() < 3 || plan.layers[2].kv_heads.len() < 4);
    let ids = random_ids(&config, 2, 9, 1);
    let sliced = logits(&apply(&dense, &plan).unwrap(), &ids);
    let masked = logits(&mask(&dense, &plan).unwrap(), &ids);
    assert!(largest_difference(&sliced, &masked) < TOLERANCE);
    // And pruning did change something.
    assert!(largest_difference(&sliced, &logits(&dense, &ids)) > 100.0 * TOLERANCE);
}

/// Weights that a plan leaves whole are read as the original's forms, others as their own.
#[test]
fn a_model_loaded_beside_its_original_computes_what_it_does_alone() {
    let (config, checkpoint, plan) = example();
    let checkpoint = checkpoint.resident();
    let pruned = apply(&checkpoint, &plan).unwrap();
    let ids = random_ids(&config, 2, 7, 1);
    for (dtype, residency) in [
        (DType::F32, Residency::Resident),
        (DType::BF16, Residency::Resident),
        (DType::BF16, Residency::Streamed),
    ] {
        let placement = Placement { device: Device::Cpu, dtype };
        let original = Decoder::load(&checkpoint, &placement, residency).unwrap();
        let of = |decoder: &Decoder| -> Vec<Vec<f32>> {
            let nll = decoder.nll(&decoder.tokens(&ids).unwrap()).unwrap();
            nll.to_vec2().unwrap()
        };
        let whole = of(&original);
        let beside = original.load_beside(&pruned).unwrap();
        assert_eq!((beside.residency(), beside.placement().dtype), (residency, dtype));
        let alone = of(&Decoder::load(&pruned, &placement, residency).unwrap());
        assert_eq!(of(&beside), alone);
        assert_ne!(alone, whole);
        assert_eq!(of(&original), whole, "the original is what it was");
    }
}

#[test]
fn a_pruned_checkpoint_is_a_checkpoint_like_any_other() {
    let (_, dense, plan) = example();
    let pruned = apply(&dense, &plan).unwrap();
    assert_eq!(pruned.config.parameters(), plan.parameters_after);
    let mut elements = 0;
    let expected = names::expected_tensors(&pruned.config);
    for tensor in &expected {
        let meta = pruned.tensors.meta(&tensor.name).unwrap();
        assert_eq!(meta.shape, tensor.shape, "{}", tensor.name);
        let loaded = pruned.tensors.load(&tensor.name, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(loaded.dims(), tensor.shape, "{}", tensor.name);
        assert!(loaded.is_contiguous());
        assert_eq!(meta.bytes, 4 * loaded.elem_count() as u64, "{}", tensor.name);
        elements += loaded.elem_count() as u64;
    }
    assert_eq!(elements, plan.parameters_after);
    let names: BTreeSet<String> = expected.into_iter().map(|t| t.name).collect();
    assert_eq!(pruned.tensors.names().into_iter().collect::<BTreeSet<_>>(), names);
    let gone = "model.layers.1.self_attn.q_proj.weight";
    assert!(pruned.tensors.meta(gone).is_none());
    assert!(pruned.tensors.load(gone, DType::F32, &Device::Cpu).is_err());
}

#[test]
fn kept_rows_and_columns_are_the_originals() {
    let (_, dense, plan) = example();
    let pruned = apply(&dense, &plan).unwrap();
    let load = |of: &Checkpoint, name: &str| {
        of.tensors.load(name, DType::F32, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap()
    };
    let name = "model.layers.2.mlp.down_proj.weight";
    let (before, after) = (load(&dense, name), load(&pruned, name));
    for (before, after) in before.iter().zip(&after) {
        let kept: Vec<f32> = plan.layers[2].ffn.iter().map(|&j| before[j]).collect();
        assert_eq!(&kept, after);
    }
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (before, after) = (load(&dense, name), load(&pruned, name));
    for (at, head) in plan.layers[0].query_heads.iter().enumerate() {
        for d in 0..4 {
            assert_eq!(before[head * 4 + d], after[at * 4 + d]);
        }
    }
}

#[test]
fn a_pruned_model_can_be_pruned_again() {
    let (_, dense, first) = example();
    let pruned = apply(&dense, &first).unwrap();
    let scores = random_scores(&pruned.config, 2);
    let options = PlanOptions { attention_share: None, ..PlanOptions::new(0.1) };
    let second = plan(&scores, &pruned.config, pruned.digest().unwrap(), &options).unwrap();
    let ids = random_ids(&pruned.config, 1, 6, 2);
    let sliced = logits(&apply(&pruned, &second).unwrap(), &ids);
    let masked = logits(&mask(&pruned, &second).unwrap(), &ids);
    assert!(largest_difference(&sliced, &masked) < TOLERANCE);
}

#[test]
fn digests_tell_model_and_plan() {
    let (config, dense, first) = example();
    let other = plan(&random_scores(&config, 3), &config, digest(), &PlanOptions::new(0.25));
    let other = other.unwrap();
    let of = |plan: &PrunePlan| apply(&dense, plan).unwrap().digest().unwrap();
    assert_eq!(of(&first), of(&first));
    assert_ne!(of(&first), of(&other));
    assert_ne!(of(&first), digest());
    let foreign = PrunePlan { model_digest: Digest::of_bytes(b"another"), ..first };
    match apply(&dense, &foreign) {
        Err(error @ Error::OtherModel { .. }) => {
            assert!(error.to_string().contains(&digest().to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn plans_that_do_not_fit_are_not_applied() {
    let (_, dense, mut plan) = example();
    plan.layers[0].ffn.push(20);
    assert!(matches!(apply(&dense, &plan), Err(Error::Plan(_))));
    assert!(matches!(mask(&dense, &plan), Err(Error::Plan(_))));
}

/// A plan that removes layers whole, too, as far as one stays.
fn without(plan: PrunePlan, config: &ModelConfig, gone: &[usize]) -> PrunePlan {
    let mut layers = plan.layers.clone();
    for &layer in gone.iter().filter(|&&layer| layer < config.layers.len()) {
        let stay = layers.iter().filter(|kept| **kept != LayerPlan::NOTHING).count();
        if stay > 1 {
            layers[layer] = LayerPlan::NOTHING;
        }
    }
    PrunePlan::keeping(config, digest(), layers)
}

/// The first and the last of three layers, the first of them narrower than it was.
#[test]
fn layers_go_whole() {
    let (config, dense, plan) = example();
    let plan = without(plan, &config, &[1]);
    let pruned = apply(&dense, &plan).unwrap();
    assert_eq!(pruned.config.layers, [plan.layers[0].widths(), plan.layers[2].widths()]);
    assert_eq!(pruned.config.parameters(), plan.parameters_after);
    let names: BTreeSet<String> =
        names::expected_tensors(&pruned.config).into_iter().map(|t| t.name).collect();
    assert_eq!(pruned.tensors.names().into_iter().collect::<BTreeSet<_>>(), names);
    let load = |of: &Checkpoint, name: &str| {
        of.tensors.load(name, DType::F32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()
    };
    let norm = |layer: usize| format!("model.layers.{layer}.input_layernorm.weight");
    assert_eq!(load(&pruned, &norm(1)), load(&dense, &norm(2)));
    let table = plan.table(&config).unwrap();
    assert_eq!((table.rows.len(), table.rows[1].parameters_after), (3, 0));
    // In two steps the same model, and in files the same plan.
    let (shallow, rest) = without_layers(&dense, &plan).unwrap().unwrap();
    let in_steps = apply(&shallow, &rest.unwrap()).unwrap();
    assert_eq!(in_steps.digest().unwrap(), pruned.digest().unwrap());
    assert_eq!(PrunePlan::from_json(plan.to_json().unwrap().as_bytes()).unwrap(), plan);
    let (whole, digest) = (shallow.config.clone(), shallow.digest().unwrap());
    let layers = whole.layers.iter().map(LayerPlan::whole).collect();
    let of_shallow = PrunePlan::keeping(&whole, digest, layers);
    let back = of_shallow.after_layers(&config, dense.digest().unwrap(), &[0, 2], None);
    assert_eq!(back, PrunePlan::of_layers(&config, dense.digest().unwrap(), &[0, 2]));
}

#[test]
fn at_least_one_layer_stays_and_none_without_a_feed_forward() {
    let (config, dense, plan) = example();
    let refused = |layers: Vec<LayerPlan>| {
        let plan = PrunePlan::keeping(&config, digest(), layers);
        match apply(&dense, &plan) {
            Err(Error::Plan(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let none = refused(vec![LayerPlan::NOTHING; 3]);
    assert_eq!(none, "expected at least 1 layer to stay, found none");
    let mut layers = plan.layers;
    layers[0].ffn.clear();
    assert!(refused(layers).contains("layer 0: expected at least 1 feed-forward channel"));
    for kept in [&[][..], &[3], &[1, 0], &[1, 1]] {
        assert!(dense.with_layers(kept).is_err(), "{kept:?}");
    }
}

#[test]
fn sliced_models_equal_masked_ones() {
    const CASES: u32 = 64;
    let drawn = (
        any_config(),
        any::<u64>(),
        0.02..0.6,
        proptest::option::of(0.0..=1.0),
        any::<[bool; 2]>(),
        proptest::option::of(0_usize..6),
        proptest::collection::vec(0_usize..6, 0..3),
    );
    let cut = tried(
        CASES,
        drawn,
        |(config, seed, ratio, attention_share, [by_group, ranked], drop, gone)| {
            let has_attention =
                |&l: &usize| config.layers.get(l).is_some_and(|w| w.has_attention());
            let options = PlanOptions {
                attention_share,
                kv_mode: if by_group { KvMode::Groups } else { KvMode::QueryHeads },
                allocation: if ranked {
                    Allocation::Global(Normalisation::Mean)
                } else {
                    Allocation::Local
                },
                drop_attention: drop.filter(has_attention).into_iter().collect(),
                ..PlanOptions::new(ratio)
            };
            let Some(plan) = plan_or_largest(&config, seed, &options)? else { return Ok(false) };
            let plan = without(plan, &config, &gone);
            if plan.parameters_after == plan.parameters_before {
                return Ok(false);
            }
            let dense = random_checkpoint(&config, seed);
            let ids = random_ids(&config, 2, 7, seed);
            let sliced = logits(&apply(&dense, &plan).unwrap(), &ids);
            let masked = logits(&mask(&dense, &plan).unwrap(), &ids);
            prop_assert!(finite(&sliced) && finite(&masked));
            let difference = largest_difference(&sliced, &masked);
            prop_assert!(difference < TOLERANCE, "{}", difference);
            Ok(true)
        },
    );
    assert!(cut > CASES / 2, "of {CASES} models {cut} lost anything");
}
