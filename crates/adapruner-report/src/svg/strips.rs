//! One choice against the loss: a row of points for each value.

use super::axis::{Frame, Scale, along};
use super::scatter::{Dot, Edge, Place, marks};
use super::{Px, chart, label, path, shortened};
use crate::curve::quantile;
use crate::html::Html;

const WIDTH: f64 = 180.0;
const ROW: f64 = 32.0;
const LETTERS: usize = 26;

/// A chart of points in rows; the losses go to the right. `rows` are the names,
/// in order, and a dot's `x` is the place of its row.
pub(crate) fn strips(
    html: &mut Html,
    name: &str,
    losses: Scale,
    (rows, dots): (&[&str], &[Dot<usize>]),
    top: f64,
) {
    let bottom = rows.len() as f64 * ROW + 2.0;
    let frame = Frame { left: 4.0, right: WIDTH - 6.0, top: 0.0, bottom };
    let x = losses.over(frame.left, frame.right);
    chart(html, (WIDTH, bottom + 22.0), name, |html| {
        along(html, frame, x, 3);
        for (row, name) in rows.iter().enumerate() {
            let upper = row as f64 * ROW;
            label(html, "start", (2.0, upper + 11.0), &shortened(name, LETTERS));
            let mut losses: Vec<f64> =
                dots.iter().filter(|dot| dot.x == row).map(|dot| dot.loss).collect();
            losses.sort_by(f64::total_cmp);
            let middle = x.at(quantile(&losses, 0.5));
            path(html, "median", &format!("M{} {}v14", Px(middle), Px(upper + 15.0)));
        }
        let places = dots.iter().enumerate().map(|(index, dot)| Place {
            x: x.at(dot.loss),
            // Points of a row lie a little apart, the same on every drawing.
            y: dot.x as f64 * ROW + 18.0 + (index * 5 % 9) as f64,
            mark: dot.mark,
            above: dot.loss > top,
        });
        marks(html, places, Edge::Right);
    });
}
