//! Parzen estimators: mixtures over trials of products over parameters.
//!
//! Notation: `m` observations, K = m + 1 kernels (the last one is the prior),
//! C choices, R the width of a numeric axis. Densities are natural logarithms;
//! on axes with a logarithm they are densities of the logarithm. Equal, to
//! rounding, to those of Optuna 5 (`samplers/_tpe/parzen_estimator.py`).

use std::collections::HashMap;

use crate::distribution::Distribution;
use crate::sampler::axis::Axis;
use crate::sampler::stream::Stream;
use crate::sampler::tpe::normal;
use crate::sampler::tpe::split::weights;

/// Kernels are no narrower than this share of the range.
const NARROWEST: f64 = 100.0;

/// A density over some parameters, estimated from observations.
#[derive(Debug, Clone)]
pub struct ParzenEstimator {
    weights: Vec<f64>,
    log_weights: Vec<f64>,
    factors: Vec<Factor>,
}

/// The kernels of one parameter.
#[derive(Debug, Clone)]
enum Factor {
    Numeric(Normals),
    Categorical { axis: Axis, observed: Vec<usize>, choices: usize },
}

/// One truncated normal for each kernel.
#[derive(Debug, Clone)]
struct Normals {
    axis: Axis,
    step: Option<f64>,
    log: bool,
    least: f64,
    most: f64,
    means: Vec<f64>,
    widths: Vec<f64>,
    /// Kernels that differ, by mean and width, with what each of their log
    /// densities is reduced by: steps make many of them equal.
    distinct: Vec<(f64, f64, f64)>,
    /// Index into `distinct` of each kernel.
    kind: Vec<usize>,
}

impl ParzenEstimator {
    /// Estimates the density of `distributions` from observations, the oldest
    /// first, each with a number for every parameter: the value, or the index of
    /// the choice. Old ones count less.
    ///
    /// None if one of the parameters is a subset.
    ///
    /// # Panics
    ///
    /// If an observation has not one number for every parameter, or a choice
    /// that is none.
    pub fn new(distributions: &[&Distribution], observations: &[Vec<f64>]) -> Option<Self> {
        Some(Self::of_axes(&axes_of(distributions)?, observations, weights(observations.len())))
    }

    /// As [`ParzenEstimator::new`], with old observations counting as much as new ones: what
    /// Optuna makes of the good trials of several objectives.
    ///
    /// # Panics
    ///
    /// As [`ParzenEstimator::new`].
    pub fn equal(distributions: &[&Distribution], observations: &[Vec<f64>]) -> Option<Self> {
        Some(Self::of_axes(&axes_of(distributions)?, observations, vec![1.0; observations.len()]))
    }

    /// Of observations with weights.
    pub(crate) fn of_axes(axes: &[Axis], observations: &[Vec<f64>], mut weights: Vec<f64>) -> Self {
        weights.push(1.0);
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        let factor = |(i, axis): (usize, &Axis)| {
            let column = observations.iter().map(|row| row[i]);
            match *axis {
                Axis::Categorical { choices } => {
                    let observed: Vec<usize> = column.map(|x| x as usize).collect();
                    assert!(observed.iter().all(|&c| c < choices), "a choice that is none");
                    Factor::Categorical { axis: axis.clone(), observed, choices }
                }
                Axis::Numeric { low, high, step, log, .. } => {
                    let range = Axis::range(low, high, step, log);
                    Factor::Numeric(Normals::new(axis.clone(), step, log, range, column.collect()))
                }
            }
        };
        Self {
            log_weights: weights.iter().map(|weight| weight.ln()).collect(),
            factors: axes.iter().enumerate().map(factor).collect(),
            weights,
        }
    }

    /// Weights of the kernels, the prior's last; their sum is 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Means and widths of the kernels of a numeric parameter, the prior's
    /// last; None for a categorical one.
    ///
    /// # Panics
    ///
    /// If there is no parameter `index`.
    pub fn kernels(&self, index: usize) -> Option<(&[f64], &[f64])> {
        match &self.factors[index] {
            Factor::Numeric(normals) => Some((&normals.means, &normals.widths)),
            Factor::Categorical { .. } => None,
        }
    }

    /// Natural logarithm of the density at each point.
    pub fn log_densities(&self, points: &[Vec<f64>]) -> Vec<f64> {
        let mut logs = vec![self.log_weights.clone(); points.len()];
        for (i, factor) in self.factors.iter().enumerate() {
            let mut known: HashMap<u64, Vec<f64>> = HashMap::new();
            for (point, logs) in points.iter().zip(&mut logs) {
                let x = point[i];
                match factor {
                    Factor::Categorical { observed, choices, .. } => {
                        add_categorical(logs, observed, *choices, x as usize);
                    }
                    Factor::Numeric(normals) => {
                        let kinds = known.entry(x.to_bits()).or_insert_with(|| normals.at(x));
                        for (log, kind) in logs.iter_mut().zip(&normals.kind) {
                            *log += kinds[*kind];
                        }
                    }
                }
            }
        }
        logs.iter().map(|logs| log_sum_exp(logs)).collect()
    }

