//! Low-rank updates: fused against the composition, whose gradients candle makes.

use std::sync::{Arc, Mutex};

use adapruner_kernels::{
    Dropout, Gate, GradTap, LowRank, LowRankGrad,
    packed::Packed,
    sublayer::{Affine, FeedForward, Norm, Residual},
};
use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;

use crate::twin::{F32, numbers};

#[derive(Default)]
struct Seen(Mutex<Vec<(&'static str, LowRankGrad)>>);

struct Tap(&'static str, Arc<Seen>);

impl GradTap for Tap {
    fn observe(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn low_rank(&self, gradients: LowRankGrad) -> Result<()> {
        self.1.0.lock().unwrap().push((self.0, gradients));
        Ok(())
    }
}

const NAMES: [&str; 3] = ["gate", "up", "down"];

struct Case {
    rows: usize,
    hidden: usize,
    inner: usize,
    rank: usize,
    biased: bool,
    dropout: Option<f64>,
    seed: u64,
}

impl Case {
    fn sides(&self, name: &str) -> (usize, usize) {
        if name == "down" { (self.hidden, self.inner) } else { (self.inner, self.hidden) }
    }

    /// The layer with its updates as they come from `update`, in `dtype`.
    fn layer(
        &self,
        dtype: DType,
        seen: &Arc<Seen>,
        update: impl Fn(&str, Tensor) -> Tensor,
    ) -> FeedForward {
        let tensor = |shape: &[usize], at: u64| {
            let values = numbers(shape, self.seed ^ (at << 32)).affine(0.3, 0.0).unwrap();
            values.to_dtype(dtype).unwrap()
        };
        let map = |at: usize| {
            let (outputs, inputs) = self.sides(NAMES[at]);
            let index = 10 * (at as u64 + 1);
            Affine {
                weight: tensor(&[outputs, inputs], index),
                bias: self.biased.then(|| tensor(&[outputs], index + 1)),
                packed: Packed::default(),
                adapter: Some(LowRank {
                    a: update(&format!("{}.a", NAMES[at]), tensor(&[self.rank, inputs], index + 2)),
                    b: update(
                        &format!("{}.b", NAMES[at]),
                        tensor(&[outputs, self.rank], index + 3),
                    ),
                    scale: 1.7,
                    dropout: self
                        .dropout
                        .map(|probability| Dropout { probability, seed: self.seed ^ at as u64 }),
                }),
                mask: None,
                tap: Some(Arc::new(Tap(NAMES[at], seen.clone()))),
            }
        };
        FeedForward {
            norm: Some(Norm { weight: tensor(&[self.hidden], 1), bias: None, eps: 1e-5 }),
            activation: Gate::Silu,
            gate: Some(map(0)),
            up: map(1),
            down: map(2),
            residual: Residual::default(),
        }
    }
}

fn near(found: &Tensor, expected: &Tensor, what: &str) {
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let most = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let scale = most(&wide(expected)).max(1.0);
    let error = most(&(wide(found) - wide(expected)).unwrap());
    assert!(error <= F32 * scale, "{what}: off by {error:e} of {scale}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn updates_agree_with_automatic_differentiation(
        (rows, hidden, inner, rank) in (1..300_usize, 1..40_usize, 1..60_usize, 1..9_usize),
        biased: bool,
        dropout in prop::option::of(0.05..0.9_f64),
        seed: u64,
    ) {
        let case = Case { rows, hidden, inner, rank, biased, dropout, seed };
        let x = numbers(&[1, case.rows, hidden], seed);
        let upstream = numbers(&[1, case.rows, hidden], !seed);

        let fused = Arc::new(Seen::default());
        let input = Var::from_tensor(&x).unwrap();
        let y = case.layer(DType::F32, &fused, |_, t| t).forward(input.as_tensor()).unwrap();
        let grads = (&y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();

        let twin = Arc::new(Seen::default());
        let variables = Mutex::new(Vec::new());
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let input_twin = Var::from_tensor(&wide(&x)).unwrap();
        let layer = case.layer(DType::F64, &twin, |name, t| {
            let variable = Var::from_tensor(&t).unwrap();
            variables.lock().unwrap().push((name.to_owned(), variable.clone()));
            variable.as_tensor().clone()
        });
        let expected = layer.forward(input_twin.as_tensor()).unwrap();
        let by_candle = (&expected * wide(&upstream)).unwrap().sum_all().unwrap();
        let by_candle = by_candle.backward().unwrap();

        near(&y, &expected, "output");
        near(grads.get(&input).unwrap(), by_candle.get(&input_twin).unwrap(), "input's gradient");
        for seen in [&fused, &twin] {
            let seen = std::mem::take(&mut *seen.0.lock().unwrap());
            prop_assert_eq!(seen.len(), 3);
            for (name, found) in seen {
                for (side, found) in [("a", found.a), ("b", found.b)] {
                    let name = format!("{name}.{side}");
                    let variables = variables.lock().unwrap();
                    let (_, variable) = variables.iter().find(|(n, _)| *n == name).unwrap();
                    near(&found, by_candle.get(variable).unwrap(), &name);
                }
            }
        }
    }
}

/// Rows of more than one block add up in the same order on any number of threads.
#[test]
fn threads_change_nothing() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = Case {
                rows: 700,
                hidden: 33,
                inner: 50,
                rank: 5,
                biased: true,
                dropout: Some(0.2),
                seed: 9,
            };
            let seen = Arc::new(Seen::default());
            let x = Var::from_tensor(&numbers(&[1, case.rows, case.hidden], 1)).unwrap();
            let y = case.layer(DType::F32, &seen, |_, t| t).forward(x.as_tensor()).unwrap();
            y.sum_all().unwrap().backward().unwrap();
            let seen = std::mem::take(&mut *seen.0.lock().unwrap());
            let bits = |t: Tensor| -> Vec<u32> {
                let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                values.into_iter().map(f32::to_bits).collect()
            };
            seen.into_iter().map(|(n, g)| (n, bits(g.a), bits(g.b))).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn masks_are_what_was_asked_for() {
    let dropout = Dropout { probability: 0.3, seed: 5 };
    let mask = dropout.mask(400, 250);
    assert_eq!(mask, dropout.mask(400, 250));
    assert_eq!(mask[..50 * 250], dropout.mask(50, 250));
    let factor = (1.0 / 0.7) as f32;
    assert!(mask.iter().all(|&m| m == 0.0 || m == factor));
    let share =
        |mask: &[f32]| mask.iter().filter(|&&m| m == 0.0).count() as f64 / mask.len() as f64;
    // Six deviations of 100 000 draws.
    assert!((share(&mask) - 0.3).abs() < 0.009, "{}", share(&mask));
    let other = Dropout { seed: 6, ..dropout }.mask(400, 250);
    let both: Vec<f32> = mask.iter().zip(&other).map(|(a, b)| a + b).collect();
    assert!((share(&both) - 0.09).abs() < 0.006, "{}", share(&both));
    // Neighbours in a row and in a column are independent.
    for shift in [1, 250] {
        let both: Vec<f32> = mask.iter().zip(&mask[shift..]).map(|(a, b)| a + b).collect();
        assert!((share(&both) - 0.09).abs() < 0.006, "{shift}: {}", share(&both));
    }
    assert!(Dropout { probability: 0.0, seed: 1 }.mask(9, 9).iter().all(|&m| m == 1.0));
}

#[test]
fn updates_that_do_not_fit_are_errors() {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let of = |a: &[usize], b: &[usize], probability| {
        let dropout = Some(Dropout { probability, seed: 1 });
        LowRank { a: tensor(a), b: tensor(b), scale: 1.0, dropout }.check(6, 4)
    };
    assert!(of(&[2, 4], &[6, 2], 0.5).is_ok());
    assert!(of(&[2, 5], &[6, 2], 0.5).is_err());
    assert!(of(&[2, 4], &[6, 3], 0.5).is_err());
    assert!(of(&[2, 4], &[7, 2], 0.5).is_err());
    assert!(of(&[2, 4], &[6, 2], 1.0).is_err());
    assert!(of(&[2, 4], &[6, 2], f64::NAN).is_err());
}
