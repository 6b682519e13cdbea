//! Named shares as horizontal bars.

use super::{chart, label, rectangle, shortened};
use crate::html::Html;
use crate::number::percent;

const WIDTH: f64 = 360.0;
const ROW: f64 = 20.0;
/// Letters of a name, and the units that they take.
const LETTERS: usize = 18;
const NAMES: f64 = 124.0;
/// Units for the number behind a bar.
const NUMBERS: f64 = 56.0;

/// One bar for each name; the longest takes the whole length.
pub(crate) fn bars(html: &mut Html, name: &str, rows: &[(&str, f64)]) {
    let largest = rows.iter().map(|row| row.1).filter(|share| share.is_finite());
    let largest = largest.fold(0.0, f64::max);
    chart(html, (WIDTH, rows.len() as f64 * ROW), name, |html| {
        for (index, (name, share)) in rows.iter().enumerate() {
            let top = index as f64 * ROW;
            html.element("g", &[], |html| {
                html.leaf("title", &[], format!("{name}: {}", percent(*share)));
                label(html, "end", (NAMES, top + 14.0), &shortened(name, LETTERS));
                let full = WIDTH - NAMES - NUMBERS - 6.0;
                let part = if largest > 0.0 && share.is_finite() { share / largest } else { 0.0 };
                let length = full * part.clamp(0.0, 1.0);
                rectangle(html, "bar", (NAMES + 6.0, top + 4.0), (length.max(1.0), ROW - 8.0));
                label(html, "start", (NAMES + 11.0 + length, top + 14.0), &percent(*share));
            });
        }
    });
}
