//! Best-so-far as steps, with a band from the least to the largest run.

use std::fmt::Write as _;

use super::axis::{Frame, Scale, across, along, text_room};
use super::{Px, chart, label, path};
use crate::curve::{Curve, Step};
use crate::html::Html;

const SIZE: (f64, f64) = (360.0, 240.0);
const TICKS: usize = 5;
/// Colours and dashes of the style sheet, `s0` and so on.
const STYLES: usize = 9;

/// The scale of curves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    scale: Scale,
    /// Values above it are cut off, if it is below the largest.
    pub(crate) cut_above: Option<f64>,
}

impl Layout {
    /// A scale on which the ends of the curves can be distinguished: where the first tenth of
    /// the curves would take most of the height, it is cut off.
    pub(crate) fn of(curves: &[Curve]) -> Self {
        let steps = || curves.iter().flat_map(|curve| &curve.steps);
        let low = steps().map(|step| step.low).fold(f64::INFINITY, f64::min);
        let high = steps().map(|step| step.high).fold(f64::NEG_INFINITY, f64::max);
        let early = curves.iter().filter_map(|curve| {
            let first = curve.steps.first()?.at;
            let tenth = first + (curve.end - first) / 10.0;
            curve.steps.iter().take_while(|step| step.at <= tenth).last()
        });
        let settled = early.map(|step| step.high).fold(f64::NEG_INFINITY, f64::max);
        let top = low + (settled - low) * 1.3;
        let cut_above = (settled > low && high - low > 2.0 * (settled - low)).then_some(top);
        let values = [low, cut_above.unwrap_or(high)];
        Self { scale: Scale::fitting(values, 5.0).padded(0.04), cut_above }
    }

    /// Whether losses are on a logarithmic scale.
    pub(crate) fn is_log(self) -> bool {
        self.scale.is_log()
    }
}

/// The style of the n-th curve.
pub(crate) fn style(place: usize) -> String {
    format!("s{}", place % STYLES)
}

/// A chart of curves; `unit` is what a unit of the horizontal axis is called
/// and `divisor` how much of the data it is.
pub(crate) fn lines(
    html: &mut Html,
    name: &str,
    curves: &[Curve],
    layout: Layout,
    (unit, divisor): (&str, f64),
) {
    let frame = Frame {
        left: text_room(layout.scale, TICKS),
        right: SIZE.0 - 8.0,
        top: 20.0,
        bottom: SIZE.1 - 40.0,
    };
    let y = layout.scale.over(frame.bottom, frame.top);
    let longest = curves.iter().map(|curve| curve.end / divisor);
    let x = Scale::linear(longest.chain([0.0])).over(frame.left, frame.right);
    chart(html, SIZE, name, |html| {
        label(html, "start", (0.0, 12.0), "best loss so far, nats per predicted token");
        across(html, frame, y, TICKS);
        along(html, frame, x, 5);
        label(html, "end", (frame.right, SIZE.1 - 6.0), unit);
        let (width, height) = (frame.right - frame.left, frame.bottom - frame.top);
        // An inner drawing cuts off what does not fit.
        let area = format!("{} {} {} {}", Px(frame.left), Px(frame.top), Px(width), Px(height));
        html.element(
            "svg",
            &[
                ("x", &Px(frame.left)),
                ("y", &Px(frame.top)),
                ("width", &Px(width)),
                ("height", &Px(height)),
                ("viewBox", &area),
            ],
            |html| {
                let top = layout.cut_above;
                let place = |value: f64| {
                    // What is cut off leaves the frame instead of lying on its edge.
                    if top.is_some_and(|top| value > top) { frame.top - 9.0 } else { y.at(value) }
                };
                let across = |at: f64| x.at(at / divisor);
                for (index, curve) in curves.iter().enumerate().filter(|(_, curve)| curve.runs > 1)
                {
                    path(html, &format!("band {}", style(index)), &band(curve, across, place));
                }
                for (index, curve) in curves.iter().enumerate() {
                    html.element("g", &[("class", &format!("line {}", style(index)))], |html| {
                        html.leaf("title", &[], &curve.group);
                        path(html, "", &stairs(curve, |step| step.median, across, place));
                    });
                }
            },
        );
    });
}

fn stairs(
    curve: &Curve,
    value: impl Fn(&Step) -> f64,
    across: impl Fn(f64) -> f64,
    place: impl Fn(f64) -> f64,
) -> String {
    let mut steps = String::new();
    for (index, step) in curve.steps.iter().enumerate() {
        let (x, y) = (Px(across(step.at)), Px(place(value(step))));
        let written =
            if index == 0 { write!(steps, "M{x} {y}") } else { write!(steps, "H{x}V{y}") };
        written.expect("a string takes all");
    }
    write!(steps, "H{}", Px(across(curve.end))).expect("a string takes all");
    steps
}

fn band(curve: &Curve, across: impl Fn(f64) -> f64, place: impl Fn(f64) -> f64) -> String {
    let mut steps = stairs(curve, |step| step.high, &across, &place);
    for step in curve.steps.iter().rev() {
        write!(steps, "V{}H{}", Px(place(step.low)), Px(across(step.at)))
            .expect("a string takes all");
    }
    steps.push('Z');
    steps
}
