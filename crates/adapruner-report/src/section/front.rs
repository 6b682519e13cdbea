//! Loss against size: the trials of a search of several objectives, and its front.

use super::legend::mark;
use super::table::{Kind, table};
use crate::curve::drawable;
use crate::html::Html;
use crate::number::{NONE, bytes, count, nats, percent, percent_of};
use crate::page::{Front, Page};
use crate::svg::cloud::{Spot, cloud, shape};

/// Parameters in the unit of the axis.
const MILLION: f64 = 1e6;
/// The marks of the front and of other trials.
const ON_FRONT: usize = 0;
const OTHER: usize = 4;

/// The chart, and the points of the front as rows.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(front) = &page.front else { return };
    html.leaf(
        "p",
        &[("class", &"muted")],
        format!(
            "One mark for each complete trial: loss in nats per predicted token upwards, \
             parameters in millions across. A point of the front is one that no other trial beats \
             in one of {} without losing in another.",
            front.objectives.join(", ")
        ),
    );
    legend(html, front);
    html.element("figure", &[], |html| {
        cloud(html, "loss against parameters of every trial", &spots(front));
        let points = front.points.iter().filter(|point| point.on_front).count();
        html.leaf("figcaption", &[], format!("{} points on the front.", count(points as u64)));
    });
    rows(html, front);
}

fn spots(front: &Front) -> Vec<Spot> {
    let dense = Spot { x: front.parameters as f64 / MILLION, y: front.dense_loss, group: None };
    let trials = front.points.iter().map(|point| Spot {
        x: point.parameters as f64 / MILLION,
        y: point.loss,
        group: Some(if point.on_front { ON_FRONT } else { OTHER }),
    });
    trials.chain([dense]).filter(|spot| drawable(spot.y)).collect()
}

fn legend(html: &mut Html, front: &Front) {
    html.element("ul", &[("class", &"legend")], |html| {
        mark(html, &format!("spot s{ON_FRONT}"), &shape(ON_FRONT, 14.0, 5.0), "on the front");
        if front.points.iter().any(|point| !point.on_front) {
            mark(html, &format!("spot s{OTHER}"), &shape(OTHER, 14.0, 5.0), "other trials");
        }
        mark(html, "best", "M9.5 5a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", "the model as it was");
    });
}

fn rows(html: &mut Html, front: &Front) {
    let columns = [
        ("trial", Kind::Numbers),
        ("parameters", Kind::Numbers),
        ("removed", Kind::Numbers),
        ("loss (nats per token)", Kind::Numbers),
        ("more than dense", Kind::Numbers),
        ("file", Kind::Numbers),
    ];
    let of_front = front.points.iter().filter(|point| point.on_front);
    let rows = of_front.map(|point| {
        let removed = front.parameters.saturating_sub(point.parameters) as f64;
        vec![
            count(point.trial),
            count(point.parameters),
            percent_of(removed, front.parameters as f64),
            nats(point.loss),
            nats(point.loss - front.dense_loss),
            point.bytes.map_or_else(|| NONE.to_owned(), bytes),
        ]
    });
    table(html, "points of the front", &columns, rows);
    let (least, most) = front.ratios;
    html.leaf(
        "p",
        &[("class", &"muted")],
        format!(
            "Searched from {} to {} removed. apply --study takes the nearest point that fits \
             --target-params, --ratio or --target-size.",
            percent(least),
            percent(most)
        ),
    );
}
