//! The pass of fine-tuning against itself run in other ways, against gradients of
//! merged weights, and against differences of losses.

use std::collections::BTreeMap;

use adapruner_checkpoint::names::{Projection, projection_shape};
use adapruner_model::{
    Adapters, Decoder, Error, Residency,
    train::{
        Batch, Dropout, HiddenMatch, Learned, LowRank, LowRankGrad, PassOptions, Term,
        adapter_gradients, full_gradients,
    },
};
use candle_core::{DType, Device, Tensor};

use crate::common::{F32, FIXTURES, bits, decoder, ids, near, with};

type AdapterGradients = BTreeMap<(usize, Projection), LowRankGrad>;

const KEPT: PassOptions = PassOptions { checkpointing: false };
const RECOMPUTED: PassOptions = PassOptions { checkpointing: true };

fn numbers(shape: [usize; 2], seed: u32) -> Tensor {
    let values: Vec<f32> =
        ids(shape[0] * shape[1], 2001, seed).iter().map(|&v| (v as f32 - 1000.0) / 1e4).collect();
    Tensor::from_vec(values, (shape[0], shape[1]), &Device::Cpu).unwrap()
}

/// Updates of rank 3 of every projection that can have one.
fn adapters(decoder: &Decoder, dropout: Option<f64>) -> Adapters {
    let mut out = Adapters::new();
    for layer in 0..decoder.config().layers.len() {
        for (at, projection) in Projection::ALL.into_iter().enumerate() {
            let of_experts = decoder.config().experts.is_some() && !projection.is_attention();
            if !decoder.config().has(layer, projection) || of_experts {
                continue;
            }
            let [outputs, inputs] = projection_shape(decoder.config(), layer, projection);
            let seed = (layer * 7 + at) as u32;
            let adapter = LowRank {
                a: numbers([3, inputs], seed),
                b: numbers([outputs, 3], seed + 1000),
                scale: 2.0,
                dropout: dropout.map(|probability| Dropout { probability, seed: u64::from(seed) }),
            };
            out.insert((layer, projection), adapter);
        }
    }
    out
}

fn sequences(decoder: &Decoder) -> Vec<Vec<u32>> {
    let vocabulary = decoder.config().vocab_size as u32;
    [11, 2, 20, 7].into_iter().map(|len| ids(len, vocabulary, len as u32)).collect()
}

/// Two terms, the first with masked tokens, the second soft and tempered.
fn terms(decoder: &Decoder, sequences: &[Vec<u32>]) -> Vec<Term> {
    let hard = Term::cross_entropy(sequences, |s, at| ((s + at) % 3) as f32);
    let predicted = hard.ids.len();
    let soft = Term {
        temperature: 2.0,
        k: 3,
        ids: ids(3 * predicted, decoder.config().vocab_size as u32, 77),
        weights: (0..3 * predicted).map(|at| (at % 5) as f32 / 6.0).collect(),
    };
    vec![hard, soft]
}

fn batch<'a>(
    decoder: &Decoder,
    sequences: &'a [Vec<u32>],
    hidden: Option<HiddenMatch<'a>>,
) -> Batch<'a> {
    Batch { sequences, terms: terms(decoder, sequences), hidden }
}

fn total<G>(learned: &Learned<G>) -> f64 {
    learned.terms.iter().sum::<f64>() + learned.hidden
}

