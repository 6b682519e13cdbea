//! Tables, which scroll within themselves where the page is narrow.

use std::fmt::Display;

use crate::html::Html;

/// Headings longer than this are broken, but not at every word.
const LONG: usize = 14;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Words.
    Words,
    /// Numbers, set to the right.
    Numbers,
    /// Long text that may break.
    Prose,
    /// Digests and the like.
    Code,
}

/// A column: its heading, with the unit of what it holds.
pub(super) type Column<'a> = (&'a str, Kind);

/// A table. `name` is read out.
pub(super) fn table(
    html: &mut Html,
    name: &str,
    columns: &[Column<'_>],
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    laid_out(html, (name, false), columns, rows);
}

/// A table whose rows are laid below each other where the page is narrow, each
/// cell with its heading.
pub(super) fn stacked(
    html: &mut Html,
    name: &str,
    columns: &[Column<'_>],
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    laid_out(html, (name, true), columns, rows);
}

fn laid_out(
    html: &mut Html,
    (name, is_stacked): (&str, bool),
    columns: &[Column<'_>],
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    let around: [(&str, &dyn Display); 4] =
        [("class", &"scroll"), ("role", &"region"), ("tabindex", &"0"), ("aria-label", &name)];
    html.element("div", &around, |html| {
        let layout: &[(&str, &dyn Display)] =
            if is_stacked { &[("class", &"stacked")] } else { &[] };
        html.element("table", layout, |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for (heading, kind) in columns {
                        let long = if heading.chars().count() > LONG { " long" } else { "" };
                        let class = format!("{}{long}", class(*kind));
                        html.leaf("th", &[("scope", &"col"), ("class", &class)], heading);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for row in rows {
                    html.element("tr", &[], |html| cells(html, columns, is_stacked, &row));
                }
            });
        });
    });
}

fn cells(html: &mut Html, columns: &[Column<'_>], is_stacked: bool, row: &[String]) {
    for (place, ((heading, kind), cell)) in columns.iter().zip(row).enumerate() {
        let class = class(*kind);
        let mut attributes: Vec<(&str, &dyn Display)> = vec![("class", &class)];
        if is_stacked {
            attributes.push(("data-label", heading));
        }
        if place == 0 {
            attributes.push(("scope", &"row"));
            html.leaf("th", &attributes, cell);
            continue;
        }
        match kind {
            Kind::Words | Kind::Numbers => html.leaf("td", &attributes, cell),
            Kind::Prose => {
                attributes.push(("dir", &"auto"));
                html.leaf("td", &attributes, cell);
            }
            Kind::Code => html.element("td", &attributes, |html| html.leaf("code", &[], cell)),
        }
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Words => "words",
        Kind::Numbers => "number",
        Kind::Prose => "prose",
        Kind::Code => "code",
    }
}
