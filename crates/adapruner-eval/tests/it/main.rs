//! Figures of the fixture models against transformers and lm-evaluation-harness.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod hostile;
mod hub;
mod tasks;

use std::path::PathBuf;

use adapruner_checkpoint::Checkpoint;
use adapruner_eval::{ChunkedWindows, perplexity};
use adapruner_model::{Decoder, Placement, Places, Residency};
use candle_core::{DType, Device, Tensor, safetensors};

/// Float32 forward passes against float64 ones, relative.
const TOLERANCE: f64 = 1e-5;

/// A folder of `fixtures`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn model(name: &str) -> PathBuf {
    fixture("models").join(name)
}

fn decoder(name: &str, residency: Residency) -> Decoder {
    let checkpoint = Checkpoint::open(&model(name)).unwrap();
    Decoder::load(&checkpoint, &Placement::cpu(), residency).unwrap()
}

/// Token ids and the mean loss of each row as transformers computes it.
fn expected(name: &str) -> (Vec<Vec<u32>>, Vec<f64>) {
    let tensors =
        safetensors::load(model(name).join("expected.safetensors"), &Device::Cpu).unwrap();
    let vector = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let ids = tensors["input_ids"].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
    (ids, vector(&tensors["nll"]))
}

/// The losses of chunks are those of their windows, whichever run together and wherever
/// the pass begins.
#[test]
fn chunks_measure_alike_together_and_alone() {
    let (windows, nll) = expected("per_layer");
    let windows: Vec<Vec<u32>> = windows.iter().cycle().take(7).cloned().collect();
    let decoder = decoder("per_layer", Residency::Resident);
    let layers = decoder.config().layers.len();
    for chunk in [1, 2, 7, 9] {
        let cut = ChunkedWindows::new(&decoder, &windows, chunk, layers, &|_, _| {}).unwrap();
        assert_eq!((cut.len(), cut.windows()), (7_usize.div_ceil(chunk), 7));
        let all = cut.nll(&decoder, 0, 0..cut.len()).unwrap();
        assert_eq!(all.len(), cut.len());
        for (at, together) in all.iter().enumerate() {
            let of: Vec<f64> =
                (at * chunk..((at + 1) * chunk).min(7)).map(|w| nll[w % nll.len()]).collect();
            let mean = of.iter().sum::<f64>() / of.len() as f64;
            assert!((together - mean).abs() < TOLERANCE * mean, "chunk {at} of {chunk} windows");
            assert_eq!(cut.tokens(at), (of.len() * cut.window()) as u64);
            for unchanged in 0..=layers {
                let alone = cut.nll(&decoder, unchanged, at..at + 1).unwrap();
                // Products of few rows and columns have sums of another order.
                let apart = (alone[0] - together).abs();
                assert!(alone.len() == 1 && apart < 1e-7 * together, "chunk {at}: {alone:?}");
            }
        }
        assert!(cut.nll(&decoder, 0, cut.len()..cut.len() + 3).unwrap().is_empty());
    }
}

/// Layers that the stream passes unchanged are layers that are not there, and a layer's influence
/// is how much it turns the stream.
#[test]
fn layers_are_left_out_and_their_influence_is_measured() {
    let checkpoint = Checkpoint::open(&model("per_layer")).unwrap();
    let (windows, _) = expected("per_layer");
    let load = |checkpoint: &Checkpoint| {
        Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap()
    };
    let dense = load(&checkpoint);
    let layers = checkpoint.config.layers.len();
    for (leading, chunk) in [(layers, 1), (1, 2), (0, 9)] {
        let cut = ChunkedWindows::new(&dense, &windows, chunk, leading, &|_, _| {}).unwrap();
        for gone in (0..layers).map(|layer| vec![layer]).chain([vec![], vec![0, layers - 1]]) {
            let kept: Vec<usize> = (0..layers).filter(|layer| !gone.contains(layer)).collect();
            let shallow = load(&checkpoint.with_layers(&kept).unwrap());
            let right = perplexity(&shallow, &windows, 4096, &|_, _| {}).unwrap().nll;
            let found = cut.nll_without(&dense, &gone).unwrap();
            assert!((found - right).abs() < 1e-6 * right, "without {gone:?}: {found} {right}");
        }
        assert_eq!(cut.influences().unwrap().len(), leading);
    }
    let cut = ChunkedWindows::new(&dense, &windows, 1, layers, &|_, _| {}).unwrap();
    let states = |layer: usize| -> Vec<Vec<f64>> {
        let ids = dense.tokens(&windows).unwrap();
        let entering = dense.embedded(&ids, Places::From(0)).unwrap();
        let states = dense.through(&entering, 0..layer).unwrap();
        states.flatten(0, 1).unwrap().to_dtype(DType::F64).unwrap().to_vec2().unwrap()
    };
    for (layer, found) in cut.influences().unwrap().into_iter().enumerate() {
        let (before, after) = (states(layer), states(layer + 1));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosines =
            before.iter().zip(&after).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
        let right = 1.0 - cosines.sum::<f64>() / before.len() as f64;
        assert!((found - right).abs() < 1e-6 && right > 1e-3, "layer {layer}: {found} {right}");
    }
}

/// A model that is given up early is asked for few chunks, one that is not for many.
#[test]
fn chunks_that_run_together_double() {
    let decoder = decoder("tiny", Residency::Resident);
    let windows = vec![vec![1; 100]; 64];
    let cut = ChunkedWindows::new(&decoder, &windows, 1, 0, &|_, _| {}).unwrap();
    let together = [0, 5, 10, 20, 40].map(|done| cut.together(done));
    assert_eq!(together, [5, 5, 10, 20, 20]);
    let cut = ChunkedWindows::new(&decoder, &windows, 30, 0, &|_, _| {}).unwrap();
    assert_eq!([0, 1, 2].map(|done| cut.together(done)), [1, 1, 1]);
}

#[test]
fn perplexity_is_that_of_transformers_at_any_batch_size() {
    for name in ["mha_tied", "gqa3_untied", "per_layer", "llama3_rope", "tiny"] {
        let (windows, nll) = expected(name);
        let mean = nll.iter().sum::<f64>() / nll.len() as f64;
        for (residency, batch_tokens) in
            [(Residency::Resident, 1), (Residency::Resident, 4096), (Residency::Streamed, 4096)]
        {
            let found =
                perplexity(&decoder(name, residency), &windows, batch_tokens, &|_, _| {}).unwrap();
            assert!((found.nll - mean).abs() < TOLERANCE * mean, "{name}: {found:?} {mean}");
            assert_eq!((found.windows, found.window), (windows.len(), windows[0].len()));
            for (sum, row) in found.window_nll.iter().zip(&nll) {
                let predicted = (found.window - 1) as f64;
                assert!((sum / predicted - row).abs() < TOLERANCE * row, "{name}");
            }
        }
    }
}

#[test]
fn windows_that_cannot_be_measured_are_refused() {
    let decoder = decoder("mha_tied", Residency::Resident);
    let refused = |windows: &[Vec<u32>]| {
        perplexity(&decoder, windows, 64, &|_, _| {}).unwrap_err().to_string()
    };
    assert_eq!(refused(&[]), "windows: expected at least 1, found none");
    assert!(refused(&[vec![1]]).contains("at least 2 tokens"));
    assert!(refused(&[vec![1, 2], vec![1, 2, 3]]).contains("sequence 1 has 3 tokens"));
    assert!(refused(&[vec![1, u32::MAX]]).contains("vocabulary"));
}
