//! Matrices fitted anew make up for what was removed.

use adapruner_checkpoint::{Checkpoint, LayerWidths, ModelConfig, names::Projection};
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{
    CompensateOptions, Compensated, Error, Form, LayerPlan, PlanOptions, PrunePlan, Ridge, apply,
    compensate, compensated_config,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::common::{
    MemorySource, any_config, config, digest, plan_or_largest, random_checkpoint, random_ids,
    tried, widths,
};

/// f32 products of a few hundred terms, solved with condition numbers of some
/// thousands, through three layers.
const TOLERANCE: f32 = 2e-3;

fn options(ridge: f64) -> CompensateOptions {
    CompensateOptions { form: Form::Weight { ridge: Ridge::Share(ridge) }, batch_tokens: 64 }
}

const CHOSEN: CompensateOptions =
    CompensateOptions { form: Form::Weight { ridge: Ridge::HeldOut }, batch_tokens: 64 };

fn fit(
    dense: &Checkpoint,
    plan: &PrunePlan,
    ids: &[Vec<u32>],
    options: &CompensateOptions,
) -> Compensated {
    compensate(dense, plan, ids, options, &Placement::cpu(), &|_, _| {}).unwrap()
}

fn logits(checkpoint: &Checkpoint, ids: &[Vec<u32>]) -> Tensor {
    let decoder = Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    decoder.logits(&decoder.tokens(ids).unwrap()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn load(checkpoint: &Checkpoint, name: &str) -> Tensor {
    checkpoint.tensors.load(name, DType::F32, &Device::Cpu).unwrap()
}

fn whole(config: &ModelConfig) -> Vec<LayerPlan> {
    config.layers.iter().map(LayerPlan::whole).collect()
}

/// A model in which the channels from 5 on, and the second group of heads, are
/// copies of earlier ones (but for what reads them), and the plan without them.
fn redundant() -> (Checkpoint, PrunePlan) {
    let config = config(vec![widths(4, 2, 9); 3]);
    let dense = random_checkpoint(&config, 3);
    let mut tensors: std::collections::BTreeMap<String, Tensor> =
        dense.tensors.names().into_iter().map(|n| (n.clone(), load(&dense, &n))).collect();
    let mut layers = whole(&config);
    for (layer, kept) in layers.iter_mut().enumerate() {
        for projection in [Projection::Gate, Projection::Up] {
            let weight = tensors
                .get_mut(
                    &projection.weight(adapruner_checkpoint::Architecture::Llama.family(), layer),
                )
                .unwrap();
            let of = Tensor::new(&[0_u32, 1, 2, 3, 4, 0, 1, 2, 3], &Device::Cpu).unwrap();
            *weight = weight.index_select(&of, 0).unwrap();
        }
        for projection in [Projection::Q, Projection::K, Projection::V] {
            let weight = tensors
                .get_mut(
                    &projection.weight(adapruner_checkpoint::Architecture::Llama.family(), layer),
                )
                .unwrap();
            let half = weight.narrow(0, 0, weight.dim(0).unwrap() / 2).unwrap();
            *weight = Tensor::cat(&[&half, &half], 0).unwrap();
        }
        kept.ffn.truncate(5);
        kept.query_heads.truncate(2);
        kept.kv_heads.truncate(1);
    }
    let dense = Checkpoint { tensors: std::sync::Arc::new(MemorySource(tensors)), ..dense };
    let plan = PrunePlan::keeping(&config, digest(), layers);
    (dense, plan)
}

#[test]
fn what_the_kept_units_can_express_is_reproduced() {
    let (dense, plan) = redundant();
    let (fitted_on, other) =
        (random_ids(&dense.config, 8, 24, 1), random_ids(&dense.config, 2, 20, 2));
    let wanted = logits(&dense, &other);
    assert!(difference(&logits(&apply(&dense, &plan).unwrap(), &other), &wanted) > 0.1);
    let Compensated { checkpoint, refits } = fit(&dense, &plan, &fitted_on, &options(1e-9));
    let found = difference(&logits(&checkpoint, &other), &wanted);
    assert!(found < TOLERANCE, "{found}");
    assert_eq!(refits.len(), 6);
    assert!(refits.iter().all(|r| r.error_after < 1e-4 * r.error_before), "{refits:?}");
}

#[test]
fn layers_that_lost_nothing_keep_their_weights() {
    let config = config(vec![widths(4, 2, 9); 3]);
    let dense = random_checkpoint(&config, 5);
    let ids = random_ids(&config, 2, 16, 1);
    let mut layers = whole(&config);
    layers[1].ffn.truncate(6);
    let plan = PrunePlan::keeping(&config, digest(), layers);
    let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &options(0.01));
    let fitted: Vec<_> = refits.iter().map(|r| (r.layer, r.projection)).collect();
    assert_eq!(fitted, [(1, Projection::Down)]);
    let sliced = apply(&dense, &plan).unwrap();
    for name in sliced.tensors.names() {
        let same = difference(&load(&checkpoint, &name), &load(&sliced, &name)) == 0.0;
        assert_eq!(
            same,
            name != Projection::Down.weight(adapruner_checkpoint::Architecture::Llama.family(), 1),
            "{name}"
        );
        assert_eq!(checkpoint.tensors.meta(&name), sliced.tensors.meta(&name));
    }
    assert_ne!(checkpoint.digest().unwrap(), sliced.digest().unwrap());
    let other = fit(&dense, &plan, &ids, &options(0.02)).checkpoint;
    assert_ne!(checkpoint.digest().unwrap(), other.digest().unwrap());
}

#[test]
fn batches_do_not_matter() {
    let (dense, plan) = redundant();
    let ids = random_ids(&dense.config, 6, 16, 1);
    let [one, all] = [1, 1000].map(|batch_tokens| {
        let options = CompensateOptions { batch_tokens, ..options(0.01) };
        logits(&fit(&dense, &plan, &ids, &options).checkpoint, &ids)
    });
    assert!(difference(&one, &all) < 1e-4);
}

#[test]
fn a_singular_fit_raises_the_ridge_and_says_so() {
    let config = config(vec![widths(4, 2, 40)]);
    let dense = random_checkpoint(&config, 5);
    let mut layers = whole(&config);
    layers[0].ffn.truncate(30);
    let plan = PrunePlan::keeping(&config, digest(), layers);
    // Three tokens for thirty channels, fitted and held out alike.
    let ids = vec![random_ids(&config, 1, 3, 1).remove(0); 2];
    let refits = fit(&dense, &plan, &ids, &options(0.0)).refits;
    let warning = refits[0].warning().unwrap();
    assert!(warning.contains("layer 0, mlp.down_proj") && warning.contains("ridge"), "{warning}");
    assert!(refits[0].ridge > Some(0.0) && refits[0].error_after <= refits[0].error_before);
    assert_eq!(fit(&dense, &plan, &ids, &options(0.01)).refits[0].warning(), None);
}

const BIAS: CompensateOptions = CompensateOptions { form: Form::Bias, batch_tokens: 64 };

/// A plan that takes heads of one layer and channels of another, and a model with
/// the biases that `biased` says.
fn cut(biased: bool) -> (Checkpoint, PrunePlan) {
    let mut config = config(vec![widths(4, 2, 9); 3]);
    (config.attention_bias, config.mlp_bias) = (biased.into(), biased);
    let mut layers = whole(&config);
    layers[1].query_heads.truncate(2);
    layers[1].kv_heads.truncate(1);
    layers[2].ffn.truncate(6);
    (random_checkpoint(&config, 7), PrunePlan::keeping(&config, digest(), layers))
}

#[test]
fn a_bias_is_the_mean_of_what_was_removed() {
    for biased in [false, true] {
        let (dense, plan) = cut(biased);
        // Three kinds of token, so that what is removed has a mean worth giving back.
        let mut ids = random_ids(&dense.config, 64, 16, 1);
        ids.iter_mut().flatten().for_each(|id| *id %= 3);
        let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &BIAS);
        let fitted: Vec<_> = refits.iter().map(|r| (r.layer, r.projection)).collect();
        assert_eq!(fitted, [(1, Projection::O), (2, Projection::Down)]);
        assert!(refits.iter().all(|r| r.ridge.is_none() && r.error_after < r.error_before));
        let config = &checkpoint.config;
        assert!(config.has_bias(Projection::O) && config.mlp_bias);
        let sliced = apply(&dense, &plan).unwrap();
        for expected in adapruner_checkpoint::names::expected_tensors(config) {
            let name = &expected.name;
            let tensor = load(&checkpoint, name);
            assert_eq!(tensor.dims(), expected.shape, "{name}");
            assert_eq!(checkpoint.tensors.meta(name).unwrap().shape, expected.shape, "{name}");
            let set = [
                Projection::O.bias(adapruner_checkpoint::Architecture::Llama.family(), 1),
                Projection::Down.bias(adapruner_checkpoint::Architecture::Llama.family(), 2),
            ]
            .contains(name);
            let same = match sliced.tensors.meta(name) {
                Some(_) => difference(&tensor, &load(&sliced, name)) == 0.0,
                None => tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() == 0.0,
            };
            assert_eq!(same, !set, "{name}");
        }
        // However the samples run.
        let again = fit(&dense, &plan, &ids, &CompensateOptions { batch_tokens: 16, ..BIAS });
        let name = Projection::Down.bias(adapruner_checkpoint::Architecture::Llama.family(), 2);
        assert!(difference(&load(&again.checkpoint, &name), &load(&checkpoint, &name)) < 1e-5);
    }
}

/// On one sample of one kind of token the removed units always give the same.
#[test]
fn what_is_always_the_same_is_given_back_whole() {
    let (dense, plan) = cut(false);
    let ids = vec![vec![3_u32; 12]; 2];
    let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &BIAS);
    for refit in &refits {
        assert!(refit.error_after < 1e-6 * refit.error_before, "{refit:?}");
    }
    let found = difference(&logits(&checkpoint, &ids), &logits(&dense, &ids));
    assert!(found < TOLERANCE, "{found}");
}

