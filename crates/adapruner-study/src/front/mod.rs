//! Several objectives: which trials are the best trade-offs, and how good they are together.
//!
//! Notation: n points of k objectives, in which small is good; r the reference point. A
//! point *dominates* another if it is nowhere worse and somewhere better. The *front* is the
//! points that none dominates. All of it equals Optuna 5's (`study/_multi_objective.py`,
//! `_hypervolume`).
//!
//! | module | content |
//! |---|---|
//! | this one | fronts and nondominated ranks (Deb et al., IEEE TEC 6(2), 2002) |
//! | [`hypervolume()`] | the hypervolume that points dominate, by slicing objectives |
//! | `subset` | the points of the largest hypervolume, chosen greedily |

mod hypervolume;
mod subset;

use std::cmp::Ordering;
use std::sync::Arc;

use crate::sampler::tpe::{badness, rank_values};
use crate::trial::{Direction, Trial, TrialState};

pub use hypervolume::{hypervolume, hypervolume_of};
pub use subset::{greedy_subset, reference_point};

/// The complete, feasible trials that no other dominates, by number; equal ones all.
/// Of one objective: the best ones.
pub fn front_of<'a>(trials: &'a [Arc<Trial>], directions: &[Direction]) -> Vec<&'a Arc<Trial>> {
    let measured = |trial: &&Arc<Trial>| {
        let found = trial.values.len() == directions.len();
        trial.state == TrialState::Complete && !trial.is_infeasible() && found
    };
    let complete: Vec<&Arc<Trial>> = trials.iter().filter(measured).collect();
    let points: Vec<Vec<f64>> = complete.iter().map(|trial| point(trial, directions)).collect();
    let on_front = ranks(&points, 1).into_iter().map(|rank| rank == 0);
    complete.into_iter().zip(on_front).filter(|(_, on_front)| *on_front).map(|of| of.0).collect()
}

/// The values of a trial with their signs such that small is good. What is missing or not
/// a number is as bad as any can be.
pub(crate) fn point(trial: &Trial, directions: &[Direction]) -> Vec<f64> {
    let of = |(at, direction): (usize, &Direction)| {
        let value = badness(trial.values.get(at).copied(), *direction);
        if value.is_nan() { f64::INFINITY } else { value }
    };
    directions.iter().enumerate().map(of).collect()
}

/// The nondominated rank of each point, from 0: that of the front; 1 the front of the others;
/// and so on. Equal points have one rank. Once `until` different points are ranked, all others
/// share the next rank.
///
/// # Shapes
///
/// `points`: n rows of k numbers, none of them NaN.
pub fn ranks(points: &[Vec<f64>], until: usize) -> Vec<usize> {
    let Distinct { rows, of } = Distinct::new(points);
    let until = until.min(rows.len());
    let mut ranks = vec![0; rows.len()];
    let mut left: Vec<usize> = (0..rows.len()).collect();
    let mut rank = 0;
    while rows.len() - left.len() < until {
        let mut front: Vec<usize> = Vec::new();
        // In lexicographic order none is dominated by a later one.
        left.retain(|&at| {
            let dominated = front.iter().any(|&better| {
                let (better, worse) = (&points[rows[better]], &points[rows[at]]);
                better.iter().zip(worse).all(|(better, worse)| better <= worse)
            });
            if !dominated {
                front.push(at);
                ranks[at] = rank;
            }
            dominated
        });
        rank += 1;
    }
    left.iter().for_each(|&at| ranks[at] = rank);
    of.into_iter().map(|at| ranks[at]).collect()
}

/// Points in lexicographic order, without repetitions.
struct Distinct {
    /// Index of the first point of each row.
    rows: Vec<usize>,
    /// The row of each point.
    of: Vec<usize>,
}

impl Distinct {
    fn new(points: &[Vec<f64>]) -> Self {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|&a, &b| lexicographic(&points[a], &points[b]));
        let (mut rows, mut of) = (Vec::<usize>::new(), vec![0; points.len()]);
        for at in order {
            if rows.last().is_none_or(|&last| points[last] != points[at]) {
                rows.push(at);
            }
            of[at] = rows.len() - 1;
        }
        Self { rows, of }
    }
}

