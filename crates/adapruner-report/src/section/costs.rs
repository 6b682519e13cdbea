//! What it cost, against what the naive loop would have cost.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{NONE, bytes, count, duration, percent_of, prefixed, times};
use crate::page::{CostRow, Page};

/// Phases with their sum, the naive loop, memory.
pub(super) fn write(page: &Page, html: &mut Html) {
    let total = CostRow {
        phase: "all phases".to_owned(),
        seconds: sum(&page.costs, |row| row.seconds),
        tokens: page.costs.iter().fold(0, |sum, row| sum.saturating_add(row.tokens)),
        flops: sum(&page.costs, |row| row.flops),
    };
    let naive = page.naive.as_ref();
    if !page.costs.is_empty() || naive.is_some() {
        let columns = [
            ("phase", Kind::Words),
            ("time", Kind::Numbers),
            ("share of time", Kind::Numbers),
            ("tokens", Kind::Numbers),
            ("operations", Kind::Numbers),
            ("share of operations", Kind::Numbers),
        ];
        let mut rows: Vec<Vec<String>> = page.costs.iter().map(|row| cells(row, &total)).collect();
        if page.costs.len() > 1 {
            rows.push(cells(&total, &total));
        }
        if let Some(naive) = naive {
            let mut row = cells(naive, &total);
            // Shares are of what was spent; the naive loop was not run.
            row[2] = NONE.to_owned();
            row[5] = NONE.to_owned();
            row[0] = format!("not run: {}", naive.phase);
            rows.push(row);
        }
        table(html, "costs per phase", &columns, rows);
        html.leaf(
            "p",
            &[("class", &"muted")],
            "Time is wall clock. Tokens went through the model. FLOP are floating-point operations.",
        );
    }
    if let (Some(naive), false) = (naive, page.costs.is_empty()) {
        html.element("p", &[], |html| {
            html.text("The naive loop, with a backward pass in every trial and every evaluation in full, would have cost ");
            html.leaf("strong", &[], times(naive.seconds, total.seconds));
            html.text(" the time and ");
            html.leaf("strong", &[], times(naive.flops, total.flops));
            html.text(" the floating-point operations.");
        });
    }
    if let Some(peak) = page.peak_memory_bytes {
        html.leaf("p", &[], format!("Peak memory: {}.", bytes(peak)));
    }
}

fn cells(row: &CostRow, total: &CostRow) -> Vec<String> {
    vec![
        row.phase.clone(),
        duration(row.seconds),
        percent_of(row.seconds, total.seconds),
        count(row.tokens),
        prefixed(row.flops, "FLOP", 3),
        percent_of(row.flops, total.flops),
    ]
}

/// The sum of what is a number.
fn sum(rows: &[CostRow], of: impl Fn(&CostRow) -> f64) -> f64 {
    rows.iter().map(of).filter(|value| value.is_finite()).sum()
}
