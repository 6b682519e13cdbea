//! What was read, by digest, and the command that does it again.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::count;
use crate::page::Page;

/// The model's digest and a row for each text.
pub(super) fn write(page: &Page, html: &mut Html) {
    if !page.model.digest.is_empty() {
        html.element("p", &[], |html| {
            html.text("Model: ");
            html.leaf("code", &[], &page.model.digest);
        });
    }
    if page.texts.is_empty() {
        return;
    }
    let columns = [
        ("used for", Kind::Words),
        ("text", Kind::Words),
        ("windows × tokens", Kind::Numbers),
        ("digest of the tokens", Kind::Code),
    ];
    let rows = page.texts.iter().map(|text| {
        vec![
            text.role.clone(),
            text.name.clone(),
            format!("{} × {}", count(text.windows as u64), count(text.window as u64)),
            text.tokens_digest.clone(),
        ]
    });
    table(html, "texts that were used", &columns, rows);
}

/// The command.
pub(super) fn command(page: &Page, html: &mut Html) {
    html.element("pre", &[("tabindex", &"0")], |html| html.leaf("code", &[], &page.command));
}