fn lexicographic(a: &[f64], b: &[f64]) -> Ordering {
    let differing = a.iter().zip(b).map(|(a, b)| rank_values(*a, *b)).find(|order| order.is_ne());
    differing.unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn dominates(a: &[f64], b: &[f64]) -> bool {
        a != b && a.iter().zip(b).all(|(a, b)| a <= b)
    }

    /// Points of up to four objectives, many of them equal.
    fn points() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1..5_usize).prop_flat_map(|objectives| {
            let number = (0..6_i32).prop_map(f64::from);
            prop::collection::vec(prop::collection::vec(number, objectives), 0..30)
        })
    }

    proptest! {
        /// A point's rank is one more than the largest of those that dominate it.
        #[test]
        fn ranks_are_those_of_the_definition(points in points()) {
            let ranks = ranks(&points, points.len());
            for (point, rank) in points.iter().zip(&ranks) {
                let others = points.iter().zip(&ranks);
                let worst = others.filter(|(other, _)| dominates(other, point)).map(|(_, r)| r + 1);
                prop_assert_eq!(worst.max().unwrap_or(0), *rank);
            }
        }

        /// Ranking until a number of points changes only ranks behind them.
        #[test]
        fn ranking_may_end_early(points in points(), until in 1..10_usize) {
            let (all, some) = (ranks(&points, points.len()), ranks(&points, until));
            let last = some.iter().max().copied().unwrap_or(0);
            for (all, some) in all.iter().zip(&some) {
                prop_assert_eq!(*some, (*all).min(last));
            }
        }

        /// The front is what none dominates, whatever the directions.
        #[test]
        fn the_front_is_what_none_dominates(points in points(), signs in 0..16_u32) {
            let objectives = points.first().map_or(1, Vec::len);
            let directions: Vec<Direction> = (0..objectives)
                .map(|at| match signs >> at & 1 {
                    0 => Direction::Minimize,
                    _ => Direction::Maximize,
                })
                .collect();
            let trials: Vec<Trial> = (0..).zip(&points).map(|(number, point)| {
                let sign = |direction| match direction {
                    Direction::Minimize => 1.0,
                    Direction::Maximize => -1.0,
                };
                let mut trial = testing::trial(number, TrialState::Complete, None);
                trial.values = point.iter().zip(&directions).map(|(x, d)| x * sign(*d)).collect();
                trial
            }).collect();
            let trials = testing::shared(&trials);
            let found: Vec<u64> =
                front_of(&trials, &directions).iter().map(|trial| trial.number).collect();
            let free = |point: &Vec<f64>| !points.iter().any(|other| dominates(other, point));
            let expected: Vec<u64> =
                (0..).zip(&points).filter(|(_, point)| free(point)).map(|(at, _)| at).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn infeasible_and_unfinished_trials_are_not_of_the_front() {
        let trial = |number, state, values: &[f64]| {
            let mut trial = testing::trial(number, state, None);
            trial.values = values.to_vec();
            trial
        };
        let mut infeasible = trial(1, TrialState::Complete, &[0.0, 0.0]);
        infeasible.system_attrs.insert("constraints".into(), serde_json::json!([0.5]));
        let trials = testing::shared(&[
            trial(0, TrialState::Complete, &[1.0, 2.0]),
            infeasible,
            trial(2, TrialState::Pruned, &[]),
            trial(3, TrialState::Running, &[]),
            trial(4, TrialState::Complete, &[0.0]),
            trial(5, TrialState::Complete, &[2.0, f64::NAN]),
            trial(6, TrialState::Complete, &[1.0, 2.0]),
        ]);
        let front = front_of(&trials, &[Direction::Minimize; 2]);
        assert_eq!(front.iter().map(|trial| trial.number).collect::<Vec<_>>(), [0, 6]);
    }
}
