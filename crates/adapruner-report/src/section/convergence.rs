//! Best-so-far over trials and over seconds.

use super::legend::{Key, legend};
use crate::curve::{Clock, Curve, curves, groups};
use crate::html::Html;
use crate::number::{clock_unit, counted, nats};
use crate::page::{Page, State};
use crate::svg::lines::{Layout, lines};

/// Whether any trial has a value.
pub(super) fn is_shown(page: &Page) -> bool {
    !curves(&page.runs, Clock::Trials).is_empty()
}

/// Both charts and their legend.
pub(super) fn write(page: &Page, html: &mut Html) {
    let trials = curves(&page.runs, Clock::Trials);
    let seconds = curves(&page.runs, Clock::Seconds);
    legend(html, keys(&trials));
    html.element("div", &[("class", &"pair")], |html| {
        figure(html, &trials, "Best so far over trials", ("trials that ended", 1.0));
        if !seconds.is_empty() {
            let longest = seconds.iter().map(|curve| curve.end).fold(0.0, f64::max);
            let (divisor, unit) = clock_unit(longest);
            let unit = format!("{unit} since the run began");
            figure(html, &seconds, "Best so far over time", (&unit, divisor));
        }
    });
    html.leaf("p", &[("class", &"muted")], explained(page, &trials));
}

fn figure(html: &mut Html, curves: &[Curve], name: &str, unit: (&str, f64)) {
    let layout = Layout::of(curves);
    let ends = curves.iter().filter_map(|curve| {
        Some(format!("{} ends at {}", curve.group, nats(curve.steps.last()?.median)))
    });
    let read_out = format!("{name}, in nats: {}", ends.collect::<Vec<_>>().join("; "));
    html.element("figure", &[], |html| {
        lines(html, &read_out, curves, layout, unit);
        html.element("figcaption", &[], |html| {
            html.text(format!("{name}."));
            if layout.is_log() {
                html.text(" Losses on a logarithmic scale.");
            }
            if let Some(top) = layout.cut_above {
                html.text(format!(" Losses above {} nats are cut off.", nats(top)));
            }
        });
    });
}

fn keys(curves: &[Curve]) -> impl Iterator<Item = Key<'_>> {
    curves.iter().enumerate().map(|(place, curve)| {
        let last = curve.steps.last().map_or(f64::NAN, |step| step.median);
        let note = format!("{}, {} nats", counted(curve.runs, "run"), nats(last));
        Key { place, name: &curve.group, note }
    })
}

fn explained(page: &Page, drawn: &[Curve]) -> String {
    let mut text = String::from("Only trials that were evaluated in full count.");
    if drawn.iter().any(|curve| curve.runs > 1) {
        text.push_str(
            " Lines are medians over the runs of a group, bands reach from the best run to the \
             worst; a run that has ended keeps its best.",
        );
    }
    let in_groups: usize = drawn.iter().map(|curve| curve.without).sum();
    let other = groups(&page.runs)
        .into_iter()
        .filter(|group| drawn.iter().all(|curve| curve.group != *group))
        .map(|group| page.runs.iter().filter(|run| run.group == group).count())
        .sum::<usize>();
    if in_groups + other > 0 {
        let runs = counted(in_groups + other, "run");
        text.push_str(&format!(" Not drawn, without a finite loss: {runs}."));
    }
    let in_state = |state| {
        let trials = page.runs.iter().flat_map(|run| &run.trials);
        trials.filter(|trial| trial.state == state).count()
    };
    let counts = [
        (State::Complete, "complete"),
        (State::Pruned, "stopped early"),
        (State::Infeasible, "infeasible"),
        (State::Failed, "failed"),
        (State::Running, "still running"),
    ];
    let counts = counts.map(|(state, name)| (in_state(state), name));
    let counts: Vec<String> = counts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{number} {name}"))
        .collect();
    text.push_str(&format!(" Trials: {}.", counts.join(", ")));
    text
}
