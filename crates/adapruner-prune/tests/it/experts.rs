//! Mixtures of experts: what is collected of them, what a plan keeps, what is refused.

use adapruner_checkpoint::{
    Architecture, Digest, Experts, ModelConfig,
    names::{Part, Projection},
};
use adapruner_model::{Decoder, PassCuts, Placement, Residency, parameter_gradients};
use adapruner_prune::{
    CollectOptions, CompensateOptions, Error, Evidence, Form, Importance, Layout, PlanOptions,
    PrunePlan, Reduction, Ridge, StatsBank, Terms, apply, bank::Term, collect, compensate, plan,
    refuse_experts, score,
};
use candle_core::{DType, Device};

use crate::common::{
    digest, products_are_our_own, random_checkpoint, random_ids, random_scores, widths,
};

/// Five experts of 7 and of 4 channels, two for each token.
fn model(architecture: Architecture) -> ModelConfig {
    let layers = vec![widths(6, 2, 35), widths(0, 0, 20)];
    let experts = Experts { count: 5, chosen: 2, normalised: true };
    ModelConfig {
        experts: Some(experts),
        max_position_embeddings: 64,
        ..ModelConfig::new(architecture, 24, 4, 50, layers)
    }
}

fn options(terms: Terms, batch: bool, cuts: PassCuts) -> CollectOptions {
    CollectOptions {
        terms,
        batch,
        cuts,
        model_digest: digest(),
        calibration_digest: Digest::of_bytes(b"a text"),
        seed: 42,
    }
}

fn decoder(config: &ModelConfig) -> Decoder {
    let checkpoint = random_checkpoint(config, 1);
    Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident).unwrap()
}

fn bank(config: &ModelConfig, samples: &[Vec<u32>], options: &CollectOptions) -> StatsBank {
    collect(&decoder(config), samples, options, &|_, _| {}).unwrap()
}

/// Two lengths, so that samples come in several micro-batches.
fn samples(config: &ModelConfig) -> Vec<Vec<u32>> {
    let mut samples = random_ids(config, 3, 8, 1);
    samples.extend(random_ids(config, 2, 5, 2));
    samples
}

#[test]
fn every_term_of_an_expert_follows_from_its_weight_gradients() {
    let config = model(Architecture::Qwen3Moe);
    let (samples, checkpoint) = (samples(&config), random_checkpoint(&config, 1));
    let bank = bank(&config, &samples, &options(Terms::Full, true, PassCuts::whole(16)));
    let decoder = decoder(&config);
    let gradients: Vec<_> = samples
        .iter()
        .map(|sample| parameter_gradients(&decoder, std::slice::from_ref(sample)).unwrap())
        .collect();
    let mut idle = 0;
    for (layer, widths) in config.layers.iter().enumerate() {
        for projection in [Projection::Gate, Projection::Up, Projection::Down] {
            let width = config.expert_width(widths);
            for expert in 0..5 {
                let name = config.name(Part::Expert(layer, expert, projection));
                let weight = checkpoint.tensors.load(&name, DType::F64, &Device::Cpu).unwrap();
                let products: Vec<Vec<Vec<f64>>> = gradients
                    .iter()
                    .map(|of| {
                        let product = (&weight * of[&name].to_dtype(DType::F64).unwrap()).unwrap();
                        let columns = projection.prunes_columns();
                        let product = if columns { product.t().unwrap() } else { product };
                        product.to_vec2().unwrap()
                    })
                    .collect();
                for channel in 0..width {
                    let at = expert * width + channel;
                    let (mut means, mut squares) = (vec![0.0; 24], vec![0.0; 24]);
                    for (s, product) in products.iter().enumerate() {
                        let values = &product[channel];
                        let element: f64 = values.iter().map(|p| p.abs()).sum();
                        let found =
                            |term| f64::from(bank.sample(term, s, layer, projection).unwrap()[at]);
                        let near = |found: f64, expected: f64| {
                            let scale = element.max(1e-12);
                            assert!((found - expected).abs() < 1e-4 * scale, "{name} {channel}");
                        };
                        near(found(Term::Signed), values.iter().sum());
                        near(found(Term::Element), element);
                        let fisher = found(Term::Fisher);
                        let expected: f64 = values.iter().map(|p| 0.5 * p * p).sum();
                        assert!((fisher - expected).abs() <= 1e-4 * expected, "{name} {channel}");
                        idle += usize::from(element == 0.0);
                        for ((mean, square), p) in means.iter_mut().zip(&mut squares).zip(values) {
                            *mean += p / 5.0;
                            *square += p * p / 5.0;
                        }
                    }
                    let flat = bank.layout().range(layer, projection).start + at;
                    let first: f64 = means.iter().map(|m| m.abs()).sum();
                    let each = means.iter().zip(&squares);
                    let mix: f64 = each.map(|(m, q)| (m - 0.5 * q).abs()).sum();
                    for (found, expected) in [
                        (bank.arrays().batch_first[flat], first),
                        (bank.arrays().batch_mix[flat], mix),
                    ] {
                        let error = (f64::from(found) - expected).abs();
                        assert!(error <= 1e-4 * expected, "{name} {channel}: {found} {expected}");
                    }
                }
            }
        }
    }
    assert!(idle > 0, "no sample left an expert out");
}

