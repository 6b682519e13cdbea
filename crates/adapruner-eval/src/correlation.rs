//! How well one figure of a set of models tells another: rank and linear
//! correlation with bootstrap intervals, and how much of a spread is more than
//! sampling error.
//!
//! `n` models have figures `x` (a loss) and `y` (an accuracy).
//!
//! | figure | definition |
//! |---|---|
//! | Pearson's r | `Σ (x−x̄)(y−ȳ) / √(Σ (x−x̄)² · Σ (y−ȳ)²)` |
//! | Spearman's ρ | Pearson's r of the ranks, tied values at the mean of theirs |
//! | 95 % interval | quantiles 0.025 and 0.975 of the coefficient over resamples of the models, with replacement (Efron's percentile bootstrap) |
//! | reliability | `1 − mean(s²) / var(y)`, at least 0, with `s` the standard errors of `y`; its root is the largest correlation that can be expected |
//!
//! A coefficient of fewer than two models, or of figures that do not vary, is
//! not defined.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Models below which no interval is given: their resamples are too few.
pub const FEWEST: usize = 5;
/// Share of the resamples that an interval holds.
const COVERED: f64 = 0.95;

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
    /// Lower and upper end of the 95 % interval; none below [`FEWEST`] models or
    /// where half of the resamples or more have no coefficient.
    pub interval: Option<(f64, f64)>,
}

impl Coefficient {
    /// The coefficient of pairs; `None` where it is not defined.
    pub fn of(self, x: &[f64], y: &[f64]) -> Option<f64> {
        match self {
            Self::Pearson => pearson(x, y),
            Self::Spearman => pearson(&ranks(x), &ranks(y)),
        }
    }

    /// The same with an interval from `resamples` resamples.
    pub fn with_interval(self, x: &[f64], y: &[f64], resamples: usize, seed: u64) -> Correlation {
        Correlation { value: self.of(x, y), interval: self.interval(x, y, resamples, seed) }
    }

    fn interval(self, x: &[f64], y: &[f64], resamples: usize, seed: u64) -> Option<(f64, f64)> {
        let n = x.len().min(y.len());
        if n < FEWEST {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut found = Vec::with_capacity(resamples);
        for _ in 0..resamples {
            let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            let of = |values: &[f64]| drawn.iter().map(|&at| values[at]).collect::<Vec<_>>();
            found.extend(self.of(&of(x), &of(y)));
        }
        if found.is_empty() || 2 * found.len() <= resamples {
            return None;
        }
        found.sort_by(f64::total_cmp);
        let outside = (1.0 - COVERED) / 2.0;
        Some((quantile(&found, outside), quantile(&found, 1.0 - outside)))
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
    // What is alike differs from its mean by rounding at the most.
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

    // stats.bootstrap((x, y), coefficient, paired=True, vectorized=False,
    // n_resamples=20000, method="percentile", rng=numpy.random.default_rng(0)).
    // Ends of intervals of 20 000 other resamples differ by less than 0.01.
    #[test]
    fn intervals_are_those_of_scipy() {
        for (coefficient, low, high) in
            [(Coefficient::Pearson, -0.993_17, -0.924_81), (Coefficient::Spearman, -1.0, -0.895_85)]
        {
            let found = coefficient.with_interval(&LOSS, &ACCURACY, 20_000, 1).interval.unwrap();
            let close = (found.0 - low).abs() < 0.01 && (found.1 - high).abs() < 0.01;
            assert!(close, "{coefficient:?}: {found:?}");
        }
    }

    #[test]
    fn intervals_depend_on_the_seed_alone() {
        let interval = |seed| Coefficient::Spearman.interval(&LOSS, &ACCURACY, 200, seed);
        assert_eq!(interval(1), interval(1));
        assert_ne!(interval(1), interval(2));
    }

    #[test]
    fn what_does_not_vary_has_no_coefficient() {
        for coefficient in [Coefficient::Pearson, Coefficient::Spearman] {
            assert_eq!(coefficient.of(&[1.0, 2.0, 3.0], &[0.1; 3]), None);
            assert_eq!(coefficient.of(&[1.0], &[1.0]), None);
            let flat = coefficient.with_interval(&LOSS, &[0.3; 10], 50, 1);
            assert_eq!(flat, Correlation { value: None, interval: None });
            let few = coefficient.with_interval(&LOSS[..4], &ACCURACY[..4], 50, 1);
            assert!(few.value.is_some() && few.interval.is_none());
        }
        assert_eq!(Coefficient::Pearson.of(&[1.0, f64::NAN], &[1.0, 2.0]), None);
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
