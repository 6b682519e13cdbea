//! How much each parameter explains.

use crate::html::Html;
use crate::number::{counted, percent};
use crate::page::Page;
use crate::svg::bars::bars;

/// So many bars; the rest is summed up.
const ROWS: usize = 24;

/// Bars, the longest first.
pub(super) fn write(page: &Page, html: &mut Html) {
    let mut rows: Vec<(&str, f64)> =
        page.importances.iter().map(|row| (row.name.as_str(), row.share)).collect();
    // What is no number goes last.
    rows.sort_by(|left, right| {
        left.1.is_nan().cmp(&right.1.is_nan()).then(right.1.total_cmp(&left.1))
    });
    let rest = rows.split_off(rows.len().min(ROWS));
    let first: Vec<String> =
        rows.iter().take(3).map(|(name, share)| format!("{name} {}", percent(*share))).collect();
    html.element("figure", &[("class", &"bars")], |html| {
        bars(html, &format!("parameter importances: {}", first.join(", ")), &rows);
        html.element("figcaption", &[], |html| {
            html.text(
                "Share of the variation of the loss between trials that each parameter explains, \
                 in per cent.",
            );
            if !rest.is_empty() {
                let sum: f64 = rest.iter().map(|row| row.1).filter(|share| !share.is_nan()).sum();
                let text = format!(
                    " {} more explain {} together.",
                    counted(rest.len(), "parameter"),
                    percent(sum)
                );
                html.text(text);
            }
        });
    });
}
