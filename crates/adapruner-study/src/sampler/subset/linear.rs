//! A Bayesian linear surrogate: what each item adds to the objective.
//!
//! The badness, standardised, is modelled as
//!
//! ```text
//! y = level + Σᵢ (aᵢ + Σⱼ dᵢⱼ xⱼ) (1[i ∈ S] − |S|/P) + Σⱼ bⱼ xⱼ + Σⱼₖ cⱼₖ xⱼxₖ + ε
//! ```
//!
//! with x the numbers of the trial scaled to −1…1 (choices as indicators) and normal priors of
//! mean 0 on all effects. The numbers have terms of their own so that their effect is not
//! attributed to items; how they change the noise is not modelled. The products dᵢⱼ let an item
//! be worth more beside some numbers than beside others: the n items are those of the smallest
//! effects aᵢ + Σⱼ dᵢⱼ xⱼ beside the numbers that are proposed with them, in a damped Thompson
//! draw, mean + 0.3 · (draw − mean): the full draw explores far too much if there are more
//! items than trials.

use super::targets::{Trade, standard, traded};
use super::{Observation, top};
use crate::sampler::axis::Axis;
use crate::sampler::stream::Stream;
use crate::sampler::subset::matrix::{Cholesky, dot};
use crate::trial::Trial;

/// Deviation of the noise, in deviations of the badness.
const NOISE: f64 = 0.3;
/// Share of the draw's deviation from the mean that is kept.
const DAMPING: f64 = 0.3;
/// Prior deviation of the effect of an item.
const ITEM_DEVIATION: f64 = 0.4;
/// Prior deviation of the effect of a number, a choice or a product.
const NUMBER_DEVIATION: f64 = 1.0;
/// Prior deviation of the level. Wide: once most trials are good ones, their mean
/// is not that of a random set, and items that they all have would otherwise be
/// taken for worth nothing.
const LEVEL_DEVIATION: f64 = 3.0;
/// Above this many numbers, products of different ones are left out.
const MOST_CROSSED: usize = 8;
/// Prior deviation of what all numbers together change in the effect of an item, in
/// that of the effect. Of 0, 0.5 and 1, which were tried on eight instances of the benchmark's two
/// problems of subsets, the one that finds coupled items sooner and costs others
/// little.
const PRODUCTS: f64 = 0.5;
/// Above this many trials, products of items and numbers are left out: what they
/// cost grows with their number.
const MOST_MULTIPLIED: usize = 600;

/// The posterior of the effects.
pub(crate) struct LinearModel {
    pools: Vec<usize>,
    posterior: Posterior,
    /// Deviation of the badness before it was brought to 1.
    deviation: f64,
    /// Where the products of items and numbers begin among the effects.
    products: Option<usize>,
    axes: Vec<Axis>,
}

/// Whether an item may be worth more beside some numbers than beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// Items are worth the same whatever the numbers.
    None,
    /// Their worth depends on them.
    OfItemsAndNumbers,
}

impl LinearModel {
    pub(crate) fn new(
        trade: &Trade<'_>,
        pools: &[usize],
        axes: &[Axis],
        observations: &[(&Trial, Observation)],
        products: Products,
    ) -> Self {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        let mut from = None;
        let trials: Vec<&Trial> = observations.iter().map(|(trial, _)| *trial).collect();
        for ((_, observation), target) in observations.iter().zip(traded(trade, &trials)) {
            if let Some(y) = target {
                let mut row = features(pools, axes, observation);
                if products == Products::OfItemsAndNumbers && observations.len() <= MOST_MULTIPLIED
                {
                    from = Some(row.len());
                    multiply(pools, axes, &observation.numbers, &mut row);
                }
                rows.push(row);
                targets.push(y);
            }
        }
        let (targets, deviation) = standard(targets);
        let posterior = Posterior::new(rows, targets);
        let (pools, axes) = (pools.to_vec(), axes.to_vec());
        Self { pools, posterior, deviation, products: from, axes }
    }

    /// Deviation of the badness of the trials it learned from.
    pub(crate) fn deviation(&self) -> f64 {
        self.deviation
    }

