//! Whole experts removed: what they are worth, against transformers, and what is left without
//! them, against the dense model that routes no token to them.

use std::{collections::HashMap, path::Path};

use adapruner_checkpoint::{Architecture, Checkpoint, Experts, LayerWidths, ModelConfig};
use adapruner_kernels::sublayer::Experts as Mixture;
use adapruner_model::{
    Decoder, PassCuts, Placement, Places, Residency,
    block::{Ffn, Pass},
};
use adapruner_prune::{
    CollectOptions, Error, LayerChoice, LayerPlan, PlanOptions, PrunePlan, Routing, Terms, apply,
    collect, expert_taylor, mask, plan, random_experts, reconstruction, without_experts,
};
use candle_core::{D, DType, Device, Tensor};
use proptest::prelude::*;

use crate::common::{
    any_config, config, digest, random_checkpoint, random_ids, random_scores, tried, widths,
};

/// The same sums in another order, through up to six layers of f32.
const TOLERANCE: f32 = 1e-4;
/// Activations in f32 against float64 ones; norms and softmax of the reference are f32.
const FIXTURE: f64 = 5e-5;

fn decoder(checkpoint: &Checkpoint) -> Decoder {
    Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap()
}

fn tokens(ids: &[Vec<u32>]) -> Tensor {
    let (rows, tokens) = (ids.len(), ids[0].len());
    Tensor::from_vec(ids.concat(), (rows, tokens), &Device::Cpu).unwrap()
}