/// `W + scale · b · a` has the gradient that those of `a` and `b` follow from.
#[test]
fn adapters_gradients_are_those_of_merged_weights() {
    for name in FIXTURES {
        let plain = decoder(name);
        let sequences = sequences(&plain);
        let updates = adapters(&plain, None);
        let adapted = plain.with_adapters(&updates).unwrap();
        let found = adapter_gradients(&adapted, &batch(&plain, &sequences, None), &KEPT).unwrap();

        let mut merged = BTreeMap::new();
        for (&(layer, projection), LowRank { a, b, scale, .. }) in &updates {
            let (_, variables) = plain.block(layer).unwrap().with_variables(layer).unwrap();
            let name = projection.weight(plain.config().family(), layer);
            let (_, weight) = variables.into_iter().find(|(of, _)| *of == name).unwrap();
            let update = (b.matmul(a).unwrap() * *scale).unwrap();
            merged.insert(name, (weight.as_detached_tensor() + update).unwrap());
        }
        let merged = plain.with_parameters(&merged).unwrap();
        let all = full_gradients(&merged, &batch(&plain, &sequences, None), &KEPT).unwrap();
        for (a, b) in found.terms.iter().zip(&all.terms) {
            assert!((a - b).abs() <= F32 * b, "{name}: {a} and {b}");
        }
        assert_eq!(found.gradients.len(), updates.len());
        for ((layer, projection), gradient) in &found.gradients {
            let of_weight = &all.gradients[&projection.weight(plain.config().family(), *layer)];
            let LowRank { a, b, scale, .. } = &updates[&(*layer, *projection)];
            let of_a = (b.t().unwrap().matmul(of_weight).unwrap() * *scale).unwrap();
            let of_b = (of_weight.matmul(&a.t().unwrap()).unwrap() * *scale).unwrap();
            // Sums over one side more than the pass itself.
            near(&gradient.a, &of_a, 4.0 * F32, &format!("{name}, {layer}, {projection}, a"));
            near(&gradient.b, &of_b, 4.0 * F32, &format!("{name}, {layer}, {projection}, b"));
        }
    }
}

fn same_bits(a: &AdapterGradients, b: &AdapterGradients) {
    assert!(a.keys().eq(b.keys()));
    for (key, a) in a {
        assert_eq!(bits(&a.a), bits(&b[key].a), "{key:?}");
        assert_eq!(bits(&a.b), bits(&b[key].b), "{key:?}");
    }
}

#[test]
fn checkpointing_and_streaming_change_nothing() {
    for name in ["per_layer", "gqa3_untied", "biases"] {
        let plain = decoder(name);
        let sequences = sequences(&plain);
        let states = plain.block_outputs(&sequences, &[0, 1]).unwrap();
        let target = |layer: usize| Ok((&states[&layer] * 0.5).unwrap());
        let of = |decoder: &Decoder, options| {
            let hidden = HiddenMatch { weight: 0.3, layers: vec![0, 1], target: &target };
            let batch = batch(decoder, &sequences, Some(hidden));
            let adapted = decoder.with_adapters(&adapters(decoder, Some(0.25))).unwrap();
            let updates = adapter_gradients(&adapted, &batch, options).unwrap();
            (updates, full_gradients(decoder, &batch, options).unwrap())
        };
        let (updates, all) = of(&plain, &KEPT);
        assert!(updates.hidden > 0.0 && updates.terms.iter().all(|&loss| loss > 0.0));
        let streamed = with(name, DType::F32, Residency::Streamed);
        for decoder in [&plain, &streamed] {
            let (again, all_again) = of(decoder, &RECOMPUTED);
            assert_eq!((&updates.terms, updates.hidden), (&again.terms, again.hidden));
            same_bits(&updates.gradients, &again.gradients);
            // Tracked weights run operation by operation: other roundings.
            for (a, b) in all.terms.iter().zip(&all_again.terms) {
                assert!((a - b).abs() <= F32 * a, "{name}: {a} and {b}");
            }
            assert!(all.gradients.keys().eq(all_again.gradients.keys()));
            for (name, gradient) in &all.gradients {
                near(&all_again.gradients[name], gradient, F32, name);
            }
        }
    }
}

