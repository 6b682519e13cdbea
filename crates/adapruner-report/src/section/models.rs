//! Models side by side, and how each differs from the first.

use super::table::{Column, Kind, table};
use crate::html::Html;
use crate::page::Page;

/// The figures, the differences, what to know of them.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(models) = &page.models else { return };
    let mut columns: Vec<Column<'_>> = vec![("figure", Kind::Words)];
    columns.extend(models.names.iter().map(|name| (name.as_str(), Kind::Numbers)));
    table(html, "models side by side", &columns, models.figures.iter().cloned());
    if !models.differences.is_empty() {
        html.leaf("h3", &[], "Against the first model");
        let headings = models.difference_headings.iter().enumerate();
        let kind = |at| if at < 2 { Kind::Words } else { Kind::Numbers };
        let columns: Vec<Column<'_>> =
            headings.map(|(at, heading)| (heading.as_str(), kind(at))).collect();
        table(html, "differences", &columns, models.differences.iter().cloned());
    }
    for note in &models.notes {
        html.leaf("p", &[("class", &"muted")], note);
    }
}
