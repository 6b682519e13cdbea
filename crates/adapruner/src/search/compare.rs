//! Several ways of searching with equal budgets and several seeds, side by side.
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
    /// The arms for some seeds, in order; the baseline has no use for more than
    /// one.
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
            TrialState::Complete => best = best.min(trial.value.unwrap_or(f64::INFINITY)),
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
    /// The least of them.
    pub least: f64,
    /// The largest of them.
    pub largest: f64,
    /// Median of the best losses after so many trials.
    pub after: Vec<(u64, f64)>,
    /// Median perplexity on each test text.
    pub tests: Vec<MedianTest>,
    /// For every other arm, after how many trials the median over seeds was at
    /// least as good as that arm's final median; `None` if never.
    pub reached: Vec<(String, Option<u64>)>,
}

/// Perplexity on a text, the median over seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MedianTest {
    /// The text.
    pub text: TokensRecord,
    /// Of the model as it was.
    pub dense: f64,
    /// Median of the pruned models.
    pub median: f64,
    /// The least.
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
            let others = arms.iter().filter(|other| *other != arm);
            Row {
                arm: (*arm).to_owned(),
                seeds: runs.len(),
                trials,
                median: median(losses()),
                least: losses().fold(f64::INFINITY, f64::min),
                largest: losses().fold(f64::NEG_INFINITY, f64::max),
                after: marks.map(|mark| (mark, after(mark as usize))).collect(),
                tests: tests(&runs),
                reached: others
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
