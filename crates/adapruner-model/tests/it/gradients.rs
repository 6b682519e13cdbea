//! What observers see.

use std::{collections::BTreeMap, sync::Mutex};

use adapruner_checkpoint::names::{Part, Projection};
use adapruner_model::{
    Decoder, Error, GradientObserver, PassCuts, ProjectionGrad, Residency, observe_gradients,
    parameter_gradients,
};
use candle_core::{DType, Result, Tensor, bail};

use crate::common::{Expected, F32, decoder, ids, most as largest, near, with};

/// Layer, projection, expert where there is one, sample.
type Key = (usize, Projection, Option<usize>, usize);

/// The weight gradient of every sample.
#[derive(Default)]
struct PerSample {
    gradients: Mutex<BTreeMap<Key, Tensor>>,
    done: Mutex<Vec<(usize, usize)>>,
}

impl GradientObserver for PerSample {
    fn projection(&self, grad: &ProjectionGrad<'_>) -> Result<()> {
        for (at, sample) in grad.samples.clone().enumerate() {
            let rows = &grad.rows[at];
            let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            let gradient = match rows.is_empty() {
                true => grad.weight.zeros_like()?,
                false => part(grad.grad_output)?.t()?.matmul(&part(grad.input)?)?,
            };
            assert_eq!(gradient.dims(), grad.weight.dims());
            let key = (grad.layer, grad.projection, grad.expert, sample);
            let before = self.gradients.lock().unwrap().insert(key, gradient);
            assert!(before.is_none(), "{key:?} was shown twice");
        }
        Ok(())
    }

    fn block_done(&self, layer: usize, samples: usize) -> Result<()> {
        self.done.lock().unwrap().push((layer, samples));
        Ok(())
    }
}

fn observe(decoder: &Decoder, samples: &[Vec<u32>], most: usize) -> (Vec<f64>, PerSample) {
    let seen = PerSample::default();
    let cuts = PassCuts::whole(most);
    let losses = observe_gradients(decoder, samples, &cuts, &seen, &|_, _| {}).unwrap();
    let done: Vec<_> = layers(decoder).map(|layer| (layer, samples.len())).collect();
    assert_eq!(*seen.done.lock().unwrap(), done);
    (losses, seen)
}

/// Last layer first.
fn layers(decoder: &Decoder) -> impl Iterator<Item = usize> + use<> {
    (0..decoder.config().layers.len()).rev()
}

