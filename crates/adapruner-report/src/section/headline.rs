//! The key result: size, loss and perplexities before and after.

use super::table::{Kind, table};
use crate::html::Html;
use crate::number::{NONE, count, nats, percent, percent_of, perplexity, prefixed, times};
use crate::page::{Page, Tile};

/// Maximum number of test texts in the headline.
const TILES: usize = 4;

/// One tile for each number that the reader came for: of the final model where models were
/// compared, else of the search.
pub(crate) fn tiles(page: &Page, html: &mut Html) {
    html.element("div", &[("class", &"tiles")], |html| {
        match page.models.as_ref().filter(|models| !models.verdict.is_empty()) {
            Some(models) => {
                for Tile { above, number, below } in &models.verdict {
                    tile(html, above, number, below);
                }
            }
            None => of_search(page, html),
        }
    });
}

fn of_search(page: &Page, html: &mut Html) {
    for text in page.measured.iter().take(TILES) {
        let change = format!("{} → {}", perplexity(text.dense), perplexity(text.pruned));
        let below = format!("perplexity, dense → pruned: {}", times(text.pruned, text.dense));
        tile(html, &text.text, &change, &below);
    }
    if let Some(best) = &page.best {
        let below = format!("nats per predicted token; perplexity {}", perplexity(best.perplexity));
        tile(html, "best loss in the search", &nats(best.loss), &below);
    }
    let (before, ratio) = (page.model.parameters, page.model.ratio);
    match page.model.parameters_after {
        Some(after) => {
            let removed = before.saturating_sub(after) as f64;
            let sizes =
                format!("{} → {}", prefixed(before as f64, "", 4), prefixed(after as f64, "", 4));
            let below = format!("{} removed", percent_of(removed, before as f64));
            tile(html, "parameters", &sizes, &below);
        }
        None => {
            let below = format!("{} to be removed", percent(ratio));
            tile(html, "parameters", &prefixed(before as f64, "", 4), &below);
        }
    }
}

fn tile(html: &mut Html, above: &str, number: &str, below: &str) {
    html.element("div", &[("class", &"tile")], |html| {
        html.leaf("span", &[("class", &"muted")], above);
        html.leaf("strong", &[], number);
        html.leaf("span", &[("class", &"muted")], below);
    });
}

/// Perplexities on the test texts.
pub(super) fn measured(page: &Page, html: &mut Html) {
    html.leaf(
        "p",
        &[("class", &"muted")],
        "Texts that the search never saw. Perplexity is the exponential of the mean loss per \
         predicted token, in nats; bits per byte are the summed loss in bits divided by the UTF-8 \
         bytes of the predicted text, whatever the tokenizer. Of both, lower is better.",
    );
    let columns = [
        ("text", Kind::Words),
        ("windows × tokens", Kind::Numbers),
        ("dense (perplexity)", Kind::Numbers),
        ("pruned (perplexity)", Kind::Numbers),
        ("pruned / dense", Kind::Numbers),
        ("more loss (nats per token)", Kind::Numbers),
        ("bits per byte, dense → pruned", Kind::Numbers),
    ];
    let rows = page.measured.iter().map(|text| {
        vec![
            text.text.clone(),
            format!("{} × {}", count(text.windows as u64), count(text.window as u64)),
            perplexity(text.dense),
            perplexity(text.pruned),
            times(text.pruned, text.dense),
            nats(text.pruned.ln() - text.dense.ln()),
            match (text.dense_bits_per_byte, text.pruned_bits_per_byte) {
                (Some(dense), Some(pruned)) => format!("{dense:.4} → {pruned:.4}"),
                (Some(_) | None, _) => NONE.to_owned(),
            },
        ]
    });
    table(html, "perplexities on the test texts", &columns, rows);
}
