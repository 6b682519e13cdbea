//! Mixtures of experts against every expert run on every row.

use std::sync::Arc;

use adapruner_kernels::{
    Gate,
    packed::{Arithmetic, Entering, Packed},
    sublayer::{Affine, Expertise, Experts, FeedForward, Norm, Residual},
};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HIDDEN: usize = 24;
/// Sums of a few hundred f32 products in another order, of numbers near 1.
const TOLERANCE: f32 = 1e-4;

struct Draw(ChaCha8Rng);

impl Draw {
    fn tensor(&mut self, shape: &[usize], bound: f32) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.0.random_range(-bound..bound)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn map(&mut self, out: usize, inputs: usize) -> Affine {
        let weight = self.tensor(&[out, inputs], 1.7 / (inputs as f32).sqrt());
        Affine {
            weight,
            bias: None,
            packed: Packed::default(),
            adapter: None,
            mask: None,
            tap: None,
        }
    }
}

fn mixture(experts: usize, chosen: usize, width: usize, normalised: bool, seed: u64) -> Experts {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
    let each = (0..experts).map(|_| FeedForward {
        norm: None,
        activation: Gate::Silu,
        gate: Some(draw.map(width, HIDDEN)),
        up: draw.map(width, HIDDEN),
        down: draw.map(HIDDEN, width),
        residual: Residual::default(),
    });
    let each: Vec<FeedForward> = each.collect();
    let norm = (draw.tensor(&[HIDDEN], 0.4) + 1.0).unwrap();
    Experts {
        norm: Some(Norm { weight: norm, bias: None, eps: 1e-5 }),
        router: draw.tensor(&[experts, HIDDEN], 0.6),
        each,
        chosen,
        normalised,
        residual: Residual::default(),
    }
}

fn input(rows: usize, seed: u64) -> Tensor {
    Draw(ChaCha8Rng::seed_from_u64(!seed)).tensor(&[1, rows, HIDDEN], 1.5)
}

fn run(experts: &Experts, x: &Tensor) -> Result<Tensor> {
    experts.onto(x, x, &|expert: usize, _: &Arc<[u32]>| experts.each[expert].clone(), None)
}

/// Every expert on every row, by the definition.
fn naive(experts: &Experts, x: &Tensor) -> Result<Tensor> {
    let h = experts.norm.as_ref().unwrap().apply(x)?.squeeze(0)?;
    let logits = h.matmul(&experts.router.t()?)?;
    let powers = logits.exp()?;
    let shares = powers.broadcast_div(&powers.sum_keepdim(1)?)?;
    let mut mask = Vec::new();
    for row in shares.detach().to_vec2::<f32>()? {
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = sorted[experts.chosen - 1];
        mask.extend(row.iter().map(|share| f32::from(u8::from(*share >= least))));
    }
    let mask = Tensor::from_vec(mask, shares.dims(), &Device::Cpu)?;
    let mut weights = (shares * mask)?;
    if experts.normalised {
        weights = weights.broadcast_div(&weights.sum_keepdim(1)?)?;
    }
    let mut sum = h.zeros_like()?;
    for (at, FeedForward { gate, up, down, .. }) in experts.each.iter().enumerate() {
        let gate = h.matmul(&gate.as_ref().unwrap().weight.t()?)?;
        let channels = (gate.silu()? * h.matmul(&up.weight.t()?)?)?;
        let given = channels.matmul(&down.weight.t()?)?;
        sum = (sum + given.broadcast_mul(&weights.narrow(D::Minus1, at, 1)?)?)?;
    }
    x + sum.unsqueeze(0)?
}