#[test]
fn only_what_lost_units_gets_biases() {
    let config = config(vec![widths(4, 2, 9); 3]);
    let dense = random_checkpoint(&config, 5);
    let mut layers = whole(&config);
    layers[1].ffn.truncate(6);
    let plan = PrunePlan::keeping(&config, digest(), layers);
    let found = fit(&dense, &plan, &random_ids(&config, 64, 16, 1), &BIAS).checkpoint;
    assert!(found.config.mlp_bias && !found.config.has_bias(Projection::O));
    let sliced = apply(&dense, &plan).unwrap();
    assert_eq!(compensated_config(&config, &plan, BIAS.form), found.config);
    let kept = compensated_config(&config, &plan, CHOSEN.form);
    assert_eq!(kept, sliced.config);
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let (dense, plan) = redundant();
    let ids = random_ids(&dense.config, 1, 8, 1);
    let refused = |ids: &[Vec<u32>], options| {
        let placement = Placement::cpu();
        compensate(&dense, &plan, ids, &options, &placement, &|_, _| {}).err().unwrap()
    };
    for ridge in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(refused(&ids, options(ridge)), Error::Option { .. }), "{ridge}");
    }
    assert!(matches!(refused(&[], options(0.1)), Error::Compensation(_)));
    assert!(matches!(refused(&ids, options(0.1)), Error::Compensation(_)));
    assert!(matches!(refused(&[vec![50], vec![50]], options(0.1)), Error::Model(_)));
}

