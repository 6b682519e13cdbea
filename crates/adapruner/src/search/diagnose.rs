//! Detects and reports known failure modes of a search.
//!
//! | sign | meaning |
//! |---|---|
//! | oscillation | the best trial is old, and losses are as spread as at the start: the sampler has learnt nothing |
//! | collapse | a coefficient at the edge of its range, one side of the metric switched off, near-duplicate samples, a layer at its minimum, a perplexity that more than doubled |
//! | nothing found | the best trial is the first one, the setting by hand that the search begins with |
//! | unmet | a request to every plan is not met |

use std::sync::Arc;

use adapruner_prune::PrunePlan;
use adapruner_study::{ParamValue, Trial, TrialState, best_of, since_best};

use super::{
    dimension::{Dimension, Kind},
    outcome::{SearchResult, TestResult},
    run::{DIRECTION, Search},
    space::Domain,
};
use crate::caution::{Caution, collapse};

/// Minimum number of trials for a verdict on convergence.
const ENOUGH: usize = 60;
/// Share of the initial spread from which the final one counts as no narrower.
const ALIKE: f64 = 0.8;
/// Nearness to an edge of a range, as a share of it.
const EDGE: f64 = 0.02;
/// Feed-forward widths below this share of the dense ones are reported.
const NARROW: f64 = 0.05;

/// All warnings about a finished search.
pub(super) fn warnings(
    search: &Search<'_>,
    trials: &[Arc<Trial>],
    result: &SearchResult,
    plan: &PrunePlan,
) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(first_is_best(trials, search.space.baseline));
    found.extend(unmet(search, result, plan));
    for TestResult { text, dense, pruned, .. } in &result.tests {
        let said = collapse((*dense, *pruned), &text.text, None);
        found.extend(said.map(|caution| caution.to_string()));
    }
    found.extend(oscillation(trials));
    found.extend(edges(search, trials));
    found.extend(one_side(search, result));
    let pairs = search.objective.near_duplicates(&result.best.configuration.samples);
    if !pairs.is_empty() {
        let shown: Vec<_> = pairs.iter().take(3).map(|(a, b)| format!("{a} and {b}")).collect();
        found.push(format!(
            "collapse: {} pairs of chosen samples are nearly one text ({})",
            pairs.len(),
            shown.join(", ")
        ));
    }
    for (layer, (kept, widths)) in
        plan.layers.iter().zip(&search.objective.dense.config.layers).enumerate()
    {
        if (kept.ffn.len() as f64) < NARROW * widths.ffn as f64 {
            found.push(format!(
                "collapse: layer {layer} keeps {} of {} feed-forward channels",
                kept.ffn.len(),
                widths.ffn
            ));
        }
    }
    found
}

/// Whether no trial is better than the first that is complete.
fn first_is_best(trials: &[Arc<Trial>], baseline: bool) -> Option<String> {
    let first = trials.iter().filter(|trial| trial.state == TrialState::Complete);
    let first = first.map(|trial| trial.number).min()?;
    let best = best_of(trials, DIRECTION)?.number;
    let tried = trials.iter().filter(|trial| trial.state.is_finished()).count();
    (!baseline && tried > 1 && best == first).then(|| {
        Caution {
            message: format!(
                "nothing found: the best of {tried} trials is trial {first}, the first one: no \
                 better than the setting that the search begins with"
            ),
            hint: "give it more --trials, a larger evaluation text (--limit) or another range in \
                   the table space of --config"
                .to_owned(),
        }
        .to_string()
    })
}

/// Requests to every plan that the best one does not meet; a share of attention only if the
/// search did not choose it.
fn unmet(search: &Search<'_>, result: &SearchResult, plan: &PrunePlan) -> Vec<String> {
    let objective = search.objective;
    let config = &objective.dense.config;
    let options = result.best.configuration.plan_options(
        &objective.plan,
        &objective.cheapest,
        config.layers.len(),
    );
    let chosen = search.space.searched().any(|dimension| dimension == Dimension::AttentionShare);
    let unmet = plan.unmet(config, &options).into_iter();
    unmet
        .filter(|unmet| !(chosen && unmet.option == "attention-share"))
        .map(|unmet| Caution::from(unmet).to_string())
        .collect()
}

/// Whether the sampler has learnt anything: the running best stagnates while
/// losses spread as they did at the start.
pub(super) fn oscillation(trials: &[Arc<Trial>]) -> Option<String> {
    let values: Vec<f64> =
        trials.iter().filter_map(|trial| trial.value()).filter(|value| value.is_finite()).collect();
    if values.len() < ENOUGH {
        return None;
    }
    let since = since_best(trials, &[DIRECTION]);
    let third = values.len() / 3;
    let (early, late) = (spread(&values[..third]), spread(&values[values.len() - third..]));
    (2 * since > values.len() && late >= ALIKE * early).then(|| {
        format!(
            "oscillation: no better trial in the last {since} of {}, and losses spread as at the \
             start (interquartile range {late:.4} nats, {early:.4} in the first third): the \
             evaluation text may be too small, or the space too flat",
            values.len()
        )
    })
}

