//! Products in the precision that is set for the process: a binary of its own, since
//! tests of one process may run side by side.

use adapruner_kernels::{
    Head, MatmulPrecision, linear, linear_cross_entropy, matmul,
    packed::{Arithmetic, Packed, PackedBytes, Parts},
};
use candle_core::{DType, Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers of about one, from a seed.
fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| rng.random::<f32>() * 4.0 - 2.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The largest difference, relative to the largest number of `exact`.
fn apart(found: &Tensor, exact: &Tensor) -> f64 {
    let largest = |t: &Tensor| {
        let all = t.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        f64::from(all.to_scalar::<f32>().unwrap())
    };
    largest(&(found - exact).unwrap()) / largest(exact)
}

/// Rounding rows of `K` unrelated numbers to lengths of 46 300 moves a sum of their
/// products by `√K · √(2/12) / 46 300` of its standard deviation, 2.2e-4 at 601; the most
/// that any sum moves is to the largest sum as that is to one.
const HIGH: f64 = 3e-4;

/// Rounding both sides to 8 bits moves a sum of `K` products by up to `2⁻⁸` of the sizes of its
/// terms, of which the largest sum is a quarter or more.
const MEDIUM: f64 = 4.0 / 256.0;

/// Products of f32 in another way are as close to each other as each is to the numbers.
const F32: f64 = 1e-6;

/// What the operations give.
struct Results {
    y: Tensor,
    /// Of the first rows of `x` alone.
    few: Tensor,
    /// Of one strip of them.
    narrow: Tensor,
    /// Of the weight rounded to bf16, held as such.
    y_of_bf16: Tensor,
    /// Of the same, held as f32.
    y_of_widened: Tensor,
    narrow_of_bf16: Tensor,
    narrow_of_widened: Tensor,
    grad_x: Tensor,
    losses: Tensor,
    grad_hidden: Tensor,
    gram: Tensor,
}

fn results() -> Results {
    let (x, weight) = (numbers(&[260, 601], 1), numbers(&[520, 601], 2));
    let vocabulary = numbers(&[700, 96], 3);
    // Logits of about one, as errors of logits are relative errors of their exponentials.
    let hidden = Var::from_tensor(&(numbers(&[130, 96], 4) * 0.1).unwrap()).unwrap();
    let targets = Tensor::arange(0u32, 130, &Device::Cpu).unwrap();
    let losses = linear_cross_entropy(&hidden, &Head::from(&vocabulary), &targets).unwrap();
    let grads = losses.sum_all().unwrap().backward().unwrap();
    let tracked = Var::from_tensor(&x).unwrap();
    let y = linear(&tracked, &weight, None).unwrap();
    let grads_of_y = (&y * 0.5).unwrap().sum_all().unwrap().backward().unwrap();
    let bf16 = weight.to_dtype(DType::BF16).unwrap();
    let widened = bf16.to_dtype(DType::F32).unwrap();
    let strip = x.narrow(0, 0, 12).unwrap();
    Results {
        y: y.detach(),
        few: linear(&x.narrow(0, 0, 20).unwrap(), &weight, None).unwrap(),
        narrow: linear(&strip, &weight, None).unwrap(),
        y_of_bf16: linear(&x, &bf16, None).unwrap(),
        y_of_widened: linear(&x, &widened, None).unwrap(),
        narrow_of_bf16: linear(&strip, &bf16, None).unwrap(),
        narrow_of_widened: linear(&strip, &widened, None).unwrap(),
        grad_x: grads_of_y.get(&tracked).unwrap().clone(),
        losses: losses.detach(),
        grad_hidden: grads.get(&hidden).unwrap().clone(),
        gram: matmul(&x.t().unwrap(), &x).unwrap(),
    }
}

/// What is closer than `within`, and whether it is another number at all.
fn close(name: &str, found: &Tensor, exact: &Tensor, within: f64, other: bool) {
    let apart = apart(found, exact);
    assert!(apart < within, "{name}: {apart:e}");
    assert_eq!(apart > 0.0, other, "{name}: {apart:e}");
}

/// All precisions in one test: what is set is the process's.
#[test]
fn every_precision_is_close_and_reaches_what_it_should() {
    let tiles = Arithmetic::Tiles(Parts::One).runs_here();
    let integers = Arithmetic::Int16.runs_here();
    let exact = results();
    assert_eq!(MatmulPrecision::current(), MatmulPrecision::Highest);
    let high = MatmulPrecision::High.during(results);
    let medium = MatmulPrecision::Medium.during(results);
    assert_eq!(MatmulPrecision::current(), MatmulPrecision::Highest);
    for (found, within) in [(&high, HIGH), (&medium, MEDIUM)] {
        for (name, found, exact) in [
            ("y", &found.y, &exact.y),
            ("dx", &found.grad_x, &exact.grad_x),
            ("losses", &found.losses, &exact.losses),
            ("dx of losses", &found.grad_hidden, &exact.grad_hidden),
            ("x · Wᵀ, bf16", &found.y_of_bf16, &exact.y_of_widened),
        ] {
            close(name, found, exact, within, tiles || integers);
        }
        close("sums across rows", &found.gram, &exact.gram, HIGH, tiles);
    }
    close("bf16 weights", &exact.y_of_bf16, &exact.y_of_widened, F32, tiles);
    if integers && !tiles {
        assert!(bits(&high.y_of_bf16) == bits(&high.y_of_widened), "the same integers");
    }
    for found in [&high, &medium] {
        assert!(bits(&found.narrow) == bits(&exact.narrow), "few rows stay f32");
        let (of_bf16, of_widened) = (&found.narrow_of_bf16, &exact.narrow_of_widened);
        assert!(bits(of_bf16) == bits(of_widened), "few rows stay f32, bf16");
        assert!(bits(&found.few) == bits(&found.y)[..20 * 520], "other rows change nothing");
    }
    let again = results();
    assert!(bits(&again.y) == bits(&exact.y), "the setting is back");
    for (precision, found) in [(MatmulPrecision::High, &high), (MatmulPrecision::Medium, &medium)] {
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let other = precision.during(|| pool.install(results));
            assert!(bits(&other.y) == bits(&found.y), "{threads} threads");
            assert!(bits(&other.losses) == bits(&found.losses), "{threads} threads");
        }
    }
    packed_forms_take_as_many_bytes_as_is_said(tiles, integers);
}

fn packed_forms_take_as_many_bytes_as_is_said(tiles: bool, integers: bool) {
    let of = |precision: MatmulPrecision, dtype| precision.during(|| Packed::bytes(dtype));
    let all = |forward, back, few| PackedBytes { forward, back, few };
    for (precision, of_f32) in
        [(MatmulPrecision::Highest, 0), (MatmulPrecision::High, 4), (MatmulPrecision::Medium, 2)]
    {
        let (bf16, f32) = (of(precision, DType::BF16), of(precision, DType::F32));
        match (tiles, precision) {
            (true, _) => {
                assert_eq!(f32, all(of_f32, of_f32, 0), "{precision}");
                assert_eq!(bf16, all(2, 2, 0), "{precision}");
            }
            (false, MatmulPrecision::High) if integers => {
                assert_eq!((f32, bf16), (all(2, 2, 0), all(2, 2, 2)));
            }
            (false, MatmulPrecision::Highest) => {
                assert_eq!((f32, bf16), (all(0, 0, 0), all(0, 0, 2)));
            }
            // Integers, dot products or f32: the processor's.
            (false, MatmulPrecision::High | MatmulPrecision::Medium) => {}
        }
    }
}
