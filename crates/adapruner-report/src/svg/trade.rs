//! Size against quality of a few models: numbered points, the front of those that no other
//! beats in both, and the list of their names.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::{Px, chart_of, label, path, rectangle, shortened};
use crate::curve::drawable;
use crate::html::Html;
use crate::number::{NONE, significant};
use crate::page::{Trade, TradePoint};

/// Width of the drawing, in units.
const WIDTH: f64 = 360.0;
/// Height of the part above the list.
const PLOT: f64 = 230.0;
/// Height of a line of the list.
const LINE: f64 = 17.0;
const TICKS: usize = 5;
/// Most letters of a name in the list.
const LETTERS: usize = 32;
/// Most letters above the drawing.
const HEADING: usize = 54;
/// Where a point's number may stand, best first: right, left, below right, below left.
const BESIDE: [(f64, f64); 4] = [(9.0, -5.0), (-9.0, -5.0), (9.0, 14.0), (-9.0, 14.0)];

/// The models that another one beats: no larger and no worse, and not equal in both. By index.
pub(crate) fn beaten_by(points: &[TradePoint]) -> Vec<Option<usize>> {
    let beats = |a: &TradePoint, b: &TradePoint| {
        a.bytes <= b.bytes && a.quality <= b.quality && (a.bytes < b.bytes || a.quality < b.quality)
    };
    let winner = |of: &TradePoint| {
        let all = points.iter().enumerate().filter(|(_, other)| beats(other, of));
        // The best of them, so that the one named is not beaten itself.
        let best = all.min_by(|(_, a), (_, b)| {
            a.quality.total_cmp(&b.quality).then(a.bytes.total_cmp(&b.bytes))
        });
        best.map(|(at, _)| at)
    };
    points.iter().map(winner).collect()
}

fn is_drawn(point: &TradePoint) -> bool {
    drawable(point.bytes) && drawable(point.quality)
}

/// The drawing; `xmlns` where it stands alone.
pub(crate) fn trade(html: &mut Html, of: &Trade, alone: bool) {
    let height = PLOT + of.points.len() as f64 * LINE + 6.0;
    let name = format!("size against {}", of.quality);
    let drawn: Vec<(usize, &TradePoint)> =
        of.points.iter().enumerate().filter(|(_, point)| is_drawn(point)).collect();
    let megabytes = |point: &TradePoint| point.bytes / 1e6;
    let y = Scale::linear(drawn.iter().map(|(_, point)| point.quality)).padded(0.08);
    let x = Scale::linear(drawn.iter().map(|(_, point)| megabytes(point))).padded(0.08);
    let frame =
        Frame { left: text_room(y, TICKS), right: WIDTH - 8.0, top: 24.0, bottom: PLOT - 46.0 };
    let (x, y) = (x.over(frame.left, frame.right), y.over(frame.bottom, frame.top));
    let beaten = beaten_by(&of.points);
    chart_of(html, (WIDTH, height), &name, alone, |html| {
        if alone {
            rectangle(html, "ground", (0.0, 0.0), (WIDTH, height));
        }
        label(html, "start", (0.0, 12.0), &shortened(&of.quality, HEADING));
        across(html, frame, y, TICKS);
        along(html, frame, x, TICKS);
        label(html, "end", (frame.right, frame.bottom + 32.0), "MB as stored");
        let places: Vec<(f64, f64)> =
            drawn.iter().map(|(_, point)| (x.at(megabytes(point)), y.at(point.quality))).collect();
        let on_front = drawn.iter().zip(&places).filter(|((at, _), _)| beaten[*at].is_none());
        let mut front: Vec<(f64, f64)> = on_front.map(|(_, place)| *place).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        path(html, "front", &stairs(&front));
        let mut numbers: Vec<(f64, f64)> = Vec::new();
        for ((at, _), &place) in drawn.iter().zip(&places) {
            let class = if beaten[*at].is_none() { "point" } else { "point beaten" };
            let (cx, cy) = (Px(place.0), Px(place.1));
            html.void("circle", &[("class", &class), ("cx", &cx), ("cy", &cy), ("r", &"4.5")]);
            let free = |(dx, dy): &&(f64, f64)| {
                let (x, y) = (place.0 + dx, place.1 + dy - 4.0);
                let apart = |(a, b): &(f64, f64)| (a - x).abs() > 11.0 || (b - y).abs() > 11.0;
                let inside = x > frame.left + 6.0 && x < frame.right - 4.0;
                inside && numbers.iter().all(apart) && places.iter().all(apart)
            };
            let (dx, dy) = *BESIDE.iter().find(free).unwrap_or(&BESIDE[0]);
            numbers.push((place.0 + dx, place.1 + dy - 4.0));
            let class = if dx > 0.0 { "start name" } else { "end name" };
            let near = (place.0 + dx - dx.signum() * 3.0, place.1 + dy);
            label(html, class, near, &(at + 1).to_string());
        }
        for (at, point) in of.points.iter().enumerate() {
            let line = PLOT + at as f64 * LINE;
            label(html, "start name", (4.0, line), &(at + 1).to_string());
            label(html, "start", (24.0, line), &shortened(&point.name, LETTERS));
            let shown = |value: f64, digits| {
                if drawable(value) { significant(value, digits) } else { NONE.to_owned() }
            };
            label(html, "end", (300.0, line), &format!("{} MB", shown(megabytes(point), 3)));
            label(html, "end", (WIDTH - 4.0, line), &shown(point.quality, 4));
        }
    });
}

/// From each point of a front across to the next one and down to it.
fn stairs(points: &[(f64, f64)]) -> String {
    let mut steps = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let (x, y) = (Px(*x), Px(*y));
        let written = if at == 0 { write!(steps, "M{x} {y}") } else { write!(steps, "H{x}V{y}") };
        written.expect("a string takes all");
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::beaten_by;
    use crate::page::TradePoint;

    #[test]
    fn a_model_is_beaten_by_one_that_is_no_larger_and_no_worse() {
        let point = |bytes: f64, quality: f64| TradePoint { name: String::new(), bytes, quality };
        let points = [
            point(100.0, 1.0),
            point(80.0, 1.2),
            point(90.0, 1.3),
            // Equal to the second, so neither beats the other.
            point(80.0, 1.2),
            point(60.0, f64::NAN),
            point(120.0, 1.0),
            point(130.0, 1.4),
        ];
        let expected = [None, None, Some(1), None, None, Some(0), Some(0)];
        assert_eq!(beaten_by(&points), expected);
    }
}
