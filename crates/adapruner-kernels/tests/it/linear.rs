//! The linear map and its tap.

use std::sync::{Arc, Mutex};

use adapruner_kernels::{GradTap, composition, linear};
use candle_core::{DType, Result, Tensor, Var};
use proptest::prelude::*;

use crate::twin::{Operand, compare, numbers};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_agrees(
        (b, t) in (1..4_usize, 1..60_usize),
        (inputs, outputs) in (1..200_usize, 1..200_usize),
        strided in prop::array::uniform2(any::<bool>()),
        dtype in prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]),
        seed: u64,
    ) {
        let x = Operand::new(&[b, t, inputs], seed).strided(strided[0]);
        let weight = Operand::new(&[outputs, inputs], !seed).dtype(dtype).strided(strided[1]);
        compare(
            &[x, weight],
            |o| linear(&o[0], &o[1], None),
            |o| composition::linear(&o[0], &o[1], None),
            seed,
        );
    }
}

#[test]
fn large_products_agree_in_parts() {
    for dtype in [DType::F32, DType::BF16] {
        let x = Operand::new(&[3, 300], 1);
        let weight = Operand::new(&[9001, 300], 2).dtype(dtype);
        compare(
            &[x, weight],
            |o| linear(&o[0], &o[1], None),
            |o| composition::linear(&o[0], &o[1], None),
            3,
        );
    }
    let (x, weight) = (Operand::new(&[700, 257], 4), Operand::new(&[519, 257], 5));
    compare(
        &[x, weight],
        |o| linear(&o[0], &o[1], None),
        |o| composition::linear(&o[0], &o[1], None),
        6,
    );
}

#[test]
fn vectors_are_rows_too() {
    compare(
        &[Operand::new(&[5], 1), Operand::new(&[3, 5], 2)],
        |o| linear(&o[0], &o[1], None),
        |o| composition::linear(&o[0], &o[1], None),
        3,
    );
}

#[test]
fn no_rows_give_no_rows() {
    let x = Tensor::zeros((0, 4), DType::F32, &candle_core::Device::Cpu).unwrap();
    assert_eq!(linear(&x, &numbers(&[3, 4], 1), None).unwrap().dims(), [0, 3]);
}

#[derive(Default)]
struct Seen(Mutex<Vec<[Tensor; 3]>>);

impl GradTap for Seen {
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> Result<()> {
        self.0.lock().unwrap().push([input, weight, grad_output].map(Tensor::detach));
        Ok(())
    }
}

/// Every path shows the same: fused, and composed for other types.
#[test]
fn a_tap_sees_rows_of_input_weight_and_gradient() {
    for dtype in [DType::F32, DType::F64] {
        let seen = Arc::new(Seen::default());
        let x = Var::from_tensor(&numbers(&[2, 3, 5], 1).to_dtype(dtype).unwrap()).unwrap();
        let weight = numbers(&[4, 5], 2).to_dtype(dtype).unwrap();
        let upstream = numbers(&[2, 3, 4], 3).to_dtype(dtype).unwrap();
        let y = linear(x.as_tensor(), &weight, Some(seen.clone())).unwrap();
        assert!(seen.0.lock().unwrap().is_empty());
        let grads = (y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&weight).is_none());
        let seen = seen.0.lock().unwrap();
        let [[input, shown, grad]] = &seen[..] else { panic!("seen {} times", seen.len()) };
        assert_eq!((input.dims(), grad.dims()), (&[6, 5][..], &[6, 4][..]));
        let same = |a: &Tensor, b: &Tensor| {
            let values = |t: &Tensor| {
                t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>()
            };
            assert_eq!(values(a).unwrap(), values(b).unwrap());
        };
        same(input, x.as_tensor());
        same(shown, &weight);
        same(grad, &upstream);
    }
}

struct Refuses;

impl GradTap for Refuses {
    fn observe(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<()> {
        candle_core::bail!("seen enough")
    }
}

#[test]
fn the_error_of_a_tap_ends_the_pass() {
    let x = Var::from_tensor(&numbers(&[2, 5], 1)).unwrap();
    let y = linear(x.as_tensor(), &numbers(&[4, 5], 2), Some(Arc::new(Refuses))).unwrap();
    let error = y.sum_all().unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("seen enough"), "{error}");
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    assert!(linear(&numbers(&[2, 5], 1), &numbers(&[5, 4], 2), None).is_err());
    assert!(linear(&numbers(&[2, 5], 1), &numbers(&[5], 2), None).is_err());
}