/// Everything that was seen, as bits.
fn bits(seen: &PerSample) -> BTreeMap<Key, Vec<u32>> {
    let of = |t: &Tensor| {
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    seen.gradients.lock().unwrap().iter().map(|(key, t)| (*key, of(t))).collect()
}

/// Groups of one micro-batch, of three and of all; the inputs of all blocks kept, of one,
/// of some.
#[test]
fn groups_and_kept_blocks_change_no_bit() {
    for (name, residency) in [
        ("tiny", Residency::Resident),
        ("per_layer", Residency::Streamed),
        ("qwen3_moe", Residency::Resident),
    ] {
        let decoder = with(name, DType::F32, residency);
        let vocabulary = decoder.config().vocab_size as u32;
        let lengths = [12, 12, 12, 7, 7, 12, 9];
        let samples: Vec<Vec<u32>> =
            (0..).zip(lengths).map(|(at, len)| ids(len, vocabulary, at)).collect();
        let (losses, all) = observe(&decoder, &samples, 1);
        for (group_tokens, ends) in [(1, &[1, 2, 3, 4, 5, 6, 7][..]), (30, &[2, 5, 7]), (71, &[7])]
        {
            for kept_blocks in [1, 2, 3, usize::MAX] {
                let cuts = PassCuts { batch_tokens: 1, group_tokens, kept_blocks };
                let (seen, steps) = (PerSample::default(), Mutex::new(Vec::new()));
                let progress = |done, all| steps.lock().unwrap().push((done, all));
                let again = observe_gradients(&decoder, &samples, &cuts, &seen, &progress).unwrap();
                assert_eq!(losses, again, "{name}, {cuts:?}");
                assert!(bits(&seen) == bits(&all), "{name}, {cuts:?}");
                let done: Vec<_> = ends
                    .iter()
                    .flat_map(|&end| layers(&decoder).map(move |layer| (layer, end)))
                    .collect();
                assert_eq!(*seen.done.lock().unwrap(), done, "{name}, {cuts:?}");
                let steps = steps.into_inner().unwrap();
                let expected: Vec<_> = (1..=steps.len()).map(|at| (at, steps.len())).collect();
                assert_eq!(steps, expected, "{name}, {cuts:?}");
            }
        }
    }
}

/// Equal and unequal lengths, one model with a layer without attention.
#[test]
fn micro_batches_change_nothing_that_is_observed() {
    for name in ["tiny", "per_layer", "qwen3_moe", "mixtral"] {
        let decoder = decoder(name);
        let vocabulary = decoder.config().vocab_size as u32;
        let samples: Vec<Vec<u32>> = [12, 12, 12, 7, 7, 12]
            .into_iter()
            .enumerate()
            .map(|(at, len)| ids(len, vocabulary, at as u32))
            .collect();
        let (losses, all) = observe(&decoder, &samples, usize::MAX);
        let all = all.gradients.into_inner().unwrap();
        for most in [1, 24, 25] {
            let (again, seen) = observe(&decoder, &samples, most);
            for (a, b) in losses.iter().zip(&again) {
                assert!((a - b).abs() <= F32 * a, "{name}, {most}: {a} and {b}");
            }
            let seen = seen.gradients.into_inner().unwrap();
            assert_eq!(seen.len(), all.len());
            for (key, gradient) in &all {
                // Of an expert that no token of the sample takes.
                if largest(gradient) == 0.0 {
                    assert_eq!(largest(&seen[key]), 0.0, "{name}, {key:?}");
                    continue;
                }
                near(&seen[key], gradient, F32, &format!("{name}, {most} tokens, {key:?}"));
            }
        }
    }
}

#[test]
fn observed_gradients_add_up_to_the_parameters_gradients() {
    for (name, residency) in [
        ("gqa3_untied", Residency::Resident),
        ("per_layer", Residency::Streamed),
        ("qwen3_moe", Residency::Streamed),
        ("olmoe", Residency::Resident),
    ] {
        let (decoder, samples) = (with(name, DType::F32, residency), Expected::of(name).samples());
        let (losses, seen) = observe(&decoder, &samples, usize::MAX);
        for (loss, expected) in
            losses.iter().zip(Expected::of(name).get("nll").to_vec1::<f32>().unwrap())
        {
            assert!((loss - f64::from(expected)).abs() <= F32 * loss, "{loss} for {expected}");
        }
        let mut sums = BTreeMap::<String, Tensor>::new();
        for ((layer, projection, expert, _), gradient) in seen.gradients.into_inner().unwrap() {
            let part = match expert {
                None => Part::Weight(layer, projection),
                Some(expert) => Part::Expert(layer, expert, projection),
            };
            let name = decoder.config().name(part);
            let sum = match sums.remove(&name) {
                Some(sum) => (sum + gradient).unwrap(),
                None => gradient,
            };
            sums.insert(name, sum);
        }
        let expected = parameter_gradients(&decoder, &samples).unwrap();
        for (name, sum) in &sums {
            // An expert that no token takes.
            if largest(&expected[name]) == 0.0 {
                assert_eq!(largest(sum), 0.0, "{name}");
                continue;
            }
            near(sum, &expected[name], F32, name);
        }
    }
}

#[test]
fn progress_counts_two_steps_a_block() {
    let decoder = decoder("tiny");
    let steps = Mutex::new(Vec::new());
    let progress = |done, all| steps.lock().unwrap().push((done, all));
    let samples = [ids(9, 512, 1), ids(5, 512, 2)];
    observe_gradients(&decoder, &samples, &PassCuts::whole(64), &PerSample::default(), &progress)
        .unwrap();
    assert_eq!(steps.into_inner().unwrap(), (1..=8).map(|done| (done, 8)).collect::<Vec<_>>());
}

struct Refuses;

impl GradientObserver for Refuses {
    fn projection(&self, _: &ProjectionGrad<'_>) -> Result<()> {
        bail!("seen enough")
    }

    fn block_done(&self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_error_of_an_observer_ends_the_pass() {
    let decoder = decoder("tiny");
    let samples = [ids(9, 512, 1)];
    let error = observe_gradients(&decoder, &samples, &PassCuts::whole(64), &Refuses, &|_, _| {})
        .unwrap_err();
    assert!(error.to_string().contains("seen enough"), "{error}");
}

#[test]
fn samples_without_a_prediction_are_errors() {
    let decoder = decoder("tiny");
    for samples in [vec![vec![1]], vec![vec![]], vec![vec![1, 2], vec![512, 1]]] {
        let seen = PerSample::default();
        let found = observe_gradients(&decoder, &samples, &PassCuts::whole(64), &seen, &|_, _| {});
        assert!(matches!(found, Err(Error::Tokens(_))), "{samples:?}");
        assert!(matches!(parameter_gradients(&decoder, &samples), Err(Error::Tokens(_))));
    }
}
