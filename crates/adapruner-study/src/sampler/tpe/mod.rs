//! Multivariate TPE as in Optuna 5, with subsets.
//!
//! The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011; its
//! components are taken apart by Watanabe, arXiv 2304.11127) models where good
//! trials lie, l(x), and where bad ones lie, g(x), draws candidates from l and
//! takes the one of the largest log l(x) − log g(x).
//!
//! - The first trials (10) are random.
//! - Numbers and choices: [`split()`] and [`ParzenEstimator`], the best of 24
//!   candidates. Densities are Optuna's to rounding; random streams are not.
//! - If all parameters are numbers, the best of 128: this finds better ones sooner (README),
//!   while choices get stuck at the first good one.
//! - Several objectives: good trials are those of the lowest nondominated ranks ([`split()`]), and
//!   all of them weigh the same. If all parameters are numbers, they are sampled one by one and
//!   from 24 candidates, as Optuna does; with choices or subsets, together, which is better there
//!   (docs/measurements/search.md).
//! - Parameters that every finished trial has are sampled together, others
//!   (those that depend on a choice) one by one.
//! - Running trials count as bad (the constant liar), so that parallel workers
//!   do not try the same.
//! - Subsets: see [`subset`](crate::sampler::subset). The numbers, sizes of subsets
//!   among them, are chosen first, by log l − log g, which knows nothing of items;
//!   then each subset of the chosen size, from candidates of its own. By inclusion
//!   odds that is the largest log l − log g of all, as they model a subset apart
//!   from the numbers. Once the linear surrogate chooses subsets, it chooses those
//!   that suit the chosen numbers: it has products of items and numbers. Numbers
//!   still come from the estimators.

mod normal;
mod parzen;
mod split;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::distribution::{Distribution, ParamValue};
use crate::error::Result;
use crate::sampler::axis::Axis;
use crate::sampler::random::uniform;
use crate::sampler::stream::Stream;
use crate::sampler::subset::{Observation, SubsetModel, SubsetStrategy, Trade};
use crate::sampler::{Params, Sampler, View, common_space, counts, value_in};
use crate::trial::{Trial, TrialState};

pub(crate) use normal::log_mass;
pub use parzen::ParzenEstimator;
pub use split::{Split, good_count, split, weights};
pub(crate) use split::{badness, rank_values};

/// Random trials at the start.
const STARTUP: usize = 10;
/// Candidates to choose from.
const CANDIDATES: usize = 24;
/// Candidates to choose from where all parameters are numbers.
const NUMERIC_CANDIDATES: usize = 128;
/// What the streams of joint proposals are for: no parameter has a name with a
/// line break in practice, and a clash would do no harm.
const JOINT: &str = "\njoint";

/// Multivariate TPE.
#[derive(Debug, Clone)]
pub struct TpeSampler {
    seed: u64,
    startup: usize,
    /// As above where not set.
    candidates: Option<usize>,
    constant_liar: bool,
    /// As above where not set.
    multivariate: Option<bool>,
    subsets: SubsetStrategy,
}

