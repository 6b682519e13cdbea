//! The collector against weight gradients made whole, in f64.

use std::ops::Range;

use adapruner_checkpoint::{LayerWidths, arch::family::FeedForwardKind, names::Projection};
use adapruner_model::{GradientObserver, InputObserver, ProjectionGrad, ProjectionInput};
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{BankArrays, Terms, collect::Collector, portable};
use crate::layout::VectorLayout;

const SAMPLES: usize = 5;
const TOKENS: usize = 7;
/// Wider than a tile, and no multiple of one.
const HIDDEN: usize = 300;
const HEAD_DIM: usize = 10;
const WIDTHS: LayerWidths = LayerWidths { query_heads: 9, kv_heads: 3, ffn: 150 };
/// One layer of that.
const WIDE: (&[LayerWidths], usize, FeedForwardKind) =
    (&[WIDTHS], HEAD_DIM, FeedForwardKind::Gated);

/// Sums of f32 products, taken against f64: a few hundred roundings of 6e-8.
const TOLERANCE: f64 = 2e-5;

/// What one projection saw, `[S·T, in]`, `[out, in]`, `[S·T, out]`.
struct Seen {
    projection: Projection,
    input: Tensor,
    weight: Tensor,
    grad_output: Tensor,
}

fn seen() -> Vec<Seen> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut tensor = |rows: usize, cols: usize, scale: f32| {
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-scale..scale)).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    };
    let (q, kv) = (WIDTHS.query_heads * HEAD_DIM, WIDTHS.kv_heads * HEAD_DIM);
    Projection::ALL
        .into_iter()
        .map(|projection| {
            let (outputs, inputs) = match projection {
                Projection::Q => (q, HIDDEN),
                Projection::K | Projection::V => (kv, HIDDEN),
                Projection::O => (HIDDEN, q),
                Projection::Gate | Projection::Up => (WIDTHS.ffn, HIDDEN),
                Projection::Down => (HIDDEN, WIDTHS.ffn),
            };
            Seen {
                projection,
                input: tensor(SAMPLES * TOKENS, inputs, 1.0),
                weight: tensor(outputs, inputs, 0.1),
                grad_output: tensor(SAMPLES * TOKENS, outputs, 0.01),
            }
        })
        .collect()
}

/// The rows of so many samples.
fn rows_of(samples: usize) -> Vec<Range<usize>> {
    (0..samples).map(|sample| sample * TOKENS..(sample + 1) * TOKENS).collect()
}

/// Shows a collector the samples in these micro-batches.
fn collect(seen: &[Seen], terms: Terms, batch: bool, batches: &[Range<usize>]) -> BankArrays {
    let collector = Collector::new(WIDE, SAMPLES, terms, batch).unwrap();
    for samples in batches {
        for seen in seen {
            let part =
                |t: &Tensor| t.narrow(0, samples.start * TOKENS, samples.len() * TOKENS).unwrap();
            collector
                .projection(&ProjectionGrad {
                    layer: 0,
                    projection: seen.projection,
                    expert: None,
                    input: &part(&seen.input),
                    weight: &seen.weight,
                    grad_output: &part(&seen.grad_output),
                    samples: samples.clone(),
                    rows: &rows_of(samples.len()),
                })
                .unwrap();
        }
    }
    collector.block_done(0, SAMPLES).unwrap();
    collector.into_arrays()
}

