//! Statistics of a running model against its weight gradients.

use std::sync::Mutex;

use adapruner_checkpoint::{Digest, ModelConfig, names::Projection};
use adapruner_model::{Decoder, PassCuts, Placement, Residency, parameter_gradients};
use adapruner_prune::{
    CollectOptions, Evidence, Importance, Reduction, StatsBank, Terms,
    bank::{BankArrays, Term},
    collect, score,
};
use candle_core::{DType, Device};

use crate::common::{config, digest, products_are_our_own, random_checkpoint, random_ids, widths};

/// Sums of f32 gradients made in another order, against the sum of absolute
/// values.
const TOLERANCE: f64 = 1e-4;

fn model() -> ModelConfig {
    ModelConfig {
        attention_bias: true.into(),
        tie_word_embeddings: false,
        ..config(vec![widths(6, 2, 13), widths(0, 0, 9), widths(3, 3, 40)])
    }
}

fn options(terms: Terms, batch: bool, batch_tokens: usize) -> CollectOptions {
    CollectOptions {
        terms,
        batch,
        cuts: PassCuts::whole(batch_tokens),
        model_digest: digest(),
        calibration_digest: Digest::of_bytes(b"a text"),
        seed: 42,
    }
}

fn bank(samples: &[Vec<u32>], options: &CollectOptions) -> StatsBank {
    let checkpoint = random_checkpoint(&model(), 1);
    let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    collect(&decoder, samples, options, &|_, _| {}).unwrap()
}

/// Samples of two lengths, so that they come in several micro-batches.
fn samples() -> Vec<Vec<u32>> {
    let config = model();
    let mut samples = random_ids(&config, 3, 8, 1);
    samples.extend(random_ids(&config, 2, 5, 2));
    samples
}

/// `w·g_s` of every weight of a projection, `[S][out][in]`, in f64.
fn products(samples: &[Vec<u32>], layer: usize, projection: Projection) -> Vec<Vec<Vec<f64>>> {
    let checkpoint = random_checkpoint(&model(), 1);
    let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    let name = projection.weight(adapruner_checkpoint::Architecture::Llama.family(), layer);
    let weight = checkpoint.tensors.load(&name, DType::F64, &Device::Cpu).unwrap();
    samples
        .iter()
        .map(|sample| {
            let gradients = parameter_gradients(&decoder, std::slice::from_ref(sample)).unwrap();
            let gradient = gradients[&name].to_dtype(DType::F64).unwrap();
            (&weight * gradient).unwrap().to_vec2::<f64>().unwrap()
        })
        .collect()
}

/// The elements of one vector.
fn vector(matrix: &[Vec<f64>], columns: bool, at: usize) -> Vec<f64> {
    if columns { matrix.iter().map(|row| row[at]).collect() } else { matrix[at].clone() }
}

#[test]
fn every_term_follows_from_the_weight_gradients() {
    let samples = samples();
    let bank = bank(&samples, &options(Terms::Full, true, 16));
    let config = model();
    for (layer, widths) in config.layers.iter().enumerate() {
        for projection in Projection::ALL {
            if projection.is_attention() && !widths.has_attention() {
                continue;
            }
            let products = products(&samples, layer, projection);
            let columns = projection.prunes_columns();
            let range = bank.layout().range(layer, projection);
            for (at, flat) in range.enumerate() {
                let vectors: Vec<Vec<f64>> =
                    products.iter().map(|p| vector(p, columns, at)).collect();
                for (s, values) in vectors.iter().enumerate() {
                    let found =
                        |term| f64::from(bank.sample(term, s, layer, projection).unwrap()[at]);
                    let element: f64 = values.iter().map(|p| p.abs()).sum();
                    let fisher: f64 = values.iter().map(|p| 0.5 * p * p).sum();
                    let signed: f64 = values.iter().sum();
                    let close = |a: f64, b: f64, scale: f64| (a - b).abs() < TOLERANCE * scale;
                    assert!(close(found(Term::Signed), signed, element), "{layer} {projection}");
                    assert!(close(found(Term::Element), element, element), "{layer} {projection}");
                    assert!(close(found(Term::Fisher), fisher, fisher), "{layer} {projection}");
                }
                let count = samples.len() as f64;
                let (mut first, mut mix) = (0.0_f64, 0.0_f64);
                for element in 0..vectors[0].len() {
                    let mean = vectors.iter().map(|v| v[element]).sum::<f64>() / count;
                    let square = vectors.iter().map(|v| v[element].powi(2)).sum::<f64>() / count;
                    first += mean.abs();
                    mix += (mean - 0.5 * square).abs();
                }
                for (found, expected) in
                    [(bank.arrays().batch_first[flat], first), (bank.arrays().batch_mix[flat], mix)]
                {
                    let error = (f64::from(found) - expected).abs();
                    assert!(error < TOLERANCE * expected, "{layer} {projection} {at}");
                }
            }
        }
    }
}

