//! Correlations of losses with accuracies, and verdicts.
//!
//! A loss is a guide to an accuracy if models that lose less are right more
//! often: the *strength* of a pair is minus its Spearman coefficient, and its
//! lower bound that of the 95 % interval.
//!
//! Models of one trial at several ratios depend on each other: they are one
//! cluster, and what counts is the number of trials.
//!
//! | verdict | rule, the first that holds |
//! |---|---|
//! | too few | fewer than ten trials |
//! | between ratios only | the lower bound is 0.5 or more, but several ratios are mixed and within none of them (of ten models or more) it is above 0: the loss tells how much was removed; it is not shown to tell which model of a ratio is better (Simpson's paradox) |
//! | good | the lower bound is 0.5 or more |
//! | within noise | less than half of the accuracies' variance is more than their standard errors explain: nothing can be told |
//! | poor | all others: the lower bound is below 0.5 |

use std::fmt;

use adapruner_eval::correlation::{
    Coefficient, Correlation, FEWEST, Figures as Sample, independent, reliability,
};
use serde::{Deserialize, Serialize};

use super::{Figures, Point};

/// Minimum lower bound of a good guide.
const GOOD: f64 = 0.5;
/// Minimum share of an accuracy's variance that standard errors do not explain.
const RELIABLE: f64 = 0.5;
/// Minimum number of models of a ratio for correlations within it.
const SHOWN: usize = 5;
/// Name of the seven-task mean.
pub const MEAN: &str = "mean of seven";

/// Verdict on a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Too few models.
    TooFew,
    /// The loss tells ratios apart, not models of one ratio.
    BetweenRatiosOnly,
    /// The loss is a good guide.
    Good,
    /// The accuracies hardly differ by more than their errors.
    WithinNoise,
    /// The loss is a poor guide.
    Poor,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooFew => "too few models",
            Self::BetweenRatiosOnly => "between ratios only",
            Self::Good => "good",
            Self::WithinNoise => "within noise",
            Self::Poor => "poor",
        })
    }
}

/// The figures of a pair over some models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Within {
    /// The ratio that all of them were pruned to; none of all together.
    pub ratio: Option<f64>,
    /// How many.
    pub points: usize,
    /// How many trials they come from; those of one depend on each other.
    pub trials: usize,
    /// Correlation of ranks.
    pub spearman: Correlation,
    /// Linear correlation.
    pub pearson: Correlation,
    /// Share of the accuracies' variance that is more than their standard errors
    /// explain (see [`reliability`]).
    pub reliability: Option<f64>,
}

impl Within {
    /// Whether there are enough trials for a verdict.
    fn is_enough(&self) -> bool {
        self.trials >= FEWEST
    }

    /// Lower bound of the strength.
    fn strength(&self) -> Option<f64> {
        self.spearman.interval.map(|(_, high)| -high)
    }

    /// The largest correlation that the accuracies' errors leave room for.
    pub fn ceiling(&self) -> Option<f64> {
        self.reliability.map(f64::sqrt)
    }

    fn is_noise(&self) -> bool {
        self.reliability.is_some_and(|share| share < RELIABLE)
    }
}

/// A loss against an accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Place of the text among the losses; the search-evaluation text is first.
    pub text: usize,
    /// The loss, for people.
    pub predictor: String,
    /// The task, or [`MEAN`].
    pub outcome: String,
    /// Over all models.
    pub overall: Within,
    /// Ratio by ratio, where several ratios were measured and a ratio has at
    /// least five models.
    pub within: Vec<Within>,
    /// What they say.
    pub verdict: Verdict,
}

/// An accuracy and its standard error.
type Accuracy = (f64, f64);

/// The accuracies that can be correlated: every task, then the mean.
pub fn outcomes(points: &[Point]) -> Vec<String> {
    let Some(first) = points.iter().find_map(Point::figures) else { return Vec::new() };
    let tasks = first.tasks.iter().map(|figure| figure.task.clone());
    tasks.chain(first.mean.map(|_| MEAN.to_owned())).collect()
}

