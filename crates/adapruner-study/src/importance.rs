//! How important each parameter was for reaching the best trials.
//!
//! PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023, arXiv 2304.10255), with
//! parameters that only some trials have, or have with several distributions,
//! as in its conditional form (arXiv 2601.20800): what Optuna 5's
//! `get_param_importances` computes by default, with the same numbers.
//!
//! Notation: γ the share of complete trials that are among the best (a tenth);
//! a regime the trials that have a parameter with one distribution, α its share
//! of the best trials and β that of all; p and q densities of the parameter in
//! the regime on a grid of at most 50 values, among the best and among all.
//! The importance of a parameter, before all are divided by their sum, is
//!
//! ```text
//! γ² Σ α²/β Σ q(x) (p(x)/q(x) − 1)²
//! ```
//!
//! with sums over regimes and grid. Densities are mixtures of a normal cut to
//! the grid at each of its values that was seen, of a width by Scott's rule, and
//! a wide one (its prior).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::sampler::axis::Axis;
use crate::sampler::tpe::{badness, log_mass, rank_values};
use crate::trial::{Direction, Trial, TrialState};

/// Most values of the grid of a number.
const GRID: usize = 50;
/// Share of the trials that are best.
const BEST: f64 = 0.1;
/// Fewest trials of a regime.
const REGIME: usize = 2;
/// Weight of the prior, in trials.
const PRIOR: f64 = 1.0;
/// Added to densities, so that none is 0.
const FLOOR: f64 = 1e-12;
/// Least width of a kernel: nine tenths of it are within its value of the grid.
const NARROWEST: f64 = 0.5 / 1.64;

/// The importance of each parameter that a complete trial has: from 0 to 1, with
/// sum 1, the largest first, equal ones by name.
///
/// A subset parameter `s` counts by its size, as `s.n`, as Optuna sees it, and not at all where
/// that does not vary; for its items see [`item_effects`](crate::effects::item_effects). If
/// nothing can be inferred (as from a single trial), all are equally important.
///
/// # Errors
///
/// [`Error::Space`] if the trials have distributions that make no sense or values
/// of another kind, as those of a damaged journal may.
pub fn importances(trials: &[Arc<Trial>], direction: Direction) -> Result<Vec<(String, f64)>> {
    let complete = trials.iter().filter(|trial| trial.state == TrialState::Complete);
    let finite = |trial: &Trial| trial.value().is_some_and(f64::is_finite);
    let mut found: BTreeMap<String, f64> = BTreeMap::new();
    let mut params: Vec<Numbers<'_>> = Vec::new();
    let mut losses: Vec<f64> = Vec::new();
    for trial in complete {
        let numbers = numbers(trial)?;
        found.extend(numbers.keys().map(|name| (name.clone(), 0.0)));
        if finite(trial) {
            params.push(numbers);
            losses.push(badness(trial.value(), direction));
        }
    }
    let best = best(&losses);
    if losses.len() > 1 {
        for (name, importance) in &mut found {
            *importance = importance_of(name, &params, &best)?;
        }
    }
    let sum: f64 = found.values().sum();
    let equal = 1.0 / found.len() as f64;
    let share = |importance: f64| if sum == 0.0 { equal } else { importance / sum };
    let mut shares: Vec<(String, f64)> =
        found.into_iter().map(|(name, importance)| (name, share(importance))).collect();
    shares.sort_by(|(_, a), (_, b)| rank_values(*b, *a));
    Ok(shares)
}

/// Parameters of a trial as Optuna sees them: what they are on, and the number.
type Numbers<'a> = BTreeMap<String, (Kind<'a>, f64)>;

/// What makes a regime.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind<'a> {
    Plain(&'a Distribution),
    Size { least: usize, most: usize },
}

impl Kind<'_> {
    /// None if there is one value only.
    fn axis(self) -> Option<Axis> {
        match self {
            Self::Plain(of) => of.only_value().is_none().then(|| Axis::new(of)).flatten(),
            Self::Size { least, most } => Some(Axis::Numeric {
                low: least as f64,
                high: most as f64,
                step: Some(1.0),
                log: false,
                integer: true,
            }),
        }
    }
}