#[test]
fn set_terms_that_separate_need_no_pass_of_their_own() {
    let samples = samples();
    let config = model();
    let bank = bank(&samples, &options(Terms::Full, false, 16));
    let evidence =
        Evidence { config: &config, bank: Some(&bank), samples: None, checkpoint: None, seed: 0 };
    let of = |importance| score(importance, Reduction::Sum, &evidence).unwrap().layers[2].clone();
    let (vectorize, second) = (of(Importance::Vectorize), of(Importance::ParamSecond));
    let parts = [Projection::Gate, Projection::Up, Projection::Down]
        .map(|p| (p.prunes_columns(), products(&samples, 2, p)));
    let count = samples.len() as f64;
    for j in 0..config.layers[2].ffn {
        let (mut expected_vector, mut expected_second) = (0.0_f64, 0.0_f64);
        for (columns, products) in &parts {
            let vectors: Vec<Vec<f64>> = products.iter().map(|p| vector(p, *columns, j)).collect();
            expected_vector += vectors.iter().flatten().sum::<f64>().abs() / count;
            expected_second += vectors.iter().flatten().map(|p| p * p).sum::<f64>() / count;
        }
        let scale: f64 = second.ffn[j].sqrt();
        assert!((vectorize.ffn[j] - expected_vector).abs() < TOLERANCE * scale);
        assert!((second.ffn[j] - expected_second).abs() < TOLERANCE * expected_second);
    }
}

#[test]
fn micro_batches_make_no_difference() {
    let samples = samples();
    let (all, one) = (
        bank(&samples, &options(Terms::Full, true, 1 << 20)),
        bank(&samples, &options(Terms::Full, true, 1)),
    );
    let close = |a: &[f32], b: &[f32], scale: &[f32]| {
        a.iter()
            .zip(b)
            .zip(scale)
            .all(|((a, b), scale)| f64::from((a - b).abs()) <= TOLERANCE * f64::from(scale.abs()))
    };
    let (a, b) = (all.arrays(), one.arrays());
    assert!(close(&a.signed, &b.signed, &a.element));
    assert!(close(&a.element, &b.element, &a.element));
    assert!(close(&a.fisher, &b.fisher, &a.fisher));
    assert!(close(&a.batch_first, &b.batch_first, &a.batch_first));
    assert!(close(&a.batch_mix, &b.batch_mix, &a.batch_mix));
}

/// Groups of one sample, of three and of all, with the inputs of all blocks kept, of one
/// or two: the same bank to the bit, the terms of the whole set included.
#[test]
fn groups_and_kept_blocks_change_no_bit() {
    let samples = samples();
    for (terms, batch) in [
        (Terms::Full, true),
        (Terms::Full, false),
        (Terms::Coarse, false),
        (Terms::Activations, false),
    ] {
        // Samples one by one: 8, 8, 8, 5 and 5 tokens.
        let all = bank(&samples, &options(terms, batch, 1));
        for (group_tokens, groups) in [(1, 5), (24, 2), (usize::MAX, 1)] {
            let lengths = [8, 8, 8, 5, 5];
            for kept_blocks in [1, 2, usize::MAX] {
                let cuts = PassCuts { batch_tokens: 1, group_tokens, kept_blocks };
                assert_eq!(cuts.groups(&lengths).len(), groups);
                let cut = bank(&samples, &CollectOptions { cuts, ..options(terms, batch, 1) });
                assert_eq!(cut.header(), all.header(), "{cuts:?}");
                assert!(bits(&cut) == bits(&all), "{terms:?}, {batch}, {cuts:?}");
            }
        }
    }
}

/// On widths beyond a few columns, the bits do not depend on micro-batches either, so
/// that memory decides over nothing but time.
#[test]
fn micro_batches_change_no_bit_of_wider_models() {
    if !products_are_our_own() {
        return;
    }
    let config = config(vec![widths(8, 4, 40), widths(8, 8, 33)]);
    let checkpoint = random_checkpoint(&config, 3);
    let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Streamed).unwrap();
    let mut samples = random_ids(&config, 5, 16, 1);
    samples.extend(random_ids(&config, 2, 12, 2));
    for (terms, batch) in [(Terms::Full, true), (Terms::Coarse, false), (Terms::Activations, false)]
    {
        let of = |batch_tokens, group_tokens| {
            let cuts = PassCuts { batch_tokens, group_tokens, kept_blocks: 1 };
            let options = CollectOptions { cuts, ..options(terms, batch, 1) };
            bits(&collect(&decoder, &samples, &options, &|_, _| {}).unwrap())
        };
        let one = of(1, 1);
        for (batch_tokens, group_tokens) in [(32, 1), (48, 60), (1 << 20, 1 << 20)] {
            assert!(of(batch_tokens, group_tokens) == one, "{terms:?}, {batch_tokens}");
        }
    }
}