    /// What each item of a pool adds to the badness, against the average item of
    /// the pool: mean and deviation.
    pub(crate) fn effects(&self, subset: usize) -> Vec<(f64, f64)> {
        let from: usize = self.pools[..subset].iter().sum();
        let pool = self.pools[subset];
        let scale = ITEM_DEVIATION * self.deviation;
        let effect = |item: usize| {
            // Inclusions less n/P sum up to 0: of the mean of all effects the
            // trials tell nothing, and it has its prior variance.
            let variance = self.posterior.variance(item) - 1.0 / pool as f64;
            (scale * self.posterior.mean[item], scale * variance.max(0.0).sqrt())
        };
        // Without any trial there is no posterior.
        let last = (from + pool).min(self.posterior.mean.len());
        (from..last).map(effect).collect()
    }

    pub(super) fn choose(
        &self,
        sizes: &[usize],
        numbers: &[f64],
        stream: &mut Stream,
    ) -> Vec<Vec<usize>> {
        let mut effects = self.posterior.damped_draw(stream);
        if let Some(from) = self.products {
            // What items are worth beside these numbers.
            let items: usize = self.pools.iter().sum();
            let beside = beside(&self.axes, numbers);
            let scale = share(beside.len());
            for (j, x) in beside.iter().enumerate() {
                for item in 0..items {
                    effects[item] += scale * x * effects[from + j * items + item];
                }
            }
        }
        let mut from = 0;
        let choose = |(&pool, &n): (&usize, &usize)| {
            // Without any complete trial there are no effects: by chance, then.
            let keys: Vec<f64> = match effects.get(from..from + pool) {
                Some(effects) => effects.iter().map(|effect| -effect).collect(),
                None => (0..pool).map(|_| stream.gumbel()).collect(),
            };
            from += pool;
            top(&keys, n)
        };
        self.pools.iter().zip(sizes).map(choose).collect()
    }
}

/// One trial as a row: items first, all scaled by the prior deviation of their
/// effect.
fn features(pools: &[usize], axes: &[Axis], observation: &Observation) -> Vec<f64> {
    let mut row = Vec::new();
    for (&pool, set) in pools.iter().zip(&observation.subsets) {
        let start = row.len();
        row.resize(start + pool, -ITEM_DEVIATION * set.len() as f64 / pool as f64);
        set.iter().for_each(|item| row[start + item] += ITEM_DEVIATION);
    }
    let mut scaled = Vec::new();
    for (axis, &number) in axes.iter().zip(&observation.numbers) {
        match axis_at(axis, number) {
            At::Number(x) => scaled.push(x),
            At::Choice { of, choice } => {
                let start = row.len();
                row.resize(start + of, 0.0);
                row[start + choice] = NUMBER_DEVIATION;
            }
        }
    }
    for (i, x) in scaled.iter().enumerate() {
        row.extend([x * NUMBER_DEVIATION, x * x * NUMBER_DEVIATION]);
        if scaled.len() <= MOST_CROSSED {
            row.extend(scaled[..i].iter().map(|y| x * y * NUMBER_DEVIATION));
        }
    }
    row.push(LEVEL_DEVIATION);
    row
}

/// Where a number lies on its axis.
enum At {
    /// From −1 to 1.
    Number(f64),
    /// One of so many choices.
    Choice { of: usize, choice: usize },
}

fn axis_at(axis: &Axis, number: f64) -> At {
    match *axis {
        Axis::Numeric { low, high, step, log, .. } => {
            let (least, most) = Axis::range(low, high, step, log);
            let at = if log { number.ln() } else { number };
            At::Number(2.0 * (at - least) / (most - least) - 1.0)
        }
        Axis::Categorical { choices } => At::Choice { of: choices, choice: number as usize },
    }
}

/// The numbers as products have them: from −1 to 1, choices as indicators.
fn beside(axes: &[Axis], numbers: &[f64]) -> Vec<f64> {
    let mut all = Vec::new();
    for (axis, &number) in axes.iter().zip(numbers) {
        match axis_at(axis, number) {
            At::Number(x) => all.push(x),
            At::Choice { of, choice } => all.extend((0..of).map(|at| f64::from(at == choice))),
        }
    }
    all
}

/// Prior deviation of one of `n` products of an item, in that of the item.
fn share(n: usize) -> f64 {
    PRODUCTS / (n.max(1) as f64).sqrt()
}

/// Adds the products of the items of a row and the numbers.
fn multiply(pools: &[usize], axes: &[Axis], numbers: &[f64], row: &mut Vec<f64>) {
    let items: usize = pools.iter().sum();
    let beside = beside(axes, numbers);
    let scale = share(beside.len());
    for x in beside {
        row.extend_from_within(..items);
        let last = row.len() - items;
        row[last..].iter_mut().for_each(|product| *product *= scale * x);
    }
}