fn most(t: &Tensor) -> f32 {
    t.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The same mixture, its router and the gates of its experts variables.
fn variables(experts: &Experts) -> (Experts, Vec<Var>) {
    let mut experts = experts.clone();
    let mut all = Vec::new();
    let mut make = |tensor: &mut Tensor| {
        let variable = Var::from_tensor(tensor).unwrap();
        *tensor = variable.as_tensor().clone();
        all.push(variable);
    };
    make(&mut experts.router);
    for FeedForward { gate, up, down, .. } in &mut experts.each {
        gate.iter_mut().chain([up, down]).for_each(|map| make(&mut map.weight));
    }
    (experts, all)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn each_row_takes_its_experts(
        experts in 1_usize..7,
        chosen in 0_usize..6,
        width in 1_usize..30,
        rows in 1_usize..40,
        normalised in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mixture = mixture(experts, 1 + chosen % experts, width, normalised, seed);
        let x = input(rows, seed);
        let difference = (run(&mixture, &x).unwrap() - naive(&mixture, &x).unwrap()).unwrap();
        prop_assert!(most(&difference) < TOLERANCE, "{}", most(&difference));
        // And every gradient, of experts that no row takes too.
        let (tracked, all) = variables(&mixture);
        let x = Var::from_tensor(&x).unwrap();
        let pull = |y: Tensor| (y.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap().backward().unwrap();
        let found = pull(run(&tracked, x.as_tensor()).unwrap());
        let expected = pull(naive(&tracked, x.as_tensor()).unwrap());
        for variable in all.iter().chain([&x]) {
            let (a, b) = (found.get(variable), expected.get(variable).unwrap());
            let difference = most(&(a.unwrap() - b).unwrap());
            prop_assert!(difference < 20.0 * TOLERANCE * most(b).max(1.0), "{}", difference);
        }
    }
}

/// Where our own kernels make all products, other rows change no bit, nor do threads.
#[test]
fn a_row_does_not_depend_on_those_beside_it() {
    if Arithmetic::of(DType::BF16, usize::MAX, Entering::Activations).is_none() {
        return;
    }
    for (experts, chosen) in [(3, 2), (11, 2), (5, 5)] {
        let mixture = mixture(experts, chosen, 32, true, 7);
        let x = input(60, 3);
        let whole = run(&mixture, &x).unwrap();
        for (start, rows) in [(0, 5), (7, 6), (20, 33), (59 - 4, 5)] {
            let part = run(&mixture, &x.narrow(1, start, rows).unwrap()).unwrap();
            let expected = whole.narrow(1, start, rows).unwrap();
            assert_eq!(bits(&part), bits(&expected), "{experts} experts, rows {start} + {rows}");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(bits(&pool.install(|| run(&mixture, &x).unwrap())), bits(&whole));
        }
    }
}

#[test]
fn what_experts_read_is_shown_row_by_row() {
    let mixture = mixture(6, 2, 9, false, 5);
    let x = input(4, 5);
    let mut shown = Vec::new();
    let of = |expert: usize, _: &Arc<[u32]>| mixture.each[expert].clone();
    let mut sum = Tensor::zeros((4, HIDDEN), DType::F32, &Device::Cpu).unwrap();
    let mut show = |of: &Expertise<'_>| {
        let Expertise { expert, rows, channels, given, weights } = *of;
        shown.push((expert, rows.to_vec(), channels.dims().to_vec()));
        if !rows.is_empty() {
            let rows = Tensor::new(rows, &Device::Cpu)?;
            sum = sum.index_add(&rows, &given.broadcast_mul(&weights.unsqueeze(1)?)?, 0)?;
        }
        Ok(())
    };
    let y = mixture.onto(&x, &x, &of, Some(&mut show)).unwrap();
    // What is shown, weighted as shown, is what the mixture adds.
    let added = (y - &x).unwrap().squeeze(0).unwrap();
    let off = (added - sum).unwrap().abs().unwrap().max_all().unwrap();
    assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{off}");
    assert_eq!(shown.iter().map(|(expert, ..)| *expert).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let taken: usize = shown.iter().map(|(_, rows, _)| rows.len()).sum();
    assert_eq!(taken, 4 * 2);
    for (_, rows, dims) in shown {
        assert_eq!(dims, [rows.len(), 9]);
        assert!(rows.is_sorted() && rows.iter().all(|row| *row < 4));
    }
}

#[test]
fn mixtures_that_do_not_fit_are_errors() {
    let good = mixture(4, 2, 5, true, 1);
    let x = input(3, 1);
    assert!(run(&good, &x).is_ok());
    assert_eq!(run(&good, &input(0, 1)).unwrap().dims(), [1, 0, HIDDEN]);
    let more = Experts { chosen: 5, ..good.clone() };
    assert!(run(&more, &x).unwrap_err().to_string().contains("5 of 4 experts"));
    let router = good.router.narrow(0, 0, 3).unwrap();
    assert!(run(&Experts { router, ..good.clone() }, &x).is_err());
    let nan = Tensor::full(f32::NAN, (4, HIDDEN), &Device::Cpu).unwrap();
    let router = nan.to_dtype(DType::F32).unwrap();
    let error = run(&Experts { router, ..good }, &x).unwrap_err().to_string();
    assert!(error.contains("logits that are not finite"), "{error}");
}
