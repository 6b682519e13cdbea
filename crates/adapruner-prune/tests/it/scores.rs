//! From statistics to units.

use adapruner_checkpoint::{ModelConfig, names::Projection};
use adapruner_prune::{
    Blend, Error, Evidence, Importance, Normalisation, Reduction, StatsBank, Terms, UnitKind,
    bank::Term, score,
};

use candle_core::{DType, Device};

use crate::common::{config, random_bank, random_checkpoint, widths};

/// Sums of a few dozen f64 numbers in another order.
const TOLERANCE: f64 = 1e-12;

fn evidence<'a>(
    config: &'a ModelConfig,
    bank: &'a StatsBank,
    samples: Option<&'a [usize]>,
) -> Evidence<'a> {
    Evidence { config, bank: Some(bank), samples, checkpoint: None, seed: 0 }
}

fn assert_close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
        "{found} instead of {expected}"
    );
}

/// The value of a vector under each importance, from its definition.
fn vector_value(
    bank: &StatsBank,
    importance: Importance,
    samples: &[usize],
    layer: usize,
    projection: Projection,
    at: usize,
) -> f64 {
    let mean = |term| {
        let of = |&s: &usize| f64::from(bank.sample(term, s, layer, projection).unwrap()[at]);
        samples.iter().map(of).sum::<f64>() / samples.len() as f64
    };
    let flat = bank.layout().range(layer, projection).start + at;
    match importance {
        Importance::ParamFirst => bank.arrays().batch_first[flat].into(),
        Importance::ParamMix => bank.arrays().batch_mix[flat].into(),
        Importance::Vectorize => mean(Term::Signed).abs(),
        Importance::ParamSecond => 2.0 * mean(Term::Fisher),
        Importance::SampleFirst => mean(Term::Element),
        Importance::AdaPruner(_)
        | Importance::Activation(_)
        | Importance::MagnitudeL1
        | Importance::MagnitudeL2
        | Importance::Random => unreachable!("not a value of one vector"),
    }
}

fn reduce(reduction: Reduction, values: &[f64]) -> f64 {
    match reduction {
        Reduction::Sum => values.iter().sum(),
        Reduction::Mean => values.iter().sum::<f64>() / values.len() as f64,
        Reduction::Max => values.iter().copied().fold(f64::MIN, f64::max),
        Reduction::Prod => values.iter().product(),
    }
}

#[test]
fn units_couple_their_vectors() {
    let config = config(vec![widths(6, 2, 9), widths(0, 0, 3), widths(4, 4, 5)]);
    let bank = random_bank(&config, 4, 1);
    let all = bank.all_samples();
    let d = config.head_dim;
    for importance in [
        Importance::ParamFirst,
        Importance::Vectorize,
        Importance::ParamSecond,
        Importance::ParamMix,
        Importance::SampleFirst,
    ] {
        for reduction in Reduction::ALL {
            let scores = score(importance, reduction, &evidence(&config, &bank, None)).unwrap();
            scores.check(&config).unwrap();
            for (layer, widths) in config.layers.iter().enumerate() {
                let value = |p, at| vector_value(&bank, importance, &all, layer, p, at);
                let found = &scores.layers[layer];
                for j in 0..widths.ffn {
                    let vectors =
                        [Projection::Gate, Projection::Up, Projection::Down].map(|p| value(p, j));
                    assert_close(found.ffn[j], reduce(reduction, &vectors));
                }
                for h in 0..widths.query_heads {
                    let expected = (0..d).map(|at| {
                        let vectors = [Projection::Q, Projection::O].map(|p| value(p, h * d + at));
                        reduce(reduction, &vectors)
                    });
                    assert_close(found.query_heads[h], expected.sum());
                }
                let group = widths.group_size();
                for k in 0..widths.kv_heads {
                    let expected = (0..d).map(|at| {
                        let mut vectors =
                            [Projection::K, Projection::V].map(|p| value(p, k * d + at)).to_vec();
                        for h in k * group..(k + 1) * group {
                            vectors.push(value(Projection::Q, h * d + at));
                            vectors.push(value(Projection::O, h * d + at));
                        }
                        reduce(reduction, &vectors)
                    });
                    assert_close(found.kv_groups[k], expected.sum());
                }
            }
        }
    }
}

