//! What every layer kept.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{NONE, count, percent_of};
use crate::page::{LayerRow, Page, Width};
use crate::svg::layers::{is_dropped, layers};

/// The chart, and the exact numbers folded below it.
pub(super) fn write(page: &Page, html: &mut Html) {
    let rows = &page.layers;
    let of_all = |width: fn(&LayerRow) -> Width| {
        let kept: usize = rows.iter().fold(0, |sum, row| sum.saturating_add(width(row).kept));
        let before: usize = rows.iter().fold(0, |sum, row| sum.saturating_add(width(row).before));
        percent_of(kept as f64, before as f64)
    };
    let dropped: Vec<String> =
        rows.iter().filter(|row| is_dropped(row)).map(|row| row.layer.to_string()).collect();
    let summed = format!(
        "Kept over all layers: {} of the feed-forward channels, {} of the query heads, {} of the \
         key-value heads.",
        of_all(|row| row.ffn),
        of_all(|row| row.query_heads),
        of_all(|row| row.kv_heads),
    );
    html.element("figure", &[("class", &"wide")], |html| {
        layers(html, &format!("kept widths of {} layers. {summed}", rows.len()), rows);
        html.element("figcaption", &[], |html| {
            html.text(&summed);
            if !dropped.is_empty() {
                html.text(format!(
                    " Crossed out: attention dropped, in layers {}.",
                    dropped.join(", ")
                ));
            }
        });
    });
    html.element("details", &[], |html| {
        html.leaf("summary", &[], "All widths");
        let columns = [
            ("layer", Kind::Numbers),
            ("channels kept", Kind::Numbers),
            ("of", Kind::Numbers),
            ("share", Kind::Numbers),
            ("query heads", Kind::Numbers),
            ("key-value heads", Kind::Numbers),
            ("attention", Kind::Words),
        ];
        table(
            html,
            "kept widths per layer",
            &columns,
            rows.iter().map(|row| {
                let of = |width: Width| {
                    format!("{} of {}", count(width.kept as u64), count(width.before as u64))
                };
                vec![
                    row.layer.to_string(),
                    count(row.ffn.kept as u64),
                    count(row.ffn.before as u64),
                    percent_of(row.ffn.kept as f64, row.ffn.before as f64),
                    of(row.query_heads),
                    of(row.kv_heads),
                    if is_dropped(row) { "dropped".to_owned() } else { NONE.to_owned() },
                ]
            }),
        );
    });
}