/// Neither groups nor kept blocks change a bit, nor does a forward pass alone; other
/// micro-batches only where the products of narrow experts are.
#[test]
fn what_runs_together_makes_no_difference() {
    if !products_are_our_own() {
        return;
    }
    // Widths at which all products are our own kernels'.
    let layers = vec![widths(6, 2, 5 * 24); 2];
    let config = ModelConfig { layers, ..model(Architecture::Mixtral) };
    let samples = samples(&config);
    let whole = bank(&config, &samples, &options(Terms::Full, true, PassCuts::whole(1 << 20)));
    let cuts = PassCuts { batch_tokens: 1 << 20, group_tokens: 1, kept_blocks: 1 };
    let cut = bank(&config, &samples, &options(Terms::Full, true, cuts));
    assert!(whole.arrays() == cut.arrays());
    let forward = options(Terms::Activations, false, PassCuts::whole(1 << 20));
    let forward = bank(&config, &samples, &forward);
    assert!(forward.arrays().input_sum == whole.arrays().input_sum);
    assert!(forward.arrays().input_square == whole.arrays().input_square);
    assert!(forward.arrays().column_abs == whole.arrays().column_abs);
    let one = bank(&config, &samples, &options(Terms::Full, true, PassCuts::whole(1)));
    for (a, b) in one.arrays().input_square.iter().zip(&whole.arrays().input_square) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{a} {b}");
    }
}

#[test]
fn every_expert_of_a_layer_keeps_as_many_channels() {
    let config = model(Architecture::Qwen3Moe);
    let scores = random_scores(&config, 3);
    for (layout, multiple_of, share) in [
        (Layout::PerLayer, 1, Some(0.0)),
        (Layout::PerLayer, 2, None),
        (Layout::Uniform, 1, Some(0.0)),
    ] {
        let layers = match layout {
            Layout::PerLayer => config.layers.clone(),
            Layout::Uniform => vec![config.layers[0]; 2],
        };
        let config = config.with_layers(layers);
        let scores = match layout {
            Layout::PerLayer => scores.clone(),
            Layout::Uniform => random_scores(&config, 4),
        };
        let options =
            PlanOptions { layout, multiple_of, attention_share: share, ..PlanOptions::new(0.2) };
        let plan = plan(&scores, &config, digest(), &options).unwrap();
        let checkpoint = random_checkpoint(&config, 2);
        let pruned = apply(&checkpoint, &plan).unwrap();
        assert_eq!(plan.parameters_after, pruned.config.parameters());
        assert!(plan.parameters_after < plan.parameters_before);
        for (layer, kept) in plan.layers.iter().enumerate() {
            let width = config.expert_width(&config.layers[layer]);
            let left = pruned.config.expert_width(&pruned.config.layers[layer]);
            assert!(left == width || left.is_multiple_of(multiple_of), "{left}");
            for expert in 0..5 {
                let of = |channel: &&usize| **channel / width == expert;
                let own: Vec<usize> = kept.ffn.iter().filter(of).copied().collect();
                assert_eq!(own.len(), left, "layer {layer}, expert {expert}");
                // Its own least important ones are gone.
                let score = |channel: usize| scores.layers[layer].ffn[channel];
                let gone = (expert * width..(expert + 1) * width).filter(|c| !own.contains(c));
                let most = gone.map(score).fold(0.0, f64::max);
                assert!(own.iter().all(|&channel| score(channel) >= most));
                let name = config.name(Part::Expert(layer, expert, Projection::Up));
                let load = |of: &adapruner_checkpoint::Checkpoint| {
                    let tensor = of.tensors.load(&name, DType::F32, &Device::Cpu).unwrap();
                    tensor.to_vec2::<f32>().unwrap()
                };
                let (before, after) = (load(&checkpoint), load(&pruned));
                let rows: Vec<_> =
                    own.iter().map(|channel| before[channel - expert * width].clone()).collect();
                assert_eq!(rows, after);
            }
        }
        let json = plan.to_json().unwrap();
        let again = PrunePlan::from_json(json.as_bytes()).unwrap();
        again.validate(&config).unwrap();
        assert_eq!(again, plan);
        // One channel of another expert instead.
        let mut uneven = plan.clone();
        let kept = &mut uneven.layers[0].ffn;
        kept.pop();
        let other = (0..28).find(|channel| !kept.contains(channel)).unwrap();
        kept.push(other);
        kept.sort_unstable();
        let error = uneven.validate(&config).unwrap_err().to_string();
        assert!(error.contains("as many channels of each of 5 experts"), "{error}");
    }
}