#[test]
fn a_choice_of_samples_is_scored_by_itself() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 6, 2);
    let chosen = [4, 1, 2];
    let scores =
        score(Importance::Vectorize, Reduction::Sum, &evidence(&config, &bank, Some(&chosen)))
            .unwrap();
    for j in 0..9 {
        let expected: f64 = [Projection::Gate, Projection::Up, Projection::Down]
            .into_iter()
            .map(|p| vector_value(&bank, Importance::Vectorize, &chosen, 0, p, j))
            .sum();
        assert_close(scores.layers[0].ffn[j], expected);
    }
}

#[test]
fn the_blend_is_its_formula() {
    let config = config(vec![widths(6, 2, 9), widths(2, 2, 4)]);
    let bank = random_bank(&config, 5, 3);
    let chosen = [0, 3];
    let blend = Blend {
        alpha1: 0.3,
        beta_coarse: 0.7,
        beta_fine: 1.9,
        normalisation: Normalisation::Max,
        ..Blend::default()
    };
    let scores = score(
        Importance::AdaPruner(blend),
        Reduction::Mean,
        &evidence(&config, &bank, Some(&chosen)),
    )
    .unwrap();
    for layer in 0..2 {
        let side = |of: &dyn Fn(Projection, usize) -> f64| {
            let mut values: Vec<f64> = (0..config.layers[layer].ffn)
                .map(|j| {
                    [Projection::Gate, Projection::Up, Projection::Down]
                        .map(|p| of(p, j))
                        .iter()
                        .sum::<f64>()
                        / 3.0
                })
                .collect();
            let largest = values.iter().copied().fold(0.0, f64::max);
            values.iter_mut().for_each(|v| *v /= largest);
            values
        };
        let mean = |term, p, j: usize| {
            let of = |&s: &usize| f64::from(bank.sample(term, s, layer, p).unwrap()[j]);
            chosen.iter().map(of).sum::<f64>() / 2.0
        };
        let coarse =
            side(&|p, j| (mean(Term::Signed, p, j) - 0.7 * mean(Term::Fisher, p, j)).abs());
        let fine = side(&|p, j| mean(Term::Element, p, j) + 1.9 * mean(Term::Fisher, p, j));
        for j in 0..coarse.len() {
            assert_close(scores.layers[layer].ffn[j], 0.3 * coarse[j] + 0.7 * fine[j]);
        }
    }
}

#[test]
fn blends_of_one_side_are_the_plain_importances() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 5, 4);
    let of =
        |importance| score(importance, Reduction::Sum, &evidence(&config, &bank, None)).unwrap();
    let blend = |alpha1| {
        of(Importance::AdaPruner(Blend {
            alpha1,
            beta_coarse: 0.0,
            beta_fine: 0.0,
            normalisation: Normalisation::None,
            ..Blend::default()
        }))
    };
    assert_eq!(blend(1.0), of(Importance::Vectorize));
    for (a, b) in blend(0.0).layers[0].ffn.iter().zip(&of(Importance::SampleFirst).layers[0].ffn) {
        assert_close(*a, *b);
    }
}

#[test]
fn what_does_not_separate_by_sample_is_not_made_up() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 3, 5);
    for importance in [Importance::ParamFirst, Importance::ParamMix] {
        let error = score(importance, Reduction::Sum, &evidence(&config, &bank, Some(&[0, 2])));
        let message = error.unwrap_err().to_string();
        assert!(message.contains("separate") && message.contains('3'), "{message}");
    }
    // One sample is its own set.
    let one = score(Importance::ParamFirst, Reduction::Sum, &evidence(&config, &bank, Some(&[1])));
    let same =
        score(Importance::SampleFirst, Reduction::Sum, &evidence(&config, &bank, Some(&[1])));
    assert_eq!(one.unwrap(), same.unwrap());
    let mut header = bank.header().clone();
    (header.batch, header.terms) = (false, Terms::Full);
    let mut arrays = bank.arrays().clone();
    (arrays.batch_first, arrays.batch_mix) = (Vec::new(), Vec::new());
    let bank = StatsBank::new(header, arrays).unwrap();
    let error = score(Importance::ParamMix, Reduction::Sum, &evidence(&config, &bank, None));
    assert!(matches!(error, Err(Error::MissingTerms { .. })));
}

