//! The searches side by side.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{NONE, count, nats, perplexity};
use crate::page::{ArmRow, Page};

/// Best losses and test perplexities, then who matched whom.
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
        ("least to largest (nats per token)", Kind::Numbers),
    ];
    columns.extend(headings.iter().map(|heading| (heading.as_str(), Kind::Numbers)));
    let best = rows.iter().filter(|row| row.median.is_finite());
    let best = best.map(|row| row.median).fold(f64::INFINITY, f64::min);
    table(
        html,
        "comparison of the searches",
        &columns,
        rows.iter().map(|row| {
            let mark = if row.median == best && rows.len() > 1 { " ◂ best" } else { "" };
            let mut cells = vec![
                format!("{}{mark}", row.arm),
                count(row.seeds as u64),
                count(row.trials as u64),
                nats(row.median),
                if row.seeds > 1 {
                    format!("{} to {}", nats(row.low), nats(row.high))
                } else {
                    NONE.to_owned()
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

fn matches(html: &mut Html, rows: &[ArmRow]) {
    let others = each_once(rows, |row| {
        row.trials_to_match.iter().map(|other| other.other.as_str()).collect()
    });
    if others.is_empty() {
        return;
    }
    html.leaf("h3", &[], "Trials to match the others");
    html.leaf(
        "p",
        &[("class", &"muted")],
        "How many trials a search (row) took until it was as good as the other's best (column).",
    );
    let mut columns = vec![("search", Kind::Words)];
    let headings: Vec<String> =
        others.iter().map(|other| format!("best of {other} (trials)")).collect();
    columns.extend(headings.iter().map(|heading| (heading.as_str(), Kind::Numbers)));
    let rows = rows.iter().map(|row| {
        let mut cells = vec![row.arm.clone()];
        cells.extend(others.iter().map(|other| {
            if row.arm == *other {
                return NONE.to_owned();
            }
            match row.trials_to_match.iter().find(|row| row.other == *other) {
                None => NONE.to_owned(),
                Some(row) => row.trials.map_or_else(|| "never".to_owned(), count),
            }
        }));
        cells
    });
    table(html, "trials to match the others", &columns, rows);
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