/// The sublayers that lose units while others stay, each with a fit of its own.
fn fits(config: &ModelConfig, plan: &PrunePlan) -> Vec<(usize, Projection)> {
    let pairs = config.layers.iter().zip(&plan.layers).enumerate();
    let of = |(layer, (before, kept)): (usize, (&LayerWidths, &LayerPlan))| {
        let after = kept.widths();
        let heads = after.has_attention() && after.query_heads != before.query_heads;
        let dropped = before.has_attention() && !after.has_attention();
        [(heads, Projection::O), (dropped || after.ffn != before.ffn, Projection::Down)]
            .into_iter()
            .filter_map(move |(cut, projection)| cut.then_some((layer, projection)))
    };
    pairs.flat_map(of).collect()
}

#[test]
fn no_fit_makes_its_sublayer_worse() {
    const CASES: u32 = 24;
    let drawn = (any_config(), 0_u64..1000, 0.0_f64..1.0, any::<bool>());
    let fitted = tried(CASES, drawn, |(config, seed, ridge, drop)| {
        let attention = (0..config.layers.len()).filter(|&l| config.layers[l].has_attention());
        let wanted = PlanOptions {
            attention_share: None,
            drop_attention: attention.filter(|_| drop).take(1).collect(),
            ..PlanOptions::new(0.2)
        };
        let Some(plan) = plan_or_largest(&config, seed, &wanted)? else { return Ok(false) };
        let dense = random_checkpoint(&config, seed);
        let ids = random_ids(&config, 3, 12, seed);
        let form = Form::Weight {
            ridge: if seed % 2 == 0 { Ridge::HeldOut } else { Ridge::Share(ridge) },
        };
        let found = fit(&dense, &plan, &ids, &CompensateOptions { form, ..CHOSEN });
        let of: Vec<_> = found.refits.iter().map(|refit| (refit.layer, refit.projection)).collect();
        prop_assert_eq!(of, fits(&config, &plan));
        for refit in &found.refits {
            prop_assert!(refit.held_out_after <= refit.held_out_before, "{refit:?}");
            prop_assert_eq!(refit.kept, refit.held_out_after < refit.held_out_before);
        }
        let logits = logits(&found.checkpoint, &ids).flatten_all().unwrap();
        prop_assert!(logits.to_vec1::<f32>().unwrap().iter().all(|value| value.is_finite()));
        Ok(found.refits.iter().any(|refit| refit.kept))
    });
    assert!(fitted > CASES / 2, "of {CASES} models {fitted} were fitted at all");
}