#[test]
fn a_score_that_is_not_a_number_is_named() {
    let config = config(vec![widths(6, 2, 9), widths(6, 2, 9)]);
    let bank = random_bank(&config, 3, 6);
    let mut arrays = bank.arrays().clone();
    let at = bank.layout().len() + bank.layout().range(1, Projection::Up).start + 4;
    arrays.signed[at] = f32::NAN;
    let bank = StatsBank::new(bank.header().clone(), arrays).unwrap();
    for reduction in Reduction::ALL {
        match score(Importance::Vectorize, reduction, &evidence(&config, &bank, None)) {
            Err(error @ Error::Score { layer: 1, kind: UnitKind::FfnChannel, unit: 4, .. }) => {
                assert!(error.to_string().contains("layer 1, feed-forward channel 4"));
            }
            other => panic!("{reduction}: {other:?}"),
        }
    }
}

#[test]
fn magnitudes_are_those_of_the_weights() {
    let config = config(vec![widths(6, 2, 9), widths(0, 0, 4)]);
    let checkpoint = random_checkpoint(&config, 1);
    let rows = |layer, projection: Projection| {
        let name = projection.weight(adapruner_checkpoint::Architecture::Llama.family(), layer);
        let tensor = checkpoint.tensors.load(&name, DType::F64, &Device::Cpu).unwrap();
        let tensor = if projection.prunes_columns() { tensor.t().unwrap() } else { tensor };
        tensor.to_vec2::<f64>().unwrap()
    };
    for (importance, power) in [(Importance::MagnitudeL1, 1), (Importance::MagnitudeL2, 2)] {
        let evidence = Evidence {
            config: &config,
            bank: None,
            samples: None,
            checkpoint: Some(&checkpoint),
            seed: 0,
        };
        let scores = score(importance, Reduction::Sum, &evidence).unwrap();
        let size = |row: &[f64]| row.iter().map(|w| w.abs().powi(power)).sum::<f64>();
        for (layer, scores) in scores.layers.iter().enumerate() {
            let parts =
                [Projection::Gate, Projection::Up, Projection::Down].map(|p| rows(layer, p));
            for (j, &score) in scores.ffn.iter().enumerate() {
                assert_close(score, parts.iter().map(|rows| size(&rows[j])).sum());
            }
        }
        let parts = [Projection::Q, Projection::O].map(|p| rows(0, p));
        let of = |h: usize| -> f64 {
            parts.iter().flat_map(|rows| &rows[h * 4..(h + 1) * 4]).map(|row| size(row)).sum()
        };
        assert_close(scores.layers[0].query_heads[5], of(5));
    }
    let other = ModelConfig { hidden_size: 20, ..config.clone() };
    let evidence = Evidence {
        config: &other,
        bank: None,
        samples: None,
        checkpoint: Some(&checkpoint),
        seed: 0,
    };
    let message =
        score(Importance::MagnitudeL1, Reduction::Sum, &evidence).unwrap_err().to_string();
    assert!(message.contains("q_proj") && message.contains("[24, 24]"), "{message}");
}

#[test]
fn random_scores_follow_their_seed() {
    let config = config(vec![widths(6, 2, 9)]);
    let of = |seed| {
        let evidence =
            Evidence { config: &config, bank: None, samples: None, checkpoint: None, seed };
        score(Importance::Random, Reduction::Sum, &evidence).unwrap()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn evidence_that_is_missing_or_of_another_model_is_refused() {
    let config9 = config(vec![widths(6, 2, 9)]);
    let none = Evidence { config: &config9, bank: None, samples: None, checkpoint: None, seed: 0 };
    for importance in [Importance::Vectorize, Importance::MagnitudeL1] {
        let message = score(importance, Reduction::Sum, &none).unwrap_err().to_string();
        assert!(message.contains(&importance.to_string()), "{message}");
    }
    let bank = random_bank(&config(vec![widths(6, 2, 8)]), 3, 7);
    let error = score(Importance::Vectorize, Reduction::Sum, &evidence(&config9, &bank, None));
    assert!(matches!(error, Err(Error::OtherStatistics { .. })));
}
