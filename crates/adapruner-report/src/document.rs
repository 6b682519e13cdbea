//! The page as a whole: head, header, contents, sections.

use crate::html::Html;
use crate::number::{count, percent, percent_of};
use crate::page::{Page, Trade};
use crate::section::{SECTIONS, headline};
use crate::svg::{CHARTS, COLOURS, trade};

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded, nothing runs; only our own style sheet applies.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'";

/// The page as an HTML document that needs nothing else.
pub fn render(page: &Page) -> String {
    let mut html = Html::new("<!DOCTYPE html>\n");
    html.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |html| head(page, html));
        html.element("body", &[], |html| body(page, html));
    });
    html.finish()
}

/// Size against quality of some models as an SVG document that needs nothing else. It follows
/// the reader's light or dark theme.
pub fn picture(of: &Trade) -> String {
    let mut svg = Html::new("");
    trade::trade(&mut svg, of, true);
    svg.finish() + "\n"
}

fn head(page: &Page, html: &mut Html) {
    html.void("meta", &[("charset", &"utf-8")]);
    html.void("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &POLICY)]);
    html.void(
        "meta",
        &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")],
    );
    html.void("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
    html.void(
        "meta",
        &[("name", &"generator"), ("content", &format!("adapruner {}", page.version))],
    );
    html.leaf("title", &[], title(page));
    html.element("style", &[], |html| {
        [COLOURS, CHARTS, STYLE].into_iter().for_each(|rules| html.raw(rules));
    });
}

fn body(page: &Page, html: &mut Html) {
    let shown = || SECTIONS.iter().filter(|section| (section.shown)(page));
    html.element("header", &[], |html| {
        html.leaf("h1", &[], title(page));
        if !page.model.path.is_empty() {
            html.element("p", &[("class", &"model")], |html| model(page, html));
        }
        headline::tiles(page, html);
        warnings(page, html);
        if shown().count() > 1 {
            html.element("nav", &[("aria-label", &"contents")], |html| {
                for section in shown() {
                    html.leaf("a", &[("href", &format!("#{}", section.id))], section.heading);
                    html.raw(" ");
                }
            });
        }
    });
    html.element("main", &[], |html| {
        for section in shown() {
            let heading = format!("{}-heading", section.id);
            html.element(
                "section",
                &[("id", &section.id), ("aria-labelledby", &heading)],
                |html| {
                    html.leaf("h2", &[("id", &heading)], section.heading);
                    (section.write)(page, html);
                },
            );
        }
    });
    html.element("footer", &[], |html| {
        html.leaf("p", &[], format!("adapruner {}, {}", page.version, page.created));
    });
}

fn title(page: &Page) -> &str {
    if page.title.trim().is_empty() { "adapruner" } else { &page.title }
}

fn model(page: &Page, html: &mut Html) {
    let model = &page.model;
    html.leaf("code", &[], &model.path);
    html.text(format!(": {} parameters", count(model.parameters)));
    if let Some(after) = model.parameters_after {
        let removed = model.parameters.saturating_sub(after);
        let removed = percent_of(removed as f64, model.parameters as f64);
        html.text(format!(" → {} ({removed} removed)", count(after)));
    }
    html.text(format!("; asked for {} of all parameters", percent(model.ratio)));
    if !model.layout.is_empty() {
        html.text(format!("; layout {}", model.layout));
    }
    html.text(".");
}

fn warnings(page: &Page, html: &mut Html) {
    if page.warnings.is_empty() {
        return;
    }
    html.element("section", &[("class", &"warnings"), ("aria-label", &"warnings")], |html| {
        html.leaf("strong", &[], if page.warnings.len() == 1 { "Warning" } else { "Warnings" });
        html.element("ul", &[], |html| {
            for warning in &page.warnings {
                html.leaf("li", &[], warning);
            }
        });
    });
}