impl TpeSampler {
    /// A sampler with this seed and the settings of Optuna, but for the number
    /// of candidates where all parameters are numbers.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            startup: STARTUP,
            candidates: None,
            constant_liar: true,
            multivariate: None,
            subsets: SubsetStrategy::default(),
        }
    }

    /// Sets how many finished trials random search goes before (10).
    #[must_use]
    pub fn with_startup(mut self, trials: usize) -> Self {
        self.startup = trials;
        self
    }

    /// Sets how many candidates the best one is taken of (24; 128 where all
    /// parameters are numbers and there is one objective); at least 1.
    #[must_use]
    pub fn with_candidates(mut self, candidates: usize) -> Self {
        self.candidates = Some(candidates.max(1));
        self
    }

    /// Sets whether running trials count as bad (they do).
    #[must_use]
    pub fn with_constant_liar(mut self, constant_liar: bool) -> Self {
        self.constant_liar = constant_liar;
        self
    }

    /// Sets whether parameters that every trial has are sampled together or one by one (of
    /// several objectives one by one if all are numbers, otherwise together).
    #[must_use]
    pub fn with_multivariate(mut self, multivariate: bool) -> Self {
        self.multivariate = Some(multivariate);
        self
    }

    /// Whether the parameters of a space are sampled together.
    fn is_joint(&self, space: &BTreeMap<String, Distribution>, objectives: usize) -> bool {
        let number = |of: &Distribution| match of {
            Distribution::Float { .. } | Distribution::Int { .. } => true,
            Distribution::Categorical { .. } | Distribution::Subset { .. } => false,
        };
        let default = || objectives == 1 || !space.values().all(number);
        self.multivariate.unwrap_or_else(default)
    }

    /// Sets how subsets are chosen.
    #[must_use]
    pub fn with_subsets(mut self, strategy: SubsetStrategy) -> Self {
        self.subsets = strategy;
        self
    }

    /// Proposes values of `space`, or None before the startup trials are done.
    fn propose(
        &self,
        view: &View<'_>,
        space: &[(&str, &Distribution)],
        stream: &mut Stream,
    ) -> Option<Vec<ParamValue>> {
        let finished = view.trials.iter().filter(|trial| counts(trial)).count();
        if finished < self.startup || space.is_empty() {
            return None;
        }
        let layout = Layout::new(space);
        let considered = || {
            view.trials
                .iter()
                .filter(|t| counts(t) || self.constant_liar && t.state == TrialState::Running)
                .map(Arc::as_ref)
        };
        let rows = |trials: &[&Trial]| -> Vec<Vec<f64>> {
            trials.iter().filter_map(|trial| Some(layout.observe(trial)?.numbers)).collect()
        };
        let objectives = view.directions.len();
        let good = good_count(finished, objectives);
        let Split { good, bad } = split(considered(), view.directions, good);
        let (good, bad) = (rows(&good), rows(&bad));
        // Parts of a front are found at different times, and all are wanted.
        let of_good = if objectives > 1 { vec![1.0; good.len()] } else { weights(good.len()) };
        let l = ParzenEstimator::of_axes(&layout.axes, &good, of_good);
        let g = ParzenEstimator::of_axes(&layout.axes, &bad, weights(bad.len()));
        let candidates: Vec<Vec<f64>> =
            (0..self.candidates_of(&layout, objectives)).map(|_| l.draw(stream)).collect();
        let scores = l.log_densities(&candidates).into_iter().zip(g.log_densities(&candidates));
        let best = first_largest(scores.map(|(l, g)| l - g))?;
        let numbers = &candidates[best];
        if layout.subsets.is_empty() {
            return Some(layout.values(numbers, Vec::new()));
        }
        let observations = considered()
            .filter_map(|trial| Some((trial, layout.observe(trial)?)))
            .collect::<Vec<(&Trial, Observation)>>();
        let trade = Trade::draw(view.directions, stream);
        let model = SubsetModel::new(
            self.subsets,
            &trade,
            finished,
            &layout.pools(),
            &layout.axes,
            &observations,
        );
        let sizes: Vec<usize> = layout.subsets.iter().map(|slot| slot.size(numbers)).collect();
        let subsets = model.choose(&sizes, numbers, self.candidates.unwrap_or(CANDIDATES), stream);
        Some(layout.values(numbers, subsets))
    }

    /// Of how many candidates the numbers and choices are the best.
    fn candidates_of(&self, layout: &Layout<'_>, objectives: usize) -> usize {
        let numeric = |axis: &Axis| match axis {
            Axis::Numeric { .. } => true,
            Axis::Categorical { .. } => false,
        };
        let numbers_alone = layout.subsets.is_empty() && layout.axes.iter().all(numeric);
        let default =
            if numbers_alone && objectives == 1 { NUMERIC_CANDIDATES } else { CANDIDATES };
        self.candidates.unwrap_or(default)
    }
}

impl Sampler for TpeSampler {
    fn joint(&self, view: &View<'_>) -> Result<Params> {
        let common = common_space(view.trials);
        if !self.is_joint(&common, view.directions.len()) {
            return Ok(Params::new());
        }
        let space: Vec<(&str, &Distribution)> =
            common.iter().map(|(name, distribution)| (name.as_str(), distribution)).collect();
        let mut stream = Stream::new(self.seed, view.draw, JOINT);
        let values = self.propose(view, &space, &mut stream).unwrap_or_default();
        let names = space.iter().zip(values);
        Ok(names.map(|((name, of), value)| ((*name).into(), ((*of).clone(), value))).collect())
    }

    fn single(
        &self,
        view: &View<'_>,
        name: &str,
        distribution: &Distribution,
    ) -> Result<ParamValue> {
        distribution.validate(name)?;
        let mut stream = Stream::new(self.seed, view.draw, name);
        let proposed = self.propose(view, &[(name, distribution)], &mut stream);
        let value = proposed.and_then(|mut values| values.pop());
        Ok(value.unwrap_or_else(|| uniform(distribution, &mut stream)))
    }
}

/// How parameters lie in a row of numbers.
pub(crate) struct Layout<'a> {
    space: &'a [(&'a str, &'a Distribution)],
    pub(crate) axes: Vec<Axis>,
    subsets: Vec<SubsetSlot>,
    /// For each parameter.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy)]
enum Slot {
    Axis(usize),
    Subset(usize),
}

struct SubsetSlot {
    pool: usize,
    least: usize,
    /// Axis of its size, where that varies.
    axis: Option<usize>,
}

impl SubsetSlot {
    fn size(&self, numbers: &[f64]) -> usize {
        self.axis.map_or(self.least, |axis| numbers[axis] as usize)
    }
}

