//! The training after pruning: its losses and learning rate over steps.

use super::legend::{Key, legend};
use crate::html::Html;
use crate::number::{count, counted, duration, nats, significant};
use crate::page::{Page, Recovery, TrainingStep};
use crate::svg::axis::Scale;
use crate::svg::series::{Series, loss_scale, rate_scale, series};

/// Maximum number of points of a line.
const POINTS: usize = 240;
/// The unit of all losses here.
const UNIT: &str = "nats per learned token";

/// What was learned from, the curves, what they are of.
pub(super) fn write(page: &Page, html: &mut Html) {
    let Some(recovery) = &page.recovery else { return };
    facts(recovery, html);
    if recovery.steps.is_empty() {
        return;
    }
    let group = recovery.steps.len().div_ceil(POINTS);
    let line = |name, place, of: fn(&TrainingStep) -> Option<f64>| Series {
        name,
        place,
        points: thinned(&recovery.steps, of, group),
    };
    let mut validation = line("validation loss", 1, |step| step.validation_loss);
    if let Some(before) = recovery.validation_before {
        validation.points.insert(0, (0.0, before));
    }
    let both = [line("training loss", 0, |step| Some(step.loss)), validation];
    let parts = [
        line("the data's own tokens", 2, |step| {
            Some(step.loss - step.teacher_loss.unwrap_or(0.0) - step.hidden_loss.unwrap_or(0.0))
        }),
        line("the teacher's probabilities", 3, |step| step.teacher_loss),
        line("the teacher's hidden states", 4, |step| step.hidden_loss),
    ];
    let rate = [line("learning rate", 0, |step| Some(step.learning_rate))];
    let shown = |lines: &[Series]| -> Vec<Series> {
        lines.iter().filter(|line| line.last().is_some()).cloned().collect()
    };
    let both = shown(&both);
    let parts = shown(&parts);
    let best = recovery.best.map(|best| (best.step as f64, best.loss));
    html.element("div", &[("class", &"pair")], |html| {
        figure(html, "Loss over steps", &both, (loss_scale(&both), UNIT), best);
        // Without a teacher the data's own tokens are the whole loss.
        if parts.len() > 1 {
            figure(html, "Parts of the training loss", &parts, (loss_scale(&parts), UNIT), None);
        }
        figure(html, "Learning rate over steps", &rate, (rate_scale(&rate), ""), None);
    });
    html.leaf("p", &[("class", &"muted")], explained(recovery, parts.len() > 1, group));
}

/// The data and how far the training came.
fn facts(recovery: &Recovery, html: &mut Html) {
    html.element("p", &[], |html| {
        html.leaf("code", &[], &recovery.path);
        html.text(format!(
            ": {}, {} learned parameters, on {}: {} with {} learned tokens; {} with {} kept for \
             validation.",
            recovery.method,
            count(recovery.learned_parameters),
            recovery.data,
            counted(recovery.sequences, "sequence"),
            count(recovery.learned_tokens),
            counted(recovery.validation_sequences, "sequence"),
            count(recovery.validation_tokens),
        ));
        if let Some(teacher) = &recovery.teacher {
            html.text(" Teacher: ");
            html.leaf("code", &[], teacher);
            html.text(".");
        }
        html.text(format!(
            " {}, {} tokens in {} ({}).",
            counted(recovery.steps.len(), "step"),
            count(recovery.tokens),
            duration(recovery.seconds),
            recovery.ended,
        ));
    });
    if let Some(best) = &recovery.best {
        html.element("p", &[], |html| {
            html.text("Best validation: ");
            let before = recovery.validation_before.map(|loss| format!("{} → ", nats(loss)));
            let losses = format!("{}{}", before.unwrap_or_default(), nats(best.loss));
            html.leaf("strong", &[], losses);
            html.text(format!(
                " {UNIT}, after step {}; the parameters of step {} were kept.",
                count(best.step),
                count(recovery.kept_step)
            ));
        });
    }
    if !recovery.data_digest.is_empty() {
        html.element("p", &[("class", &"muted")], |html| {
            html.text("Digest of the data's tokens, of what of them is learned and of the split: ");
            html.leaf("code", &[], &recovery.data_digest);
        });
    }
}

fn figure(
    html: &mut Html,
    name: &str,
    lines: &[Series],
    (scale, unit): (Scale, &str),
    marked: Option<(f64, f64)>,
) {
    let said = |line: &Series| line.last().map_or_else(String::new, |last| significant(last, 4));
    let ends = lines.iter().map(|line| format!("{} ends at {}", line.name, said(line)));
    let read_out = format!("{name}: {}", ends.collect::<Vec<_>>().join("; "));
    html.element("figure", &[], |html| {
        if lines.len() > 1 {
            legend(
                html,
                lines.iter().map(|line| Key {
                    place: line.place,
                    name: line.name,
                    note: format!("last {}", said(line)),
                }),
            );
        }
        series(html, (&read_out, unit), lines, scale, marked);
        html.element("figcaption", &[], |html| {
            html.text(format!("{name}."));
            if scale.is_log() {
                html.text(" On a logarithmic scale.");
            }
            if marked.is_some() {
                html.text(" The circle marks the best validation.");
            }
        });
    });
}

fn explained(recovery: &Recovery, parts: bool, group: usize) -> String {
    let mut text = format!(
        "Losses are {UNIT}. The training loss of a step is that of the sequences of this step, \
         before it changes anything; the validation loss is that of all sequences kept for \
         validation, after it."
    );
    if parts {
        text.push_str(
            " The training loss has parts that a teacher adds, each with its weight; the \
             validation loss is of the data's own tokens alone, so that the two are not of one \
             kind.",
        );
    }
    if recovery.best.is_none() {
        text.push_str(" Nothing was kept for validation.");
    }
    if group > 1 {
        text.push_str(&format!(" A point of a line is the mean of {group} steps."));
    }
    text
}

/// The numbers of steps, the mean of each so many; at the last step of them.
fn thinned(
    steps: &[TrainingStep],
    of: impl Fn(&TrainingStep) -> Option<f64>,
    group: usize,
) -> Vec<(f64, f64)> {
    let mean = |group: &[TrainingStep]| {
        let here = group.iter().filter_map(|step| Some((step.step as f64, of(step)?)));
        let here: Vec<(f64, f64)> = here.collect();
        let (at, _) = *here.last()?;
        Some((at, here.iter().map(|(_, value)| value).sum::<f64>() / here.len() as f64))
    };
    steps.chunks(group.max(1)).filter_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::thinned;
    use crate::page::TrainingStep;

    #[test]
    fn long_trainings_are_shown_by_means() {
        let step = |step: u64| TrainingStep {
            step,
            loss: step as f64,
            validation_loss: (step == 4).then_some(7.0),
            ..TrainingStep::default()
        };
        let steps: Vec<TrainingStep> = (1..=5).map(step).collect();
        let losses = thinned(&steps, |step| Some(step.loss), 2);
        assert_eq!(losses, [(2.0, 1.5), (4.0, 3.5), (5.0, 5.0)]);
        assert_eq!(thinned(&steps, |step| step.validation_loss, 2), [(4.0, 7.0)]);
    }
}
