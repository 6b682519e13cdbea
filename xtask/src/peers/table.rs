//! The table, as Markdown.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{
    Outcome,
    methods::{DENSE, Method},
};
use crate::bench::spread;

/// Medians and ranges over seeds, a row for each method and ratio, and how our best compares
/// with the best peer's.
pub(super) fn of(
    texts: &[String],
    methods: &[&Method],
    ratios: &[f64],
    outcomes: &[Outcome],
) -> Result<String> {
    let dense = found(outcomes, DENSE, 0.0).next().context("the dense model was not measured")?;
    let excess = |outcome: &Outcome, text: usize| {
        (outcome.perplexities[text] / dense.perplexities[text]).ln()
    };
    let mut out = String::from("| method | removed |");
    for text in texts {
        // Writing into a String cannot fail.
        let _ = write!(out, " {text} | excess |");
    }
    out.push_str(" seconds | peak memory |\n|---|---|");
    out.push_str(&"---|---|".repeat(texts.len()));
    out.push_str("---|---|\n| dense | 0 % |");
    for perplexity in &dense.perplexities {
        let _ = write!(out, " {perplexity:.2} | 0 |");
    }
    out.push_str(" | |");
    let mut closing = String::new();
    for &ratio in ratios {
        let mut best = [vec![f64::INFINITY; texts.len()], vec![f64::INFINITY; texts.len()]];
        for method in methods.iter().filter(|method| method.name != DENSE) {
            let range = |digits: usize, value: &dyn Fn(&Outcome) -> f64| {
                spread(found(outcomes, method.name, ratio).map(value)).map(
                    |[least, median, most]| {
                        let shown = if least == most {
                            format!("{median:.digits$}")
                        } else {
                            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
                        };
                        (median, shown)
                    },
                )
            };
            let percent = range(2, &|outcome| 100.0 * outcome.reached_ratio);
            let Some((_, removed)) = percent else { continue };
            let _ = write!(out, "\n| {} | {removed} % |", method.name);
            for text in 0..texts.len() {
                let perplexity = range(2, &|outcome| outcome.perplexities[text]);
                let apart = range(3, &|outcome| excess(outcome, text));
                let (Some((_, perplexity)), Some((median, apart))) = (perplexity, apart) else {
                    continue;
                };
                let _ = write!(out, " {perplexity} | {apart} |");
                let best = &mut best[usize::from(method.is_ours())][text];
                *best = best.min(median);
            }
            let seconds = range(0, &|outcome| outcome.seconds).map_or(String::new(), |s| s.1);
            let memory = spread(
                found(outcomes, method.name, ratio)
                    .filter_map(|o| Some(o.peak_memory_bytes? as f64 / 1e9)),
            );
            let memory = memory.map_or(String::new(), |[_, median, _]| format!("{median:.2} GB"));
            let _ = write!(out, " {seconds} | {memory} |");
        }
        for (text, name) in texts.iter().enumerate() {
            let [theirs, ours] = [best[0][text], best[1][text]];
            if theirs.is_finite() && ours.is_finite() {
                let _ = write!(
                    closing,
                    "\n{:.0} %, {name}: our least median excess is {:.2} of the best peer's",
                    100.0 * ratio,
                    ours / theirs
                );
            }
        }
    }
    if !closing.is_empty() {
        let _ = write!(out, "\n{closing}");
    }
    Ok(out)
}

/// The outcomes of a method at a ratio.
fn found<'a>(
    outcomes: &'a [Outcome],
    method: &'a str,
    ratio: f64,
) -> impl Iterator<Item = &'a Outcome> {
    outcomes
        .iter()
        .filter(move |outcome| outcome.key.method == method && outcome.key.ratio == ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{Key, methods::METHODS};

    fn outcome(method: &str, ratio: f64, seed: u64, perplexity: f64) -> Outcome {
        Outcome {
            key: Key { method: method.into(), ratio, seed, inputs: vec![] },
            reached_ratio: ratio,
            seconds: 10.0,
            peak_memory_bytes: Some(2_000_000_000),
            perplexities: vec![perplexity],
        }
    }

    #[test]
    fn rows_are_medians_and_our_best_is_held_against_the_best_peer() {
        let e = std::f64::consts::E;
        let outcomes = [
            outcome("dense", 0.0, 0, 10.0),
            outcome("flap", 0.2, 0, 10.0 * e * e),
            outcome("flap", 0.2, 1, 10.0 * e),
            outcome("flap", 0.2, 2, 10.0 * e * e * e),
            outcome("wanda", 0.2, 0, 1000.0 * e),
            outcome("taylor-spared", 0.2, 0, 10.0 * e),
        ];
        let methods: Vec<_> = METHODS.iter().collect();
        let shown = of(&["wikitext2".into()], &methods, &[0.2], &outcomes).unwrap();
        let row = "| flap | 20.00 % | 73.89 (27.18–200.86) | 2.000 (1.000–3.000) | 10 | 2.00 GB |";
        assert!(shown.contains(row), "{shown}");
        assert!(shown.contains("| dense | 0 % | 10.00 | 0 | | |"), "{shown}");
        assert!(
            shown.ends_with("20 %, wikitext2: our least median excess is 0.50 of the best peer's")
        );
        assert!(!shown.contains("greedy"), "{shown}");
    }
}