/// The bank from its definition: whole weight gradients, sums in f64.
fn reference(seen: &[Seen]) -> BankArrays {
    let vectors = VectorLayout::new(&[WIDTHS], HEAD_DIM, FeedForwardKind::Gated).unwrap().len();
    let mut out = BankArrays {
        signed: vec![0.0; SAMPLES * vectors],
        element: vec![0.0; SAMPLES * vectors],
        fisher: vec![0.0; SAMPLES * vectors],
        ..BankArrays::default()
    };
    let rows = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let mut start = 0;
    for seen in seen {
        let (x, w, dy) = (rows(&seen.input), rows(&seen.weight), rows(&seen.grad_output));
        let (outputs, inputs) = (w.len(), w[0].len());
        let columns = seen.projection.prunes_columns();
        let count = if columns { inputs } else { outputs };
        let (mut first, mut mix) = (vec![0.0; count], vec![0.0; count]);
        let mut sums = vec![[0.0; 3]; SAMPLES * count];
        for i in 0..outputs {
            for j in 0..inputs {
                let vector = if columns { j } else { i };
                let (mut mean, mut square) = (0.0, 0.0);
                for s in 0..SAMPLES {
                    let g: f64 = (s * TOKENS..(s + 1) * TOKENS).map(|t| dy[t][i] * x[t][j]).sum();
                    let [signed, element, fisher] = &mut sums[s * count + vector];
                    *signed += w[i][j] * g;
                    *element += (w[i][j] * g).abs();
                    *fisher += 0.5 * (w[i][j] * g).powi(2);
                    mean += g / SAMPLES as f64;
                    square += g * g / SAMPLES as f64;
                }
                first[vector] += (w[i][j] * mean).abs();
                mix[vector] += (w[i][j] * mean - 0.5 * w[i][j] * w[i][j] * square).abs();
            }
        }
        for s in 0..SAMPLES {
            for vector in 0..count {
                let [signed, element, fisher] = sums[s * count + vector];
                let at = s * vectors + start + vector;
                out.signed[at] = signed as f32;
                out.element[at] = element as f32;
                out.fisher[at] = fisher as f32;
            }
        }
        out.batch_first.extend(first.iter().map(|&v| v as f32));
        out.batch_mix.extend(mix.iter().map(|&v| v as f32));
        start += count;
    }
    reference_inputs(seen, &mut out);
    out
}

/// What the columns read and the sizes of their weights, by definition, in f64.
fn reference_inputs(seen: &[Seen], out: &mut BankArrays) {
    let rows = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    for s in 0..SAMPLES {
        for seen in seen.iter().filter(|seen| seen.projection.prunes_columns()) {
            let x = rows(&seen.input);
            for j in 0..x[0].len() {
                let read = || x[s * TOKENS..(s + 1) * TOKENS].iter().map(|row| row[j]);
                out.input_sum.push(read().sum::<f64>() as f32);
                out.input_square.push(read().map(|x| x * x).sum::<f64>() as f32);
            }
        }
    }
    for seen in seen.iter().filter(|seen| seen.projection.prunes_columns()) {
        let w = rows(&seen.weight);
        for j in 0..w[0].len() {
            out.column_abs.push(w.iter().map(|row| row[j].abs()).sum::<f64>() as f32);
            out.column_square.push(w.iter().map(|row| row[j] * row[j]).sum::<f64>() as f32);
        }
    }
}

/// Equal to the last bit but one: sums in f64, rounded to f32 once.
fn assert_inputs(found: &BankArrays, expected: &BankArrays) {
    for (what, found, expected) in [
        ("sum", &found.input_sum, &expected.input_sum),
        ("square", &found.input_square, &expected.input_square),
        ("abs", &found.column_abs, &expected.column_abs),
        ("square of weights", &found.column_square, &expected.column_square),
    ] {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= f32::EPSILON * b.abs(), "{what}: {a} instead of {b}");
        }
    }
}

/// Equal to [`TOLERANCE`] of the sum of absolute values, which bounds what
/// cancels in a signed sum.
fn assert_close(found: &[f32], expected: &[f32], scale: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let scale = f64::from(scale[at].abs().max(f32::MIN_POSITIVE));
        let error = (f64::from(a) - f64::from(b)).abs() / scale;
        assert!(error < TOLERANCE, "{what} {at}: {a} instead of {b}");
    }
}

