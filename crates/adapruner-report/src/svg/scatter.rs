//! One number against the loss: a small chart of points.
//!
//! Thousands of points are three paths, one for each kind: a step of no length
//! with round ends is a dot.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::{Px, chart, path};
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
    let x = Scale::fitting(dots.iter().map(|dot| dot.x), 100.0).padded(0.04);
    let x = x.over(frame.left, frame.right);
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
