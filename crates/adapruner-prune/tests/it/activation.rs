//! Wanda, FLAP and the blend with them: against transformers, by definition, and what is
//! refused.

use std::{collections::HashMap, path::Path};

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig, names::Projection};
use adapruner_model::{Decoder, PassCuts, Placement, Residency};
use adapruner_prune::{
    ActivationMetric, Blend, CollectOptions, Error, Evidence, Fine, Importance, Normalisation,
    Reduction, Scores, StatsBank, Terms,
    bank::{BankArrays, Term},
    collect, score,
};
use candle_core::{DType, Device, Tensor};

use crate::common::{config, digest, header, random_bank, widths};

/// Activations in f32 against float64 ones; norms and softmax of the reference are f32.
const FIXTURE: f64 = 5e-5;
/// Sums of a few dozen f64 numbers in another order.
const TOLERANCE: f64 = 1e-12;

/// What transformers gave of a model (`fixtures/generate/activations.py`).
struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn of(name: &str) -> Self {
        let path = fixtures().join("activations").join(format!("{name}.safetensors"));
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f64> {
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

/// Equal to [`FIXTURE`] of the largest.
fn assert_near(found: impl IntoIterator<Item = f64>, expected: &[f64], what: &str) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    assert!(scale > 0.0, "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= FIXTURE * scale, "{what}: {a} instead of {b}");
    }
}

fn close(found: f64, expected: f64) {
    let scale = expected.abs().max(1.0);
    assert!((found - expected).abs() <= TOLERANCE * scale, "{found} instead of {expected}");
}

fn scores_of(
    config: &ModelConfig,
    bank: &StatsBank,
    importance: Importance,
    samples: Option<&[usize]>,
) -> Scores {
    scores_by(config, bank, importance, Reduction::Sum, samples).unwrap()
}

fn scores_by(
    config: &ModelConfig,
    bank: &StatsBank,
    importance: Importance,
    reduction: Reduction,
    samples: Option<&[usize]>,
) -> Result<Scores, Error> {
    let evidence = Evidence { config, bank: Some(bank), samples, checkpoint: None, seed: 0 };
    score(importance, reduction, &evidence)
}

/// Statistics of a forward pass over a fixture's samples.
fn collected(checkpoint: &Checkpoint, samples: &[Vec<u32>]) -> StatsBank {
    let decoder = Decoder::load(checkpoint, &Placement::cpu(), Residency::Streamed).unwrap();
    let options = CollectOptions {
        terms: Terms::Activations,
        batch: false,
        cuts: PassCuts { batch_tokens: 22, group_tokens: 33, kept_blocks: 1 },
        model_digest: digest(),
        calibration_digest: Digest::of_bytes(b"a text"),
        seed: 1,
    };
    collect(&decoder, samples, &options, &|_, _| {}).unwrap()
}

#[test]
fn sums_and_scores_are_those_of_hooks_in_transformers() {
    for name in ["gqa3_untied", "biases", "qwen3_moe"] {
        let checkpoint = Checkpoint::open(&fixtures().join("models").join(name)).unwrap();
        let (expected, config) = (Expected::of(name), &checkpoint.config);
        let bank = collected(&checkpoint, &expected.samples());
        let (arrays, width) = (bank.arrays(), bank.columns().len());
        let floats = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        for layer in 0..config.layers.len() {
            for (projection, named) in [(Projection::O, "o_proj"), (Projection::Down, "down_proj")]
            {
                let range = bank.columns().range(layer, projection);
                let rows = |values: &[f32]| -> Vec<f64> {
                    (0..bank.samples())
                        .flat_map(|s| floats(&values[s * width..][range.clone()]))
                        .collect()
                };
                for (found, key) in [
                    (rows(&arrays.input_sum), "sum"),
                    (rows(&arrays.input_square), "square"),
                    (floats(&arrays.column_abs[range.clone()]), "abs"),
                    (floats(&arrays.column_square[range.clone()]), "weight_square"),
                ] {
                    let key = format!("{layer}.{named}.{key}");
                    assert_near(found, &expected.get(&key), &format!("{name} {key}"));
                }
            }
        }
        for metric in ActivationMetric::ALL {
            for (chosen, samples) in [("all", None), ("some", Some(&[0_usize, 3, 4][..]))] {
                let found = scores_of(config, &bank, Importance::Activation(metric), samples);
                for (layer, scores) in found.layers.into_iter().enumerate() {
                    for (kind, found) in [
                        ("ffn", scores.ffn),
                        ("query_heads", scores.query_heads),
                        ("kv_groups", scores.kv_groups),
                    ] {
                        let key = format!("{metric}.{chosen}.{layer}.{kind}");
                        assert_near(found, &expected.get(&key), &format!("{name} {key}"));
                    }
                }
            }
        }
    }
}

/// The value of a column for a set of samples, by definition.
fn column_value(
    bank: &StatsBank,
    metric: ActivationMetric,
    samples: &[usize],
    (layer, projection, at): (usize, Projection, usize),
) -> f64 {
    let (arrays, width) = (bank.arrays(), bank.columns().len());
    let column = bank.columns().range(layer, projection).start + at;
    let sum = |values: &[f32]| -> f64 {
        samples.iter().map(|s| f64::from(values[s * width + column])).sum()
    };
    let tokens: usize = samples.iter().map(|&s| bank.header().sample_tokens[s]).sum();
    let (sum, square) = (sum(&arrays.input_sum), sum(&arrays.input_square));
    let n = tokens as f64;
    match metric {
        ActivationMetric::Wanda => f64::from(arrays.column_abs[column]) * square.sqrt(),
        ActivationMetric::Flap => {
            f64::from(arrays.column_square[column]) * (square / n - (sum / n) * (sum / n))
        }
    }
}

#[test]
fn units_couple_their_columns_alone() {
    let config = config(vec![widths(6, 2, 9), widths(0, 0, 3), widths(4, 4, 5)]);
    let bank = random_bank(&config, 4, 1);
    let (chosen, d) = ([3, 1], config.head_dim);
    for metric in ActivationMetric::ALL {
        let importance = Importance::Activation(metric);
        for reduction in Reduction::ALL {
            let scores = scores_by(&config, &bank, importance, reduction, Some(&chosen)).unwrap();
            scores.check(&config).unwrap();
            for (layer, widths) in config.layers.iter().enumerate() {
                let value = |p, at| column_value(&bank, metric, &chosen, (layer, p, at));
                let found = &scores.layers[layer];
                for j in 0..widths.ffn {
                    close(found.ffn[j], value(Projection::Down, j));
                }
                let o = |h: usize, at| value(Projection::O, h * d + at);
                for h in 0..widths.query_heads {
                    close(found.query_heads[h], (0..d).map(|at| o(h, at)).sum());
                }
                let group = widths.group_size();
                for k in 0..widths.kv_heads {
                    let of = |at| {
                        let heads = (k * group..(k + 1) * group).map(|h| o(h, at));
                        match reduction {
                            Reduction::Sum => heads.sum(),
                            Reduction::Mean => heads.sum::<f64>() / group as f64,
                            Reduction::Max => heads.fold(0.0, f64::max),
                            Reduction::Prod => heads.product(),
                        }
                    };
                    close(found.kv_groups[k], (0..d).map(of).sum());
                }
            }
        }
    }
}

/// Each side normalised, then added.
#[test]
fn the_blend_takes_an_activation_metric_in() {
    let config = config(vec![widths(6, 2, 9), widths(2, 2, 4)]);
    let bank = random_bank(&config, 5, 3);
    let chosen = [0, 3];
    for normalisation in [Normalisation::Max, Normalisation::Standard] {
        let blend = |alpha1, activation, metric| {
            let of = Blend { alpha1, normalisation, activation, metric, ..Blend::default() };
            scores_of(&config, &bank, Importance::AdaPruner(of), Some(&chosen))
        };
        for metric in ActivationMetric::ALL {
            let found = blend(0.3, 0.25, metric);
            let (coarse, fine) = (blend(1.0, 0.0, metric), blend(0.0, 0.0, metric));
            let plain = scores_of(&config, &bank, Importance::Activation(metric), Some(&chosen));
            let plain = plain.normalised(normalisation);
            assert_eq!(blend(0.3, 1.0, metric), plain);
            for layer in 0..2 {
                let of = |scores: &Scores| {
                    let layer = &scores.layers[layer];
                    [&layer.ffn[..], &layer.query_heads, &layer.kv_groups].concat()
                };
                let sides = [&coarse, &fine, &plain].map(of);
                for (at, found) in of(&found).into_iter().enumerate() {
                    let expected =
                        0.75 * (0.3 * sides[0][at] + 0.7 * sides[1][at]) + 0.25 * sides[2][at];
                    close(found, expected);
                }
            }
        }
        // Without a share, the metric makes no difference.
        let [wanda, flap] = ActivationMetric::ALL.map(|metric| blend(0.3, 0.0, metric));
        assert_eq!(wanda, flap);
    }
}

#[test]
fn the_fine_side_of_the_whole_set_is_exact_or_refused() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 3, 5);
    let of = |fine, beta_fine, samples| {
        let blend = Blend {
            alpha1: 0.0,
            beta_fine,
            fine,
            normalisation: Normalisation::None,
            ..Blend::default()
        };
        scores_by(&config, &bank, Importance::AdaPruner(blend), Reduction::Sum, samples)
    };
    let plain = |importance, samples| scores_of(&config, &bank, importance, samples);
    // LLM-Pruner's own forms, without and with the second order.
    assert_eq!(of(Fine::Set, 0.0, None).unwrap(), plain(Importance::ParamFirst, None));
    assert_eq!(of(Fine::Mixed, 1.0, None).unwrap(), plain(Importance::ParamMix, None));
    let both = of(Fine::Set, 3.0, None).unwrap();
    let first = plain(Importance::ParamFirst, None);
    let fisher = bank.mean(Term::Fisher, &[0, 1, 2]).unwrap();
    for j in 0..9 {
        let parts = [Projection::Gate, Projection::Up, Projection::Down];
        let second: f64 = parts.map(|p| fisher[bank.layout().range(0, p).start + j]).iter().sum();
        close(both.layers[0].ffn[j], first.layers[0].ffn[j] + 3.0 * second);
    }
    // In any order, and of one sample, whose mean gradient is its own.
    assert_eq!(of(Fine::Set, 3.0, Some(&[2, 0, 1])).unwrap(), both);
    assert_eq!(
        of(Fine::Set, 2.0, Some(&[1])).unwrap(),
        of(Fine::PerSample, 2.0, Some(&[1])).unwrap()
    );
    for (fine, samples) in
        [(Fine::Set, &[0_usize, 2][..]), (Fine::Mixed, &[0, 2]), (Fine::Mixed, &[1])]
    {
        let message = of(fine, 1.0, Some(samples)).unwrap_err().to_string();
        for part in ["does not separate by sample", "all 3 samples", "fine=per-sample"] {
            assert!(message.contains(part), "{message}");
        }
    }
    // Of statistics without the terms of the whole set.
    let mut header = header(&config, 3);
    header.batch = false;
    let (batch_first, batch_mix) = (Vec::new(), Vec::new());
    let arrays = BankArrays { batch_first, batch_mix, ..bank.arrays().clone() };
    let bank = StatsBank::new(header, arrays).unwrap();
    let blend = Importance::AdaPruner(Blend { fine: Fine::Set, ..Blend::default() });
    let refused = scores_by(&config, &bank, blend, Reduction::Sum, None).unwrap_err();
    assert!(matches!(refused, Error::MissingTerms { .. }), "{refused}");
    assert!(refused.to_string().contains("fine=set"), "{refused}");
}

