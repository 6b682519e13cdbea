//! Sampling subsets of a pool of items.
//!
//! Notation: P items, of which a trial has the set S of n; w weights of trials
//! by age; `badness` the objective with the sign that makes small good.
//!
//! With subsets encoded as categories, booleans or keys, TPE hardly beats random search. Two
//! models do:
//!
//! - [`odds`]: how much more often an item is in good trials than in bad ones. Works from the
//!   start, and needs only an order of trials.
//! - [`linear`]: what an item adds to the objective, by Bayesian linear
//!   regression. Better once there are some forty trials, and under noise.
//!
//! By default the first is used early and the second later. Of several objectives, good trials
//! are those near the front, and the surrogate's objective is a sum with weights of which each
//! draw has its own.

pub mod linear;
mod matrix;
pub mod odds;
mod targets;

use std::collections::HashMap;

use linear::{LinearModel, Products};
use odds::Odds;
pub(crate) use targets::Trade;

use crate::sampler::axis::Axis;
use crate::sampler::stream::Stream;
use crate::sampler::tpe::split;
use crate::trial::Trial;

/// Finished trials after which the linear surrogate chooses: on the subset
/// problem of the benchmark (other instances than it prints) better than 80 or
/// none, and no worse than either under heavy noise.
const HAND_OVER: usize = 40;

/// How subsets are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetStrategy {
    /// By inclusion odds.
    Odds,
    /// By the linear surrogate.
    Linear,
    /// By odds, then by the surrogate.
    OddsThenLinear {
        /// Finished trials before the surrogate.
        after: usize,
    },
}

impl Default for SubsetStrategy {
    fn default() -> Self {
        Self::OddsThenLinear { after: HAND_OVER }
    }
}

/// What a trial tells: numbers on their axes, and sets of items.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) numbers: Vec<f64>,
    pub(crate) subsets: Vec<Vec<usize>>,
}

/// A model of all subset parameters.
pub(crate) enum SubsetModel {
    Odds(Vec<Odds>),
    Linear(LinearModel),
}

impl SubsetModel {
    /// A model of subsets of `pools`, from the trials that have them all.
    pub(crate) fn new(
        strategy: SubsetStrategy,
        trade: &Trade<'_>,
        finished: usize,
        pools: &[usize],
        axes: &[Axis],
        observations: &[(&Trial, Observation)],
    ) -> Self {
        let linear = match strategy {
            SubsetStrategy::Odds => false,
            SubsetStrategy::Linear => true,
            SubsetStrategy::OddsThenLinear { after } => finished >= after,
        };
        if linear {
            return Self::Linear(LinearModel::new(
                trade,
                pools,
                axes,
                observations,
                Products::OfItemsAndNumbers,
            ));
        }
        let split = split(
            observations.iter().map(|(trial, _)| *trial),
            trade.directions,
            odds::good_count(finished),
        );
        let by_number: HashMap<u64, &Observation> =
            observations.iter().map(|(trial, observation)| (trial.number, observation)).collect();
        let sets = |trials: &[&Trial], subset: usize| -> Vec<&[usize]> {
            let found = trials.iter().filter_map(|trial| by_number.get(&trial.number));
            found.map(|observation| observation.subsets[subset].as_slice()).collect()
        };
        let odds = pools.iter().enumerate().map(|(subset, &pool)| {
            Odds::new(pool, &sets(&split.good, subset), &sets(&split.bad, subset))
        });
        Self::Odds(odds.collect())
    }

    /// A set of `sizes[i]` items for each parameter, ascending.
    pub(crate) fn choose(
        &self,
        sizes: &[usize],
        numbers: &[f64],
        candidates: usize,
        stream: &mut Stream,
    ) -> Vec<Vec<usize>> {
        match self {
            Self::Odds(odds) => {
                let of = odds.iter().zip(sizes);
                of.map(|(odds, &n)| odds.choose(n, candidates, stream)).collect()
            }
            Self::Linear(model) => model.choose(sizes, numbers, stream),
        }
    }
}

/// The `n` items of the largest keys, ascending.
fn top(keys: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
    order.truncate(n);
    order.sort_unstable();
    order
}