/// What a layer's down projection lacks, weighted as its fits are: the mean over
/// tokens of the squared difference from the dense layer, by the dense stream's mean
/// square.
fn lacks(dense: &Checkpoint, pruned: &Checkpoint, ids: &[Vec<u32>], layer: usize) -> f64 {
    apart((dense, layer), (pruned, layer), ids)
}

/// [`lacks`], behind any layer of either model.
fn apart(
    (dense, of_dense): (&Checkpoint, usize),
    (pruned, of_pruned): (&Checkpoint, usize),
    ids: &[Vec<u32>],
) -> f64 {
    let states = |model: &Checkpoint, layer: usize| {
        let decoder = Decoder::load(model, &Placement::cpu(), Residency::Resident).unwrap();
        let states = decoder.block_outputs(ids, &[layer]).unwrap();
        states[&layer].to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap()
    };
    let (mut error, mut weight) = (0.0, 0.0);
    for (a, b) in states(dense, of_dense).iter().zip(&states(pruned, of_pruned)) {
        let share = a.len() as f64 / a.iter().map(|a| a * a).sum::<f64>();
        error += share * a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        weight += share;
    }
    error / weight
}

/// The first layer alone is cut, so that both models enter it with the same stream and
/// errors can be taken from its output.
fn first_cut(ffn: usize) -> (Checkpoint, PrunePlan) {
    let config = config(vec![widths(4, 2, 24), widths(4, 2, 9)]);
    let mut layers = whole(&config);
    layers[0].ffn.truncate(ffn);
    (random_checkpoint(&config, 11), PrunePlan::keeping(&config, digest(), layers))
}

#[test]
fn errors_are_those_of_the_outputs_on_fitted_and_held_out_samples() {
    let (dense, plan) = first_cut(16);
    let sliced = apply(&dense, &plan).unwrap();
    let ids = random_ids(&dense.config, 17, 24, 4);
    // An eighth of 17, rounded up.
    let (fitted, held_out) = ids.split_at(14);
    for options in [CHOSEN, options(0.01), BIAS] {
        let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &options);
        let [refit] = refits.as_slice() else { panic!("{refits:?}") };
        assert!(refit.kept, "{refit:?}");
        for (model, samples, found) in [
            (&sliced, fitted, refit.error_before),
            (&checkpoint, fitted, refit.error_after),
            (&sliced, held_out, refit.held_out_before),
            (&checkpoint, held_out, refit.held_out_after),
        ] {
            let expected = lacks(&dense, model, samples, 0);
            // Sums of f32 products, against those of f32 outputs.
            assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
        }
    }
}