/// All numbers of a bank, bit by bit.
fn bits(bank: &StatsBank) -> Vec<Vec<u32>> {
    let BankArrays { signed, element, fisher, batch_first, batch_mix, .. } = bank.arrays();
    let of = |values: &Vec<f32>| values.iter().map(|v| v.to_bits()).collect();
    let mut all: Vec<_> = [signed, element, fisher, batch_first, batch_mix].map(of).into();
    all.extend(activation_bits(bank));
    all
}

/// The numbers that a forward pass gives.
fn activation_bits(bank: &StatsBank) -> [Vec<u32>; 4] {
    let BankArrays { input_sum, input_square, column_abs, column_square, .. } = bank.arrays();
    let of = |values: &Vec<f32>| values.iter().map(|v| v.to_bits()).collect();
    [input_sum, input_square, column_abs, column_square].map(of)
}

#[test]
fn coarse_statistics_are_the_same_signed_sums() {
    let samples = samples();
    let full = bank(&samples, &options(Terms::Full, false, 24));
    let coarse = bank(&samples, &options(Terms::Coarse, false, 24));
    let scale = &full.arrays().element;
    let pairs = full.arrays().signed.iter().zip(&coarse.arrays().signed);
    for ((a, b), scale) in pairs.zip(scale) {
        assert!(f64::from((a - b).abs()) <= TOLERANCE * f64::from(*scale), "{a} {b}");
    }
}

/// What the columns read is the same to the bit, whether a backward pass was made or not,
/// in every precision and type of the weights; so are the losses.
#[test]
fn a_forward_pass_alone_gives_the_same_activation_sums() {
    let wide = config(vec![widths(8, 4, 40), widths(0, 0, 9), widths(8, 8, 33)]);
    let biased = ModelConfig { attention_bias: true.into(), mlp_bias: true, ..wide.clone() };
    for config in [model(), wide, biased] {
        let checkpoint = random_checkpoint(&config, 3);
        let mut samples = random_ids(&config, 5, 16, 1);
        samples.extend(random_ids(&config, 2, 12, 2));
        for dtype in [DType::F32, DType::BF16] {
            let placement = Placement { device: Device::Cpu, dtype };
            let decoder = Decoder::load(&checkpoint, &placement, Residency::Streamed).unwrap();
            let of = |terms, batch_tokens| {
                let options = options(terms, false, batch_tokens);
                collect(&decoder, &samples, &options, &|_, _| {}).unwrap()
            };
            let forward = of(Terms::Activations, 48);
            let (full, coarse) = (of(Terms::Full, 48), of(Terms::Coarse, 48));
            for other in [&full, &coarse] {
                assert!(activation_bits(&forward) == activation_bits(other), "{dtype:?}");
                assert_eq!(forward.header().losses, other.header().losses, "{dtype:?}");
            }
            assert!(forward.arrays().signed.is_empty());
            assert!(forward.arrays().input_square.iter().all(|&square| square > 0.0));
        }
    }
}

#[test]
fn statistics_of_a_part_are_part_of_the_statistics() {
    let samples = samples();
    let all = bank(&samples, &options(Terms::Full, false, 1));
    let part = bank(&samples[1..4], &options(Terms::Full, false, 1));
    for term in [Term::Signed, Term::Element, Term::Fisher] {
        assert_eq!(
            part.mean(term, &part.all_samples()).unwrap(),
            all.mean(term, &[1, 2, 3]).unwrap()
        );
    }
    assert_eq!(part.inputs(&part.all_samples()).unwrap(), all.inputs(&[1, 2, 3]).unwrap());
}

#[test]
fn the_header_says_what_was_run() {
    let samples = samples();
    let steps = Mutex::new(Vec::new());
    let checkpoint = random_checkpoint(&model(), 1);
    let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    let options = options(Terms::Full, true, 16);
    let progress = |done, all| steps.lock().unwrap().push((done, all));
    let bank = collect(&decoder, &samples, &options, &progress).unwrap();
    assert_eq!(bank.header().sample_tokens, [8, 8, 8, 5, 5]);
    assert_eq!(bank.header().tokens(), 34);
    // Random weights know nothing: about ln 50 nats a token.
    assert!(bank.header().losses.iter().all(|&loss| (2.0..8.0).contains(&loss)));
    bank.check_config(&model()).unwrap();
    let steps = steps.into_inner().unwrap();
    assert!(steps.last().is_some_and(|&(done, all)| done == all), "{steps:?}");
    let steps = Mutex::new(Vec::new());
    let progress = |done, all| steps.lock().unwrap().push((done, all));
    let forward = CollectOptions { terms: Terms::Activations, batch: false, ..options.clone() };
    collect(&decoder, &samples, &forward, &progress).unwrap();
    assert_eq!(steps.into_inner().unwrap(), [(1, 3), (2, 3), (3, 3)]);
    assert!(collect(&decoder, &[], &options, &|_, _| {}).is_err());
}