#[test]
fn statistics_that_lack_terms_name_them_and_what_asks_for_them() {
    let config = config(vec![widths(6, 2, 9)]);
    let full = random_bank(&config, 3, 6);
    let arrays = full.arrays().clone();
    let (mut forward, mut old) = (header(&config, 3), header(&config, 3));
    (forward.terms, forward.batch) = (Terms::Activations, false);
    old.version = 2;
    let BankArrays { input_sum, input_square, column_abs, column_square, .. } = arrays.clone();
    let empty = BankArrays::default();
    let of_columns = BankArrays { input_sum, input_square, column_abs, column_square, ..empty };
    let forward = StatsBank::new(forward, of_columns).unwrap();
    let BankArrays { signed, element, fisher, batch_first, batch_mix, .. } = arrays;
    let empty = BankArrays::default();
    let of_vectors = BankArrays { signed, element, fisher, batch_first, batch_mix, ..empty };
    let old = StatsBank::new(old, of_vectors).unwrap();
    for (bank, importance, needed) in [
        (&old, "wanda", "activation sums"),
        (&old, "flap", "activation sums"),
        (&old, "adapruner:activation=0.5", "activation sums"),
        (&forward, "vectorize", "signed sums"),
        (&forward, "sample_first", "element and Fisher sums"),
        (&forward, "param_first", "terms of the whole sample set"),
        (&forward, "adapruner:activation=0.5", "element and Fisher sums"),
    ] {
        let asked: Importance = importance.parse().unwrap();
        let refused = scores_by(&config, bank, asked, Reduction::Sum, None).unwrap_err();
        let message = refused.to_string();
        assert!(matches!(refused, Error::MissingTerms { .. }), "{message}");
        assert!(message.contains(&asked.to_string()) && message.contains(needed), "{message}");
        assert!(refused.hint().is_some_and(|hint| hint.contains("collect the statistics again")));
    }
    // What each of them has is scored.
    for (bank, importance) in [
        (&old, "adapruner"),
        (&old, "param_first"),
        (&forward, "wanda"),
        (&forward, "adapruner:activation=1,metric=flap"),
    ] {
        let asked = importance.parse().unwrap();
        assert_eq!(
            scores_by(&config, bank, asked, Reduction::Sum, None).unwrap(),
            scores_by(&config, &full, asked, Reduction::Sum, None).unwrap()
        );
    }
}

/// A variance that rounding makes negative is 0, and a sum that is not a number is named.
#[test]
fn rounding_makes_no_negative_variance() {
    let config = config(vec![widths(0, 0, 3)]);
    let mut header = header(&config, 1);
    (header.terms, header.batch, header.sample_tokens) = (Terms::Activations, false, vec![3]);
    let of = |sum, square| {
        let arrays = BankArrays {
            input_sum: vec![sum; 3],
            input_square: vec![square; 3],
            column_abs: vec![1.0; 3],
            column_square: vec![1.0; 3],
            ..BankArrays::default()
        };
        let bank = StatsBank::new(header.clone(), arrays).unwrap();
        let flap = Importance::Activation(ActivationMetric::Flap);
        scores_by(&config, &bank, flap, Reduction::Sum, None)
    };
    // Three times 0.1, and less than its square.
    assert_eq!(of(0.3, 0.0299).unwrap().layers[0].ffn, [0.0; 3]);
    close(of(6.0, 14.0).unwrap().layers[0].ffn[0], 2.0 / 3.0);
    assert!(matches!(of(f32::NAN, 14.0), Err(Error::Score { .. })));
    assert!(matches!(of(1.0, f32::INFINITY), Err(Error::Score { .. })));
}
