//! The best trial's values.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{count, nats, perplexity};
use crate::page::Page;

/// Which trial it was and its parameters.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(best) = &page.best else { return };
    html.leaf(
        "p",
        &[],
        format!(
            "Trial {} of “{}”: loss {} nats per predicted token, perplexity {}, on the \
             search-evaluation text.",
            count(best.number),
            best.run,
            nats(best.loss),
            perplexity(best.perplexity)
        ),
    );
    if !best.values.is_empty() {
        let rows = best.values.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
        let columns = [("parameter", Kind::Words), ("value", Kind::Prose)];
        table(html, "parameters of the best trial", &columns, rows);
    }
}
