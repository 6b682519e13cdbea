//! One number against the loss: a small chart of points.
//!
//! Thousands of points are three paths, one for each kind: a step of no length
//! with round ends is a dot.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::{Px, chart, path};
use crate::curve::quantile;
use crate::html::Html;

const SIZE: (f64, f64) = (180.0, 140.0);
const TICKS: usize = 3;
/// More points than this are drawn smaller.
const MANY: usize = 300;

/// What a point stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A trial that was evaluated in full.
    Complete,
    /// One that was stopped early.
    Pruned,
    /// The best of all.
    Best,
}

/// A point of a chart of losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dot<X> {
    /// The parameter.
    pub(crate) x: X,
    /// The loss.
    pub(crate) loss: f64,
    /// What it stands for.
    pub(crate) mark: Mark,
}

/// The scale of losses, common to all charts beside each other; what lies above
/// `top` is drawn on the edge.
pub(crate) fn loss_scale(least: f64, top: f64) -> Scale {
    Scale::linear([least, top]).padded(0.06)
}

/// A chart of points; the losses go upwards.
pub(crate) fn scatter(html: &mut Html, name: &str, losses: Scale, dots: &[Dot<f64>], top: f64) {
    let frame = Frame {
        left: text_room(losses, TICKS),
        right: SIZE.0 - 6.0,
        top: 8.0,
        bottom: SIZE.1 - 22.0,
    };
    let y = losses.over(frame.bottom, frame.top);
    let x = number_scale(dots).padded(0.04).over(frame.left, frame.right);
    chart(html, SIZE, name, |html| {
        across(html, frame, y, TICKS);
        along(html, frame, x, 3);
        let places = dots.iter().map(|dot| Place {
            x: x.at(dot.x),
            y: y.at(dot.loss),
            mark: dot.mark,
            above: dot.loss > top,
        });
        marks(html, places, Edge::Upper);
    });
}

/// A logarithmic scale for positive numbers over more than two decades most of
/// which would lie at the lower end of a linear one.
fn number_scale(dots: &[Dot<f64>]) -> Scale {
    let mut sorted: Vec<f64> = dots.iter().map(|dot| dot.x).collect();
    sorted.sort_by(f64::total_cmp);
    let values = || sorted.iter().copied();
    let linear = Scale::linear(values()).over(0.0, 1.0);
    let is_low = linear.at(quantile(&sorted, 0.5)) < 0.15;
    if is_low { Scale::fitting(values(), 100.0) } else { linear }
}

/// Where a mark goes.
pub(crate) struct Place {
    /// Across.
    pub(crate) x: f64,
    /// Down.
    pub(crate) y: f64,
    /// Which mark.
    pub(crate) mark: Mark,
    /// Whether the loss is larger than the chart shows.
    pub(crate) above: bool,
}

/// On which edge of a chart the large losses are.
#[derive(Clone, Copy)]
pub(crate) enum Edge {
    /// They go upwards.
    Upper,
    /// They go to the right.
    Right,
}

/// Draws marks, those that matter most last.
pub(crate) fn marks(html: &mut Html, places: impl Iterator<Item = Place>, edge: Edge) {
    let (mut complete, mut pruned, mut above) = (String::new(), String::new(), String::new());
    let (mut best, mut drawn) = (Vec::new(), 0);
    for place in places {
        drawn += 1;
        let (x, y) = (Px(place.x), Px(place.y));
        if place.mark == Mark::Best {
            best.push((x, y));
        } else if place.above {
            let (x, y) = match edge {
                Edge::Upper => (Px(place.x - 2.5), Px(place.y + 2.0)),
                Edge::Right => (Px(place.x - 2.0), Px(place.y - 2.5)),
            };
            let shape = match edge {
                Edge::Upper => "l2.5-5 2.5 5z",
                Edge::Right => "l5 2.5-5 2.5z",
            };
            write!(above, "M{x} {y}{shape}").expect("a string takes all");
        } else if place.mark == Mark::Complete {
            write!(complete, "M{x} {y}h0").expect("a string takes all");
        } else {
            let (x, y) = (Px(place.x - 1.8), Px(place.y - 1.8));
            write!(pruned, "M{x} {y}l3.6 3.6m0-3.6l-3.6 3.6").expect("a string takes all");
        }
    }
    path(html, "pruned", &pruned);
    path(html, if drawn > MANY { "complete many" } else { "complete" }, &complete);
    path(html, "above", &above);
    for (x, y) in best {
        html.void("circle", &[("class", &"best"), ("cx", &x), ("cy", &y), ("r", &"4.5")]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Dot, Mark, number_scale};

    #[test]
    fn numbers_are_on_a_logarithmic_scale_where_they_were_drawn_from_one() {
        let dots = |value: fn(f64) -> f64| -> Vec<Dot<f64>> {
            let places = (1..100).map(|place| f64::from(place) / 100.0);
            places.map(|place| Dot { x: value(place), loss: 1.0, mark: Mark::Complete }).collect()
        };
        assert!(number_scale(&dots(|place| 10f64.powf(4.0 * place - 4.0))).is_log());
        assert!(!number_scale(&dots(|place| place * place)).is_log());
        assert!(!number_scale(&dots(|place| -place)).is_log());
        assert!(!number_scale(&[]).is_log());
    }
}