/// Posterior of w ~ N(0, 1) given y = X w + ε, in whichever of the two spaces,
/// of trials or of effects, is smaller.
struct Posterior {
    rows: Vec<Vec<f64>>,
    mean: Vec<f64>,
    /// Of X Xᵀ + noise² (trials) or XᵀX / noise² + 1 (effects).
    factor: Cholesky,
    by_trial: bool,
}

impl Posterior {
    fn new(rows: Vec<Vec<f64>>, targets: Vec<f64>) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        let by_trial = rows.len() <= width;
        if by_trial {
            let factor = Cholesky::new(rows.len(), |i, j| {
                dot(&rows[i], &rows[j]) + if i == j { NOISE * NOISE } else { 0.0 }
            });
            let mean = transposed(&rows, &factor.solve(targets), width);
            return Self { rows, mean, factor, by_trial };
        }
        let columns: Vec<Vec<f64>> =
            (0..width).map(|j| rows.iter().map(|row| row[j]).collect()).collect();
        let precision = 1.0 / (NOISE * NOISE);
        let factor = Cholesky::new(width, |i, j| {
            dot(&columns[i], &columns[j]) * precision + if i == j { 1.0 } else { 0.0 }
        });
        let right = columns.iter().map(|column| dot(column, &targets) * precision).collect();
        let mean = factor.solve(right);
        Self { rows, mean, factor, by_trial }
    }

    /// The variance of one effect.
    fn variance(&self, effect: usize) -> f64 {
        let told = |right| self.factor.solve_lower(right).iter().map(|x| x * x).sum::<f64>();
        if self.by_trial {
            1.0 - told(self.rows.iter().map(|row| row[effect]).collect())
        } else {
            told((0..self.mean.len()).map(|i| f64::from(i == effect)).collect())
        }
    }

    /// The mean and a share of the way from it to a draw.
    fn damped_draw(&self, stream: &mut Stream) -> Vec<f64> {
        let width = self.mean.len();
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| stream.normal()).collect() };
        let deviation = if self.by_trial {
            // Matheron's rule: a draw of the prior, less what the trials would
            // have told of it.
            let prior = draw(width);
            let noise = draw(self.rows.len());
            let seen = self.rows.iter().zip(noise).map(|(row, e)| dot(row, &prior) + NOISE * e);
            let told = transposed(&self.rows, &self.factor.solve(seen.collect()), width);
            prior.iter().zip(told).map(|(prior, told)| prior - told).collect()
        } else {
            self.factor.solve_upper(draw(width))
        };
        self.mean.iter().zip(deviation).map(|(mean, d)| mean + DAMPING * d).collect()
    }
}

