//! The legends of charts: of lines, and of the marks of a cloud.

use crate::html::Html;
use crate::svg::lines::style;

/// A line in a legend.
pub(super) struct Key<'a> {
    /// Which of the styles it has.
    pub(super) place: usize,
    /// What it is called.
    pub(super) name: &'a str,
    /// Its description.
    pub(super) note: String,
}

/// A list of lines with their names.
pub(super) fn legend<'a>(html: &mut Html, keys: impl IntoIterator<Item = Key<'a>>) {
    html.element("ul", &[("class", &"legend")], |html| {
        for Key { place, name, note } in keys {
            html.element("li", &[], |html| {
                let area = [("viewBox", &"0 0 28 10" as _), ("aria-hidden", &"true" as _)];
                html.element("svg", &area, |html| {
                    html.element("g", &[("class", &format!("line {}", style(place)))], |html| {
                        html.void("path", &[("d", &"M1 5h26")]);
                    });
                });
                html.text(format!(" {name} "));
                html.leaf("span", &[("class", &"muted")], note);
            });
        }
    });
}

/// An entry of a legend of marks: the mark, drawn by `steps`, and what it stands for.
pub(super) fn mark(html: &mut Html, class: &str, steps: &str, text: &str) {
    html.element("li", &[], |html| {
        let area = [("viewBox", &"0 0 28 10" as _), ("aria-hidden", &"true" as _)];
        html.element("svg", &area, |html| {
            html.void("path", &[("class", &class), ("d", &steps)]);
        });
        html.text(format!(" {text}"));
    });
}
