//! Products in the precision that is set for the process: a binary of its own, since
//! tests of one process may run side by side.

use adapruner_kernels::{
    Head, MatmulPrecision, linear, linear_cross_entropy, matmul,
    packed::{Arithmetic, Packed, PackedBytes},
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

/// Rounding activations to 8 bits moves a sum of `K` products by up to `2⁻⁹` of the sizes
/// of its terms, of which the largest sum is a quarter or more.
const BF16: f64 = 4.0 / 512.0;

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

/// Both precisions in one test: what is set is the process's.
#[test]
fn high_precision_is_close_and_reaches_what_it_should() {
    let exact = results();
    assert_eq!(MatmulPrecision::current(), MatmulPrecision::Highest);
    let high = MatmulPrecision::High.during(results);
    assert_eq!(MatmulPrecision::current(), MatmulPrecision::Highest);
    for (name, found, exact) in [
        ("y", &high.y, &exact.y),
        ("dx", &high.grad_x, &exact.grad_x),
        ("losses", &high.losses, &exact.losses),
        ("dx of losses", &high.grad_hidden, &exact.grad_hidden),
        ("x · Wᵀ, bf16", &high.y_of_bf16, &exact.y_of_widened),
    ] {
        let apart = apart(found, exact);
        assert!(apart < HIGH, "{name}: {apart:e}");
        if Arithmetic::Int16.runs_here() {
            assert!(apart > 0.0, "{name}: rounded");
        }
    }
    if Arithmetic::of_bf16(260) == Some(Arithmetic::Dot) {
        let apart = apart(&exact.y_of_bf16, &exact.y_of_widened);
        assert!(apart > 0.0 && apart < BF16, "activations in bf16: {apart:e}");
    } else {
        assert!(bits(&exact.y_of_bf16) == bits(&exact.y_of_widened), "bf16 weights are exact");
    }
    if Arithmetic::Int16.runs_here() {
        assert!(bits(&high.y_of_bf16) == bits(&high.y_of_widened), "the same integers");
    }
    assert!(bits(&high.gram) == bits(&exact.gram), "sums across rows stay f32");
    assert!(bits(&high.narrow) == bits(&exact.narrow), "few rows stay f32");
    let (of_bf16, of_widened) = (&high.narrow_of_bf16, &exact.narrow_of_widened);
    assert!(bits(of_bf16) == bits(of_widened), "few rows stay f32, bf16");
    assert!(bits(&high.few) == bits(&high.y)[..20 * 520], "other rows change nothing");
    let again = results();
    assert!(bits(&again.y) == bits(&exact.y), "the setting is back");
    for dtype in [DType::F32, DType::BF16] {
        let few = if dtype == DType::BF16 { 2 } else { 0 };
        let expected = match Arithmetic::of_bf16(260) {
            Some(Arithmetic::Dot) => PackedBytes { forward: few, back: 0, few: 0 },
            _ => PackedBytes { forward: 0, back: 0, few },
        };
        assert_eq!(Packed::bytes(dtype), expected, "{dtype:?}");
        if Arithmetic::Int16.runs_here() {
            let found = MatmulPrecision::High.during(|| Packed::bytes(dtype));
            assert_eq!(found, PackedBytes { forward: 2, back: 2, few }, "{dtype:?}, high");
        }
    }
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = MatmulPrecision::High.during(|| pool.install(results));
        assert!(bits(&found.y) == bits(&high.y), "{threads} threads");
        assert!(bits(&found.losses) == bits(&high.losses), "{threads} threads");
    }
}