#[test]
fn packed_sequences_add_up_to_each_alone() {
    for name in FIXTURES {
        let plain = decoder(name);
        let decoder = plain.with_adapters(&adapters(&plain, None)).unwrap();
        let sequences = sequences(&decoder);
        let all = Batch {
            sequences: &sequences,
            terms: vec![Term::cross_entropy(&sequences, |_, at| (at % 3) as f32)],
            hidden: None,
        };
        let packed = adapter_gradients(&decoder, &all, &KEPT).unwrap();
        let (mut loss, mut sums) = (0.0, AdapterGradients::new());
        for sequence in &sequences {
            let sequences = std::slice::from_ref(sequence);
            let terms = vec![Term::cross_entropy(sequences, |_, at| (at % 3) as f32)];
            let alone = Batch { sequences, terms, hidden: None };
            let alone = adapter_gradients(&decoder, &alone, &KEPT).unwrap();
            loss += alone.terms[0];
            for (key, gradient) in alone.gradients {
                let sum = match sums.remove(&key) {
                    None => gradient,
                    Some(LowRankGrad { a, b }) => {
                        LowRankGrad { a: (a + gradient.a).unwrap(), b: (b + gradient.b).unwrap() }
                    }
                };
                sums.insert(key, sum);
            }
        }
        assert!((packed.terms[0] - loss).abs() <= F32 * loss, "{name}");
        for (key, gradient) in &packed.gradients {
            near(&gradient.a, &sums[key].a, F32, &format!("{name}, {key:?}, a"));
            near(&gradient.b, &sums[key].b, F32, &format!("{name}, {key:?}, b"));
        }
    }
}

/// Along its own direction the loss grows by the gradient's square.
#[test]
fn losses_change_as_gradients_say() {
    for name in ["per_layer", "tiny"] {
        let plain = decoder(name);
        let sequences = sequences(&plain);
        let states = plain.block_outputs(&sequences, &[0, 1]).unwrap();
        let target = |layer: usize| Ok((&states[&layer] * 0.5).unwrap());
        let updates = adapters(&plain, Some(0.25));
        let learn = |updates: &Adapters, weight: f64| {
            let decoder = plain.with_adapters(updates).unwrap();
            let hidden = HiddenMatch { weight, layers: vec![1, 0], target: &target };
            let batch = batch(&decoder, &sequences, Some(hidden));
            adapter_gradients(&decoder, &batch, &RECOMPUTED).unwrap()
        };
        for weight in [0.0, 50.0] {
            let here = learn(&updates, weight);
            let square = |t: &Tensor| -> f64 {
                let t = t.to_dtype(DType::F64).unwrap();
                t.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap()
            };
            let slope: f64 =
                here.gradients.values().map(|g| square(&g.a) + square(&g.b)).sum::<f64>();
            let moved = |step: f64| {
                let mut updates = updates.clone();
                for (key, update) in &mut updates {
                    let LowRankGrad { a, b } = &here.gradients[key];
                    update.a = (&update.a + (a * step).unwrap()).unwrap();
                    update.b = (&update.b + (b * step).unwrap()).unwrap();
                }
                total(&learn(&updates, weight))
            };
            // A step that changes the loss by a few thousandths, well above rounding.
            let step = 3e-3 * total(&here) / slope;
            let found = (moved(step) - moved(-step)) / (2.0 * step);
            let error = (found - slope).abs() / slope;
            assert!(error < 1e-2, "{name}, {weight}: {found} for {slope}");
        }
    }
}

#[test]
fn matching_alone_teaches_and_a_matched_student_rests() {
    let plain = decoder("tiny");
    let sequences = sequences(&plain);
    let states = plain.block_outputs(&sequences, &[1]).unwrap();
    let target = |layer: usize| Ok(states[&layer].clone());
    let of = |decoder: &Decoder| {
        let hidden = Some(HiddenMatch { weight: 1.0, layers: vec![1], target: &target });
        let batch = Batch { sequences: &sequences, terms: Vec::new(), hidden };
        full_gradients(decoder, &batch, &KEPT).unwrap()
    };
    assert_eq!(of(&plain).hidden, 0.0);
    // Of twice the target every row is as far from it as the target is long.
    let half = |layer: usize| Ok((&states[&layer] * 0.5).unwrap());
    let hidden = Some(HiddenMatch { weight: 3.0, layers: vec![1], target: &half });
    let batch = Batch { sequences: &sequences, terms: Vec::new(), hidden };
    let rows = sequences.iter().map(Vec::len).sum::<usize>() as f64;
    let found = full_gradients(&plain, &batch, &KEPT).unwrap().hidden;
    assert!((found - 3.0 * rows).abs() < 1e-5 * rows, "{found} for {rows} rows");
    let changed = plain.with_adapters(&adapters(&plain, None)).unwrap();
    let learned = of(&changed);
    assert!(learned.hidden > 0.0 && learned.terms.is_empty());
    let most = |name: &str| -> f32 {
        let gradient = &learned.gradients[name];
        gradient.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    };
    assert!(
        most(&Projection::Up.weight(adapruner_checkpoint::Architecture::Llama.family(), 1)) > 0.0
    );
    assert_eq!(
        most(&Projection::Up.weight(adapruner_checkpoint::Architecture::Llama.family(), 2)),
        0.0
    );
}

