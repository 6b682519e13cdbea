//! Gradients of masks against differences of losses, and run in other ways.

use adapruner_checkpoint::names::{Projection, projection_shape};
use adapruner_model::{
    Decoder, Masks, Residency,
    train::{Batch, HiddenMatch, Learned, MaskGradients, PassOptions, Term, mask_gradients},
};
use candle_core::{DType, Device, Tensor};

use crate::common::{F32, FIXTURES, decoder, ids, near, with};

const KEPT: PassOptions = PassOptions { checkpointing: false };
const RECOMPUTED: PassOptions = PassOptions { checkpointing: true };

/// Masks of the units of all layers from `first` on, but for those of experts: factors from 0 to
/// 1.2, each third of them 0.
fn masks(decoder: &Decoder, first: usize) -> Masks {
    let mut out = Masks::new();
    for (layer, widths) in decoder.config().layers.iter().enumerate().skip(first) {
        for projection in [Projection::O, Projection::Down] {
            let of_experts = decoder.config().experts.is_some();
            let there =
                if projection.is_attention() { widths.has_attention() } else { !of_experts };
            if !there {
                continue;
            }
            let [_, inputs] = projection_shape(decoder.config(), layer, projection);
            let seeds = ids(inputs, 1201, (layer * 7 + projection as usize) as u32);
            let factor =
                |(at, &seed): (usize, &u32)| if at % 3 == 0 { 0.0 } else { seed as f32 / 1e3 };
            let factors = seeds.iter().enumerate().map(factor);
            out.insert((layer, projection), Tensor::from_iter(factors, &Device::Cpu).unwrap());
        }
    }
    out
}

fn sequences(decoder: &Decoder) -> Vec<Vec<u32>> {
    let vocabulary = decoder.config().vocab_size as u32;
    [11, 2, 20, 7].into_iter().map(|len| ids(len, vocabulary, len as u32)).collect()
}

/// The loss of some sequences and what it adds to the gradients.
fn learn(
    decoder: &Decoder,
    sequences: &[Vec<u32>],
    options: &PassOptions,
    sums: &mut MaskGradients,
) -> Learned<()> {
    let terms = vec![Term::cross_entropy(sequences, |_, at| (at % 3) as f32)];
    mask_gradients(decoder, &Batch { sequences, terms, hidden: None }, options, sums).unwrap()
}

fn gradients(decoder: &Decoder, sequences: &[Vec<u32>], options: &PassOptions) -> MaskGradients {
    let mut sums = MaskGradients::new();
    learn(decoder, sequences, options, &mut sums);
    sums
}

/// Along the gradient, and along single factors, the loss changes as the gradient says,
/// with matched hidden states and without.
#[test]
fn losses_change_as_gradients_say() {
    for name in FIXTURES {
        let plain = decoder(name);
        // The loss jumps where a token takes another expert.
        if plain.config().experts.is_some() {
            continue;
        }
        let sequences = sequences(&plain);
        let states = plain.block_outputs(&sequences, &[0, 1]).unwrap();
        let target = |layer: usize| Ok((&states[&layer] * 0.5).unwrap());
        let here = masks(&plain, 0);
        for weight in [0.0, 5.0] {
            let learn = |masks: &Masks| {
                let decoder = plain.with_masks(masks).unwrap();
                let terms = vec![Term::cross_entropy(&sequences, |_, _| 1.0)];
                let hidden = HiddenMatch { weight, layers: vec![0, 1], target: &target };
                let batch = Batch { sequences: &sequences, terms, hidden: Some(hidden) };
                let mut sums = MaskGradients::new();
                let learned = mask_gradients(&decoder, &batch, &KEPT, &mut sums).unwrap();
                (learned.terms[0] + learned.hidden, sums)
            };
            let (loss, found) = learn(&here);
            assert!(found.keys().eq(here.keys()), "{name}");
            let along = |direction: &MaskGradients, step: f64| {
                let mut masks = here.clone();
                for (key, mask) in &mut masks {
                    let by = direction[key].iter().map(|&g| (g * step) as f32);
                    *mask = (&*mask + Tensor::from_iter(by, &Device::Cpu).unwrap()).unwrap();
                }
                learn(&masks).0
            };
            let dot = |direction: &MaskGradients| -> f64 {
                let of = |(key, g): (&(usize, Projection), &Vec<f64>)| -> f64 {
                    g.iter().zip(&direction[key]).map(|(a, b)| a * b).sum()
                };
                found.iter().map(of).sum()
            };
            let mut directions = vec![found.clone()];
            for key in [*found.keys().next().unwrap(), *found.keys().last().unwrap()] {
                // The steepest of the factors that are 0, and of those that are not.
                for zero in [true, false] {
                    let of = |at: &usize| at.is_multiple_of(3) == zero;
                    let steepest = (0..found[&key].len())
                        .filter(of)
                        .max_by(|&a, &b| found[&key][a].abs().total_cmp(&found[&key][b].abs()));
                    let mut one: MaskGradients =
                        found.iter().map(|(&key, g)| (key, vec![0.0; g.len()])).collect();
                    one.get_mut(&key).unwrap()[steepest.unwrap()] = 1.0;
                    directions.push(one);
                }
            }
            for (at, direction) in directions.iter().enumerate() {
                let slope = dot(direction);
                // A step that changes the loss by some hundred times its rounding, of a
                // single factor a fiftieth at most.
                let step = 5e-4 * loss / slope.abs();
                let step = if at == 0 { step } else { step.min(0.02) };
                let within =
                    |step: f64| (along(direction, step) - along(direction, -step)) / (2.0 * step);
                // Without the third derivative, which is large before norms of outputs.
                let change = (4.0 * within(step / 2.0) - within(step)) / 3.0;
                let rounding = 4e-6 * loss / step;
                let error = (change - slope).abs();
                assert!(
                    error < 0.03 * slope.abs() + rounding,
                    "{name}, {weight}, {at}: {change} for {slope}"
                );
            }
        }
    }
}

