//! Two figures of several groups of models: a chart of points, each group with
//! a colour and a shape of its own, so that neither is needed alone.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::{Px, chart, path};
use crate::html::Html;

const SIZE: (f64, f64) = (360.0, 240.0);
const TICKS: usize = 4;

/// Number of distinguishable groups; those beyond look like the last.
pub(crate) const GROUPS: usize = 6;

/// A model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// Across.
    pub(crate) x: f64,
    /// Upwards.
    pub(crate) y: f64,
    /// Place of its group; none of the model as it was.
    pub(crate) group: Option<usize>,
}

/// The chart.
pub(crate) fn cloud(html: &mut Html, name: &str, spots: &[Spot]) {
    let y = Scale::linear(spots.iter().map(|spot| spot.y)).padded(0.08);
    let frame =
        Frame { left: text_room(y, TICKS), right: SIZE.0 - 8.0, top: 10.0, bottom: SIZE.1 - 24.0 };
    let y = y.over(frame.bottom, frame.top);
    let x = Scale::linear(spots.iter().map(|spot| spot.x)).padded(0.05);
    let x = x.over(frame.left, frame.right);
    chart(html, SIZE, name, |html| {
        across(html, frame, y, TICKS);
        along(html, frame, x, TICKS);
        for group in 0..GROUPS {
            let of = |spot: &&Spot| spot.group.is_some_and(|at| at.min(GROUPS - 1) == group);
            let mut steps = String::new();
            for spot in spots.iter().filter(of) {
                steps.push_str(&shape(group, x.at(spot.x), y.at(spot.y)));
            }
            path(html, &format!("spot s{group}"), &steps);
        }
        for dense in spots.iter().filter(|spot| spot.group.is_none()) {
            let (x, y) = (Px(x.at(dense.x)), Px(y.at(dense.y)));
            html.void("circle", &[("class", &"best"), ("cx", &x), ("cy", &y), ("r", &"4.5")]);
        }
    });
}

/// The steps of a group's mark around a place.
pub(crate) fn shape(group: usize, x: f64, y: f64) -> String {
    let (from_x, from_y, steps) = match group {
        0 => (0.0, -3.2, "l3.2 3.2l-3.2 3.2l-3.2 -3.2z"),
        1 => (-2.6, -2.6, "h5.2v5.2h-5.2z"),
        2 => (0.0, -3.2, "l3.2 5.6h-6.4z"),
        3 => (0.0, 3.2, "l3.2 -5.6h-6.4z"),
        4 => (-2.8, -2.8, "l5.6 5.6m0 -5.6l-5.6 5.6"),
        _ => (-3.4, 0.0, "h6.8m-3.4 -3.4v6.8"),
    };
    let mut out = String::new();
    write!(out, "M{} {}{steps}", Px(x + from_x), Px(y + from_y)).expect("a string takes all");
    out
}
