//! The hypervolume that points dominate.
//!
//! By slicing objectives (Knowles, thesis, Reading 2002; While et al., IEEE TEC 10(1), 2006):
//! between two neighbours in the last objective, the points up to there dominate the product of
//! the distance and the hypervolume of one objective less. Two objectives are a staircase.
//! O(n² log n) for three objectives.

use std::sync::Arc;

use super::lexicographic;
use crate::sampler::tpe::rank_values;
use crate::trial::{Direction, Trial};

/// The volume of what `points` dominate and what dominates `reference`. Points that are
/// worse than the reference in an objective add nothing; infinite where the reference or
/// what is dominated is.
///
/// # Shapes
///
/// `points`: n rows of k numbers, small ones good; `reference`: k numbers.
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    let dominates = |point: &[f64]| point.iter().zip(reference).all(|(x, r)| x <= r);
    let points: Vec<&[f64]> = points.iter().map(Vec::as_slice).filter(|p| dominates(p)).collect();
    if !reference.iter().all(|r| r.is_finite()) {
        return f64::INFINITY;
    }
    if points.is_empty() {
        return 0.0;
    }
    let volume = sliced(&points, reference);
    // An infinite extent times none.
    if volume.is_finite() { volume } else { f64::INFINITY }
}

/// The hypervolume in the first objectives, as many as the reference has.
fn sliced(points: &[&[f64]], reference: &[f64]) -> f64 {
    match *reference {
        [] => 0.0,
        [r] => points.iter().map(|point| r - point[0]).fold(0.0, f64::max),
        [x, y] => staircase(points, x, y),
        [ref fewer @ .., last] => {
            let at = fewer.len();
            let mut points = points.to_vec();
            points.sort_by(|a, b| rank_values(a[at], b[at]));
            let ends = points.iter().skip(1).map(|point| point[at]).chain([last]);
            let slices = ends.enumerate().map(|(i, end)| (i, end - points[i][at]));
            let solid = slices.filter(|(_, thickness)| *thickness > 0.0);
            solid.map(|(i, thickness)| thickness * sliced(&points[..=i], fewer)).sum()
        }
    }
}

fn staircase(points: &[&[f64]], x: f64, y: f64) -> f64 {
    let mut points = points.to_vec();
    points.sort_by(|a, b| lexicographic(&a[..2], &b[..2]));
    let (mut least, mut sum) = (y, 0.0);
    for point in points.iter().filter(|point| point[1] <= y) {
        if point[1] < least {
            sum += (x - point[0]) * (least - point[1]);
            least = point[1];
        }
    }
    sum
}

/// The hypervolume of the front of these trials against `reference`, which is given as the
/// objectives are, not as their badness.
pub fn hypervolume_of(trials: &[Arc<Trial>], directions: &[Direction], reference: &[f64]) -> f64 {
    let sign = |(value, direction): (&f64, &Direction)| match direction {
        Direction::Minimize => *value,
        Direction::Maximize => -value,
    };
    let reference: Vec<f64> = reference.iter().zip(directions).map(sign).collect();
    let front = super::front_of(trials, directions);
    let points: Vec<Vec<f64>> = front.iter().map(|trial| super::point(trial, directions)).collect();
    hypervolume(&points, &reference)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sizes of intersections, with alternating signs.
    fn inclusion_exclusion(points: &[Vec<f64>], reference: &[f64]) -> f64 {
        let subsets = 1_u32..1 << points.len();
        let term = |subset: u32| {
            let chosen = (0..points.len()).filter(|at| subset >> at & 1 == 1);
            let corner = chosen.fold(vec![f64::NEG_INFINITY; reference.len()], |corner, at| {
                corner.iter().zip(&points[at]).map(|(a, b)| a.max(*b)).collect()
            });
            let volume: f64 = corner.iter().zip(reference).map(|(x, r)| (r - x).max(0.0)).product();
            if subset.count_ones() % 2 == 1 { volume } else { -volume }
        };
        subsets.map(term).sum()
    }

    proptest! {
        #[test]
        fn it_is_what_inclusion_and_exclusion_give(
            points in (1..5_usize).prop_flat_map(|objectives| prop::collection::vec(
                prop::collection::vec(-1.0..1.5_f64, objectives), 0..9)),
        ) {
            let reference = vec![1.0; points.first().map_or(2, Vec::len)];
            let (found, expected) =
                (hypervolume(&points, &reference), inclusion_exclusion(&points, &reference));
            // 2⁹ terms of at most 2⁴, which cancel.
            prop_assert!((found - expected).abs() < 1e-11, "{found}, expected {expected}");
        }

        /// Cells of a grid that a point dominates.
        #[test]
        fn it_counts_cells(
            points in (2..4_usize).prop_flat_map(|objectives| prop::collection::vec(
                prop::collection::vec((0..8_u32).prop_map(f64::from), objectives), 0..30)),
        ) {
            let objectives = points.first().map_or(2, Vec::len);
            let reference = vec![8.0; objectives];
            let cells = (0..8_usize.pow(objectives as u32)).filter(|cell| {
                let at = |axis: usize| (cell / 8_usize.pow(axis as u32) % 8) as f64;
                points.iter().any(|point| (0..objectives).all(|axis| point[axis] <= at(axis)))
            });
            prop_assert_eq!(hypervolume(&points, &reference), cells.count() as f64);
        }
    }

    #[test]
    fn infinities() {
        let volume = |points: &[[f64; 2]], r: f64| {
            let points: Vec<Vec<f64>> = points.iter().map(|point| point.to_vec()).collect();
            hypervolume(&points, &[r, 1.0])
        };
        assert_eq!(volume(&[], 1.0), 0.0);
        assert_eq!(volume(&[], f64::INFINITY), f64::INFINITY);
        assert_eq!(volume(&[[f64::NEG_INFINITY, 0.0]], 1.0), f64::INFINITY);
        assert_eq!(volume(&[[f64::INFINITY, 0.0], [f64::NAN, 0.0], [0.5, 0.5]], 1.0), 0.25);
    }
}