/// Xᵀ v.
fn transposed(rows: &[Vec<f64>], v: &[f64], width: usize) -> Vec<f64> {
    let mut product = vec![0.0; width];
    for (row, v) in rows.iter().zip(v) {
        product.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * v);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::testing::trial;
    use crate::trial::{Direction, TrialState};

    /// Both spaces of the posterior, with few and with many trials.
    #[test]
    fn finds_the_items_of_an_additive_objective() {
        let mut stream = Stream::new(0, 0, "additive");
        let gains: Vec<f64> = (0..60).map(|_| stream.normal()).collect();
        let sum = |set: &[usize]| set.iter().map(|&i| gains[i]).sum::<f64>();
        let best = sum(&top(&gains, 6));
        for (n, share) in [(50, 0.6), (200, 0.99)] {
            let observe = |number| {
                let keys: Vec<f64> = (0..60).map(|_| stream.gumbel()).collect();
                let set = top(&keys, 6);
                let trial = trial(number, TrialState::Complete, Some(sum(&set)));
                (trial, Observation { numbers: Vec::new(), subsets: vec![set] })
            };
            let seen: Vec<(Trial, Observation)> = (0..n).map(observe).collect();
            let seen: Vec<_> = seen.iter().map(|(trial, of)| (trial, of.clone())).collect();
            let model = LinearModel::new(
                &Trade::one(&Direction::Maximize),
                &[60],
                &[],
                &seen,
                Products::None,
            );
            assert_eq!(model.posterior.by_trial, n == 50);
            let chosen = sum(&model.choose(&[6], &[], &mut Stream::new(0, 0, "choose"))[0]);
            assert!(chosen > share * best, "{n}: {chosen} of {best}");
        }
    }

    /// The mean and the spread of draws must be those of the same posterior in
    /// the two spaces.
    #[test]
    fn both_spaces_have_one_posterior() {
        let mut stream = Stream::new(1, 0, "spaces");
        let rows: Vec<Vec<f64>> =
            (0..4).map(|_| (0..4).map(|_| stream.normal()).collect()).collect();
        let targets = vec![1.0, -0.5, 0.2, -0.7];
        let small = Posterior::new(rows.clone(), targets.clone());
        // A row of zeros tells nothing, and moves it to the space of effects.
        let (mut more, mut padded) = (rows, targets);
        more.push(vec![0.0; 4]);
        padded.push(0.0);
        let large = Posterior::new(more, padded);
        assert!(small.by_trial && !large.by_trial);
        for (i, (a, b)) in small.mean.iter().zip(&large.mean).enumerate() {
            assert!((a - b).abs() < 1e-9);
            assert!((small.variance(i) - large.variance(i)).abs() < 1e-9);
        }
        let sum = (0..4).map(|i| small.variance(i)).sum::<f64>();
        let mut spread = |of: &Posterior| {
            let draws = (0..4000).map(|_| of.damped_draw(&mut stream));
            let squares = draws.map(|draw| {
                let from_mean = draw.iter().zip(&of.mean).map(|(d, m)| (d - m) / DAMPING);
                from_mean.map(|d| d * d).sum::<f64>()
            });
            squares.sum::<f64>() / 4000.0
        };
        let (a, b) = (spread(&small), spread(&large));
        // Five standard errors of a mean of 4000, about.
        assert!((a / b - 1.0).abs() < 0.15, "{a} {b}");
        assert!((a / sum - 1.0).abs() < 0.15, "{a} {sum}");
    }

    /// Items that are good beside one number and bad beside another are chosen by it.
    #[test]
    fn the_numbers_decide_which_items_are_chosen() {
        let mut stream = Stream::new(4, 0, "coupled");
        let axes = [Axis::new(&Distribution::float(0.0, 1.0)).unwrap()];
        let gains: Vec<f64> = (0..30).map(|_| stream.normal()).collect();
        let sum = |set: &[usize]| set.iter().map(|&i| gains[i]).sum::<f64>();
        let observe = |number| {
            let keys: Vec<f64> = (0..30).map(|_| stream.gumbel()).collect();
            let (set, x) = (top(&keys, 5), stream.uniform());
            let value = (2.0 * x - 1.0) * sum(&set);
            let numbers = vec![x];
            let observation = Observation { numbers, subsets: vec![set] };
            (trial(number, TrialState::Complete, Some(value)), observation)
        };
        let seen: Vec<(Trial, Observation)> = (0..150).map(observe).collect();
        let seen: Vec<_> = seen.iter().map(|(trial, of)| (trial, of.clone())).collect();
        let best = sum(&top(&gains, 5));
        let chosen = |products, x| {
            let model =
                LinearModel::new(&Trade::one(&Direction::Maximize), &[30], &axes, &seen, products);
            sum(&model.choose(&[5], &[x], &mut Stream::new(0, 0, "choose"))[0])
        };
        let (high, low) =
            (chosen(Products::OfItemsAndNumbers, 1.0), chosen(Products::OfItemsAndNumbers, 0.0));
        assert!(high > 0.8 * best && low < -0.6 * best, "{high} and {low} of {best}");
        // Without them the number makes no difference.
        assert_eq!(chosen(Products::None, 1.0), chosen(Products::None, 0.0));
    }

    /// However long the history, no matrix is larger than the smaller space.
    #[test]
    fn the_smaller_space_is_worked_in() {
        let mut stream = Stream::new(2, 0, "size");
        for (trials, effects) in [(3, 5), (5, 5), (400, 5)] {
            let row = |_| (0..effects).map(|_| stream.normal()).collect();
            let rows: Vec<Vec<f64>> = (0..trials).map(row).collect();
            let posterior = Posterior::new(rows, vec![0.5; trials]);
            assert_eq!(posterior.factor.size(), trials.min(effects));
            assert_eq!(posterior.mean.len(), effects);
        }
    }

    #[test]
    fn nothing_to_learn_from_is_chance() {
        let model =
            LinearModel::new(&Trade::one(&Direction::Minimize), &[5, 3], &[], &[], Products::None);
        let chosen = model.choose(&[2, 1], &[], &mut Stream::new(0, 0, "chance"));
        assert_eq!(chosen.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
