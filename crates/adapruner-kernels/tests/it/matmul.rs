//! The product of two matrices, against sums in f64.

use adapruner_kernels::{Columns, matmul, transposed_product};
use candle_core::{DType, Tensor};
use proptest::prelude::*;

use crate::twin::numbers;

/// A matrix as rows, as columns, or as neither.
fn held(rows: usize, cols: usize, how: u8, seed: u64) -> Tensor {
    match how {
        0 => numbers(&[rows, cols], seed),
        1 => numbers(&[cols, rows], seed).t().unwrap(),
        _ => numbers(&[rows, cols + 3], seed).narrow(1, 2, cols).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_stay_within_their_bound(
        rows in prop_oneof![1..8_usize, 10..40_usize, 300..420_usize],
        inner in prop_oneof![0..20_usize, 250..260_usize, 500..520_usize],
        cols in prop_oneof![1..40_usize, 180..200_usize],
        how in prop::array::uniform2(0..3_u8),
        seed: u64,
    ) {
        let (a, b) = (held(rows, inner, how[0], seed), held(inner, cols, how[1], !seed));
        let found: Vec<Vec<f32>> = matmul(&a, &b).unwrap().to_vec2().unwrap();
        let product = |a: &Tensor, b: &Tensor| -> Vec<Vec<f64>> {
            let [a, b] = [a, b].map(|t| t.contiguous().unwrap().to_dtype(DType::F64).unwrap());
            a.matmul(&b).unwrap().to_vec2().unwrap()
        };
        let zeros = vec![vec![0.0; cols]; rows];
        let (sums, sizes) = if inner == 0 {
            (zeros.clone(), zeros)
        } else {
            (product(&a, &b), product(&a.abs().unwrap(), &b.abs().unwrap()))
        };
        let nu = (inner + 2) as f64 * 2_f64.powi(-24);
        for ((found, sums), sizes) in found.iter().zip(&sums).zip(&sizes) {
            for ((found, sum), size) in found.iter().zip(sums).zip(sizes) {
                let error = (f64::from(*found) - sum).abs();
                prop_assert!(error <= nu / (1.0 - nu) * size, "{} for {}", found, sum);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert!(matmul(&numbers(&[2, 3], 1), &numbers(&[2, 3], 2)).is_err());
    assert!(matmul(&numbers(&[2, 3], 1), &numbers(&[3], 2)).is_err());
    let halves = numbers(&[3, 4], 2).to_dtype(DType::BF16).unwrap();
    assert!(matmul(&numbers(&[2, 3], 1), &halves).is_err());
    let none = matmul(&numbers(&[0, 3], 1), &numbers(&[3, 4], 2)).unwrap();
    assert_eq!(none.dims(), [0, 4]);
}

/// Nothing, seen from an offset beyond the end of what holds it.
#[test]
fn views_of_nothing_give_zeros() {
    let nothing = held(0, 5, 2, 1);
    let found = matmul(&numbers(&[7, 0], 2), &nothing).unwrap();
    assert_eq!(found.to_vec2::<f32>().unwrap(), vec![vec![0.0; 5]; 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_of_columns_are_parts_of_whole_products(
        rows in prop_oneof![0..8_usize, 60..70_usize],
        widths in prop::array::uniform2(1..80_usize),
        from in prop::array::uniform2(0..40_usize),
        seed: u64,
    ) {
        let [a, b] = [0, 1].map(|at| numbers(&[rows, widths[at]], seed ^ at as u64));
        let values = [&a, &b].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let ranges = [0, 1].map(|at| from[at].min(widths[at] - 1)..widths[at]);
        let of = |at: usize| Columns {
            values: &values[at],
            width: widths[at],
            range: ranges[at].clone(),
        };
        let mut found = vec![7.0; ranges[0].len() * ranges[1].len()];
        transposed_product(&of(0), &of(1), &mut found);
        for (at, found) in found.into_iter().enumerate() {
            let (i, j) = (at / ranges[1].len(), at % ranges[1].len());
            let (i, j) = (ranges[0].start + i, ranges[1].start + j);
            let pairs = (0..rows).map(|row| {
                f64::from(values[0][row * widths[0] + i]) * f64::from(values[1][row * widths[1] + j])
            });
            let (sum, size) = pairs.fold((0.0, 0.0), |(s, z), p: f64| (s + p, z + p.abs()));
            // γ of some 70 terms.
            prop_assert!((f64::from(found) - sum).abs() <= 5e-6 * size, "{found} for {sum}");
        }
    }
}