/// The ridge that is chosen is, of its neighbours, the one with the least held-out error.
#[test]
fn held_out_samples_choose_the_ridge() {
    let mut chosen = std::collections::BTreeSet::new();
    for samples in [2, 3, 40] {
        let (dense, plan) = first_cut(20);
        let ids = random_ids(&dense.config, samples, 12, 5);
        let of = |options: &CompensateOptions| fit(&dense, &plan, &ids, options).refits.remove(0);
        let best = of(&CHOSEN);
        let ridge = best.ridge.unwrap();
        for other in [ridge / 10.0, ridge * 10.0] {
            if (1e-4..=10.0).contains(&other) {
                let other = of(&options(other));
                assert!(best.held_out_after <= other.held_out_after * (1.0 + 1e-6), "{other:?}");
            }
        }
        chosen.insert(ridge.to_string());
    }
    assert!(chosen.len() > 1, "few samples need another ridge than many: {chosen:?}");
}

#[test]
fn a_fit_that_does_not_generalise_is_dropped() {
    let (dense, plan) = first_cut(20);
    // Twelve tokens for twenty channels, almost without a ridge.
    let ids = random_ids(&dense.config, 2, 12, 5);
    let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &options(1e-9));
    let [refit] = refits.as_slice() else { panic!("{refits:?}") };
    assert!(!refit.kept && refit.held_out_after == refit.held_out_before, "{refit:?}");
    let sliced = apply(&dense, &plan).unwrap();
    for name in sliced.tensors.names() {
        assert_eq!(difference(&load(&checkpoint, &name), &load(&sliced, &name)), 0.0, "{name}");
    }
}

/// A feed-forward sublayer that kept all its channels makes up for the attention that
/// went before it.
#[test]
fn attention_that_went_is_made_up_for_by_the_feed_forward() {
    let config = config(vec![widths(4, 2, 24), widths(4, 2, 9)]);
    let dense = random_checkpoint(&config, 13);
    let mut layers = whole(&config);
    (layers[0].query_heads, layers[0].kv_heads) = (vec![], vec![]);
    let plan = PrunePlan::keeping(&config, digest(), layers);
    let ids = random_ids(&config, 32, 24, 6);
    for options in [CHOSEN, BIAS] {
        let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &options);
        let [refit] = refits.as_slice() else { panic!("{refits:?}") };
        assert_eq!((refit.layer, refit.projection), (0, Projection::Down));
        assert!(refit.kept, "{refit:?}");
        let sliced = apply(&dense, &plan).unwrap();
        assert_eq!(checkpoint.config, compensated_config(&config, &plan, options.form));
        let others = random_ids(&config, 8, 24, 7);
        let [without, with] = [&sliced, &checkpoint].map(|model| lacks(&dense, model, &others, 0));
        assert!(with < without, "{with} {without}");
    }
}

/// The feed-forward sublayer before layers that went makes up for them, in the pruned model's
/// numbering.
#[test]
fn layers_that_went_are_made_up_for_by_the_feed_forward_before_them() {
    let config = config(vec![widths(4, 2, 24), widths(4, 2, 9), widths(4, 2, 9), widths(4, 2, 9)]);
    let dense = random_checkpoint(&config, 13);
    let ids = random_ids(&config, 32, 24, 6);
    for (gone, fitted, behind) in [(&[2][..], 1, 2), (&[2, 3], 1, 3), (&[3], 2, 3)] {
        let kept: Vec<usize> = (0..4).filter(|layer| !gone.contains(layer)).collect();
        let plan = PrunePlan::of_layers(&config, digest(), &kept);
        for options in [CHOSEN, BIAS] {
            let Compensated { checkpoint, refits } = fit(&dense, &plan, &ids, &options);
            let [refit] = refits.as_slice() else { panic!("{gone:?}: {refits:?}") };
            assert_eq!((refit.layer, refit.projection), (fitted, Projection::Down));
            assert!(refit.kept, "{gone:?}: {refit:?}");
            let sliced = apply(&dense, &plan).unwrap();
            assert_eq!(checkpoint.config, compensated_config(&config, &plan, options.form));
            let others = random_ids(&config, 8, 24, 7);
            let [without, with] = [&sliced, &checkpoint]
                .map(|model| apart((&dense, behind), (model, fitted), &others));
            assert!(with < without, "{gone:?}: {with} {without}");
        }
    }
    // Nothing stands before the first layer.
    let plan = PrunePlan::of_layers(&config, digest(), &[1, 2, 3]);
    assert!(fit(&dense, &plan, &ids, &CHOSEN).refits.is_empty());
}