fn assert_arrays(found: &BankArrays, expected: &BankArrays) {
    assert_close(&found.signed, &expected.signed, &expected.element, "signed");
    assert_close(&found.element, &expected.element, &expected.element, "element");
    assert_close(&found.fisher, &expected.fisher, &expected.fisher, "fisher");
    assert_close(&found.batch_first, &expected.batch_first, &expected.batch_first, "first");
    assert_close(&found.batch_mix, &expected.batch_mix, &expected.batch_mix, "mix");
    assert_inputs(found, expected);
}

#[test]
fn fused_sums_are_those_of_whole_weight_gradients() {
    let seen = seen();
    let expected = reference(&seen);
    assert_arrays(
        &collect(&seen, Terms::Full, true, std::slice::from_ref(&(0..SAMPLES))),
        &expected,
    );
    assert_arrays(&collect(&seen, Terms::Full, true, &[0..2, 2..3, 3..SAMPLES]), &expected);
}

#[test]
fn weights_of_half_precision_are_read_as_they_stand() {
    for dtype in [DType::BF16, DType::F16] {
        let mut seen = seen();
        for seen in &mut seen {
            seen.weight = seen.weight.to_dtype(dtype).unwrap();
        }
        assert_arrays(
            &collect(&seen, Terms::Full, true, std::slice::from_ref(&(0..SAMPLES))),
            &reference(&seen),
        );
    }
}

#[test]
fn tensor_operations_give_the_same_sums() {
    let seen = seen();
    let expected = reference(&seen);
    let layout = VectorLayout::new(&[WIDTHS], HEAD_DIM, FeedForwardKind::Gated).unwrap();
    let mut found = BankArrays {
        signed: vec![0.0; expected.signed.len()],
        element: vec![0.0; expected.signed.len()],
        fisher: vec![0.0; expected.signed.len()],
        ..BankArrays::default()
    };
    for seen in &seen {
        let grad = ProjectionGrad {
            layer: 0,
            projection: seen.projection,
            expert: None,
            input: &seen.input,
            weight: &seen.weight,
            grad_output: &seen.grad_output,
            samples: 0..SAMPLES,
            rows: &rows_of(SAMPLES),
        };
        let mut elements = portable::Elements::default();
        let sums = portable::vector_sums(&grad, Some(&mut elements)).unwrap();
        let start = layout.range(0, seen.projection).start;
        for (s, [signed, element, fisher]) in sums.iter().enumerate() {
            for at in 0..signed.len() {
                let to = s * layout.len() + start + at;
                found.signed[to] = signed[at] as f32;
                found.element[to] = element[at] as f32;
                found.fisher[to] = fisher[at] as f32;
            }
        }
        let columns = seen.projection.prunes_columns();
        let [first, mix] = portable::set_terms(elements, columns).unwrap().unwrap();
        let mean = |v: f64| (v / SAMPLES as f64) as f32;
        found.batch_first.extend(first.into_iter().map(mean));
        found.batch_mix.extend(mix.into_iter().map(mean));
    }
    reference_inputs(&seen, &mut found);
    assert_arrays(&found, &expected);
}

#[test]
fn coarse_sums_need_no_weight_gradient() {
    let seen = seen();
    let full = reference(&seen);
    let coarse = collect(&seen, Terms::Coarse, false, &[0..3, 3..SAMPLES]);
    assert_close(&coarse.signed, &full.signed, &full.element, "signed");
    assert!(coarse.element.is_empty() && coarse.fisher.is_empty());
    assert_inputs(&coarse, &full);
}

