//! Charts as inline SVG, drawn in units of a phone's pixels.
//!
//! Every chart scales with the width it is given; the sizes of its letters come
//! from the style sheet, which makes them smaller in units where the chart is
//! drawn larger. Colours come from there as well, so that charts follow the
//! reader's theme. Coordinates are never NaN or infinite, whatever the data.

pub(crate) mod axis;
pub(crate) mod bars;
pub(crate) mod cloud;
pub(crate) mod layers;
pub(crate) mod lines;
pub(crate) mod scatter;
pub(crate) mod series;
pub(crate) mod strips;
pub(crate) mod trade;

use std::fmt;

use crate::html::Html;

/// The colours of both themes, which page and charts share.
pub(crate) const COLOURS: &str = include_str!("colours.css");
/// The rules of charts.
pub(crate) const CHARTS: &str = include_str!("charts.css");

/// A coordinate: one decimal, and 0 for what has no place.
#[derive(Clone, Copy)]
pub(crate) struct Px(pub(crate) f64);

impl fmt::Display for Px {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = if self.0.is_finite() { self.0.clamp(-1e5, 1e5) } else { 0.0 };
        let rounded = (placed * 10.0).round() / 10.0;
        // Adding 0 makes a negative zero a plain one.
        write!(to, "{}", rounded + 0.0)
    }
}

/// A chart of so many units, with the name that is read out and shown on
/// hovering.
pub(crate) fn chart(
    html: &mut Html,
    size: (f64, f64),
    name: &str,
    content: impl FnOnce(&mut Html),
) {
    chart_of(html, size, name, false, content);
}

/// A chart that is a page's, or a document of its own, which says what it is and is drawn
/// twice as large unless something else is asked for.
pub(crate) fn chart_of(
    html: &mut Html,
    (width, height): (f64, f64),
    name: &str,
    alone: bool,
    content: impl FnOnce(&mut Html),
) {
    let area = format!("0 0 {} {}", Px(width), Px(height));
    let (wide, high) = (Px(2.0 * width), Px(2.0 * height));
    let mut attributes: Vec<(&'static str, &dyn fmt::Display)> =
        vec![("viewBox", &area), ("role", &"img"), ("aria-label", &name)];
    if alone {
        attributes.extend([
            ("xmlns", &"http://www.w3.org/2000/svg" as &dyn fmt::Display),
            ("width", &wide),
            ("height", &high),
        ]);
    }
    html.element("svg", &attributes, |html| {
        if alone {
            html.element("style", &[], |html| {
                html.raw(COLOURS);
                html.raw(CHARTS);
            });
        }
        content(html);
    });
}
/// Text at a place; `class` also says how it is aligned.
pub(crate) fn label(html: &mut Html, class: &'static str, (x, y): (f64, f64), text: &str) {
    html.leaf("text", &[("class", &class), ("x", &Px(x)), ("y", &Px(y))], text);
}

/// A rectangle from a corner.
pub(crate) fn rectangle(
    html: &mut Html,
    class: &str,
    (x, y): (f64, f64),
    (width, height): (f64, f64),
) {
    let (width, height) = (Px(width.max(0.0)), Px(height.max(0.0)));
    html.void(
        "rect",
        &[("class", &class), ("x", &Px(x)), ("y", &Px(y)), ("width", &width), ("height", &height)],
    );
}

/// A path.
pub(crate) fn path(html: &mut Html, class: &str, steps: &str) {
    if !steps.is_empty() {
        html.void("path", &[("class", &class), ("d", &steps)]);
    }
}

/// A text cut to so many letters, its end marked.
pub(crate) fn shortened(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::Px;

    #[test]
    fn every_number_has_a_place() {
        let places = [f64::NAN, f64::INFINITY, -1e300, -0.01, 2.7499].map(|x| Px(x).to_string());
        assert_eq!(places, ["0", "0", "-100000", "0", "2.7"]);
    }
}
