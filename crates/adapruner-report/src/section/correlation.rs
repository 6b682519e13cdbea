//! Whether losses tell accuracies: charts, a table, and what it comes to.

use super::legend::mark;
use super::table::{Kind, table};
use crate::curve::drawable;
use crate::html::Html;
use crate::number::{NONE, count, fixed, percent};
use crate::page::{CorrelationRow, Correlations, Estimate, Page};
use crate::svg::cloud::{GROUPS, Spot, cloud, shape};

/// More charts than this are no overview.
const CHARTS: usize = 24;

/// The sentences, the charts, the table.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(found) = &page.correlation else { return };
    for sentence in &found.sentences {
        html.leaf("p", &[], sentence);
    }
    html.leaf(
        "p",
        &[("class", &"muted")],
        "One mark for each pruned model; losses in nats per predicted token, accuracies in per \
         cent of the questions. The model as it was is shown and not part of any correlation.",
    );
    let ratios = ratios(found);
    legend(html, found, &ratios);
    let shown: Vec<&CorrelationRow> = found.rows.iter().filter(|row| row.ratio.is_none()).collect();
    html.element("div", &[("class", &"pair")], |html| {
        for row in shown.iter().take(CHARTS) {
            figure(html, found, row, &ratios);
        }
    });
    if shown.len() > CHARTS {
        let more = format!("{} more pairs are in the table alone.", shown.len() - CHARTS);
        html.leaf("p", &[("class", &"muted")], more);
    }
    rows(html, found);
}

/// The ratios, each once, ascending.
fn ratios(found: &Correlations) -> Vec<f64> {
    let mut ratios: Vec<f64> = found.points.iter().filter_map(|point| point.ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.dedup();
    ratios
}

fn legend(html: &mut Html, found: &Correlations, ratios: &[f64]) {
    html.element("ul", &[("class", &"legend")], |html| {
        for (group, ratio) in ratios.iter().enumerate().take(GROUPS) {
            let class = format!("spot s{group}");
            let last = if group + 1 == GROUPS && ratios.len() > GROUPS { " and more" } else { "" };
            let text = format!("{}{last} removed", percent(*ratio));
            mark(html, &class, &shape(group, 14.0, 5.0), &text);
        }
        if found.points.iter().any(|point| point.ratio.is_none()) {
            mark(
                html,
                "best",
                "M9.5 5a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
                "the model as it was",
            );
        }
    });
}

fn figure(html: &mut Html, found: &Correlations, row: &CorrelationRow, ratios: &[f64]) {
    let spots: Vec<Spot> = found
        .points
        .iter()
        .filter_map(|point| {
            let value = |values: &[(String, f64)], name: &str| {
                let value = values.iter().find(|(known, _)| known == name)?.1;
                drawable(value).then_some(value)
            };
            Some(Spot {
                x: value(&point.losses, &row.loss)?,
                y: 100.0 * value(&point.accuracies, &row.accuracy)?,
                group: match point.ratio {
                    None => None,
                    Some(ratio) => Some(ratios.iter().position(|known| *known == ratio)?),
                },
            })
        })
        .collect();
    html.element("figure", &[], |html| {
        cloud(html, &format!("{} against {}", row.accuracy, row.loss), &spots);
        let caption = format!(
            "{} (%, upwards) against {}: Spearman {}, {}; {}.",
            row.accuracy,
            row.loss,
            estimate(&row.spearman),
            models(row),
            row.verdict
        );
        html.leaf("figcaption", &[], caption);
    });
}

fn models(row: &CorrelationRow) -> String {
    crate::number::counted(row.points, "model")
}

/// A coefficient with its interval.
fn estimate(found: &Estimate) -> String {
    let value = found.value.map_or_else(|| NONE.to_owned(), |value| fixed(value, 2));
    match found.interval {
        Some((low, high)) => {
            format!("{value} (95\u{a0}%: {} to {})", fixed(low, 2), fixed(high, 2))
        }
        None => match found.p {
            Some(p) => format!("{value} (p\u{a0}{})", fixed(p, 3)),
            None => value,
        },
    }
}

fn rows(html: &mut Html, found: &Correlations) {
    let columns = [
        ("loss", Kind::Words),
        ("accuracy", Kind::Words),
        ("removed", Kind::Words),
        ("models", Kind::Numbers),
        ("trials", Kind::Numbers),
        ("Spearman", Kind::Numbers),
        ("Pearson", Kind::Numbers),
        ("ceiling", Kind::Numbers),
        ("guide", Kind::Words),
    ];
    let rows = found.rows.iter().map(|row| {
        vec![
            row.loss.clone(),
            row.accuracy.clone(),
            row.ratio.map_or_else(|| "all".to_owned(), percent),
            count(row.points as u64),
            count(row.trials as u64),
            estimate(&row.spearman),
            estimate(&row.pearson),
            row.ceiling.map_or_else(|| NONE.to_owned(), |ceiling| fixed(ceiling, 2)),
            row.verdict.clone(),
        ]
    });
    table(html, "correlations of losses with accuracies", &columns, rows);
    html.leaf(
        "p",
        &[("class", &"muted")],
        format!(
            "Intervals: Fisher\u{2019}s transformation (Spearman: Bonett and Wright\u{2019}s variance), \
             with as many models as there are trials; where a trial has several ratios no narrower \
             than those of {} resamples of trials. Below ten trials there are none, and no verdict; \
             p is that of a permutation test of no association. Ceiling: the largest correlation \
             that the accuracies\u{2019} standard errors leave room for. A loss is a poor guide where \
             the lower bound of |Spearman| is below 0.5.",
            count(found.resamples as u64)
        ),
    );
}