fn numbers(trial: &Trial) -> Result<Numbers<'_>> {
    let mut numbers = Numbers::new();
    for (name, (distribution, value)) in &trial.params {
        distribution.validate(name)?;
        let fault = || Error::Space {
            name: name.clone(),
            message: format!("expected a value of {distribution:?}, found {value:?}"),
        };
        match (distribution, value) {
            (&Distribution::Subset { least, most, .. }, ParamValue::Subset(items)) => {
                if least < most {
                    let size = (Kind::Size { least, most }, items.len() as f64);
                    numbers.insert(format!("{name}.n"), size);
                }
            }
            (Distribution::Categorical { .. }, ParamValue::Category(_)) => {
                let number = Some(value).filter(|value| distribution.contains(value));
                let number = number.and_then(Axis::number).ok_or_else(fault)?;
                numbers.insert(name.clone(), (Kind::Plain(distribution), number));
            }
            // The grid takes in what is out of bounds.
            (Distribution::Float { .. }, ParamValue::Float(number)) if number.is_finite() => {
                numbers.insert(name.clone(), (Kind::Plain(distribution), *number));
            }
            (Distribution::Int { .. }, ParamValue::Int(number)) => {
                numbers.insert(name.clone(), (Kind::Plain(distribution), *number as f64));
            }
            (
                Distribution::Float { .. }
                | Distribution::Int { .. }
                | Distribution::Categorical { .. }
                | Distribution::Subset { .. },
                ParamValue::Float(_)
                | ParamValue::Int(_)
                | ParamValue::Category(_)
                | ParamValue::Subset(_),
            ) => return Err(fault()),
        }
    }
    Ok(numbers)
}

/// Which are among the best, those that equal the last of them included.
fn best(losses: &[f64]) -> Vec<bool> {
    let mut ordered = losses.to_vec();
    ordered.sort_by(|a, b| rank_values(*a, *b));
    let count = (BEST * losses.len() as f64).ceil() as usize;
    let cutoff = ordered.get(count.saturating_sub(1)).copied().unwrap_or(f64::NAN);
    losses.iter().map(|loss| *loss <= cutoff).collect()
}

fn importance_of(name: &str, params: &[Numbers<'_>], best: &[bool]) -> Result<f64> {
    let mut regimes: Vec<(Kind<'_>, Vec<(f64, bool)>)> = Vec::new();
    for (numbers, best) in params.iter().zip(best) {
        let Some(&(kind, number)) = numbers.get(name) else { continue };
        match regimes.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, seen)) => seen.push((number, *best)),
            None => regimes.push((kind, vec![(number, *best)])),
        }
    }
    let (all, of_best) = (params.len() as f64, best.iter().filter(|best| **best).count() as f64);
    let mut importance = 0.0;
    for (kind, seen) in regimes.iter().filter(|(_, seen)| seen.len() >= REGIME) {
        let among_all: Vec<f64> = seen.iter().map(|(number, _)| *number).collect();
        let among_best: Vec<f64> = seen.iter().filter(|s| s.1).map(|s| s.0).collect();
        let Some(axis) = kind.axis().filter(|_| !among_best.is_empty()) else { continue };
        let alpha = among_best.len() as f64 / of_best;
        let beta = among_all.len() as f64 / all;
        let (p, q) = (densities(&axis, &among_best), densities(&axis, &among_all));
        let divergence = p.iter().zip(&q).map(|(p, q)| q * (p / q - 1.0).powi(2)).sum::<f64>();
        importance += alpha * alpha / beta * divergence;
    }
    let gamma = of_best / all;
    let importance = importance * gamma * gamma;
    if importance.is_finite() {
        return Ok(importance);
    }
    let message = format!("expected a finite importance, found {importance}");
    Err(Error::Space { name: name.into(), message })
}

