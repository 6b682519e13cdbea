//! The points of a front that dominate most together.
//!
//! Greedy: each step takes the point that adds the largest hypervolume to those chosen, at
//! least 1 − 1/e of the best choice (Guerreiro, Fonseca and Paquete, Evolutionary
//! Computation 24(3), 2016). A point adds less and less, so what it added before bounds what
//! it adds now, and most are not computed again.

use super::{Distinct, hypervolume};

/// A reference of 0 is moved by this much, as in Optuna.
const APART: f64 = 1e-12;

/// The reference point that Optuna takes for points: a tenth worse than the worst of each
/// objective.
pub fn reference_point(points: &[Vec<f64>]) -> Vec<f64> {
    let objectives = points.first().map_or(0, Vec::len);
    let of = |at: usize| {
        let worst = points.iter().map(|point| point[at]).fold(f64::NEG_INFINITY, f64::max);
        let reference = (1.1 * worst).max(0.9 * worst);
        if reference == 0.0 { APART } else { reference }
    };
    (0..objectives).map(of).collect()
}

/// Indices of `count` of the points that dominate most of what dominates `reference`
/// together. Equal points are taken last; all are taken where there are no more than `count`.
///
/// # Shapes
///
/// `points`: n rows of k numbers, of which none dominates another; `reference`: k numbers.
pub fn greedy_subset(points: &[Vec<f64>], count: usize, reference: &[f64]) -> Vec<usize> {
    if count == 0 {
        return Vec::new();
    }
    if count >= points.len() {
        return (0..points.len()).collect();
    }
    let Distinct { rows, .. } = Distinct::new(points);
    if rows.len() < count {
        let repeated = (0..points.len()).filter(|at| !rows.contains(at));
        let mut chosen: Vec<usize> = rows.iter().copied().chain(repeated).take(count).collect();
        chosen.sort_unstable();
        return chosen;
    }
    if rows.len() == count || !reference.iter().all(|r| r.is_finite()) {
        return rows[..count].to_vec();
    }
    match *reference {
        [x, y] => of_two(points, rows, count, [x, y]),
        _ => of_many(points, rows, count, reference),
    }
}

/// Of two objectives, ordered by the first, a point adds a rectangle up to a corner that
/// only the chosen neighbours set.
fn of_two(
    points: &[Vec<f64>],
    mut left: Vec<usize>,
    count: usize,
    reference: [f64; 2],
) -> Vec<usize> {
    let mut corners = vec![reference; left.len()];
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let added = left.iter().zip(&corners);
        let added = added.map(|(&at, [x, y])| (x - points[at][0]) * (y - points[at][1]));
        let Some(best) = first_largest(added) else { break };
        let at = left.remove(best);
        corners.remove(best);
        corners[..best].iter_mut().for_each(|corner| corner[0] = corner[0].min(points[at][0]));
        corners[best..].iter_mut().for_each(|corner| corner[1] = corner[1].min(points[at][1]));
        chosen.push(at);
    }
    chosen
}

fn of_many(
    points: &[Vec<f64>],
    mut left: Vec<usize>,
    count: usize,
    reference: &[f64],
) -> Vec<usize> {
    let alone = |point: &[f64]| volume(point, reference);
    // At most what each adds.
    let mut added: Vec<f64> = left.iter().map(|&at| alone(&points[at])).collect();
    let (mut chosen, mut taken, mut total) = (Vec::new(), Vec::new(), 0.0);
    while let Some(best) = first_largest(added.iter().copied()) {
        total += added.remove(best);
        let at = left.remove(best);
        chosen.push(at);
        taken.push(points[at].clone());
        if chosen.len() == count {
            break;
        }
        if total == f64::INFINITY {
            added.fill(f64::INFINITY);
            continue;
        }
        // It adds no more than beside the newest alone.
        for (added, &at_left) in added.iter_mut().zip(&left) {
            let point = &points[at_left];
            let common: Vec<f64> = point.iter().zip(&points[at]).map(|(a, b)| a.max(*b)).collect();
            *added = added.min(alone(point) - alone(&common));
        }
        let mut order: Vec<usize> = (0..left.len()).collect();
        order.sort_by(|&a, &b| added[b].total_cmp(&added[a]));
        let mut most = 0.0_f64;
        for i in order {
            let point = &points[left[i]];
            if alone(point) == f64::INFINITY {
                added[i] = f64::INFINITY;
            } else if added[i] >= most {
                taken.push(point.clone());
                added[i] = hypervolume(&taken, reference) - total;
                taken.pop();
            }
            most = most.max(added[i]);
        }
    }
    chosen
}

