//! Models side by side, and how each differs from the first.

use super::table::{Column, Kind, stacked};
use crate::html::Html;
use crate::page::{Page, Trade};
use crate::svg::trade::{beaten_by, trade};

/// The figures, the differences, what to know of them.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(models) = &page.models else { return };
    let mut columns: Vec<Column<'_>> = vec![("figure", Kind::Words)];
    columns.extend(models.names.iter().map(|name| (name.as_str(), Kind::Numbers)));
    if let Some(trade) = &models.trade {
        picture(html, trade);
    }
    stacked(html, "models side by side", &columns, models.figures.iter().cloned());
    if !models.differences.is_empty() {
        html.leaf("h3", &[], "Against the first model");
        let headings = models.difference_headings.iter().enumerate();
        let kind = |at| if at < 2 { Kind::Words } else { Kind::Numbers };
        let columns: Vec<Column<'_>> =
            headings.map(|(at, heading)| (heading.as_str(), kind(at))).collect();
        stacked(html, "differences", &columns, models.differences.iter().cloned());
    }
    for note in &models.notes {
        html.leaf("p", &[("class", &"muted")], note);
    }
}

/// Size against quality, and which models no other one beats.
fn picture(html: &mut Html, of: &Trade) {
    html.element("figure", &[("class", &"wide")], |html| {
        trade(html, of, false);
        html.element("figcaption", &[], |html| {
            html.text(
                "Lower and further left is better. Filled: no other model here is both as small \
                 and as good. Sizes are those of the tensors as they are stored.",
            );
            let beaten: Vec<String> = beaten_by(&of.points)
                .into_iter()
                .enumerate()
                .filter_map(|(at, winner)| Some(format!("{} by {}", at + 1, winner? + 1)))
                .collect();
            if !beaten.is_empty() {
                html.text(format!(
                    " Beaten by one that is no larger and no worse: {}.",
                    beaten.join(", ")
                ));
            }
        });
    });
}
