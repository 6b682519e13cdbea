//! Compares search strategies with equal budgets and several seeds.
//!
//! Losses are mean negative log-likelihoods on the search-evaluation text, in
//! nats per predicted token.

use std::{str::FromStr, sync::Arc};

use adapruner_study::{Trial, TrialState};
use serde::{Deserialize, Serialize};

use super::{
    outcome::{SearchResult, TestResult},
    settings::{Arm, SamplerChoice},
    space::{Extent, Varied},
};
use crate::pipeline::TokensRecord;

/// An arm as it is typed: `joint`, `random`, `data`, `metric` or `baseline`,
/// with `@TRIALS` and then `xSEEDS` for numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArmSpec {
    varied: Varied,
    sampler: SamplerChoice,
    trials: Option<u64>,
    seeds: Option<u64>,
}

/// Draws of the baseline.
const DRAWS: u64 = 10;

impl ArmSpec {
    /// The arms for some seeds, in order; the baseline uses only one.
    pub fn arms(self, extent: Extent, trials: u64, seeds: std::ops::Range<u64>) -> Vec<Arm> {
        let (seeds, trials) = match self.varied {
            Varied::Baseline => (seeds.start..seeds.start + 1, DRAWS),
            Varied::Joint | Varied::Data | Varied::Metric => (seeds, trials),
        };
        let trials = self.trials.unwrap_or(trials);
        let seeds = seeds.start..self.seeds.map_or(seeds.end, |count| seeds.start + count);
        let arm = |seed| Arm { extent, varied: self.varied, sampler: self.sampler, seed, trials };
        seeds.map(arm).collect()
    }
}

impl FromStr for ArmSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| {
            let count = text.parse::<u64>().ok().filter(|&count| count > 0);
            count.ok_or_else(|| format!("expected a number, at least 1, found {text:?}"))
        };
        let (name, numbers) = match text.split_once('@') {
            Some((name, numbers)) => (name, Some(numbers)),
            None => (text, None),
        };
        let (trials, seeds) = match numbers.map(|numbers| (numbers, numbers.split_once('x'))) {
            Some((_, Some((trials, seeds)))) => (Some(count(trials)?), Some(count(seeds)?)),
            Some((trials, None)) => (Some(count(trials)?), None),
            None => (None, None),
        };
        let (varied, sampler) = match name {
            "random" => (Varied::Joint, SamplerChoice::Random),
            other => (
                other.parse().map_err(|_| {
                    format!("expected joint, random, data, metric or baseline, found {other:?}")
                })?,
                SamplerChoice::Tpe,
            ),
        };
        Ok(Self { varied, sampler, trials, seeds })
    }
}

impl std::fmt::Display for ArmSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.varied, self.sampler) {
            (Varied::Joint, SamplerChoice::Random) => f.write_str("random")?,
            (varied, _) => varied.fmt(f)?,
        }
        if let Some(trials) = self.trials {
            write!(f, "@{trials}")?;
        }
        self.seeds.map_or(Ok(()), |seeds| write!(f, "x{seeds}"))
    }
}

/// One search of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Its arm, without the seed.
    pub arm: String,
    /// Seed of its sampler.
    pub seed: u64,
    /// Best loss so far after each finished trial.
    pub best_so_far: Vec<f64>,
    /// Loss of its best trial (of the baseline, of its median draw).
    pub loss: f64,
    /// Perplexities on the test texts.
    pub tests: Vec<TestResult>,
}

impl Run {
    /// From a search's trials and result.
    pub fn new(arm: &Arm, trials: &[Arc<Trial>], result: &SearchResult) -> Self {
        Self {
            arm: arm.label(),
            seed: arm.seed,
            best_so_far: best_so_far(trials),
            loss: result.best.loss,
            tests: result.tests.clone(),
        }
    }
}