impl<'a> Layout<'a> {
    pub(crate) fn new(space: &'a [(&'a str, &'a Distribution)]) -> Self {
        let mut layout = Self { space, axes: Vec::new(), subsets: Vec::new(), slots: Vec::new() };
        for (_, distribution) in space {
            let slot = match (Axis::new(distribution), *distribution) {
                (None, &Distribution::Subset { pool, least, most }) => {
                    let varies = Axis::new(&Distribution::int(least as i64, most as i64))
                        .filter(|_| least < most);
                    let axis = varies.map(|axis| layout.push(axis));
                    layout.subsets.push(SubsetSlot { pool, least, axis });
                    Slot::Subset(layout.subsets.len() - 1)
                }
                (Some(axis), _) => Slot::Axis(layout.push(axis)),
                // Only subsets have no axis.
                (None, _) => continue,
            };
            layout.slots.push(slot);
        }
        layout
    }

    fn push(&mut self, axis: Axis) -> usize {
        self.axes.push(axis);
        self.axes.len() - 1
    }

    pub(crate) fn pools(&self) -> Vec<usize> {
        self.subsets.iter().map(|slot| slot.pool).collect()
    }

    /// What a trial tells of these parameters; None unless it has all of them.
    pub(crate) fn observe(&self, trial: &Trial) -> Option<Observation> {
        let mut numbers = vec![0.0; self.axes.len()];
        let mut subsets = Vec::with_capacity(self.subsets.len());
        for ((name, distribution), slot) in self.space.iter().zip(&self.slots) {
            match (slot, value_in(trial, name, distribution)?) {
                (Slot::Subset(index), ParamValue::Subset(items)) => {
                    if let Some(axis) = self.subsets[*index].axis {
                        numbers[axis] = items.len() as f64;
                    }
                    subsets.push(items);
                }
                (Slot::Axis(axis), value) => numbers[*axis] = Axis::number(&value)?,
                (Slot::Subset(_), _) => return None,
            }
        }
        Some(Observation { numbers, subsets })
    }

    /// Values of all parameters, from a row of numbers and the subsets.
    fn values(&self, numbers: &[f64], subsets: Vec<Vec<usize>>) -> Vec<ParamValue> {
        let value = |slot: &Slot| match *slot {
            Slot::Axis(axis) => self.axes[axis].value(numbers[axis]),
            Slot::Subset(index) => ParamValue::Subset(subsets[index].clone()),
        };
        self.slots.iter().map(value).collect()
    }
}

/// Index of the first of the largest; what is not a number is never it, unless
/// all are.
pub(crate) fn first_largest(scores: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, score) in scores.enumerate() {
        if best.is_none_or(|(_, most)| score > most || most.is_nan()) {
            best = Some((i, score));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::Direction;

    fn trials(n: u64) -> Vec<Arc<Trial>> {
        let of = Distribution::float(0.0, 1.0);
        let trial = |number| Trial {
            number,
            state: TrialState::Complete,
            values: vec![number as f64],
            params: [("x".into(), (of.clone(), ParamValue::Float(number as f64 / 64.0)))].into(),
            intermediate: Default::default(),
            user_attrs: Default::default(),
            system_attrs: Default::default(),
            started_ms: None,
            ended_ms: None,
        };
        (0..n).map(trial).map(Arc::new).collect()
    }

    #[test]
    fn the_first_trials_are_random() {
        let joint = |n, sampler: TpeSampler| {
            let trials = trials(n);
            let view = View { directions: &[Direction::Minimize], trials: &trials, draw: n };
            sampler.joint(&view).unwrap().len()
        };
        let sampler = TpeSampler::new(0);
        assert_eq!([9, 10].map(|n| joint(n, sampler.clone())), [0, 1]);
        assert_eq!([2, 3].map(|n| joint(n, sampler.clone().with_startup(3))), [0, 1]);
    }

    #[test]
    fn running_trials_are_avoided() {
        let mut trials = trials(30);
        let near = |trials: &[Arc<Trial>], sampler: &TpeSampler| {
            let x = |draw| {
                let view = View { directions: &[Direction::Minimize], trials, draw };
                sampler.joint(&view).unwrap()["x"].1.as_float().unwrap()
            };
            (100..150).map(x).filter(|x| *x < 0.08).count()
        };
        let sampler = TpeSampler::new(0);
        let before = near(&trials, &sampler);
        for number in 30..40 {
            let mut running = Trial::clone(&trials[number as usize % 4]);
            (running.number, running.state) = (number, TrialState::Running);
            running.values.clear();
            trials.push(Arc::new(running));
        }
        let after = near(&trials, &sampler);
        assert!(after < before / 2, "{after} of {before}");
        assert_eq!(near(&trials, &sampler.with_constant_liar(false)), before);
    }

    #[test]
    fn what_is_no_number_is_chosen_last() {
        let of = |scores: &[f64]| first_largest(scores.iter().copied());
        assert_eq!(of(&[f64::NAN, 1.0, 3.0, 3.0, f64::NAN]), Some(2));
        assert_eq!(of(&[f64::NAN, f64::NEG_INFINITY]), Some(1));
        assert_eq!(of(&[f64::NAN]), Some(0));
        assert_eq!(of(&[]), None);
    }
}