    /// Draws a point.
    pub(crate) fn draw(&self, stream: &mut Stream) -> Vec<f64> {
        let kernel = self.draw_kernel(stream);
        let draw = |factor: &Factor| match factor {
            Factor::Categorical { axis, observed, choices } => {
                // A share 1/(1 + C/K) of the kernel is at its choice, the rest
                // uniform, and all of the prior.
                let kernels = observed.len() + 1;
                let own = 1.0 / (1.0 + *choices as f64 / kernels as f64);
                let at_own = stream.uniform() < own;
                match observed.get(kernel) {
                    Some(&choice) if at_own => choice as f64,
                    Some(_) | None => axis.draw(stream),
                }
            }
            Factor::Numeric(normals) => normals.draw(kernel, stream),
        };
        self.factors.iter().map(draw).collect()
    }

    fn draw_kernel(&self, stream: &mut Stream) -> usize {
        let mut left = stream.uniform();
        for (kernel, weight) in self.weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return kernel;
            }
        }
        self.weights.len() - 1
    }
}

/// Adds ln((1/K + [c = observed]) / (1 + C/K)), or ln(1/C) for the prior.
fn add_categorical(logs: &mut [f64], observed: &[usize], choices: usize, x: usize) {
    let prior = 1.0 / logs.len() as f64;
    let sum = 1.0 + choices as f64 * prior;
    let (hit, miss) = (((1.0 + prior) / sum).ln(), (prior / sum).ln());
    for (log, &choice) in logs.iter_mut().zip(observed) {
        *log += if choice == x { hit } else { miss };
    }
    if let Some(last) = logs.last_mut() {
        *last -= (choices as f64).ln();
    }
}

/// None if one of them is a subset.
fn axes_of(distributions: &[&Distribution]) -> Option<Vec<Axis>> {
    distributions.iter().map(|distribution| Axis::new(distribution)).collect()
}

impl Normals {
    fn new(
        axis: Axis,
        step: Option<f64>,
        log: bool,
        (least, most): (f64, f64),
        mut means: Vec<f64>,
    ) -> Self {
        if log {
            means.iter_mut().for_each(|mean| *mean = mean.ln());
        }
        let mut widths = kernel_widths(&means, least, most);
        means.push(0.5 * (least + most));
        widths.push(most - least);
        let mut distinct = Vec::new();
        let mut found: HashMap<(u64, u64), usize> = HashMap::new();
        let kind = means
            .iter()
            .zip(&widths)
            .map(|(&mean, &width)| {
                *found.entry((mean.to_bits(), width.to_bits())).or_insert_with(|| {
                    let mass = normal::log_mass((least - mean) / width, (most - mean) / width);
                    let density = if step.is_some() { 0.0 } else { width.ln() };
                    distinct.push((mean, width, mass + density));
                    distinct.len() - 1
                })
            })
            .collect();
        Self { axis, step, log, least, most, means, widths, distinct, kind }
    }

    /// Log density at `x` of each distinct kernel.
    fn at(&self, x: f64) -> Vec<f64> {
        let scale = |x: f64| if self.log { x.ln() } else { x };
        let of = |&(mean, width, reduced): &(f64, f64, f64)| match self.step {
            None => {
                let x = scale(x);
                if x < self.least || x > self.most {
                    return f64::NEG_INFINITY;
                }
                normal::log_density((x - mean) / width) - reduced
            }
            Some(step) => {
                let (left, right) = (scale(x - step / 2.0), scale(x + step / 2.0));
                normal::log_mass((left - mean) / width, (right - mean) / width) - reduced
            }
        };
        self.distinct.iter().map(of).collect()
    }

    fn draw(&self, kernel: usize, stream: &mut Stream) -> f64 {
        let (mean, width) = (self.means[kernel], self.widths[kernel]);
        let (a, b) = ((self.least - mean) / width, (self.most - mean) / width);
        let at = normal::quantile(stream.uniform(), a, b) * width + mean;
        self.axis.round(if self.log { at.exp() } else { at })
    }
}

/// The larger gap to the sorted neighbours, within [R / min(100, m + 2), R].
fn kernel_widths(means: &[f64], least: f64, most: f64) -> Vec<f64> {
    let m = means.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&a, &b| means[a].total_cmp(&means[b]));
    let range = most - least;
    let narrowest = range / NARROWEST.min(2.0 + m as f64);
    let mut widths = vec![0.0; m];
    for (place, &i) in order.iter().enumerate() {
        // The bounds are neighbours, except where there is another one.
        let left = match place {
            0 if m > 1 => 0.0,
            0 => means[i] - least,
            _ => means[i] - means[order[place - 1]],
        };
        let right = match order.get(place + 1) {
            Some(&next) => means[next] - means[i],
            None if m > 1 => 0.0,
            None => most - means[i],
        };
        widths[i] = left.max(right).clamp(narrowest, range);
    }
    widths
}

fn log_sum_exp(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    logs.iter().map(|log| (log - most).exp()).sum::<f64>().ln() + most
}
