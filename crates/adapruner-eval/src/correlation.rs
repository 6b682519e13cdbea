//! How well one figure of a set of models predicts another: rank and linear
//! correlation with intervals and permutation tests, and how much of a spread is
//! more than sampling error.
//!
//! `n` models have figures `x` (a loss) and `y` (an accuracy). Models of one
//! cluster (one trial, pruned to several ratios) depend on each other; there are
//! `G` clusters.
//!
//! | figure | definition |
//! |---|---|
//! | Pearson's r | `Σ (x−x̄)(y−ȳ) / √(Σ (x−x̄)² · Σ (y−ȳ)²)` |
//! | Spearman's ρ | Pearson's r of the ranks, tied values at the mean of theirs |
//! | 95 % interval | `tanh(atanh r ± 1.96·s)`, `s² = 1/(G−3)` of Pearson's r (Fisher), `(1+ρ²/2)/(G−3)` of Spearman's ρ (Bonett and Wright 2000) |
//! | the same of clusters | the wider, at either end, of that and of quantiles 0.025 and 0.975 over resamples of whole clusters with replacement |
//! | p | two-sided, of no association: twice the smaller share of permutations of `y` whose coefficient is at least as low, or as high; all `n!` of up to 9 models, else random ones, the observed order counted among them; none of clusters |
//! | reliability | `1 − mean(s²) / var(y)`, at least 0, with `s` the standard errors of `y`; its root is the largest correlation that can be expected |
//!
//! A perfect order has no spread of its own, and an interval from it would be a
//! point. For the interval ρ is therefore taken at `±(1 − 12/(G³−G))` at the
//! most, which is one exchange of neighbours away from a perfect order.
//!
//! A coefficient of fewer than two models, or of figures that do not vary, is
//! not defined.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Independent models (clusters) below which there is no interval, and so no
/// verdict.
pub const FEWEST: usize = 10;
/// Models up to which every permutation is tried.
const EXACT: usize = 9;
/// Share of the distribution that an interval covers.
const COVERED: f64 = 0.95;
/// The normal quantile of [`COVERED`], both sides.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// Which coefficient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coefficient {
    /// Of ranks.
    Spearman,
    /// Of the figures themselves.
    Pearson,
}

/// A coefficient and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// The coefficient, −1 to 1; none where it is not defined.
    pub value: Option<f64>,
    /// Lower and upper end of the 95 % interval; none below [`FEWEST`] clusters,
    /// of figures that lie on a straight line (Pearson), or where half of the
    /// resamples or more have no coefficient.
    pub interval: Option<(f64, f64)>,
    /// Two-sided p of the permutation test; none of clusters.
    #[serde(default)]
    pub p: Option<f64>,
}

/// Figures of models.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'a> {
    /// One figure of every model.
    pub x: &'a [f64],
    /// The other.
    pub y: &'a [f64],
    /// The cluster of every model, by any number; models of one cluster depend on
    /// each other.
    pub clusters: &'a [u64],
}

impl Figures<'_> {
    /// Places of the models, cluster by cluster, in the order in which clusters
    /// come first.
    fn by_cluster(&self) -> Vec<Vec<usize>> {
        let mut names: Vec<u64> = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (at, &cluster) in self.clusters.iter().enumerate() {
            match names.iter().position(|&known| known == cluster) {
                Some(known) => places[known].push(at),
                None => {
                    names.push(cluster);
                    places.push(vec![at]);
                }
            }
        }
        places
    }
}

/// Number of clusters among `clusters`.
pub fn independent(clusters: &[u64]) -> usize {
    let mut sorted = clusters.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.len()
}

impl Coefficient {
    /// The coefficient of pairs; `None` where it is not defined.
    pub fn of(self, x: &[f64], y: &[f64]) -> Option<f64> {
        match self {
            Self::Pearson => pearson(x, y),
            Self::Spearman => pearson(&ranks(x), &ranks(y)),
        }
    }

