//! Causal grouped-query attention.

use adapruner_kernels::{Scores, attention, composition};
use candle_core::{DType, Tensor};
use proptest::prelude::*;

use crate::twin::{Operand, compare, numbers};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_agrees(
        (b, t, more) in (1..4_usize, 1..70_usize, 0..9_usize),
        (heads, group, d) in (1..4_usize, 1..5_usize, 1..34_usize),
        strided in prop::array::uniform3(any::<bool>()),
        window in prop::option::of(1..90_usize),
        scale in prop::option::of(0.05..0.5_f64),
        cap in prop::option::of(0.2..5.0_f64),
        seed: u64,
    ) {
        let scores = Scores { scale, window, cap };
        let q = Operand::new(&[b, t, heads * group, d], seed).strided(strided[0]);
        let k = Operand::new(&[b, t + more, heads, d], seed ^ 1).strided(strided[1]);
        let v = Operand::new(&[b, t + more, heads, d], seed ^ 2).strided(strided[2]);
        compare(
            &[q, k, v],
            |o| attention(&o[0], &o[1], &o[2], scores),
            |o| composition::attention(&o[0], &o[1], &o[2], scores),
            seed,
        );
    }
}

#[test]
fn many_blocks_agree() {
    // Windows that blocks of 32 queries lie within, reach over, and that hide nothing.
    for window in [None, Some(1), Some(20), Some(33), Some(100), Some(300), Some(1000)] {
        let scores = Scores { window, ..Scores::default() };
        let q = Operand::new(&[1, 300, 4, 16], 1);
        let k = Operand::new(&[1, 300, 1, 16], 2);
        let v = Operand::new(&[1, 300, 1, 16], 3);
        compare(
            &[q, k, v],
            |o| attention(&o[0], &o[1], &o[2], scores),
            |o| composition::attention(&o[0], &o[1], &o[2], scores),
            4,
        );
    }
}

/// A query sees as many keys as the window has, its own among them.
#[test]
fn a_window_ends_where_it_should() {
    let k = Tensor::zeros((1, 6, 1, 2), DType::F32, &candle_core::Device::Cpu).unwrap();
    let v: Vec<f32> = (0..6).flat_map(|at| [10.0_f32.powi(at), 1.0]).collect();
    let v = Tensor::from_vec(v, (1, 6, 1, 2), &candle_core::Device::Cpu).unwrap();
    let scores = Scores { window: Some(3), ..Scores::default() };
    let y = attention(&k, &k, &v, scores).unwrap().flatten_all().unwrap();
    // Scores are equal: means of the values that are seen.
    let expected = [1.0, 5.5, 37.0, 370.0, 3700.0, 37000.0];
    for (found, expected) in y.to_vec1::<f32>().unwrap().chunks(2).zip(expected) {
        assert!((found[0] - expected).abs() < 1e-3 * expected, "{found:?}, {expected}");
        assert!((found[1] - 1.0).abs() < 1e-6);
    }
    let none = Scores { window: Some(0), ..Scores::default() };
    assert!(attention(&k, &k, &v, none).is_err());
}

#[test]
fn large_scores_do_not_overflow() {
    let large = |seed| Operand {
        values: numbers(&[1, 9, 2, 8], seed).affine(50.0, 0.0).unwrap(),
        ..Operand::new(&[1], seed)
    };
    let y = attention(
        &large(1).values,
        &large(2).values,
        &numbers(&[1, 9, 2, 8], 3),
        Scores::default(),
    )
    .unwrap();
    let most: f32 = y.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
    assert!(most <= 2.0, "a mean of values of at most 2 is {most}");
}

#[test]
fn later_keys_do_not_reach_earlier_queries() {
    let (q, k, v) =
        (numbers(&[1, 50, 4, 6], 1), numbers(&[1, 50, 2, 6], 2), numbers(&[1, 50, 2, 6], 3));
    let first = attention(&q, &k, &v, Scores::default()).unwrap().narrow(1, 0, 20).unwrap();
    let other = |x: &Tensor, seed| {
        let tail = numbers(&[1, 30, 2, 6], seed);
        Tensor::cat(&[x.narrow(1, 0, 20).unwrap(), tail], 1).unwrap()
    };
    let again = attention(&q, &other(&k, 4), &other(&v, 5), Scores::default())
        .unwrap()
        .narrow(1, 0, 20)
        .unwrap();
    let error: f32 =
        (first - again).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
    assert_eq!(error, 0.0);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let of =
        |b, t, n, d| Tensor::zeros((b, t, n, d), DType::F32, &candle_core::Device::Cpu).unwrap();
    let q = of(1, 4, 4, 8);
    for (k, v) in [
        (of(1, 3, 2, 8), of(1, 3, 2, 8)),
        (of(2, 4, 2, 8), of(2, 4, 2, 8)),
        (of(1, 4, 3, 8), of(1, 4, 3, 8)),
        (of(1, 4, 2, 6), of(1, 4, 2, 6)),
        (of(1, 4, 2, 8), of(1, 5, 2, 8)),
        (of(1, 4, 0, 8), of(1, 4, 0, 8)),
    ] {
        assert!(
            attention(&q, &k, &v, Scores::default()).is_err(),
            "{:?} {:?}",
            k.shape(),
            v.shape()
        );
    }
}