/// One accuracy of a model.
pub fn accuracy(figures: &Figures, outcome: &str) -> Option<Accuracy> {
    if outcome == MEAN {
        return figures.mean.map(|(value, stderr)| (value, stderr.unwrap_or(0.0)));
    }
    let figure = figures.tasks.iter().find(|figure| figure.task == outcome)?;
    Some((figure.value, figure.stderr.unwrap_or(0.0)))
}

/// The ratios of points, each once, ascending.
pub fn ratios(points: &[Point]) -> Vec<f64> {
    let mut ratios: Vec<f64> =
        points.iter().filter(|p| p.figures().is_some()).map(|p| p.ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.dedup();
    ratios
}

/// Every loss against every accuracy.
pub fn pairs(points: &[Point], resamples: usize, seed: u64) -> Vec<Pair> {
    let Some(first) = points.iter().find_map(Point::figures) else { return Vec::new() };
    let ratios = ratios(points);
    let mut out = Vec::new();
    for (text, loss) in first.losses.iter().enumerate() {
        let predictor = if text == 0 {
            format!("search loss ({})", loss.text)
        } else {
            format!("log-perplexity of {}", loss.text)
        };
        for outcome in outcomes(points) {
            let of = |ratio: Option<f64>| {
                let chosen = points.iter().filter(|p| ratio.is_none_or(|ratio| p.ratio == ratio));
                let rows = chosen.filter_map(|point| {
                    let figures = point.figures()?;
                    let (value, stderr) = accuracy(figures, &outcome)?;
                    let loss = figures.losses.get(text)?.loss;
                    Some(RowOf { loss, value, stderr, trial: point.trial.unwrap_or(u64::MAX) })
                });
                within(ratio, &rows.collect::<Vec<_>>(), resamples, seed)
            };
            let overall = of(None);
            let within: Vec<Within> = if ratios.len() > 1 {
                let each = ratios.iter().map(|&ratio| of(Some(ratio)));
                each.filter(|within| within.points >= SHOWN).collect()
            } else {
                Vec::new()
            };
            let verdict = verdict(&overall, &within, ratios.len() > 1);
            let predictor = predictor.clone();
            out.push(Pair { text, predictor, outcome, overall, within, verdict });
        }
    }
    out
}

/// What of a model is correlated.
struct RowOf {
    loss: f64,
    value: f64,
    stderr: f64,
    trial: u64,
}

fn within(ratio: Option<f64>, rows: &[RowOf], resamples: usize, seed: u64) -> Within {
    let column = |of: fn(&RowOf) -> f64| rows.iter().map(of).collect::<Vec<_>>();
    let (x, y, stderrs) = (column(|row| row.loss), column(|row| row.value), column(|r| r.stderr));
    let clusters: Vec<u64> = rows.iter().map(|row| row.trial).collect();
    let sample = Sample { x: &x, y: &y, clusters: &clusters };
    Within {
        ratio,
        points: rows.len(),
        trials: independent(&clusters),
        spearman: Coefficient::Spearman.estimate(sample, resamples, seed),
        pearson: Coefficient::Pearson.estimate(sample, resamples, seed),
        reliability: reliability(&y, &stderrs),
    }
}

/// The rule of the module; `mixed` where there are several ratios.
fn verdict(overall: &Within, within: &[Within], mixed: bool) -> Verdict {
    if !overall.is_enough() {
        return Verdict::TooFew;
    }
    let strength = overall.strength();
    if strength.is_some_and(|strength| strength >= GOOD) {
        let holds = |within: &Within| within.strength().is_some_and(|strength| strength > 0.0);
        return if mixed && !within.iter().any(holds) {
            Verdict::BetweenRatiosOnly
        } else {
            Verdict::Good
        };
    }
    match strength {
        _ if overall.is_noise() => Verdict::WithinNoise,
        Some(_) => Verdict::Poor,
        None => Verdict::TooFew,
    }
}

/// What the pairs say, a sentence for every loss.
pub fn sentences(pairs: &[Pair]) -> Vec<String> {
    let mut texts: Vec<usize> = pairs.iter().map(|pair| pair.text).collect();
    texts.dedup();
    texts.into_iter().filter_map(|text| sentence(pairs, text)).collect()
}

fn sentence(pairs: &[Pair], text: usize) -> Option<String> {
    let of: Vec<&Pair> = pairs.iter().filter(|pair| pair.text == text).collect();
    let names = |verdict: Verdict| {
        let names = of.iter().filter(|pair| pair.verdict == verdict);
        let names: Vec<&str> = names.map(|pair| pair.outcome.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let mut parts = Vec::new();
    for verdict in [
        Verdict::Good,
        Verdict::BetweenRatiosOnly,
        Verdict::Poor,
        Verdict::WithinNoise,
        Verdict::TooFew,
    ] {
        let Some(names) = names(verdict) else { continue };
        parts.push(match verdict {
            Verdict::Good => format!("is a good guide to {names}"),
            Verdict::BetweenRatiosOnly => {
                let between = of.iter().filter(|pair| pair.verdict == verdict);
                let within: Vec<&Within> = between.flat_map(|pair| &pair.within).collect();
                let why = if !within.iter().any(|within| within.is_enough()) {
                    format!(" (no ratio has the {FEWEST} models that would show the latter)")
                } else if within.iter().all(|within| within.is_noise()) {
                    ", whose accuracies hardly differ by more than their standard errors".to_owned()
                } else {
                    String::new()
                };
                format!(
                    "is a guide to {names} between ratios alone: it tells how much was removed, \
                     and is not shown to tell the better of two models of one ratio{why}"
                )
            }
            Verdict::Poor => format!(
                "is a poor guide to {names} (the lower bound of |Spearman| is below {GOOD})"
            ),
            Verdict::WithinNoise => format!(
                "leaves open what it tells of {names}, whose differences are mostly within their \
                 standard errors (more questions would tell)"
            ),
            Verdict::TooFew => format!(
                "was compared with {names} on too few trials to tell anything (at least {FEWEST} \
                 expected, {} found; one trial at several ratios is one)",
                of.iter().map(|pair| pair.overall.trials).max().unwrap_or(0)
            ),
        });
    }
    let first = of.first()?;
    (!parts.is_empty()).then(|| format!("The {} {}.", first.predictor, parts.join("; it ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::correlate::{
        Outcome,
        measure::{TaskFigure, TextLoss},
    };

    /// A model with a loss and an accuracy on a task.
    fn point(trial: u64, ratio: f64, loss: f64, value: f64, stderr: f64) -> Point {
        let figure = TaskFigure {
            task: "piqa".into(),
            metric: adapruner_eval::metrics::Metric::Acc,
            value,
            stderr: Some(stderr),
            questions: 100,
        };
        Point {
            trial: Some(trial),
            search_loss: None,
            ratio,
            outcome: Outcome::Measured(Figures {
                parameters: 1,
                losses: vec![TextLoss { text: "t".into(), loss }],
                tasks: vec![figure],
                mean: None,
                seconds: 1.0,
            }),
        }
    }

    fn judged(points: &[Point]) -> (Verdict, String) {
        let pairs = pairs(points, 500, 1);
        assert_eq!(pairs.len(), 1);
        (pairs[0].verdict, sentences(&pairs).join(" "))
    }

    /// Ten models whose accuracy falls with the loss, with a disturbance.
    fn falling(disturbance: f64, stderr: f64) -> Vec<Point> {
        let models = (0..10_u8).map(|at| {
            let x = f64::from(at) / 10.0;
            let y = 0.6 - 0.3 * x + disturbance * (f64::from((at * 7) % 10) - 5.0);
            point(at.into(), 0.2, 4.0 + x, y, stderr)
        });
        models.collect()
    }

    #[test]
    fn a_loss_that_orders_accuracies_is_a_good_guide() {
        let (verdict, said) = judged(&falling(0.001, 0.02));
        assert_eq!(verdict, Verdict::Good);
        assert_eq!(said, "The search loss (t) is a good guide to piqa.");
    }

    #[test]
    fn a_loss_that_does_not_is_a_poor_one_also_where_it_goes_the_wrong_way() {
        let (verdict, said) = judged(&falling(0.2, 0.02));
        assert_eq!(verdict, Verdict::Poor);
        assert!(said.contains("poor guide to piqa (the lower bound of |Spearman| is below 0.5)"));
        let mut rising = falling(0.0, 0.02);
        for (at, model) in (0_u8..).zip(&mut rising) {
            *model = point(at.into(), 0.2, 4.0 + f64::from(at), 0.3 + 0.03 * f64::from(at), 0.02);
        }
        assert_eq!(judged(&rising).0, Verdict::Poor);
    }

    #[test]
    fn differences_within_the_errors_tell_nothing() {
        let (verdict, said) = judged(&falling(0.2, 2.0));
        assert_eq!(verdict, Verdict::WithinNoise);
        assert!(said.contains("mostly within their standard errors"), "{said}");
        // All alike.
        let flat = (0..10_u8).map(|at| point(at.into(), 0.2, f64::from(at), 0.5, 0.05));
        let flat: Vec<Point> = flat.collect();
        assert_eq!(judged(&flat).0, Verdict::WithinNoise);
    }

    #[test]
    fn what_holds_between_ratios_alone_is_told_from_what_holds_within_one() {
        let mixed = |trials: u64| {
            let mut mixed = Vec::new();
            for (at, ratio) in [0.1, 0.3, 0.5].into_iter().enumerate() {
                // Within a ratio: losses ascend, accuracies go up and down.
                for trial in 0..trials {
                    let loss = 4.0 + at as f64 + 0.01 * trial as f64;
                    let offset = 0.01 * ((trial * 7) % 5) as f64;
                    let value = 0.7 - 0.15 * at as f64 + offset;
                    mixed.push(point(trial, ratio, loss, value, 0.001));
                }
            }
            mixed
        };
        let mut twelve = mixed(12);
        let (verdict, said) = judged(&twelve);
        assert_eq!(verdict, Verdict::BetweenRatiosOnly, "{said}");
        assert!(
            said.contains("between ratios alone") && said.contains("models of one ratio."),
            "{said}"
        );
        let found = pairs(&twelve, 500, 1);
        assert_eq!(found[0].within.len(), 3);
        assert!(found[0].within.iter().all(|within| (within.points, within.trials) == (12, 12)));
        assert_eq!((found[0].overall.points, found[0].overall.trials), (36, 12));
        // Without ten models of one ratio nothing is said of models of one ratio.
        let sparse: Vec<Point> = twelve
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == at / 12 % 2)
            .map(|(_, p)| p.clone())
            .collect();
        let (verdict, said) = judged(&sparse);
        assert_eq!(verdict, Verdict::BetweenRatiosOnly, "{said}");
        assert!(said.contains("no ratio has the 10 models"), "{said}");
        // 15 models of 5 trials are 5.
        let (verdict, said) = judged(&mixed(5));
        assert_eq!(verdict, Verdict::TooFew, "{said}");
        assert!(said.contains("at least 10 expected, 5 found"), "{said}");
        // With accuracies that fall within ratios as well it is good.
        for model in &mut twelve {
            let loss = model.figures().unwrap().losses[0].loss;
            let trial = model.trial.unwrap();
            *model = point(trial, model.ratio, loss, 2.0 - loss / 5.0, 0.001);
        }
        assert_eq!(judged(&twelve).0, Verdict::Good);
    }

    #[test]
    fn five_models_in_perfect_order_are_no_good_guide() {
        let five: Vec<Point> = falling(0.0, 0.02)[..5].to_vec();
        let (verdict, said) = judged(&five);
        assert_eq!(verdict, Verdict::TooFew);
        assert!(said.contains("at least 10 expected, 5 found"), "{said}");
        let found = pairs(&five, 500, 1)[0].overall.spearman;
        assert_eq!((found.value, found.interval), (Some(-1.0), None));
    }

    #[test]
    fn few_models_and_skipped_ones_say_so() {
        let mut few = falling(0.0, 0.02)[..4].to_vec();
        few.push(Point {
            outcome: Outcome::Skipped { reason: "no".into() },
            ..point(0, 0.2, 1.0, 1.0, 0.0)
        });
        let (verdict, said) = judged(&few);
        assert_eq!(verdict, Verdict::TooFew);
        assert!(said.contains("too few"), "{said}");
        assert!(pairs(&few[4..], 10, 1).is_empty());
    }
}
