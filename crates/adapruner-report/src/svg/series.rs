//! Numbers over steps as lines, with one point that is marked.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::lines::style;
use super::{Px, chart, label, path};
use crate::curve::drawable;
use crate::html::Html;

const SIZE: (f64, f64) = (360.0, 240.0);
const TICKS: usize = 5;
/// A line of at most this many points shows each of them.
const FEW: usize = 40;

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Which of the styles it has.
    pub(crate) place: usize,
    /// Steps and numbers, in order; what cannot be drawn is left out.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Series {
    fn drawn(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.points.iter().copied().filter(|(at, value)| drawable(*at) && drawable(*value))
    }

    /// The last number that is drawn.
    pub(crate) fn last(&self) -> Option<f64> {
        self.drawn().last().map(|(_, value)| value)
    }
}

/// The scale of losses that are shown together.
pub(crate) fn loss_scale(series: &[Series]) -> Scale {
    let values = series.iter().flat_map(Series::drawn).map(|(_, value)| value);
    Scale::fitting(values, 5.0).padded(0.04)
}

/// The scale of numbers that begin at nothing.
pub(crate) fn rate_scale(series: &[Series]) -> Scale {
    let values = series.iter().flat_map(Series::drawn).map(|(_, value)| value);
    Scale::linear(values.chain([0.0]))
}

/// A chart of lines over steps; `above` says what is drawn, with its unit.
pub(crate) fn series(
    html: &mut Html,
    (name, above): (&str, &str),
    series: &[Series],
    scale: Scale,
    marked: Option<(f64, f64)>,
) {
    let frame = Frame {
        left: text_room(scale, TICKS),
        right: SIZE.0 - 8.0,
        top: 20.0,
        bottom: SIZE.1 - 40.0,
    };
    let y = scale.over(frame.bottom, frame.top);
    let places = series.iter().flat_map(Series::drawn).map(|(at, _)| at);
    let x = Scale::linear(places.chain([0.0])).over(frame.left, frame.right);
    chart(html, SIZE, name, |html| {
        label(html, "start", (0.0, 12.0), above);
        across(html, frame, y, TICKS);
        along(html, frame, x, 5);
        label(html, "end", (frame.right, SIZE.1 - 6.0), "steps");
        for line in series {
            let mut steps = String::new();
            let mut spots = Vec::new();
            for (at, value) in line.drawn() {
                let (x, y) = (Px(x.at(at)), Px(y.at(value)));
                let pen = if steps.is_empty() { 'M' } else { 'L' };
                write!(steps, "{pen}{x} {y}").expect("a string takes all");
                spots.push((x, y));
            }
            html.element("g", &[("class", &format!("line {}", style(line.place)))], |html| {
                html.leaf("title", &[], line.name);
                path(html, "", &steps);
            });
            if spots.len() <= FEW {
                let class = format!("spot {}", style(line.place));
                for (x, y) in &spots {
                    html.void("circle", &[("class", &class), ("cx", x), ("cy", y), ("r", &"2")]);
                }
            }
        }
        if let Some((at, value)) = marked.filter(|(at, value)| drawable(*at) && drawable(*value)) {
            let (x, y) = (Px(x.at(at)), Px(y.at(value)));
            html.void("circle", &[("class", &"best"), ("cx", &x), ("cy", &y), ("r", &"5")]);
        }
    });
}