fn logits(checkpoint: &Checkpoint, ids: &[Vec<u32>]) -> Tensor {
    decoder(checkpoint).logits(&tokens(ids)).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// What a mixture adds to its input, by the definition: every expert runs on every row, and the
/// logits of all but `kept` are minus infinity.
fn barred(mixture: &Mixture, x: &Tensor, kept: &[usize]) -> Tensor {
    let (count, _) = mixture.router.dims2().unwrap();
    let h = mixture.norm.as_ref().unwrap().apply(x).unwrap();
    let h = h.reshape(((), h.dim(D::Minus1).unwrap())).unwrap();
    let logits = h.matmul(&mixture.router.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
    let weights: Vec<f32> = logits
        .iter()
        .flat_map(|logits| {
            let logit = |e: usize| if kept.contains(&e) { logits[e] } else { f32::NEG_INFINITY };
            let largest = (0..count).map(logit).fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = (0..count).map(|e| (logit(e) - largest).exp()).collect();
            let all: f32 = powers.iter().sum();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| powers[b].total_cmp(&powers[a]));
            let chosen = &order[..mixture.chosen];
            let of_chosen: f32 = chosen.iter().map(|&e| powers[e]).sum();
            let divisor = if mixture.normalised { of_chosen } else { all };
            let weight = |e| if chosen.contains(&e) { powers[e] / divisor } else { 0.0 };
            (0..count).map(weight).collect::<Vec<f32>>()
        })
        .collect();
    let weights = Tensor::from_vec(weights, (logits.len(), count), &Device::Cpu).unwrap();
    let mut sum = h.zeros_like().unwrap();
    for (expert, own) in mixture.each.iter().enumerate() {
        let given = own.down.apply(&own.channels(&h).unwrap()).unwrap();
        let weight = weights.narrow(1, expert, 1).unwrap();
        sum = (sum + given.broadcast_mul(&weight).unwrap()).unwrap();
    }
    mixture.residual.add(x, &sum.reshape(x.shape()).unwrap()).unwrap()
}

/// The logits of a dense model of which the routers know `kept` alone, layer by layer.
fn rerouted(checkpoint: &Checkpoint, ids: &[Vec<u32>], kept: &[Vec<usize>]) -> Tensor {
    let decoder = decoder(checkpoint);
    let rotations = decoder.positions(0, ids[0].len()).unwrap();
    let mut x = decoder.embedded(&tokens(ids), Places::From(0)).unwrap();
    for (layer, kept) in kept.iter().enumerate() {
        let block = decoder.block(layer).unwrap();
        let attention = block.attention_in(&Pass::of(&rotations));
        let y = attention.map_or_else(|| x.clone(), |of| of.forward(&x).unwrap());
        x = match &block.ffn {
            Ffn::Experts(mixture) => barred(mixture, &y, kept),
            Ffn::Dense(_) => panic!("layer {layer} has no experts"),
        };
    }
    let ending = decoder.ending().unwrap();
    ending.head.logits(&ending.read(&x).unwrap()).unwrap()
}

/// Random experts that stay of a model, at least as many as a token takes.
fn drawn(config: &ModelConfig, share: f64, seed: u64) -> Vec<Vec<usize>> {
    let Experts { count, chosen, .. } = config.experts.unwrap();
    let gone = ((count - chosen) as f64 * share).ceil() as usize;
    let scores = random_experts(config, seed).into_iter();
    scores.map(|scores| LayerChoice::by_scores(scores, gone).kept).collect()
}

/// Mixtures of every family with up to nine experts.
fn any_mixture() -> impl Strategy<Value = ModelConfig> {
    let families = Architecture::ALL.into_iter().filter(|of| of.family().experts.is_some());
    let family = proptest::sample::select(families.collect::<Vec<_>>());
    let experts = (2_usize..10, 0_usize..8, any::<bool>());
    (any_config(), family, experts).prop_map(|(of, architecture, (count, more, normalised))| {
        let each = of.expert_count();
        let sized = |w: &LayerWidths| widths(w.query_heads, w.kv_heads, w.ffn / each * count);
        let layers = of.layers.iter().map(sized).collect();
        let plain = ModelConfig::new(architecture, 24, 4, 50, layers);
        ModelConfig {
            experts: Some(Experts { count, chosen: 1 + more % (count - 1), normalised }),
            windows: plain.windows.iter().map(|window| window.map(|_| 3)).collect(),
            // Where heads are normed together, the masked model's mean is over more.
            norm_eps: 1e-12,
            tie_word_embeddings: of.tie_word_embeddings,
            max_position_embeddings: 64,
            ..plain
        }
    })
}

#[test]
fn tokens_are_routed_among_the_experts_that_stay() {
    const CASES: u32 = 48;
    let changed = tried(CASES, (any_mixture(), any::<u64>(), 0.0..1.0), |(config, seed, share)| {
        let dense = random_checkpoint(&config, seed);
        let kept = drawn(&config, share, seed);
        let plan = PrunePlan::of_experts(&config, digest(), &kept);
        plan.validate(&config).unwrap();
        let ids = random_ids(&config, 2, 7, seed);
        let pruned = apply(&dense, &plan).unwrap();
        prop_assert_eq!(pruned.config.parameters(), plan.parameters_after);
        prop_assert_eq!(pruned.config.expert_count(), kept[0].len());
        let sliced = logits(&pruned, &ids);
        let difference = largest_difference(&sliced, &rerouted(&dense, &ids, &kept));
        prop_assert!(difference < TOLERANCE, "{}", difference);
        Ok(largest_difference(&sliced, &logits(&dense, &ids)) > 100.0 * TOLERANCE)
    });
    assert!(changed > CASES / 2, "of {CASES} models {changed} compute something else");
}

/// Experts, channels of those that stay, heads and layers in one plan: as in steps, and as the
/// model with the removed units at zero.
#[test]
fn experts_go_together_with_everything_else() {
    const CASES: u32 = 48;
    let given =
        (any_mixture(), any::<u64>(), 0.0..1.0, 0.05..0.4, proptest::option::of(0_usize..6));
    let cut = tried(CASES, given, |(config, seed, share, ratio, gone)| {
        let dense = random_checkpoint(&config, seed);
        let kept = drawn(&config, share, seed);
        let fewer = dense.with_experts(&kept).unwrap();
        let options = PlanOptions { attention_share: Some(0.3), ..PlanOptions::new(ratio) };
        let scores = random_scores(&fewer.config, seed);
        let (of, own) = (&fewer.config, fewer.digest().unwrap());
        let Ok(widths) = plan(&scores, of, own, &options) else { return Ok(false) };
        let in_steps = apply(&fewer, &widths).unwrap();
        let whole = widths.after_experts(&config, digest(), &kept, None);
        whole.validate(&config).unwrap();
        prop_assert_eq!(whole.kept_experts(&config), Some(kept));
        let again = PrunePlan::from_json(whole.to_json().unwrap().as_bytes()).unwrap();
        prop_assert_eq!(&again, &whole);
        let at_once = apply(&dense, &whole).unwrap();
        prop_assert_eq!(&at_once.config, &in_steps.config);
        prop_assert_eq!(at_once.config.parameters(), whole.parameters_after);
        let table = whole.table(&config).unwrap();
        let lost: u64 = table.rows.iter().map(|r| r.parameters_before - r.parameters_after).sum();
        prop_assert_eq!(lost, whole.parameters_before - whole.parameters_after);
        let ids = random_ids(&config, 2, 7, seed);
        let sliced = logits(&at_once, &ids);
        prop_assert!(largest_difference(&sliced, &logits(&in_steps, &ids)) == 0.0);
        let masked = logits(&mask(&dense, &whole).unwrap(), &ids);
        prop_assert!(largest_difference(&sliced, &masked) < TOLERANCE);
        // Without a layer, too.
        let Some(gone) = gone.filter(|gone| *gone < config.layers.len() && config.layers.len() > 1)
        else {
            return Ok(true);
        };
        let mut layers = whole.layers.clone();
        layers[gone] = LayerPlan::NOTHING;
        let shallow = PrunePlan::keeping(&config, digest(), layers);
        shallow.validate(&config).unwrap();
        let pruned = apply(&dense, &shallow).unwrap();
        prop_assert_eq!(pruned.config.parameters(), shallow.parameters_after);
        let masked = logits(&mask(&dense, &shallow).unwrap(), &ids);
        prop_assert!(largest_difference(&logits(&pruned, &ids), &masked) < TOLERANCE);
        Ok(true)
    });
    assert!(cut > CASES / 2, "of {CASES} models {cut} lost channels, too");
}

/// A mixture of five experts, two for each token.
fn example() -> (ModelConfig, Checkpoint) {
    let layers = vec![widths(6, 2, 35), widths(0, 0, 20), widths(4, 4, 10)];
    let config = ModelConfig {
        experts: Some(Experts { count: 5, chosen: 2, normalised: true }),
        max_position_embeddings: 64,
        ..ModelConfig::new(Architecture::Qwen3Moe, 24, 4, 50, layers)
    };
    let dense = random_checkpoint(&config, 1);
    (config, dense)
}

#[test]
fn plans_that_leave_too_few_experts_or_other_numbers_are_refused() {
    let (config, dense) = example();
    let refused = |kept: &[Vec<usize>]| {
        let plan = PrunePlan::of_experts(&config, digest(), kept);
        match apply(&dense, &plan) {
            Err(Error::Plan(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let found = refused(&[vec![0, 2, 4], vec![1, 2], vec![0, 1, 2]]);
    assert_eq!(found, "layer 1: expected 3 experts to stay, as in layer 0, found 2");
    let found = refused(&[vec![3], vec![1], vec![0]]);
    assert!(found.contains("at least 2 experts to stay, as many as each token takes"), "{found}");
    // One channel of an expert alone.
    let mut plan = PrunePlan::of_experts(&config, digest(), &vec![vec![0, 1, 2]; 3]);
    plan.layers[0].ffn.pop();
    let found = plan.validate(&config).unwrap_err().to_string();
    assert!(
        found.contains("as many channels of each of 3 experts, found 6 of expert 2"),
        "{found}"
    );
    for kept in [
        vec![vec![0, 1]; 2],
        vec![vec![1, 0]; 3],
        vec![vec![0, 5]; 3],
        vec![vec![0]; 3],
        vec![vec![0, 1], vec![0, 1, 2], vec![0, 1]],
        vec![vec![]; 3],
    ] {
        assert!(dense.with_experts(&kept).is_err(), "{kept:?}");
    }
    let llama = random_checkpoint(&self::config(vec![widths(4, 2, 9)]), 1);
    let found = llama.with_experts(&[vec![0]]).map(|_| ()).unwrap_err().to_string();
    assert!(found.contains("experts: the model has none"), "{found}");
    // A plan without removed experts takes none.
    let whole = PrunePlan::of_experts(&config, digest(), &vec![(0..5).collect(); 3]);
    assert_eq!(whole.kept_experts(&config), None);
    assert!(without_experts(&dense, &whole).unwrap().is_none());
}

#[test]
fn tables_say_how_many_experts_stay() {
    let (config, dense) = example();
    let plan = PrunePlan::of_experts(&config, digest(), &vec![vec![1, 2, 4]; 3]);
    let table = plan.table(&config).unwrap();
    assert_eq!(table.experts, Some((5, 3)));
    // Two experts of 7 channels and two rows of the router.
    let first = &table.rows[0];
    assert_eq!(first.parameters_before - first.parameters_after, 2 * (3 * 7 * 24 + 24));
    assert!(table.to_string().contains("5 → 3"), "{table}");
    let pruned = apply(&dense, &plan).unwrap();
    assert_eq!(pruned.config.layers[1].ffn, 12);
    let digests = [&pruned, &apply(&dense, &plan).unwrap(), &dense].map(|of| of.digest().unwrap());
    assert!(digests[0] == digests[1] && digests[0] != digests[2]);
}

/// What transformers gave of a model (`fixtures/generate/experts.py`).
struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn of(name: &str) -> Self {
        let path = fixtures().join("experts").join(format!("{name}.safetensors"));
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("no {name}"));
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn samples(&self) -> Vec<Vec<u32>> {
        let of = |at| self.0.get(&format!("sample.{at}"));
        let samples = (0..).map_while(of);
        samples.map(|ids| ids.to_dtype(DType::U32).unwrap().to_vec1().unwrap()).collect()
    }
}

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

#[test]
fn scores_and_what_is_left_are_those_of_transformers() {
    for name in ["qwen3_moe", "olmoe", "mixtral"] {
        let checkpoint = Checkpoint::open(&fixtures().join("models").join(name)).unwrap();
        let (expected, config) = (Expected::of(name), &checkpoint.config);
        let (samples, decoder) = (expected.samples(), decoder(&checkpoint));
        let cuts = PassCuts { batch_tokens: 22, group_tokens: 33, kept_blocks: 1 };
        let routing = Routing::of(&decoder, &samples, &cuts, &|_, _| {}).unwrap();
        let options = CollectOptions {
            terms: Terms::Coarse,
            batch: false,
            cuts,
            model_digest: digest(),
            calibration_digest: digest(),
            seed: 1,
        };
        let bank = collect(&decoder, &samples, &options, &|_, _| {}).unwrap();
        let left = expected.numbers("kept.0").len();
        let removed = (&cuts, config.expert_count() - left);
        let chosen = reconstruction(&decoder, &samples, removed, &|_, _| {}).unwrap();
        for (layer, LayerChoice { kept, .. }) in chosen.iter().enumerate() {
            let best = expected.numbers(&format!("best.{layer}"));
            assert_eq!(kept.iter().map(|&e| e as f64).collect::<Vec<_>>(), best, "{name}, {layer}");
        }
        for (metric, found) in [
            ("reconstruction", chosen.into_iter().map(|layer| layer.scores).collect()),
            ("reap", routing.reap()),
            ("reap_sum", routing.reap_sum()),
            ("frequency", routing.frequency()),
            ("taylor", expert_taylor(&bank, config).unwrap()),
        ] {
            for (layer, found) in found.iter().enumerate() {
                let right = expected.numbers(&format!("{metric}.{layer}"));
                assert_eq!(found.len(), right.len());
                let scale = right.iter().fold(0.0_f64, |most, value| most.max(*value));
                assert!(scale > 0.0, "{name}, {metric}");
                for (found, right) in found.iter().zip(&right) {
                    let off = (found - right).abs();
                    assert!(off <= FIXTURE * scale, "{name}, {metric}: {found} for {right}");
                }
            }
        }
        let kept = |layer| expected.numbers(&format!("kept.{layer}")).into_iter();
        let kept: Vec<Vec<usize>> = (0..config.layers.len())
            .map(|layer| kept(layer).map(|expert| expert as usize).collect())
            .collect();
        let plan = PrunePlan::of_experts(config, checkpoint.digest().unwrap(), &kept);
        let pruned = apply(&checkpoint, &plan).unwrap();
        for (at, sample) in samples.iter().enumerate() {
            let found = logits(&pruned, std::slice::from_ref(sample)).squeeze(0).unwrap();
            let off = largest_difference(&found, &expected.0[&format!("logits.{at}")]);
            assert!(off < TOLERANCE, "{name}, sample {at}: {off}");
        }
    }
}