/// The best complete loss after each trial that was complete or stopped early;
/// infinite before the first complete one.
pub fn best_so_far(trials: &[Arc<Trial>]) -> Vec<f64> {
    let mut best = f64::INFINITY;
    let mut curve = Vec::new();
    for trial in trials {
        match trial.state {
            TrialState::Complete => best = best.min(trial.value().unwrap_or(f64::INFINITY)),
            TrialState::Pruned => {}
            TrialState::Running | TrialState::Failed | TrialState::Waiting => continue,
        }
        curve.push(best);
    }
    curve
}

/// An arm over its seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The arm.
    pub arm: String,
    /// Number of seeds.
    pub seeds: usize,
    /// Trials of each.
    pub trials: usize,
    /// Median of the best losses.
    pub median: f64,
    /// The smallest of them.
    pub least: f64,
    /// The largest of them.
    pub largest: f64,
    /// Median of the best losses after a number of trials.
    pub after: Vec<(u64, f64)>,
    /// Median perplexity on each test text.
    pub tests: Vec<MedianTest>,
    /// For every other arm, after how many trials the median over seeds reached
    /// that arm's final median; `None` if never. Of medians alone: see `against`.
    pub reached: Vec<(String, Option<u64>)>,
    /// For every other arm, what the ranges of the best losses show.
    pub against: Vec<(String, Shown)>,
}

/// Seeds that both arms need for a difference to be shown.
const SEEDS: usize = 3;

/// What the ranges of two arms' best losses over seeds show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Every seed ends below every seed of the other.
    Lower,
    /// Every seed ends above every seed of the other.
    Higher,
    /// The ranges overlap.
    Overlap,
    /// An arm has fewer than three seeds.
    TooFewSeeds,
}

impl Shown {
    /// Of two arms' best losses.
    fn of(losses: &[f64], other: &[f64]) -> Self {
        let range = |losses: &[f64]| {
            let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
            (least, losses.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        };
        let ((least, largest), (other_least, other_largest)) = (range(losses), range(other));
        if losses.len().min(other.len()) < SEEDS {
            Self::TooFewSeeds
        } else if largest < other_least {
            Self::Lower
        } else if least > other_largest {
            Self::Higher
        } else {
            Self::Overlap
        }
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lower => "lower for every seed",
            Self::Higher => "higher for every seed",
            Self::Overlap => "ranges overlap: no difference shown",
            Self::TooFewSeeds => "fewer than 3 seeds: no difference shown",
        })
    }
}

/// Perplexity on a text, the median over seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MedianTest {
    /// The text.
    pub text: TokensRecord,
    /// Of the dense model.
    pub dense: f64,
    /// Median of the pruned models.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub largest: f64,
}

/// Numbers of trials at which arms are compared.
const MARKS: [u64; 6] = [10, 25, 50, 100, 150, 300];

/// Rows of a table, an arm each, in the order in which arms come first.
pub fn table(runs: &[Run]) -> Vec<Row> {
    let mut arms: Vec<&str> = Vec::new();
    for run in runs {
        if !arms.contains(&run.arm.as_str()) {
            arms.push(&run.arm);
        }
    }
    let of = |arm: &str| -> Vec<&Run> { runs.iter().filter(|run| run.arm == arm).collect() };
    let final_median = |arm: &str| median(of(arm).iter().map(|run| run.loss));
    arms.iter()
        .map(|arm| {
            let runs = of(arm);
            let trials = runs.iter().map(|run| run.best_so_far.len()).min().unwrap_or(0);
            let after = |count: usize| median(runs.iter().map(|run| run.best_so_far[count - 1]));
            let losses = || runs.iter().map(|run| run.loss);
            let marks = MARKS.into_iter().filter(|&mark| mark as usize <= trials);
            let others = || arms.iter().filter(|other| *other != arm);
            let losses_of = |arm: &str| of(arm).iter().map(|run| run.loss).collect::<Vec<_>>();
            Row {
                arm: (*arm).to_owned(),
                seeds: runs.len(),
                trials,
                median: median(losses()),
                least: losses().fold(f64::INFINITY, f64::min),
                largest: losses().fold(f64::NEG_INFINITY, f64::max),
                after: marks.map(|mark| (mark, after(mark as usize))).collect(),
                tests: tests(&runs),
                against: others()
                    .map(|other| {
                        ((*other).to_owned(), Shown::of(&losses_of(arm), &losses_of(other)))
                    })
                    .collect(),
                reached: others()
                    .map(|other| {
                        let goal = final_median(other);
                        let reached = (1..=trials).find(|&count| after(count) <= goal);
                        ((*other).to_owned(), reached.map(|count| count as u64))
                    })
                    .collect(),
            }
        })
        .collect()
}