/// Interquartile range.
fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
    at(0.75) - at(0.25)
}

/// Coefficients of the best trial that ended at the edge of what was searched.
fn edges(search: &Search<'_>, trials: &[Arc<Trial>]) -> Vec<String> {
    let Some(best) = best_of(trials, DIRECTION) else { return Vec::new() };
    let mut found = Vec::new();
    for (dimension, domain) in &search.space.dimensions {
        let (low, high) = match domain {
            Domain::Integer(low, high) => (*low as f64, *high as f64),
            Domain::Number(low, high) => (*low, *high),
            Domain::Log(low, high) => (low.ln(), high.ln()),
            Domain::Fixed(_) | Domain::Name(_) => continue,
        };
        let value = match best.params.get(dimension.name()) {
            Some((_, ParamValue::Float(value))) => match domain {
                Domain::Log(..) => value.ln(),
                Domain::Fixed(_) | Domain::Integer(..) | Domain::Number(..) | Domain::Name(_) => {
                    *value
                }
            },
            Some((_, ParamValue::Int(value))) => *value as f64,
            Some((_, ParamValue::Subset(items))) => items.len() as f64,
            Some((_, ParamValue::Category(_))) | None => continue,
        };
        let layers = search.objective.dense.config.layers.len();
        let widest = dimension.kind(layers, search.space.pool);
        let can_widen = |edge: f64| match &widest {
            Kind::Integer(a, b) => edge > *a as f64 && edge < *b as f64,
            Kind::Number(a, b) => edge > *a && edge < *b,
            // From one order alone to the other: nothing lies beyond.
            Kind::Log(..) | Kind::Name(_) => false,
        };
        for edge in [low, high] {
            if (value - edge).abs() <= EDGE * (high - low) && can_widen(edge) {
                found.push(format!(
                    "collapse: {dimension} of the best trial is {value:.3}, at the edge of {domain}: \
                     the optimum may lie beyond (widen it in the table space of --config)"
                ));
            }
        }
    }
    found
}

/// Whether one side of the metric is switched off though both were searched.
fn one_side(search: &Search<'_>, result: &SearchResult) -> Option<String> {
    let searched = |of| search.space.searched().any(|dimension| dimension == of);
    let (alpha1, activation) =
        (result.best.configuration.alpha1, result.best.configuration.activation);
    if activation >= 1.0 - EDGE {
        return searched(Dimension::Activation).then(|| {
            format!(
                "collapse: activation of the best trial is {activation:.4}: both Taylor sides are \
                 switched off"
            )
        });
    }
    let off = if alpha1 <= EDGE {
        "coarse"
    } else if alpha1 >= 1.0 - EDGE {
        "fine"
    } else {
        return None;
    };
    searched(Dimension::Alpha1).then(|| {
        format!("collapse: alpha1 of the best trial is {alpha1:.4}: the {off} side is switched off")
    })
}

#[cfg(test)]
mod tests {
    use adapruner_study::testing::trial;

    use super::*;

    fn trials(values: impl IntoIterator<Item = f64>) -> Vec<Arc<Trial>> {
        let complete = |(number, value)| trial(number, TrialState::Complete, Some(value));
        (0..).zip(values).map(complete).map(Arc::new).collect()
    }

    #[test]
    fn a_search_that_found_nothing_better_than_its_first_trial_says_so() {
        let said = first_is_best(&trials([1.0, 2.0, 3.0]), false).unwrap();
        assert!(said.contains("best of 3 trials is trial 0"), "{said}");
        assert_eq!(first_is_best(&trials([1.0, 2.0, 0.5]), false), None);
        // One trial alone says nothing, nor do the draws of a baseline.
        assert_eq!(first_is_best(&trials([1.0]), false), None);
        assert_eq!(first_is_best(&trials([1.0, 2.0]), true), None);
        assert_eq!(first_is_best(&[], false), None);
    }

    #[test]
    fn a_search_that_learns_nothing_oscillates() {
        // The least comes early, and the rest spreads alike throughout.
        let noise = (0..90).map(|n: u64| if n == 5 { 0.0 } else { 1.0 + (n * 37 % 90) as f64 });
        let said = oscillation(&trials(noise)).unwrap();
        assert!(said.contains("84 of 90"), "{said}");
        // One that closes in does not, even if the best was early.
        let closing = (0..90)
            .map(|n: u64| if n == 5 { 0.0 } else { 1.0 + (n * 37 % 90) as f64 / (1 + n) as f64 });
        assert_eq!(oscillation(&trials(closing)), None);
        // Nor one that still improves, nor one that is too short to tell.
        let improving = (0..90).map(|n: u64| 100.0 - n as f64 + (n * 37 % 90) as f64 / 4.0);
        assert_eq!(oscillation(&trials(improving)), None);
        assert_eq!(oscillation(&trials([1.0, 2.0, 3.0])), None);
    }
}
