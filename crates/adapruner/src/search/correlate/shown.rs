//! Correlations as the report shows them.

use adapruner_eval::correlation::Correlation;
use adapruner_report::{CorrelationPoint, CorrelationRow, Estimate};

use super::{Correlations, Pair, Point, Within, judge};

impl Correlations {
    /// The report's section.
    pub fn shown(&self) -> adapruner_report::Correlations {
        let points = std::iter::once(&self.dense).chain(&self.points);
        adapruner_report::Correlations {
            sentences: self.sentences.clone(),
            points: points.filter_map(|shown| point(shown, &self.pairs)).collect(),
            rows: self.pairs.iter().flat_map(rows).collect(),
            resamples: self.resamples,
        }
    }
}

/// A model that was measured.
fn point(point: &Point, pairs: &[Pair]) -> Option<CorrelationPoint> {
    let figures = point.figures()?;
    let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
    for pair in pairs {
        if let Some(loss) = figures.losses.get(pair.text) {
            losses.push((pair.predictor.clone(), loss.loss));
        }
        if let Some((value, _)) = judge::accuracy(figures, &pair.outcome) {
            accuracies.push((pair.outcome.clone(), value));
        }
    }
    for named in [&mut losses, &mut accuracies] {
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named.dedup();
    }
    Some(CorrelationPoint { ratio: point.trial.map(|_| point.ratio), losses, accuracies })
}

fn estimate(found: Correlation) -> Estimate {
    Estimate { value: found.value, interval: found.interval, p: found.p }
}

fn rows(pair: &Pair) -> Vec<CorrelationRow> {
    let row = |within: &Within, verdict: String| CorrelationRow {
        loss: pair.predictor.clone(),
        accuracy: pair.outcome.clone(),
        ratio: within.ratio,
        points: within.points,
        trials: within.trials,
        spearman: estimate(within.spearman),
        pearson: estimate(within.pearson),
        ceiling: within.ceiling(),
        verdict,
    };
    let overall = row(&pair.overall, pair.verdict.to_string());
    std::iter::once(overall).chain(pair.within.iter().map(|w| row(w, String::new()))).collect()
}
