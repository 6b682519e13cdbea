//! Least squares with coefficients that are not negative (Lawson and Hanson, *Solving Least
//! Squares Problems*, 1974, chapter 23), by cyclic coordinate descent.
//!
//! The problem is convex, and each step solves it exactly in one coefficient, so the descent ends
//! at a minimum. Columns are scaled to unit length first, so that coefficients of any size
//! converge alike.

/// Most passes over all coefficients.
const PASSES: usize = 200_000;
/// Change of a scaled coefficient, relative to the largest, below which the descent has ended.
const ENOUGH: f64 = 1e-12;

/// The `c ≥ 0` with the least `Σ (rows·c − targets)²`. Columns of zeros get a coefficient of 0;
/// of columns that tell the same, any split is a minimum.
pub fn non_negative(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let columns = rows.first().map_or(0, Vec::len);
    let length = |at: usize| rows.iter().map(|row| row[at] * row[at]).sum::<f64>().sqrt();
    let lengths: Vec<f64> = (0..columns).map(length).collect();
    let scaled = |row: &Vec<f64>, at: usize| row[at] / lengths[at];
    let used: Vec<usize> = (0..columns).filter(|&at| lengths[at] > 0.0).collect();
    // The normal equations, of few columns.
    let dot = |a: usize, b: usize| rows.iter().map(|row| scaled(row, a) * scaled(row, b)).sum();
    let gram: Vec<Vec<f64>> =
        used.iter().map(|&a| used.iter().map(|&b| dot(a, b)).collect()).collect();
    let right: Vec<f64> = used
        .iter()
        .map(|&at| rows.iter().zip(targets).map(|(row, target)| scaled(row, at) * target).sum())
        .collect();
    let mut found = vec![0.0_f64; used.len()];
    for _ in 0..PASSES {
        let (mut change, mut largest) = (0.0_f64, 0.0_f64);
        for at in 0..found.len() {
            let others: f64 = (0..found.len()).map(|other| gram[at][other] * found[other]).sum();
            // Columns have unit length, so the diagonal is 1.
            let next = (found[at] + right[at] - others).max(0.0);
            change = change.max((next - found[at]).abs());
            largest = largest.max(next);
            found[at] = next;
        }
        if change <= ENOUGH * largest {
            break;
        }
    }
    let mut all = vec![0.0; columns];
    for (&at, value) in used.iter().zip(found) {
        all[at] = value / lengths[at];
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(rows: &[Vec<f64>], costs: &[f64]) -> Vec<f64> {
        rows.iter().map(|row| row.iter().zip(costs).map(|(a, b)| a * b).sum()).collect()
    }

    #[test]
    fn known_costs_are_found_whatever_their_size() {
        let costs = [3e-3, 2e-4, 0.0, 5e-10];
        let rows: Vec<Vec<f64>> = [
            (1.0, 30.0, 30.0, 1.0e8),
            (1.0, 15.0, 15.0, 0.6e8),
            (1.0, 30.0, 10.0, 0.9e8),
            (1.0, 30.0, 30.0, 0.5e8),
            (1.0, 20.0, 5.0, 0.7e8),
            (1.0, 10.0, 10.0, 0.2e8),
        ]
        .map(|(a, b, c, d)| vec![a, b, c, d])
        .into();
        let found = non_negative(&rows, &times(&rows, &costs));
        for (found, cost) in found.iter().zip(costs) {
            assert!((found - cost).abs() <= 1e-5 * cost.max(1e-6), "{found:?} {cost}");
        }
    }

    #[test]
    fn what_would_be_negative_is_zero_and_the_rest_makes_up_for_it() {
        // The best line through these falls; the best that does not is their mean.
        let rows = [0.0, 1.0, 2.0].map(|x| vec![1.0, x]);
        let found = non_negative(&rows, &[3.0, 2.0, 1.0]);
        assert_eq!(found[1], 0.0);
        assert!((found[0] - 2.0).abs() < 1e-9, "{found:?}");
        assert_eq!(non_negative(&[vec![0.0, 1.0]], &[2.0]), [0.0, 2.0]);
        assert_eq!(non_negative(&[], &[]), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn never_negative_and_never_worse_than_nothing(
            rows in prop::collection::vec(prop::collection::vec(0.0..10.0_f64, 4), 1..9),
            noise in prop::collection::vec(-5.0..5.0_f64, 9),
        ) {
            let targets: Vec<f64> = rows.iter().zip(&noise).map(|(row, n)| row[0] + n).collect();
            let found = non_negative(&rows, &targets);
            prop_assert!(found.iter().all(|cost| *cost >= 0.0 && cost.is_finite()));
            let error = |costs: &[f64]| -> f64 {
                times(&rows, costs).iter().zip(&targets).map(|(a, b)| (a - b).powi(2)).sum()
            };
            prop_assert!(error(&found) <= error(&[0.0; 4]) + 1e-9);
        }
    }
}
