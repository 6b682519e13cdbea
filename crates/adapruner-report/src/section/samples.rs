//! Which samples of the calibration pool were chosen, and from where.

use std::collections::BTreeMap;

use super::table::{Kind, stacked, table};
use crate::html::Html;
use crate::number::{NONE, count, counted, fixed, nats, percent_of};
use crate::page::{Page, Sample};
use crate::svg::shortened;

/// So many chosen samples are open to view; the others are folded.
const SHOWN: usize = 12;
/// Letters of a sample that are shown.
const EXCERPT: usize = 160;

/// Sources, then the chosen samples, then the rest folded.
pub(super) fn write(page: &Page, html: &mut Html) {
    let (mut chosen, mut rest): (Vec<&Sample>, Vec<&Sample>) =
        page.samples.iter().partition(|sample| sample.chosen);
    html.leaf(
        "p",
        &[],
        format!(
            "{} of {} were chosen.",
            count(chosen.len() as u64),
            counted(page.samples.len(), "sample")
        ),
    );
    sources(page, html);
    html.leaf("h3", &[], "Chosen");
    html.leaf(
        "p",
        &[("class", &"muted")],
        "Loss: of the dense model on the sample. Influence: what including the sample does to a \
         trial's loss, in nats per predicted token, as estimated over all trials, ± its standard \
         deviation; negative is good. Most helpful first.",
    );
    sort(&mut chosen);
    let more = chosen.split_off(chosen.len().min(SHOWN));
    listed(html, "chosen samples", chosen);
    if !more.is_empty() {
        html.element("details", &[], |html| {
            html.leaf(
                "summary",
                &[],
                format!("More that were chosen ({})", count(more.len() as u64)),
            );
            listed(html, "more chosen samples", more);
        });
    }
    if !rest.is_empty() {
        sort(&mut rest);
        html.element("details", &[], |html| {
            html.leaf("summary", &[], format!("Not chosen ({})", count(rest.len() as u64)));
            listed(html, "samples that were not chosen", rest);
        });
    }
}

/// How many samples of each source were chosen, where sources have several.
fn sources(page: &Page, html: &mut Html) {
    let mut sources: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for sample in &page.samples {
        let (chosen, pool) = sources.entry(&sample.source).or_default();
        *chosen += usize::from(sample.chosen);
        *pool += 1;
    }
    if sources.len() == page.samples.len() {
        return;
    }
    let mut sources: Vec<_> = sources.into_iter().collect();
    sources.sort_by_key(|(_, (chosen, pool))| std::cmp::Reverse((*chosen, *pool)));
    let columns = [
        ("source", Kind::Words),
        ("chosen (samples)", Kind::Numbers),
        ("in the pool (samples)", Kind::Numbers),
        ("share chosen", Kind::Numbers),
    ];
    let rows = sources.into_iter().map(|(source, (chosen, pool))| {
        vec![
            source.to_owned(),
            count(chosen as u64),
            count(pool as u64),
            percent_of(chosen as f64, pool as f64),
        ]
    });
    table(html, "sources of the samples", &columns, rows);
}

/// Most helpful first.
fn sort(samples: &mut [&Sample]) {
    // What has no influence that is a number goes last.
    let order = |sample: &Sample| sample.influence.filter(|influence| !influence.is_nan());
    samples.sort_by(|left, right| {
        let (left, right) = (order(left), order(right));
        let known = left.is_none().cmp(&right.is_none());
        known.then(left.unwrap_or(0.0).total_cmp(&right.unwrap_or(0.0)))
    });
}

fn listed(html: &mut Html, name: &str, samples: Vec<&Sample>) {
    let columns = [
        ("sample", Kind::Numbers),
        ("influence (nats)", Kind::Numbers),
        ("loss (nats per token)", Kind::Numbers),
        ("source", Kind::Words),
        ("text", Kind::Prose),
    ];
    let rows = samples.into_iter().map(|sample| {
        vec![
            sample.index.to_string(),
            influence(sample),
            nats(sample.loss),
            sample.source.clone(),
            excerpt(&sample.text),
        ]
    });
    stacked(html, name, &columns, rows);
}

fn influence(sample: &Sample) -> String {
    match (sample.influence, sample.deviation) {
        (None, _) => NONE.to_owned(),
        (Some(influence), None) => fixed(influence, 4),
        (Some(influence), Some(deviation)) => {
            format!("{}\u{a0}±\u{a0}{}", fixed(influence, 4), fixed(deviation, 4))
        }
    }
}

/// The beginning of a text on one line.
fn excerpt(text: &str) -> String {
    let beginning: String = text.chars().take(EXCERPT * 4).collect();
    shortened(&beginning.split_whitespace().collect::<Vec<_>>().join(" "), EXCERPT)
}