/// Zeros in a mask are zeros in the columns that read it.
#[test]
fn masked_units_are_gone() {
    for name in FIXTURES {
        let plain = decoder(name);
        let sequences = sequences(&plain);
        let zeros_and_ones = |(key, mask): (_, Tensor)| {
            let ones = mask.gt(0.0).unwrap().to_dtype(DType::F32).unwrap();
            (key, ones)
        };
        let masks: Masks = masks(&plain, 0).into_iter().map(zeros_and_ones).collect();
        let mut parameters = std::collections::BTreeMap::new();
        for (&(layer, projection), mask) in &masks {
            let (_, variables) = plain.block(layer).unwrap().with_variables(layer).unwrap();
            let name = projection.weight(plain.config().family(), layer);
            let (_, weight) = variables.into_iter().find(|(of, _)| *of == name).unwrap();
            let weight = weight.as_detached_tensor().broadcast_mul(mask).unwrap();
            parameters.insert(name, weight);
        }
        let masked = plain.with_masks(&masks).unwrap();
        let expected = plain.with_parameters(&parameters).unwrap();
        for sequence in &sequences {
            let ids = plain.tokens(&[sequence]).unwrap();
            let [found, expected] = [&masked, &expected].map(|d| d.logits(&ids).unwrap());
            near(&found, &expected, F32, name);
        }
        assert!(masked.masks().keys().eq(masks.keys()));
    }
}

/// To the bit: sums go row after row, whatever runs together or is recomputed.
#[test]
fn threads_divisions_and_recomputing_change_nothing() {
    for name in ["per_layer", "tiny", "biases"] {
        let plain = decoder(name);
        let sequences = sequences(&plain);
        let masks = masks(&plain, 1);
        let masked = plain.with_masks(&masks).unwrap();
        let whole = gradients(&masked, &sequences, &KEPT);
        assert!(whole.keys().eq(masks.keys()));
        assert!(whole.values().flatten().any(|&g| g != 0.0));
        assert_eq!(gradients(&masked, &sequences, &RECOMPUTED), whole, "{name}");
        let streamed = with(name, DType::F32, Residency::Streamed).with_masks(&masks).unwrap();
        assert_eq!(gradients(&streamed, &sequences, &RECOMPUTED), whole, "{name}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| gradients(&masked, &sequences, &KEPT));
            assert_eq!(found, whole, "{name}");
        }
    }
}

/// Batches that follow each other add up to one; where our own kernels make all
/// products (the gemm crate makes those of up to four rows), to the bit.
#[test]
fn lessons_add_up() {
    let plain = decoder("tiny");
    let vocabulary = plain.config().vocab_size as u32;
    let sequences: Vec<Vec<u32>> =
        [13, 40, 20, 17].into_iter().map(|len| ids(len, vocabulary, len as u32)).collect();
    let masked = plain.with_masks(&masks(&plain, 0)).unwrap();
    let whole = gradients(&masked, &sequences, &KEPT);
    for cut in [1, 2, 3] {
        let (mut sums, mut loss) = (MaskGradients::new(), 0.0);
        for part in [&sequences[..cut], &sequences[cut..]] {
            loss += learn(&masked, part, &KEPT, &mut sums).terms[0];
        }
        let expected = learn(&masked, &sequences, &KEPT, &mut MaskGradients::new()).terms[0];
        assert!((loss - expected).abs() < 1e-9 * expected);
        for (key, expected) in &whole {
            let scale = expected.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
            for (found, expected) in sums[key].iter().zip(expected) {
                assert!((found - expected).abs() <= F32 * scale, "{key:?}");
            }
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert_eq!(sums, whole, "cut at {cut}");
        }
    }
}

#[test]
fn masks_that_do_not_fit_are_named() {
    let decoder = decoder("per_layer");
    let bare = decoder.config().layers.iter().position(|w| !w.has_attention()).unwrap();
    let width = decoder.config().layers[bare].ffn;
    let refused = |layer, projection: Projection, width: usize| {
        let mask = Tensor::ones(width, DType::F32, &Device::Cpu).unwrap();
        match decoder.with_masks(&Masks::from([((layer, projection), mask)])) {
            Ok(_) => panic!("layer {layer}, {projection} was taken"),
            Err(error) => error.to_string(),
        }
    };
    let error = refused(bare, Projection::O, 4);
    assert!(
        error.contains(
            &Projection::O.weight(adapruner_checkpoint::Architecture::Llama.family(), bare)
        ),
        "{error}"
    );
    refused(99, Projection::Down, width);
    refused(bare, Projection::Up, width);
    let error = refused(bare, Projection::Down, width + 1);
    assert!(error.contains(&format!("[{width}] expected")), "{error}");
    // Without masks there is nothing to learn, and nothing is found.
    let mut sums = MaskGradients::new();
    learn(&decoder, &sequences(&decoder), &KEPT, &mut sums);
    assert!(sums.is_empty());
}