/// The volume between a point and the reference.
fn volume(point: &[f64], reference: &[f64]) -> f64 {
    point.iter().zip(reference).map(|(x, r)| r - x).product()
}

/// Index of the first of the largest; what is not a number, an infinite extent times
/// none, is larger than all.
fn first_largest(added: impl Iterator<Item = f64>) -> Option<usize> {
    let added = added.map(|added| if added.is_nan() { f64::INFINITY } else { added });
    let larger = |best: Option<(usize, f64)>, (at, added): (usize, f64)| match best {
        Some((_, most)) if added <= most => best,
        Some(_) | None => Some((at, added)),
    };
    added.enumerate().fold(None, larger).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the definition says: the point of the largest hypervolume together with those
    /// chosen, again and again.
    fn plainly(points: &[Vec<f64>], count: usize, reference: &[f64]) -> f64 {
        let mut chosen: Vec<Vec<f64>> = Vec::new();
        let with = |chosen: &[Vec<f64>], point: &Vec<f64>| {
            let all: Vec<Vec<f64>> = chosen.iter().chain([point]).cloned().collect();
            hypervolume(&all, reference)
        };
        for _ in 0..count {
            let best = points.iter().max_by(|a, b| with(&chosen, a).total_cmp(&with(&chosen, b)));
            chosen.extend(best.cloned());
        }
        hypervolume(&chosen, reference)
    }

    proptest! {
        #[test]
        fn the_subset_is_the_greedy_one(
            points in (2..4_usize).prop_flat_map(|objectives| prop::collection::vec(
                prop::collection::vec(0.0..1.0_f64, objectives), 1..16)),
            count in 1..8_usize,
        ) {
            let ranks = super::super::ranks(&points, 1);
            let front = points.iter().zip(&ranks).filter(|(_, rank)| **rank == 0);
            let points: Vec<Vec<f64>> = front.map(|(point, _)| point.clone()).collect();
            let reference = reference_point(&points);
            let chosen = greedy_subset(&points, count, &reference);
            prop_assert_eq!(chosen.len(), count.min(points.len()));
            let of: Vec<Vec<f64>> = chosen.iter().map(|&at| points[at].clone()).collect();
            let (found, expected) =
                (hypervolume(&of, &reference), plainly(&points, count, &reference));
            prop_assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        }
    }

    #[test]
    fn equal_points_are_taken_last_and_infinities_are_taken() {
        let points = |points: &[[f64; 2]]| -> Vec<Vec<f64>> {
            points.iter().map(|point| point.to_vec()).collect()
        };
        let twice = points(&[[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]);
        assert_eq!(greedy_subset(&twice, 3, &reference_point(&twice)), [0, 1, 2]);
        assert_eq!(greedy_subset(&twice, 2, &reference_point(&twice)), [0, 2]);
        let far = points(&[[0.0, f64::INFINITY], [1.0, 0.0]]);
        assert_eq!(greedy_subset(&far, 1, &reference_point(&far)), [0]);
        let deep = points(&[[0.0, 1.0], [1.0, f64::NEG_INFINITY]]);
        assert_eq!(greedy_subset(&deep, 1, &reference_point(&deep)), [1]);
    }
}
