//! The searches side by side, with the spread over seeds.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{NONE, count, nats, perplexity};
use crate::page::{ArmRow, Page};

/// Best losses and test perplexities, then each search against each other one.
pub(super) fn write(page: &Page, html: &mut Html) {
    let rows = &page.comparison;
    let texts = each_once(rows, |row| row.tests.iter().map(|test| test.text.as_str()).collect());
    let headings: Vec<String> =
        texts.iter().map(|text| format!("{text} (median perplexity)")).collect();
    let mut columns = vec![
        ("search", Kind::Words),
        ("seeds", Kind::Numbers),
        ("trials each", Kind::Numbers),
        ("best loss, median (nats per token)", Kind::Numbers),
        ("smallest to largest (nats per token)", Kind::Numbers),
    ];
    columns.extend(headings.iter().map(|heading| (heading.as_str(), Kind::Numbers)));
    let best = rows.iter().filter(|row| row.median.is_finite());
    let best = best.map(|row| row.median).fold(f64::INFINITY, f64::min);
    table(
        html,
        "comparison of the searches",
        &columns,
        rows.iter().map(|row| {
            let mark = if row.median == best && rows.len() > 1 { " ◂ lowest median" } else { "" };
            let mut cells = vec![
                format!("{}{mark}", row.arm),
                count(row.seeds as u64),
                count(row.trials as u64),
                nats(row.median),
                if row.seeds > 1 {
                    format!("{} to {}", nats(row.low), nats(row.high))
                } else {
                    "one seed".to_owned()
                },
            ];
            cells.extend(texts.iter().map(|text| {
                let test = row.tests.iter().find(|test| test.text == *text);
                test.map_or_else(|| NONE.to_owned(), |test| perplexity(test.perplexity))
            }));
            cells
        }),
    );
    matches(html, rows);
}

/// What each search shows against each other one.
fn matches(html: &mut Html, rows: &[ArmRow]) {
    if rows.iter().all(|row| row.trials_to_match.is_empty()) {
        return;
    }
    html.leaf("h3", &[], "Search against search");
    html.leaf(
        "p",
        &[("class", &"muted")],
        "A difference is shown where the ranges of the best losses over seeds, of at least three \
         seeds each, do not overlap. The number of trials compares medians alone.",
    );
    let columns = [
        ("search", Kind::Words),
        ("against", Kind::Words),
        ("ranges over seeds", Kind::Words),
        ("trials until the median reached the other\u{2019}s final median", Kind::Numbers),
    ];
    let pairs =
        rows.iter().flat_map(|row| row.trials_to_match.iter().map(move |other| (row, other)));
    let rows = pairs.map(|(row, other)| {
        vec![
            row.arm.clone(),
            other.other.clone(),
            other.shown.clone(),
            other.trials.map_or_else(|| "not reached".to_owned(), count),
        ]
    });
    table(html, "search against search", &columns, rows);
}

/// The names of all rows, each once, in the order in which they appear.
fn each_once<'a>(rows: &'a [ArmRow], names: impl Fn(&'a ArmRow) -> Vec<&'a str>) -> Vec<&'a str> {
    let mut once: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(names) {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}
