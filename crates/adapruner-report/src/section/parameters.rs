//! Every parameter against the loss, as small charts beside each other.

use std::collections::{BTreeMap, HashMap};

use crate::curve::{drawable, quantile};
use crate::html::Html;
use crate::number::{nats, plain};
use crate::page::{Page, State, Value};
use crate::svg::scatter::{Dot, Mark, loss_scale, scatter};
use crate::svg::strips::strips;

/// More choices than this do not fit a chart.
const CHOICES: usize = 10;
/// More charts than this are no overview.
const CHARTS: usize = 60;

/// What can be said about one parameter.
enum Drawing<'a> {
    /// Numbers.
    Points(Vec<Dot<f64>>),
    /// Choices, most used first.
    Rows(Vec<&'a str>, Vec<Dot<usize>>),
    /// It had one value.
    Fixed(String),
    /// It had more choices than fit.
    Many(usize),
}

/// Whether any trial with a value has parameters.
pub(super) fn is_shown(page: &Page) -> bool {
    !observed(page).is_empty()
}

/// The charts, below what their marks mean.
pub(super) fn write(page: &Page, html: &mut Html) {
    let parameters = observed(page);
    let mut losses: Vec<f64> = drawn_trials(page).map(|(_, loss, _)| loss).collect();
    losses.sort_by(f64::total_cmp);
    let top = top_of(&losses);
    let scale = loss_scale(losses.first().copied().unwrap_or(0.0), top);
    explained(page, html, &losses, top);
    let mut left_out = Vec::new();
    html.element("div", &[("class", &"small")], |html| {
        for (place, (name, values)) in parameters.iter().enumerate() {
            if place >= CHARTS {
                left_out.push((*name).to_owned());
                continue;
            }
            match drawing(values) {
                Drawing::Fixed(value) => left_out.push(format!("{name} (always {value})")),
                Drawing::Many(many) => left_out.push(format!("{name} ({many} different values)")),
                Drawing::Points(dots) => figure(html, name, |html, read_out| {
                    scatter(html, read_out, scale, &dots, top);
                }),
                Drawing::Rows(rows, dots) => figure(html, name, |html, read_out| {
                    strips(html, read_out, scale, (&rows, &dots), top);
                }),
            }
        }
    });
    if !left_out.is_empty() {
        let text = format!("Not drawn: {}.", left_out.join(", "));
        html.leaf("p", &[("class", &"muted")], text);
    }
}

fn figure(html: &mut Html, name: &str, draw: impl FnOnce(&mut Html, &str)) {
    html.element("figure", &[], |html| {
        html.leaf("figcaption", &[], name);
        draw(html, &format!("{name} against the loss of its trials"));
    });
}

fn explained(page: &Page, html: &mut Html, losses: &[f64], top: f64) {
    let of = |wanted: Mark| drawn_trials(page).filter(|(mark, _, _)| *mark == wanted).count();
    html.leaf(
        "p",
        &[("class", &"muted")],
        "One mark for each trial of every run. Loss in nats per predicted token goes upwards, or \
         to the right where the parameter is a choice (there the bar is the median).",
    );
    html.element("ul", &[("class", &"legend")], |html| {
        let complete = of(Mark::Complete) + of(Mark::Best);
        let above = losses.iter().filter(|loss| **loss > top).count();
        key(html, "complete", "M14 5h0", &format!("complete ({complete})"));
        if of(Mark::Pruned) > 0 {
            let text = format!("stopped early ({}): loss up to there", of(Mark::Pruned));
            key(html, "pruned", "M12.2 3.2l3.6 3.6m0-3.6l-3.6 3.6", &text);
        }
        if above > 0 {
            let text = format!("larger than shown ({above} above {} nats)", nats(top));
            key(html, "above", "M11.5 8l2.5-5 2.5 5z", &text);
        }
        if of(Mark::Best) > 0 {
            key(html, "best", "M9.5 5a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", "the best trial");
        }
    });
}

fn key(html: &mut Html, class: &'static str, shape: &'static str, text: &str) {
    html.element("li", &[], |html| {
        let area = [("viewBox", &"0 0 28 10" as _), ("aria-hidden", &"true" as _)];
        html.element("svg", &area, |html| {
            html.void("path", &[("class", &class), ("d", &shape)]);
        });
        html.text(format!(" {text}"));
    });
}

