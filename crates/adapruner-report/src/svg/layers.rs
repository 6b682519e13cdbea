//! Kept widths, layer by layer: the share of feed-forward channels as bars,
//! key-value heads as cells.

use super::{Px, chart, label, path, rectangle};
use crate::html::Html;
use crate::number::{count, percent_of};
use crate::page::{LayerRow, Width};

const WIDTH: f64 = 360.0;
const LEFT: f64 = 40.0;
const TOP: f64 = 20.0;
const BARS: f64 = 110.0;
const CELLS_TOP: f64 = TOP + BARS + 26.0;
/// More heads than this are one bar instead of cells.
const CELLS: usize = 16;

/// One column for each layer.
pub(crate) fn layers(html: &mut Html, name: &str, rows: &[LayerRow]) {
    let heads = rows.iter().map(|row| row.kv_heads.before).max().unwrap_or(0);
    let cells = (heads.clamp(1, CELLS) as f64 * 10.0).clamp(30.0, 70.0);
    let bottom = CELLS_TOP + cells;
    let slot = (WIDTH - LEFT - 2.0) / rows.len().max(1) as f64;
    let gap = (slot * 0.2).min(2.0);
    chart(html, (WIDTH, bottom + 36.0), name, |html| {
        label(html, "start", (0.0, 11.0), "feed-forward channels kept, % of before");
        for share in [0.0, 0.5, 1.0] {
            let y = TOP + BARS * (1.0 - share);
            path(html, "grid", &format!("M{LEFT} {}H{WIDTH}", Px(y)));
            label(html, "end", (LEFT - 4.0, y + 4.0), &format!("{}", share * 100.0));
        }
        label(
            html,
            "start",
            (0.0, CELLS_TOP - 7.0),
            "key-value heads: filled kept, hollow removed",
        );
        for (place, row) in rows.iter().enumerate() {
            let left = LEFT + place as f64 * slot;
            html.element("g", &[], |html| {
                html.leaf("title", &[], described(row));
                // A column that answers to hovering where nothing is kept.
                rectangle(html, "column", (left, TOP), (slot, bottom - TOP));
                let height = BARS * share(row.ffn);
                let corner = (left + gap / 2.0, TOP + BARS - height);
                rectangle(html, "bar", corner, (slot - gap, height));
                heads_of(html, row.kv_heads, (left + gap / 2.0, slot - gap), cells);
            });
        }
        numbers(html, rows, slot, bottom + 15.0);
        label(html, "end", (WIDTH - 2.0, bottom + 32.0), "layer");
    });
}

fn heads_of(html: &mut Html, heads: Width, (left, width): (f64, f64), height: f64) {
    if heads.before == 0 {
        return;
    }
    if heads.kept == 0 {
        rectangle(html, "dropped", (left, CELLS_TOP), (width, height));
        let (right, lower) = (Px(left + width), Px(CELLS_TOP + height));
        let upper = Px(CELLS_TOP);
        let left = Px(left);
        path(
            html,
            "cross",
            &format!("M{left} {upper}L{right} {lower}M{right} {upper}L{left} {lower}"),
        );
    } else if heads.before <= CELLS {
        let each = height / heads.before as f64;
        for head in 0..heads.before {
            // Kept heads are counted from below.
            let class = if heads.before - head <= heads.kept { "head" } else { "gone" };
            let upper = CELLS_TOP + head as f64 * each;
            rectangle(html, class, (left, upper + 0.5), (width, each - 1.0));
        }
    } else {
        let part = height * share(heads);
        rectangle(html, "gone", (left, CELLS_TOP), (width, height));
        rectangle(html, "head", (left, CELLS_TOP + height - part), (width, part));
    }
}

/// The layers' numbers, as many as have room.
fn numbers(html: &mut Html, rows: &[LayerRow], slot: f64, y: f64) {
    let mut free_from = 0.0;
    for (place, row) in rows.iter().enumerate() {
        let middle = LEFT + (place as f64 + 0.5) * slot;
        let text = row.layer.to_string();
        let half = text.len() as f64 * 3.3;
        let is_round = slot >= 16.0 || row.layer.is_multiple_of(5);
        if is_round && middle - half >= free_from && middle + half <= WIDTH {
            label(html, "middle", (middle, y), &text);
            free_from = middle + half + 4.0;
        }
    }
}

fn described(row: &LayerRow) -> String {
    let of =
        |width: Width| format!("{} of {}", count(width.kept as u64), count(width.before as u64));
    let kept = percent_of(row.ffn.kept as f64, row.ffn.before as f64);
    let attention = if is_dropped(row) {
        "attention dropped".to_owned()
    } else {
        format!("query heads {}, key-value heads {}", of(row.query_heads), of(row.kv_heads))
    };
    format!("layer {}: {} channels ({kept}), {attention}", row.layer, of(row.ffn))
}

/// Whether a layer had attention and lost all of it.
pub(crate) fn is_dropped(row: &LayerRow) -> bool {
    row.kv_heads.before > 0 && row.kv_heads.kept == 0
}

fn share(width: Width) -> f64 {
    if width.before == 0 { 0.0 } else { (width.kept as f64 / width.before as f64).min(1.0) }
}