/// Weights alone, gradients and activations each score the channels of every expert.
#[test]
fn every_importance_scores_experts() {
    let config = model(Architecture::Mixtral);
    let (samples, checkpoint) = (samples(&config), random_checkpoint(&config, 1));
    let bank = bank(&config, &samples, &options(Terms::Full, true, PassCuts::whole(16)));
    for name in
        ["wanda", "flap", "param_first", "vectorize", "param_mix", "adapruner", "magnitude_l1"]
    {
        let importance: Importance = name.parse().unwrap();
        let evidence = Evidence {
            config: &config,
            bank: Some(&bank),
            samples: None,
            checkpoint: Some(&checkpoint),
            seed: 0,
        };
        let scores = score(importance, Reduction::Sum, &evidence).unwrap();
        for (layer, widths) in scores.layers.iter().zip(&config.layers) {
            assert_eq!(layer.ffn.len(), widths.ffn, "{name}");
            let distinct: std::collections::BTreeSet<u64> =
                layer.ffn.iter().map(|score| score.to_bits()).collect();
            assert!(distinct.len() > widths.ffn / 2, "{name}: {:?}", layer.ffn);
        }
    }
    // By hand: the sizes of a channel's two rows and its column.
    let importance = "magnitude_l1".parse().unwrap();
    let evidence = Evidence {
        config: &config,
        bank: None,
        samples: None,
        checkpoint: Some(&checkpoint),
        seed: 0,
    };
    let scores = score(importance, Reduction::Sum, &evidence).unwrap();
    let (expert, channel) = (3, 2);
    let sum = |projection: Projection| -> f64 {
        let name = config.name(Part::Expert(0, expert, projection));
        let weight = checkpoint.tensors.load(&name, DType::F64, &Device::Cpu).unwrap();
        let axis = usize::from(projection.prunes_columns());
        let vector = weight.narrow(axis, channel, 1).unwrap();
        vector.abs().unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let expected: f64 = [Projection::Gate, Projection::Up, Projection::Down].map(sum).iter().sum();
    assert!((scores.layers[0].ffn[expert * 7 + channel] - expected).abs() < 1e-9 * expected);
}

#[test]
fn what_is_not_done_to_experts_is_refused_by_name() {
    let config = model(Architecture::Olmoe);
    let checkpoint = random_checkpoint(&config, 1);
    let scores = random_scores(&config, 5);
    let plan = plan(&scores, &config, digest(), &PlanOptions::new(0.1)).unwrap();
    let options =
        CompensateOptions { form: Form::Weight { ridge: Ridge::HeldOut }, batch_tokens: 64 };
    let ids = random_ids(&config, 4, 8, 1);
    let found = compensate(&checkpoint, &plan, &ids, &options, &Placement::cpu(), &|_, _| {});
    match found.map(|_| ()) {
        Err(error @ Error::Option { option: "compensate", .. }) => {
            assert!(error.to_string().contains("compensation is not supported for OLMoE"));
            assert!(error.hint().unwrap().contains("leave it out"));
        }
        other => panic!("{other:?}"),
    }
    assert!(refuse_experts(&config, "learn-masks", "learning masks").is_err());
    let dense = ModelConfig::new(Architecture::Llama, 24, 4, 50, vec![widths(4, 2, 9)]);
    assert!(refuse_experts(&dense, "learn-masks", "learning masks").is_ok());
}