/// Inputs of another type take the way of tensor operations.
#[test]
fn inputs_of_any_type_are_summed_in_f64() {
    for dtype in [DType::F64, DType::BF16] {
        let mut seen = seen();
        seen.retain(|seen| seen.projection.prunes_columns());
        for seen in &mut seen {
            seen.input = seen.input.to_dtype(dtype).unwrap();
        }
        let mut expected = BankArrays::default();
        reference_inputs(&seen, &mut expected);
        let collector = Collector::new(WIDE, SAMPLES, Terms::Activations, false).unwrap();
        for samples in [0..2, 2..SAMPLES] {
            for seen in &seen {
                let (start, rows) = (samples.start * TOKENS, samples.len() * TOKENS);
                let input = &seen.input.narrow(0, start, rows).unwrap();
                let (projection, weight) = (seen.projection, &seen.weight);
                let (samples, rows) = (samples.clone(), rows_of(samples.len()));
                let (layer, expert) = (0, None);
                let input = ProjectionInput {
                    layer,
                    projection,
                    expert,
                    input,
                    weight,
                    samples,
                    rows: &rows,
                };
                collector.input(&input).unwrap();
            }
        }
        let found = collector.into_arrays();
        assert!(found.signed.is_empty());
        assert_inputs(&found, &expected);
    }
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    let seen = seen();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| collect(&seen, Terms::Full, true, &[0..2, 2..SAMPLES]))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn samples_that_never_come_are_missed() {
    let seen = seen();
    let collector = Collector::new(WIDE, SAMPLES + 1, Terms::Full, true).unwrap();
    let first = &seen[0];
    collector
        .projection(&ProjectionGrad {
            layer: 0,
            projection: first.projection,
            expert: None,
            input: &first.input,
            weight: &first.weight,
            grad_output: &first.grad_output,
            samples: 0..SAMPLES,
            rows: &rows_of(SAMPLES),
        })
        .unwrap();
    let message = collector.block_done(0, SAMPLES + 1).unwrap_err().to_string();
    assert!(message.contains("q_proj") && message.contains("expected 6"), "{message}");
}

#[test]
fn gradients_of_other_shapes_are_refused() {
    let seen = seen();
    let widths = LayerWidths { ffn: WIDTHS.ffn + 1, ..WIDTHS };
    let collector =
        Collector::new((&[widths], HEAD_DIM, FeedForwardKind::Gated), SAMPLES, Terms::Full, false)
            .unwrap();
    let gate = &seen[4];
    let result = collector.projection(&ProjectionGrad {
        layer: 0,
        projection: gate.projection,
        expert: None,
        input: &gate.input,
        weight: &gate.weight,
        grad_output: &gate.grad_output,
        samples: 0..SAMPLES,
        rows: &rows_of(SAMPLES),
    });
    assert!(result.unwrap_err().to_string().contains("gate_proj"));
    let down = &seen[6];
    let of = |layer, input: &Tensor, samples: Range<usize>| {
        let (weight, rows) = (&down.weight, &rows_of(samples.len()));
        let (projection, expert) = (down.projection, None);
        let seen = ProjectionInput { layer, projection, expert, input, weight, samples, rows };
        collector.input(&seen)
    };
    let refused = of(0, &down.input, 0..SAMPLES).unwrap_err().to_string();
    assert!(refused.contains("down_proj") && refused.contains("[300, 150]"), "{refused}");
    // Nor other numbers of rows, samples and layers.
    let collector = Collector::new(WIDE, SAMPLES, Terms::Activations, false).unwrap();
    let of = |layer, input: &Tensor, samples: Range<usize>| {
        let (weight, rows) = (&down.weight, &rows_of(samples.len()));
        let (projection, expert) = (down.projection, None);
        let seen = ProjectionInput { layer, projection, expert, input, weight, samples, rows };
        collector.input(&seen)
    };
    assert!(of(0, &down.input, 0..SAMPLES - 1).is_err());
    assert!(of(1, &down.input, 0..SAMPLES).is_err());
    assert!(of(0, &down.input, 1..SAMPLES + 1).is_err());
    of(0, &down.input, 0..SAMPLES).unwrap();
}

#[test]
fn contradicting_requests_are_refused() {
    assert!(Collector::new(WIDE, 0, Terms::Full, false).is_err());
    assert!(Collector::new(WIDE, 1, Terms::Coarse, true).is_err());
    assert!(Collector::new(WIDE, 1, Terms::Activations, true).is_err());
    let widths = LayerWidths { query_heads: usize::MAX, kv_heads: 1, ffn: 1 };
    assert!(Collector::new((&[widths], 2, FeedForwardKind::Gated), 1, Terms::Full, false).is_err());
}
