//! Tables, which scroll within themselves where the page is narrow.

use crate::html::Html;

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
    let around: [(&str, &dyn std::fmt::Display); 4] =
        [("class", &"scroll"), ("role", &"region"), ("tabindex", &"0"), ("aria-label", &name)];
    html.element("div", &around, |html| {
        html.element("table", &[], |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for (heading, kind) in columns {
                        html.leaf("th", &[("scope", &"col"), ("class", &class(*kind))], heading);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for row in rows {
                    html.element("tr", &[], |html| cells(html, columns, &row));
                }
            });
        });
    });
}

fn cells(html: &mut Html, columns: &[Column<'_>], row: &[String]) {
    for (place, ((_, kind), cell)) in columns.iter().zip(row).enumerate() {
        let class = class(*kind);
        if place == 0 {
            html.leaf("th", &[("scope", &"row"), ("class", &class)], cell);
            continue;
        }
        match kind {
            Kind::Words | Kind::Numbers => html.leaf("td", &[("class", &class)], cell),
            Kind::Prose => html.leaf("td", &[("class", &class), ("dir", &"auto")], cell),
            Kind::Code => html.element("td", &[("class", &class)], |html| {
                html.leaf("code", &[], cell);
            }),
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