/// Densities at the values of the grid.
fn densities(axis: &Axis, numbers: &[f64]) -> Vec<f64> {
    let (seen, width) = match *axis {
        Axis::Categorical { choices } => (count(choices, numbers.iter().copied()), None),
        Axis::Numeric { low, high, step, log, integer } => {
            let size = grid_size(low, high, step, log && integer);
            let scale = |x: f64| if log { x.ln() } else { x };
            let (least, most) = (scale(low), scale(high));
            let apart = (most - least) / (size - 1) as f64;
            // Half-way is the lower one.
            let place = |x: &f64| {
                ((scale(x.clamp(low, high)) - least) / apart - 0.5)
                    .ceil()
                    .clamp(0.0, (size - 1) as f64)
            };
            let seen = count(size, numbers.iter().map(place));
            let width = scott_width(&seen);
            (seen, Some(width))
        }
    };
    let size = seen.len();
    let kernels: Vec<(usize, f64)> =
        seen.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0).collect();
    let total = kernels.iter().map(|(_, weight)| weight).sum::<f64>() + PRIOR;
    let at = |x: usize| {
        let (own, prior) = match width {
            Some(width) => {
                let own = kernels.iter().map(|&(mean, w)| w * mass(x, mean as f64, width, size));
                let middle = (size - 1) as f64 / 2.0;
                (own.sum::<f64>(), mass(x, middle, size as f64, size))
            }
            None => {
                let elsewhere = PRIOR / (kernels.len() + 1) as f64;
                let sum = 1.0 + size as f64 * elsewhere;
                let hit = |mean| if mean == x { 1.0 + elsewhere } else { elsewhere };
                let own = kernels.iter().map(|&(mean, weight)| weight * hit(mean) / sum);
                (own.sum::<f64>(), 1.0 / size as f64)
            }
        };
        (own + PRIOR * prior) / total + FLOOR
    };
    (0..size).map(at).collect()
}

/// How often each place of the grid was seen.
fn count(size: usize, places: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut counts = vec![0.0; size];
    places.for_each(|place| counts[place as usize] += 1.0);
    counts
}

fn grid_size(low: f64, high: f64, step: Option<f64>, log_integer: bool) -> usize {
    let size = match step {
        _ if log_integer => ((high - low + 1.0).ln() / 2.0_f64.ln()).ceil() + 1.0,
        Some(step) => ((high - low) / step).round_ties_even() + 1.0,
        None => GRID as f64,
    };
    (size as usize).clamp(2, GRID)
}

/// The width of kernels by Scott's rule (Multivariate Density Estimation, 1992),
/// of how often each place was seen.
fn scott_width(seen: &[f64]) -> f64 {
    let n: f64 = seen.iter().sum();
    let places = || (0..).zip(seen).map(|(place, weight)| (f64::from(place), *weight));
    let mean = places().map(|(place, weight)| place * weight).sum::<f64>() / n;
    let squares = places().map(|(place, weight)| (place - mean).powi(2) * weight);
    let deviation = (squares.sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    // The first place with at least a quarter of the sum up to it, and the first
    // with more than three quarters, or the last.
    let (mut sum, mut first, mut third) = (0.0, None, None);
    for (place, weight) in places().filter(|(_, weight)| *weight > 0.0) {
        sum += weight;
        if sum >= (n / 4.0).floor() {
            first = first.or(Some(place));
        }
        if sum - weight <= (n * 3.0 / 4.0).floor() {
            third = Some(place);
        }
    }
    let range = third.unwrap_or(0.0) - first.unwrap_or(0.0);
    let width = 1.059 * deviation.min(range / 1.34) * n.powf(-0.2);
    width.max(NARROWEST)
}

/// Share of a normal, cut to the grid, that is at place `x`.
fn mass(x: usize, mean: f64, width: f64, size: usize) -> f64 {
    let between = |low: f64, high: f64| log_mass((low - mean) / width, (high - mean) / width);
    let x = x as f64;
    (between(x - 0.5, x + 0.5) - between(-0.5, size as f64 - 0.5)).exp()
}