fn tests(runs: &[&Run]) -> Vec<MedianTest> {
    let Some(first) = runs.first() else { return Vec::new() };
    let of = |at: usize| runs.iter().filter_map(move |run| Some(run.tests.get(at)?.pruned));
    first
        .tests
        .iter()
        .enumerate()
        .map(|(at, test)| MedianTest {
            text: test.text.clone(),
            dense: test.dense,
            median: median(of(at)),
            least: of(at).fold(f64::INFINITY, f64::min),
            largest: of(at).fold(f64::NEG_INFINITY, f64::max),
        })
        .collect()
}

/// The median; NaN of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arm: &str, seed: u64, curve: &[f64]) -> Run {
        Run {
            arm: arm.into(),
            seed,
            best_so_far: curve.to_vec(),
            loss: *curve.last().unwrap(),
            tests: Vec::new(),
        }
    }

    #[test]
    fn arms_are_compared_at_equal_budgets() {
        let runs = [
            run("a", 1, &[5.0, 3.0, 1.0]),
            run("a", 2, &[6.0, 2.0, 2.0]),
            run("b", 1, &[4.0, 4.0, 2.5]),
        ];
        let rows = table(&runs);
        assert_eq!((rows[0].median, rows[0].least, rows[0].largest), (1.5, 1.0, 2.0));
        assert_eq!((rows[0].seeds, rows[0].trials), (2, 3));
        // Medians over seeds: 5.5, 2.5, 1.5.
        assert_eq!(rows[0].reached, [("b".to_owned(), Some(2))]);
        assert_eq!(rows[1].reached, [("a".to_owned(), None)]);
    }

    #[test]
    fn a_difference_is_shown_by_ranges_of_three_seeds_that_do_not_overlap() {
        let arm = |name: &str, losses: &[f64]| -> Vec<Run> {
            (0_u64..).zip(losses).map(|(seed, &loss)| run(name, seed, &[loss])).collect()
        };
        // The losses of joint TPE, random search and the metric alone of a study.
        let runs = [
            arm("joint", &[4.6683, 4.6764, 4.6860]),
            arm("random", &[4.6791, 4.7063, 4.7165]),
            arm("metric", &[4.6991]),
            arm("worse", &[4.9, 4.8, 5.0]),
        ];
        let rows = table(&runs.concat());
        let shown = |row: usize, other: usize| rows[row].against[other].1;
        assert_eq!(shown(0, 0), Shown::Overlap);
        assert_eq!(shown(1, 0), Shown::Overlap);
        assert_eq!(shown(0, 1), Shown::TooFewSeeds);
        assert_eq!((shown(0, 2), shown(3, 0)), (Shown::Lower, Shown::Higher));
        assert!(Shown::Overlap.to_string().contains("no difference shown"));
    }

    #[test]
    fn arms_are_read_as_they_are_written() {
        for text in ["joint", "random@300", "data@150x1", "metric", "baseline@10"] {
            assert_eq!(text.parse::<ArmSpec>().unwrap().to_string(), text);
        }
        for text in ["", "tpe", "joint@", "joint@0", "joint@x", "joint@2x", "joint@2x0"] {
            assert!(text.parse::<ArmSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