/// Upper end of the loss scale: the largest, unless few outliers lie far above the rest.
fn top_of(sorted: &[f64]) -> f64 {
    let (low, high) = (quantile(sorted, 0.25), quantile(sorted, 0.75));
    let fence = high + 3.0 * (high - low);
    match sorted.last() {
        None => 1.0,
        Some(last) if *last <= fence => *last,
        Some(_) => sorted.iter().copied().filter(|loss| *loss <= fence).fold(high, f64::max),
    }
}

/// The trials that have a place: their mark, loss and parameters.
fn drawn_trials(page: &Page) -> impl Iterator<Item = (Mark, f64, &[(String, Value)])> {
    let best = page.best.as_ref();
    page.runs.iter().flat_map(move |run| {
        run.trials.iter().filter_map(move |trial| {
            let loss = trial.value.filter(|loss| drawable(*loss))?;
            let is_best =
                best.is_some_and(|best| best.run == run.label && best.number == trial.number);
            let mark = match trial.state {
                State::Complete if is_best => Mark::Best,
                State::Complete => Mark::Complete,
                State::Pruned => Mark::Pruned,
                State::Infeasible | State::Failed | State::Running => return None,
            };
            Some((mark, loss, trial.values.as_slice()))
        })
    })
}

/// The values of every parameter, in the order in which they appear.
fn observed(page: &Page) -> Vec<(&str, Vec<Dot<&Value>>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut parameters: Vec<(&str, Vec<Dot<&Value>>)> = Vec::new();
    for (mark, loss, values) in drawn_trials(page) {
        for (name, value) in values {
            let place = *places.entry(name).or_insert_with(|| {
                parameters.push((name, Vec::new()));
                parameters.len() - 1
            });
            parameters[place].1.push(Dot { x: value, loss, mark });
        }
    }
    parameters
}

fn drawing<'a>(values: &[Dot<&'a Value>]) -> Drawing<'a> {
    let number = |dot: &Dot<&Value>| match dot.x {
        Value::Number(number) => Some(*number),
        Value::Text(_) => None,
    };
    let text = |dot: &Dot<&'a Value>| match dot.x {
        Value::Number(_) => "a number",
        Value::Text(text) => text.as_str(),
    };
    if values.iter().all(|dot| number(dot).is_some()) {
        let dots: Vec<Dot<f64>> = values
            .iter()
            .filter_map(|dot| Some(Dot { x: number(dot)?, loss: dot.loss, mark: dot.mark }))
            .filter(|dot| drawable(dot.x))
            .collect();
        return match dots.first() {
            None => Drawing::Fixed("no finite number".to_owned()),
            Some(first) if dots.iter().all(|dot| dot.x == first.x) => {
                Drawing::Fixed(plain(first.x))
            }
            Some(_) => Drawing::Points(dots),
        };
    }
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for dot in values {
        *used.entry(text(dot)).or_default() += 1;
    }
    let mut rows: Vec<&str> = used.keys().copied().collect();
    if rows.len() == 1 {
        return Drawing::Fixed(rows[0].to_owned());
    }
    if rows.len() > CHOICES {
        return Drawing::Many(rows.len());
    }
    rows.sort_by_key(|row| std::cmp::Reverse(used[row]));
    let dots = values.iter().filter_map(|dot| {
        let x = rows.iter().position(|row| *row == text(dot))?;
        Some(Dot { x, loss: dot.loss, mark: dot.mark })
    });
    let dots = dots.collect();
    Drawing::Rows(rows, dots)
}

#[cfg(test)]
mod tests {
    use super::top_of;

    #[test]
    fn few_outliers_are_beyond_the_top_and_a_wide_spread_is_not() {
        let mut losses: Vec<f64> = (0..50).map(|place| 5.0 + f64::from(place) * 0.01).collect();
        assert_eq!(top_of(&losses), 5.49);
        losses.extend([11.0, 900.0]);
        assert_eq!(top_of(&losses), 5.49);
        assert_eq!(top_of(&[1.0, 2.0, 4.0, 8.0]), 8.0);
    }
}
