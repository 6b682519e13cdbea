//! Normalisation that makes the scores of one layer and kind comparable.

use serde::{Deserialize, Serialize};

/// How the scores of one layer and kind are normalised.
///
/// Divisors are of absolute values, so that scores that were standardised before keep
/// their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Not at all.
    #[default]
    None,
    /// Divided by their mean.
    Mean,
    /// Divided by the largest.
    Max,
    /// Divided by their sum.
    Sum,
    /// Each score becomes its rank over their number, in `(0, 1]`; equal scores
    /// share the mean of their ranks.
    Rank,
    /// Less their mean, divided by their standard deviation (of a sample: the sum of
    /// squares over one less than their number). FLAP compares layers by it.
    Standard,
}

impl Normalisation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Mean, Self::Max, Self::Sum, Self::Rank, Self::Standard];

    /// Normalises scores in place; those that are all 0 stay so, and those that are all
    /// alike have the standard score 0.
    pub fn apply(self, scores: &mut [f64]) {
        let sizes = scores.iter().map(|score| score.abs());
        let divisor = match self {
            Self::None => return,
            Self::Mean => sizes.sum::<f64>() / scores.len() as f64,
            Self::Sum => sizes.sum(),
            Self::Max => sizes.fold(0.0, f64::max),
            Self::Rank => return rank(scores),
            Self::Standard => return standardise(scores),
        };
        if divisor > 0.0 {
            scores.iter_mut().for_each(|score| *score /= divisor);
        }
    }
}

adapruner_choice::choice!(Normalisation, "normalisation", {
    None => "none",
    Mean => "mean",
    Max => "max",
    Sum => "sum",
    Rank => "rank",
    Standard => "standard",
});

/// Replaces scores by their ranks (1 the least) over their number.
fn rank(scores: &mut [f64]) {
    let count = scores.len() as f64;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut ranks = vec![0.0; scores.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let mean = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        run.iter().for_each(|&at| ranks[at] = mean / count);
        start += run.len();
    }
    scores.copy_from_slice(&ranks);
}

/// Replaces scores by their distances from the mean in standard deviations.
fn standardise(scores: &mut [f64]) {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    // Alike but for the rounding of the mean; a NaN stays one.
    let alike = deviation <= mean.abs() * count * f64::EPSILON;
    for score in scores {
        *score = if alike { 0.0 } else { (*score - mean) / deviation };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(normalisation: Normalisation, scores: &[f64]) -> Vec<f64> {
        let mut scores = scores.to_vec();
        normalisation.apply(&mut scores);
        scores
    }

    #[test]
    fn normalisations_divide_as_they_say() {
        let scores = [1.0, 4.0, 1.0, 2.0];
        assert_eq!(of(Normalisation::None, &scores), scores);
        assert_eq!(of(Normalisation::Mean, &scores), [0.5, 2.0, 0.5, 1.0]);
        assert_eq!(of(Normalisation::Max, &scores), [0.25, 1.0, 0.25, 0.5]);
        assert_eq!(of(Normalisation::Sum, &scores), [0.125, 0.5, 0.125, 0.25]);
        assert_eq!(of(Normalisation::Rank, &scores), [0.375, 1.0, 0.375, 0.75]);
        // Mean 2, squares 1 + 4 + 1 + 0 over 3.
        assert_eq!(
            of(Normalisation::Standard, &scores),
            [-1.0, 2.0, -1.0, 0.0].map(|distance| distance / 2.0_f64.sqrt())
        );
        assert_eq!(of(Normalisation::Mean, &[0.0; 3]), [0.0; 3]);
    }

    #[test]
    fn scores_that_are_alike_stand_at_0() {
        for scores in [&[0.0; 3][..], &[0.1; 7], &[5.0], &[]] {
            assert!(of(Normalisation::Standard, scores).iter().all(|&score| score == 0.0));
        }
        assert!(of(Normalisation::Standard, &[1.0, f64::NAN]).iter().all(|s| s.is_nan()));
    }

    /// Every normalisation keeps the order of standardised scores.
    #[test]
    fn scores_below_0_keep_their_order() {
        let standard = of(Normalisation::Standard, &[3.0, 1.0, 4.0, 1.5]);
        for normalisation in Normalisation::ALL {
            let scores = of(normalisation, &standard);
            assert!(scores[1] < scores[3] && scores[3] < scores[0] && scores[0] < scores[2]);
            assert!(scores.iter().all(|score| score.abs() < 2.0), "{normalisation}: {scores:?}");
        }
    }
}
