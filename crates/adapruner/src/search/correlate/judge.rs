//! Correlations of losses with accuracies, and what they say.
//!
//! A loss is a guide to an accuracy if models that lose less are right more
//! often: the *strength* of a pair is minus its Spearman coefficient, and its
//! lower bound that of the 95 % interval.
//!
//! | verdict | rule, the first that holds |
//! |---|---|
//! | too few | no interval: fewer than five models |
//! | between ratios only | the lower bound is 0.5 or more, but several ratios are mixed and within none of them (of five models or more) it is above 0: the loss tells how much was removed, not which model is better (Simpson's paradox) |
//! | good | the lower bound is 0.5 or more |
//! | within noise | less than half of the accuracies' variance is more than their standard errors explain: nothing can be told |
//! | poor | all others: the lower bound is below 0.5 |

use std::fmt;

use adapruner_eval::correlation::{Coefficient, Correlation, FEWEST, reliability};
use serde::{Deserialize, Serialize};

use super::{Figures, Point};

/// The least lower bound of a good guide.
const GOOD: f64 = 0.5;
/// The least share of an accuracy's variance that must be more than error.
const RELIABLE: f64 = 0.5;
/// Name of the seven-task mean.
pub const MEAN: &str = "mean of seven";

/// What a pair says.
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
    /// Correlation of ranks.
    pub spearman: Correlation,
    /// Linear correlation.
    pub pearson: Correlation,
    /// Share of the accuracies' variance that is more than their standard errors
    /// explain (see [`reliability`]).
    pub reliability: Option<f64>,
}

impl Within {
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
                    Some((figures.losses.get(text)?.loss, value, stderr))
                });
                within(ratio, &rows.collect::<Vec<_>>(), resamples, seed)
            };
            let overall = of(None);
            let within: Vec<Within> = if ratios.len() > 1 {
                let each = ratios.iter().map(|&ratio| of(Some(ratio)));
                each.filter(|within| within.points >= FEWEST).collect()
            } else {
                Vec::new()
            };
            let verdict = verdict(&overall, &within);
            let predictor = predictor.clone();
            out.push(Pair { text, predictor, outcome, overall, within, verdict });
        }
    }
    out
}

fn within(ratio: Option<f64>, rows: &[(f64, f64, f64)], resamples: usize, seed: u64) -> Within {
    let column = |of: fn(&(f64, f64, f64)) -> f64| rows.iter().map(of).collect::<Vec<_>>();
    let (x, y, stderrs) = (column(|row| row.0), column(|row| row.1), column(|row| row.2));
    Within {
        ratio,
        points: rows.len(),
        spearman: Coefficient::Spearman.with_interval(&x, &y, resamples, seed),
        pearson: Coefficient::Pearson.with_interval(&x, &y, resamples, seed),
        reliability: reliability(&y, &stderrs),
    }
}

/// The rule of the module.
fn verdict(overall: &Within, within: &[Within]) -> Verdict {
    let strength = overall.strength();
    if strength.is_some_and(|strength| strength >= GOOD) {
        let vanishes = |within: &Within| within.strength().is_none_or(|strength| strength <= 0.0);
        return if !within.is_empty() && within.iter().all(vanishes) {
            Verdict::BetweenRatiosOnly
        } else {
            Verdict::Good
        };
    }
    if overall.points >= FEWEST && overall.is_noise() {
        return Verdict::WithinNoise;
    }
    if strength.is_some() { Verdict::Poor } else { Verdict::TooFew }
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
                let noise = between.flat_map(|pair| &pair.within).all(|within| within.is_noise());
                let why = if noise {
                    ", whose accuracies hardly differ by more than their standard errors"
                } else {
                    ""
                };
                format!(
                    "is a guide to {names} between ratios alone: it tells how much was removed, \
                     not the better of two models of one ratio{why}"
                )
            }
            Verdict::Poor => format!(
                "is a poor guide to {names} (the lower bound of |Spearman| is below {GOOD})"
            ),
            Verdict::WithinNoise => format!(
                "leaves open what it tells of {names}, whose differences are mostly within their \
                 standard errors (more questions would tell)"
            ),
            Verdict::TooFew => {
                format!("was held against {names} on too few models to tell anything")
            }
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
    fn point(ratio: f64, loss: f64, value: f64, stderr: f64) -> Point {
        let figure = TaskFigure {
            task: "piqa".into(),
            metric: adapruner_eval::metrics::Metric::Acc,
            value,
            stderr: Some(stderr),
            questions: 100,
        };
        Point {
            trial: Some(0),
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
        let models = (0..10).map(|at| {
            let x = f64::from(at) / 10.0;
            let y = 0.6 - 0.3 * x + disturbance * f64::from((at * 7) % 10 - 5);
            point(0.2, 4.0 + x, y, stderr)
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
            *model = point(0.2, 4.0 + f64::from(at), 0.3 + 0.03 * f64::from(at), 0.02);
        }
        assert_eq!(judged(&rising).0, Verdict::Poor);
    }

    #[test]
    fn differences_within_the_errors_tell_nothing() {
        let (verdict, said) = judged(&falling(0.2, 2.0));
        assert_eq!(verdict, Verdict::WithinNoise);
        assert!(said.contains("mostly within their standard errors"), "{said}");
        // All alike.
        let flat: Vec<Point> = (0..6).map(|at| point(0.2, f64::from(at), 0.5, 0.05)).collect();
        assert_eq!(judged(&flat).0, Verdict::WithinNoise);
    }

    #[test]
    fn what_holds_between_ratios_alone_is_told_from_what_holds_within_one() {
        let mut mixed = Vec::new();
        for (at, ratio) in [0.1, 0.3, 0.5].into_iter().enumerate() {
            let at = at as f64;
            // Within a ratio: losses ascend, accuracies go up and down.
            for (place, offset) in [0.02, -0.01, 0.01, -0.02, 0.02, 0.0].into_iter().enumerate() {
                let loss = 4.0 + at + 0.01 * place as f64;
                mixed.push(point(ratio, loss, 0.7 - 0.15 * at + offset, 0.001));
            }
        }
        let (verdict, said) = judged(&mixed);
        assert_eq!(verdict, Verdict::BetweenRatiosOnly, "{said}");
        assert!(
            said.contains("between ratios alone") && said.contains("models of one ratio"),
            "{said}"
        );
        let pairs = pairs(&mixed, 500, 1);
        assert_eq!(pairs[0].within.len(), 3);
        assert!(pairs[0].within.iter().all(|within| within.points == 6));
        // With accuracies that fall within ratios as well it is good.
        for model in &mut mixed {
            let loss = model.figures().unwrap().losses[0].loss;
            *model = point(model.ratio, loss, 2.0 - loss / 5.0, 0.001);
        }
        assert_eq!(judged(&mixed).0, Verdict::Good);
    }

    #[test]
    fn few_models_and_skipped_ones_say_so() {
        let mut few = falling(0.0, 0.02)[..4].to_vec();
        few.push(Point {
            outcome: Outcome::Skipped { reason: "no".into() },
            ..point(0.2, 1.0, 1.0, 0.0)
        });
        let (verdict, said) = judged(&few);
        assert_eq!(verdict, Verdict::TooFew);
        assert!(said.contains("too few"), "{said}");
        assert!(pairs(&few[4..], 10, 1).is_empty());
    }
}
