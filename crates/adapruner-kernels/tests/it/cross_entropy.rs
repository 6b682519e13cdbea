//! Cross-entropy of a linear map.

use adapruner_kernels::{Head, composition, linear_cross_entropy, linear_soft_cross_entropy};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::twin::{Operand, compare, numbers};

fn targets(rows: usize, vocabulary: usize, seed: u64) -> Tensor {
    let ids: Vec<u32> = (0..rows as u64)
        .map(|row| (row.wrapping_mul(seed | 1).wrapping_add(seed >> 7) % vocabulary as u64) as u32)
        .collect();
    Tensor::from_vec(ids, rows, &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cross_entropy_agrees(
        (rows, hidden) in (1..40_usize, 1..50_usize),
        vocabulary in 1..1300_usize,
        strided in prop::array::uniform2(any::<bool>()),
        tracked in prop::array::uniform2(any::<bool>()),
        bf16: bool,
        seed: u64,
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut operands = [
            Operand::new(&[rows, hidden], seed).strided(strided[0]),
            Operand::new(&[vocabulary, hidden], !seed).dtype(dtype).strided(strided[1]),
        ];
        for (operand, tracked) in operands.iter_mut().zip(tracked) {
            operand.constant = !tracked;
        }
        let ids = targets(rows, vocabulary, seed);
        compare(
            &operands,
            |o| linear_cross_entropy(&o[0], &Head::from(&o[1]), &ids),
            |o| composition::linear_cross_entropy(&o[0], &Head::from(&o[1]), &ids),
            seed,
        );
    }
}

/// Ids and weights of `k` targets a row; those of every row in `masked` are zero.
fn soft(
    rows: usize,
    vocabulary: usize,
    k: usize,
    seed: u64,
    masked: impl Fn(usize) -> bool,
) -> (Tensor, Tensor) {
    let ids = targets(rows * k, vocabulary, seed).reshape((rows, k)).unwrap();
    let weights: Vec<f32> = (0..rows * k)
        .map(|at| if masked(at / k) { 0.0 } else { (at * 37 % 11) as f32 / 7.0 })
        .collect();
    (ids, Tensor::from_vec(weights, (rows, k), &Device::Cpu).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn soft_cross_entropy_agrees(
        (rows, hidden, k) in (1..40_usize, 1..50_usize, 1..9_usize),
        vocabulary in 1..1300_usize,
        temperature in 0.3..4.0_f64,
        masked in 1..5_usize,
        tracked in prop::array::uniform2(any::<bool>()),
        bf16: bool,
        cap in prop::option::of(0.5..20.0_f64),
        seed: u64,
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut operands = [
            Operand::new(&[rows, hidden], seed),
            Operand::new(&[vocabulary, hidden], !seed).dtype(dtype),
        ];
        for (operand, tracked) in operands.iter_mut().zip(tracked) {
            operand.constant = !tracked;
        }
        // The last row stays, so that there is something to differentiate.
        let (ids, weights) =
            soft(rows, vocabulary, k, seed, |row| row + 1 < rows && row % masked == 0);
        prop_assume!(weights.narrow(0, rows - 1, 1).unwrap().sum_all().unwrap()
            .to_scalar::<f32>().unwrap() > 0.0);
        compare(
            &operands,
            |o| linear_soft_cross_entropy(&o[0], &Head::new(&o[1], cap), &ids, &weights, temperature),
            |o| {
                let head = Head::new(&o[1], cap);
                composition::linear_soft_cross_entropy(&o[0], &head, &ids, &weights, temperature)
            },
            seed,
        );
    }
}

#[test]
fn many_blocks_of_soft_rows_agree() {
    let (ids, weights) = soft(1400, 1100, 3, 5, |row| row % 3 == 1);
    compare(
        &[Operand::new(&[1400, 9], 1), Operand::new(&[1100, 9], 2)],
        |o| linear_soft_cross_entropy(&o[0], &Head::from(&o[1]), &ids, &weights, 2.0),
        |o| composition::linear_soft_cross_entropy(&o[0], &Head::from(&o[1]), &ids, &weights, 2.0),
        3,
    );
}

/// Masked rows are not looked at: what is not finite there stays there.
#[test]
fn masked_rows_are_left_out() {
    let (x, weight) = (numbers(&[3, 4], 1), numbers(&[9, 4], 2));
    let ids = targets(3, 9, 4).unsqueeze(1).unwrap();
    let weights = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap().unsqueeze(1);
    let nan = Tensor::full(f32::NAN, (1, 4), &Device::Cpu).unwrap();
    let broken = Tensor::cat(&[&x.narrow(0, 0, 1).unwrap(), &nan], 0).unwrap();
    let broken = Tensor::cat(&[&broken, &x.narrow(0, 2, 1).unwrap()], 0).unwrap();
    let of = |x: &Tensor, w: [f32; 3]| {
        let weights = weights(w).unwrap();
        let y = linear_soft_cross_entropy(x, &Head::from(&weight), &ids, &weights, 1.5).unwrap();
        y.to_vec1::<f32>().unwrap()
    };
    let all = of(&x, [1.0; 3]);
    assert_eq!(of(&broken, [1.0, 0.0, 1.0]), [all[0], 0.0, all[2]]);
    assert_eq!(of(&broken, [0.0; 3]), [0.0; 3]);
}

#[test]
fn many_blocks_of_rows_agree() {
    let ids = targets(700, 1100, 5);
    compare(
        &[Operand::new(&[700, 9], 1), Operand::new(&[1100, 9], 2)],
        |o| linear_cross_entropy(&o[0], &Head::from(&o[1]), &ids),
        |o| composition::linear_cross_entropy(&o[0], &Head::from(&o[1]), &ids),
        3,
    );
}

/// A maximum that grows from chunk to chunk rescales what was summed.
#[test]
fn logits_of_hundreds_stay_finite() {
    let x = numbers(&[6, 20], 1).affine(40.0, 0.0).unwrap();
    let weight = numbers(&[1500, 20], 2).affine(10.0, 0.0).unwrap();
    let ids = targets(6, 1500, 77);
    let found =
        linear_cross_entropy(&x, &Head::from(&weight), &ids).unwrap().to_vec1::<f32>().unwrap();
    let wide = [&x, &weight].map(|t| t.to_dtype(DType::F64).unwrap());
    let expected =
        composition::linear_cross_entropy(&wide[0], &Head::from(&wide[1]), &ids).unwrap();
    for (found, expected) in found.iter().zip(expected.to_vec1::<f64>().unwrap()) {
        // Logits of some thousand are rounded at 10⁻⁴.
        assert!((f64::from(*found) - expected).abs() < 2e-3, "{found} for {expected}");
    }
}

#[test]
fn targets_outside_the_vocabulary_are_named() {
    let (x, weight) = (numbers(&[2, 3], 1), numbers(&[4, 3], 2));
    let ids = Tensor::from_vec(vec![1_u32, 4], 2, &Device::Cpu).unwrap();
    let error = linear_cross_entropy(&x, &Head::from(&weight), &ids).unwrap_err().to_string();
    assert!(error.contains("row 1 has target 4"), "{error}");
    assert!(linear_cross_entropy(&x, &Head::from(&weight), &ids.narrow(0, 0, 1).unwrap()).is_err());
    assert!(
        linear_cross_entropy(&x, &Head::from(&weight), &ids.to_dtype(DType::I64).unwrap()).is_err()
    );
    assert!(linear_cross_entropy(&x, &Head::from(&numbers(&[4, 2], 2)), &ids).is_err());
}