    /// The same with its interval and p, from `resamples` resamples or
    /// permutations where they are random.
    pub fn estimate(self, figures: Figures<'_>, resamples: usize, seed: u64) -> Correlation {
        let value = self.of(figures.x, figures.y);
        let clusters = figures.by_cluster();
        let clustered = clusters.iter().any(|cluster| cluster.len() > 1);
        let fisher = value.and_then(|value| self.fisher(value, clusters.len()));
        let interval = match (fisher, clustered) {
            (Some((low, high)), true) => self
                .resampled(figures, &clusters, resamples, seed)
                .map(|found| (low.min(found.0), high.max(found.1))),
            (fisher, _) => fisher,
        };
        let p = match (value, clustered) {
            (Some(_), false) => Some(self.permutation_p(figures, resamples, seed)),
            (Some(_), true) | (None, _) => None,
        };
        Correlation { value, interval, p }
    }

    /// The interval of Fisher's transformation for `n` independent models.
    fn fisher(self, value: f64, n: usize) -> Option<(f64, f64)> {
        if n < FEWEST {
            return None;
        }
        let count = n as f64;
        let (value, variance) = match self {
            Self::Pearson if value.abs() > 1.0 - 1e-12 => return None,
            Self::Pearson => (value, 1.0),
            Self::Spearman => {
                let most = 1.0 - 12.0 / (count.powi(3) - count);
                let value = value.clamp(-most, most);
                (value, 1.0 + value * value / 2.0)
            }
        };
        let (centre, reach) = (value.atanh(), Z * (variance / (count - 3.0)).sqrt());
        Some(((centre - reach).tanh(), (centre + reach).tanh()))
    }

    /// Quantiles over resamples of whole clusters.
    fn resampled(
        self,
        figures: Figures<'_>,
        clusters: &[Vec<usize>],
        resamples: usize,
        seed: u64,
    ) -> Option<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut found = Vec::with_capacity(resamples);
        for _ in 0..resamples {
            let drawn = (0..clusters.len()).map(|_| &clusters[rng.random_range(0..clusters.len())]);
            let drawn: Vec<usize> = drawn.flatten().copied().collect();
            let of = |values: &[f64]| drawn.iter().map(|&at| values[at]).collect::<Vec<_>>();
            found.extend(self.of(&of(figures.x), &of(figures.y)));
        }
        if found.is_empty() || 2 * found.len() <= resamples {
            return None;
        }
        found.sort_by(f64::total_cmp);
        let outside = (1.0 - COVERED) / 2.0;
        Some((quantile(&found, outside), quantile(&found, 1.0 - outside)))
    }

    /// Two-sided p of the permutation test of no association. Only the sum of
    /// products depends on the order, so only that is compared.
    fn permutation_p(self, figures: Figures<'_>, resamples: usize, seed: u64) -> f64 {
        let centred = |values: &[f64]| {
            let values = match self {
                Self::Pearson => values.to_vec(),
                Self::Spearman => ranks(values),
            };
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.into_iter().map(|value| value - mean).collect::<Vec<f64>>()
        };
        let (x, mut y) = (centred(figures.x), centred(figures.y));
        let product = |y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let (observed, rounding) = (product(&y), 1e-12 * norm(&x) * norm(&y));
        let (mut low, mut high, mut all) = (0_u64, 0_u64, 0_u64);
        let mut count = |y: &[f64]| {
            let product = product(y);
            low += u64::from(product <= observed + rounding);
            high += u64::from(product >= observed - rounding);
            all += 1;
        };
        count(&y);
        if y.len() <= EXACT {
            all_other_orders(&mut y, &mut count);
        } else {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..resamples {
                for last in (1..y.len()).rev() {
                    y.swap(last, rng.random_range(0..=last));
                }
                count(&y);
            }
        }
        (2.0 * low.min(high) as f64 / all as f64).min(1.0)
    }
}

/// Visits every order of `values` but the one that they have (Heap's algorithm).
fn all_other_orders(values: &mut [f64], visit: &mut dyn FnMut(&[f64])) {
    let mut exchanged = vec![0; values.len()];
    let mut at = 1;
    while at < values.len() {
        if exchanged[at] < at {
            values.swap(if at % 2 == 0 { 0 } else { exchanged[at] }, at);
            visit(values);
            exchanged[at] += 1;
            at = 1;
        } else {
            exchanged[at] = 0;
            at += 1;
        }
    }
}