#[test]
fn top_logits_are_the_largest_of_all() {
    let decoder = decoder("gqa3_untied");
    let sequences = sequences(&decoder);
    let (k, temperature) = (4, 1.7);
    let top = decoder.top_logits(&sequences, k, temperature).unwrap();
    let mut row = 0;
    for sequence in &sequences {
        let logits = decoder.logits(&decoder.tokens(&[sequence]).unwrap()).unwrap();
        let logits = logits.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        for logits in &logits[..sequence.len() - 1] {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let sum: f64 = logits.iter().map(|&z| (f64::from(z) / temperature).exp()).sum();
            assert!((top.logsumexp[row] - sum.ln()).abs() < 1e-5);
            for (at, &id) in order[..k].iter().enumerate() {
                assert_eq!(top.ids[row * k + at] as usize, id);
                assert!((top.logits[row * k + at] - logits[id]).abs() < 1e-5);
            }
            row += 1;
        }
    }
    assert_eq!((top.k, top.ids.len(), top.logsumexp.len()), (k, row * k, row));
    assert!(decoder.top_logits(&sequences, k, 0.0).is_err());
}

#[test]
fn changes_that_do_not_fit_are_named() {
    let decoder = decoder("per_layer");
    let bare = decoder.config().layers.iter().position(|w| !w.has_attention()).unwrap();
    let refused = |layer, projection, of: (usize, Projection)| {
        let adapter = adapters(&decoder, None)[&of].clone();
        let adapters = Adapters::from([((layer, projection), adapter)]);
        match decoder.with_adapters(&adapters) {
            Ok(_) => panic!("layer {layer}, {projection} was taken"),
            Err(error) => error.to_string(),
        }
    };
    let error = refused(bare, Projection::Q, (bare, Projection::Up));
    assert!(
        error.contains(
            &Projection::Q.weight(adapruner_checkpoint::Architecture::Llama.family(), bare)
        ),
        "{error}"
    );
    refused(99, Projection::Up, (bare, Projection::Up));
    let error = refused(bare, Projection::Down, (bare, Projection::Up));
    assert!(error.contains("does not fit"), "{error}");

    let zeros = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    for name in ["model.norm.weight", "model.layers.0.nothing"] {
        let parameters = BTreeMap::from([(name.to_owned(), zeros.clone())]);
        let error = decoder.with_parameters(&parameters).err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn lessons_that_do_not_fit_are_errors() {
    let decoder = decoder("tiny");
    let sequences = sequences(&decoder);
    let of = |change: &dyn Fn(&mut Term)| {
        let mut terms = terms(&decoder, &sequences);
        change(&mut terms[1]);
        let batch = Batch { sequences: &sequences, terms, hidden: None };
        full_gradients(&decoder, &batch, &KEPT).err().unwrap()
    };
    assert!(matches!(of(&|t| t.k = 2), Error::Batch(_)));
    assert!(matches!(of(&|t| t.weights.truncate(1)), Error::Batch(_)));
    assert!(matches!(of(&|t| t.temperature = -1.0), Error::Batch(_)));
    assert!(matches!(of(&|t| t.ids[3] = 512), Error::Tokens(_)));
    assert!(matches!(of(&|t| t.weights[40] = f32::NAN), Error::Loss { sample: 2, .. }));
    let unfit = |_: usize| Ok(Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap());
    for layers in [vec![0], vec![99]] {
        let hidden = Some(HiddenMatch { weight: 1.0, layers, target: &unfit });
        let batch = batch(&decoder, &sequences, hidden);
        assert!(matches!(full_gradients(&decoder, &batch, &KEPT), Err(Error::Batch(_))));
    }
}