/// The value below which a share of sorted values lies, between neighbours in
/// proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Ranks from 1; tied values have the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut out = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&at| out[at] = mean);
        before += tied.len();
    }
    out
}

/// Pearson's r; `None` of fewer than two pairs, of figures that do not vary or
/// are not finite.
fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len());
    if n < 2 {
        return None;
    }
    let mean = |values: &[f64]| values[..n].iter().sum::<f64>() / n as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    // What is alike differs from its mean by rounding at most.
    let varies = |squares: f64, mean: f64| squares > n as f64 * (mean * 1e-14).powi(2);
    let r = xy / (xx * yy).sqrt();
    (varies(xx, mean_x) && varies(yy, mean_y) && r.is_finite()).then(|| r.clamp(-1.0, 1.0))
}

/// The share of the variance of figures that is not sampling error, 0 to 1, by
/// their standard errors; `None` of fewer than two.
///
/// The errors are taken as independent. Models that answer the same questions
/// share much of theirs, so that the true share is larger.
pub fn reliability(values: &[f64], stderrs: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let noise = stderrs.iter().map(|stderr| stderr * stderr).sum::<f64>() / n;
    let share = if variance > 0.0 { 1.0 - noise / variance } else { 0.0 };
    share.is_finite().then(|| share.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const LOSS: [f64; 10] = [4.7, 4.9, 5.3, 5.0, 6.1, 5.3, 7.0, 5.6, 4.8, 6.1];
    const ACCURACY: [f64; 10] = [0.41, 0.40, 0.38, 0.38, 0.33, 0.36, 0.30, 0.36, 0.40, 0.31];

    // scipy 1.17.1: stats.rankdata(x), stats.pearsonr(x, y)[0],
    // stats.spearmanr(x, y)[0] of the figures above.
    #[test]
    fn coefficients_are_those_of_scipy() {
        assert_eq!(ranks(&LOSS), [1.0, 3.0, 5.5, 4.0, 8.5, 5.5, 10.0, 7.0, 2.0, 8.5]);
        let pearson = Coefficient::Pearson.of(&LOSS, &ACCURACY).unwrap();
        assert!((pearson + 0.959_768_733_479_889_1).abs() < 1e-14, "{pearson}");
        let spearman = Coefficient::Spearman.of(&LOSS, &ACCURACY).unwrap();
        assert!((spearman + 0.978_466_170_265_023_2).abs() < 1e-14, "{spearman}");
    }

    /// What scipy makes of some figures (fixtures/generate/statistics.py).
    fn cases() -> Vec<Value> {
        let text = include_str!("../../../fixtures/statistics/correlation.json");
        serde_json::from_str::<Value>(text).unwrap()["cases"].as_array().unwrap().clone()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn estimate(case: &Value, coefficient: Coefficient, resamples: usize) -> Correlation {
        let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
        let clusters = numbers(&case["clusters"]).into_iter().map(|c| c as u64);
        let clusters: Vec<u64> = clusters.collect();
        coefficient.estimate(Figures { x: &x, y: &y, clusters: &clusters }, resamples, 1)
    }

    #[test]
    fn intervals_and_p_are_those_of_scipy() {
        for case in cases() {
            for (coefficient, key) in
                [(Coefficient::Pearson, "pearson"), (Coefficient::Spearman, "spearman")]
            {
                let (found, right) = (estimate(&case, coefficient, 20_000), &case[key]);
                let what = format!("{} {key}: {found:?} {right}", case["name"]);
                assert!((found.value.unwrap() - right["value"].as_f64().unwrap()).abs() < 1e-12);
                // Ends of 20 000 resamples of clusters differ by less than 0.02.
                let close = if case["clustered"] == true { 0.02 } else { 1e-12 };
                match (found.interval, right["interval"].as_array()) {
                    (None, None) => {}
                    (Some((low, high)), Some(right)) => {
                        assert!((low - right[0].as_f64().unwrap()).abs() < close, "{what}");
                        assert!((high - right[1].as_f64().unwrap()).abs() < close, "{what}");
                    }
                    _ => panic!("{what}"),
                }
                match (found.p, right["p"].as_f64()) {
                    (None, None) => {}
                    // Of all permutations to rounding, of 20 000 random ones
                    // within four standard errors at most.
                    (Some(p), Some(right)) => {
                        let exact = numbers(&case["x"]).len() <= EXACT;
                        let close = if exact { 1e-12 } else { 0.015 };
                        assert!((p - right).abs() < close, "{what}");
                    }
                    _ => panic!("{what}"),
                }
            }
        }
    }

    #[test]
    fn a_perfect_order_has_an_interval_that_is_no_point_and_five_models_have_none() {
        let figures = |n: usize| {
            let x: Vec<f64> = (0..n).map(|at| (at * at) as f64).collect();
            let y: Vec<f64> = (0..n).map(|at| -(at as f64)).collect();
            let clusters: Vec<u64> = (0..n as u64).collect();
            let figures = Figures { x: &x, y: &y, clusters: &clusters };
            Coefficient::Spearman.estimate(figures, 2000, 1)
        };
        let five = figures(5);
        assert_eq!((five.value, five.interval), (Some(-1.0), None));
        // Two of the 120 orders are as extreme.
        assert!((five.p.unwrap() - 2.0 / 120.0).abs() < 1e-15);
        let (low, high) = figures(10).interval.unwrap();
        assert!(-1.0 < low && low < -0.99 && -0.95 < high && high < -0.9, "{low} {high}");
    }

    #[test]
    fn models_of_few_trials_are_few_models() {
        let case = cases().into_iter().find(|case| case["name"] == "22 models of 5 trials");
        let case = case.unwrap();
        assert_eq!(estimate(&case, Coefficient::Spearman, 200).interval, None);
        let clusters: Vec<u64> = numbers(&case["clusters"]).into_iter().map(|c| c as u64).collect();
        assert_eq!((clusters.len(), independent(&clusters)), (22, 5));
    }

    #[test]
    fn what_is_random_depends_on_the_seed_alone() {
        let case = cases().into_iter().find(|case| case["name"] == "12 trials at 3 ratios");
        let (x, y) = (numbers(&case.as_ref().unwrap()["x"]), numbers(&case.unwrap()["y"]));
        let clusters: Vec<u64> = (0..x.len() as u64).map(|at| at / 3).collect();
        let figures = Figures { x: &x, y: &y, clusters: &clusters };
        let interval = |seed| {
            let clusters = figures.by_cluster();
            Coefficient::Spearman.resampled(figures, &clusters, 200, seed)
        };
        assert_eq!(interval(1), interval(1));
        assert_ne!(interval(1), interval(2));
    }

    #[test]
    fn what_does_not_vary_has_no_coefficient() {
        let clusters: Vec<u64> = (0..10).collect();
        for coefficient in [Coefficient::Pearson, Coefficient::Spearman] {
            assert_eq!(coefficient.of(&[1.0, 2.0, 3.0], &[0.1; 3]), None);
            assert_eq!(coefficient.of(&[1.0], &[1.0]), None);
            let figures = Figures { x: &LOSS, y: &[0.3; 10], clusters: &clusters };
            let flat = coefficient.estimate(figures, 50, 1);
            assert_eq!(flat, Correlation { value: None, interval: None, p: None });
        }
        assert_eq!(Coefficient::Pearson.of(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        // Figures on a straight line say nothing of their spread.
        let figures = Figures { x: &LOSS, y: &LOSS, clusters: &clusters };
        let line = Coefficient::Pearson.estimate(figures, 50, 1);
        assert_eq!((line.value, line.interval), (Some(1.0), None));
    }

    #[test]
    fn reliability_is_what_errors_leave_of_the_spread() {
        // Variance 0.01, squared error 0.0025.
        assert_eq!(
            reliability(&[0.2, 0.3, 0.4], &[0.05; 3]).map(|r| (r * 1e6).round()),
            Some(75e4)
        );
        assert_eq!(reliability(&[0.3, 0.31, 0.3], &[0.05; 3]), Some(0.0));
        assert_eq!(reliability(&[0.3; 3], &[0.05; 3]), Some(0.0));
        assert_eq!(reliability(&[0.3], &[0.05]), None);
    }
}
