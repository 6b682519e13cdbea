//! Models side by side: retained quality with its uncertainty, and cost.
//!
//! Every model answers the same questions and reads the same windows, so each is
//! compared with the first question by question and window by window (see
//! [`adapruner_eval::paired`]).

mod page;
mod shown;

use std::f64::consts::LN_2;

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_eval::{
    metrics::{Estimate, Metric},
    paired::{self, Difference, PairedAnswers, above_chance},
    perplexity::{BitsPerByte, Perplexity},
    zero_shot::{Mean, RollingResult, TaskResult},
};
use adapruner_model::Placement;
use serde::{Deserialize, Serialize};

pub use page::facts;
pub use page::{models, page, trade};
pub use shown::markdown;

use crate::{
    error::{Result, ensure},
    footprint::stored_bytes,
    latency::{Latency, LatencySettings, Timings, latency},
    manifest::BeforeAfter,
    pipeline::{self, TokensRecord},
    progress::Progress,
    settings::EvalSettings,
    zero_shot::{Questions, TaskSettings, ZeroShot, zero_shot},
};

/// What to compare.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonSettings {
    /// Texts for perplexities.
    pub texts: Vec<EvalSettings>,
    /// Tasks.
    pub tasks: Option<TaskSettings>,
    /// Speed; `None` to leave it out.
    pub latency: Option<LatencySettings>,
}

/// The kind of a figure, which decides how it compares to the first model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A count; the share of the first model's.
    Size,
    /// What the model takes, in bytes; likewise.
    Bytes,
    /// Lower is better; retained is the first model's divided by this.
    Perplexity,
    /// Lower is better, and comparable across tokenizers; likewise.
    BitsPerByte,
    /// Higher is better; retained is this divided by the first model's.
    Accuracy,
    /// Tokens per second; median over rounds of the ratio to the first model's.
    Speed,
    /// Seconds, likewise.
    Seconds,
}

/// A figure of every model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What it is of.
    pub name: String,
    /// What it says.
    pub kind: Kind,
    /// By model.
    pub values: Vec<f64>,
    /// In percent of the first model, by model, as its kind has it.
    pub percent: Vec<f64>,
    /// Uncertainty of the values; none for sizes and speeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sure: Option<Sure>,
}

/// Uncertainty of a row. For perplexities everything here is about the mean loss, in nats per
/// predicted token (per word of `wikitext`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sure {
    /// Mean losses by model; empty of accuracies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f64>,
    /// Standard errors by model; none of a single question or window.
    pub stderrs: Vec<Option<f64>>,
    /// Differences from the first model, paired over questions, windows or
    /// articles, by model; none of the first, and where models see other tokens.
    pub differences: Vec<Option<Difference>>,
    /// Accuracy of guessing: the mean over questions of one divided by the number
    /// of choices; none of losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Percent retained of what the first model has above chance, by model; none
    /// where the first model is no better than guessing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above_chance: Vec<Option<f64>>,
}

impl Row {
    fn new(name: String, kind: Kind, values: Vec<f64>) -> Self {
        let first = values.first().copied().unwrap_or(f64::NAN);
        let percent = |&value: &f64| match kind {
            Kind::Perplexity | Kind::BitsPerByte => 100.0 * (first / value),
            Kind::Size | Kind::Bytes | Kind::Accuracy | Kind::Speed | Kind::Seconds => {
                100.0 * (value / first)
            }
        };
        let percent = values.iter().map(percent).collect();
        Self { name, kind, values, percent, sure: None }
    }

    /// Perplexities of losses with their standard errors.
    fn perplexities(
        name: String,
        losses: Vec<(f64, Option<f64>)>,
        differences: Vec<Option<Difference>>,
    ) -> Self {
        let (losses, stderrs): (Vec<f64>, Vec<Option<f64>>) = losses.into_iter().unzip();
        let values = losses.iter().map(|loss| loss.exp()).collect();
        let (chance, above_chance) = (None, Vec::new());
        let sure = Sure { losses, stderrs, differences, chance, above_chance };
        Self { sure: Some(sure), ..Self::new(name, Kind::Perplexity, values) }
    }

    /// Bits per byte, where every model has them; differences are paired over windows of
    /// the same tokens.
    fn bits_per_byte(
        name: String,
        measured: &[Perplexity],
        same: impl Iterator<Item = bool>,
    ) -> Option<Self> {
        let bits: Vec<BitsPerByte> = measured.iter().map(|one| one.bits).collect::<Option<_>>()?;
        let first = &measured[0].window_nll;
        let pairs = measured.iter().zip(same).enumerate().map(|(at, (one, same))| {
            let nats = paired::parts(first, &one.window_nll, &one.window_bytes);
            nats.filter(|_| at > 0 && same).map(|nats| nats.scaled(LN_2.recip()))
        });
        let sure = Sure {
            losses: Vec::new(),
            stderrs: bits.iter().map(|one| one.bits_per_byte_stderr).collect(),
            differences: pairs.collect(),
            chance: None,
            above_chance: Vec::new(),
        };
        let values = bits.iter().map(|one| one.bits_per_byte).collect();
        Some(Self { sure: Some(sure), ..Self::new(name, Kind::BitsPerByte, values) })
    }

    /// Accuracies; differences are those of the models after the first.
    fn accuracies(
        name: String,
        estimates: &[Estimate],
        chance: f64,
        differences: impl Iterator<Item = Option<Difference>>,
    ) -> Self {
        let values: Vec<f64> = estimates.iter().map(|estimate| estimate.value).collect();
        let first = values.first().copied().unwrap_or(f64::NAN);
        let kept = |&value: &f64| above_chance(first, value, chance).map(|share| 100.0 * share);
        let sure = Sure {
            losses: Vec::new(),
            stderrs: estimates.iter().map(|estimate| estimate.stderr).collect(),
            differences: std::iter::once(None).chain(differences).collect(),
            chance: Some(chance),
            above_chance: values.iter().map(kept).collect(),
        };
        Self { sure: Some(sure), ..Self::new(name, Kind::Accuracy, values) }
    }
}

/// A model of the comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compared {
    /// Where it was opened.
    pub model: String,
    /// Digest of the model.
    pub digest: Digest,
    /// The texts in its tokens.
    pub texts: Vec<TokensRecord>,
}

/// Models side by side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The models; the first one is the baseline.
    pub models: Vec<Compared>,
    /// The figures.
    pub rows: Vec<Row>,
    /// Speeds with their spreads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Vec<Latency>>,
    /// Warnings.
    pub notes: Vec<String>,
}

/// Measures models and compares them with the first.
///
/// # Errors
/// Fewer than two models; those of what is measured.
pub fn compare(
    checkpoints: &[Checkpoint],
    settings: &ComparisonSettings,
    questions: Option<&Questions>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let found = checkpoints.len();
    ensure!(found > 1, "models: at least 2 expected, {found} found");
    let of = |f: &dyn Fn(&Checkpoint) -> u64| checkpoints.iter().map(|c| f(c) as f64).collect();
    let mut rows = vec![
        Row::new("parameters".into(), Kind::Size, of(&|c| c.config.parameters())),
        Row::new("bytes of the tensors".into(), Kind::Bytes, of(&stored_bytes)),
    ];
    let mut models = Vec::with_capacity(found);
    for checkpoint in checkpoints {
        let model = checkpoint.origin.display().to_string();
        models.push(Compared { model, digest: checkpoint.digest()?, texts: Vec::new() });
    }
    let mut notes = Vec::new();
    for text in &settings.texts {
        let mut measured: Vec<Perplexity> = Vec::with_capacity(found);
        for (checkpoint, model) in checkpoints.iter().zip(&mut models) {
            progress.note(&model.model);
            let tokens = pipeline::eval_tokens(checkpoint, text)?;
            let batch = text.batch_tokens;
            let loss =
                pipeline::evaluate(checkpoint, &tokens, placement, batch, "perplexity", progress)?
                    .loss;
            measured.push(loss);
            model.texts.push(TokensRecord::of(&tokens));
        }
        let read = format!("{}, windows of {}", text.text.text.display(), text.window);
        let (found, note) = text_rows(&read, &models, &measured);
        rows.extend(found);
        notes.extend(note);
    }
    if let (Some(tasks), Some(questions)) = (&settings.tasks, questions) {
        let mut answered = Vec::with_capacity(found);
        for (checkpoint, model) in checkpoints.iter().zip(&models) {
            progress.note(&model.model);
            answered.push(zero_shot(checkpoint, questions, tasks, placement, progress)?);
        }
        rows.extend(task_rows(&answered));
    }
    let latency = match &settings.latency {
        None => None,
        Some(settings) => {
            let measured = latency(checkpoints, settings, placement, progress)?;
            rows.extend(latency_rows(&measured));
            Some(measured)
        }
    };
    Ok(Comparison { models, rows, latency, notes })
}

/// A model before and after it was cut, by one measurement. `sizes` are the parameters and bytes
/// of the two, and `bytes` says what these are of.
pub fn before_after(
    names: [String; 2],
    (sizes, bytes): ([(u64, u64); 2], String),
    BeforeAfter { before, after }: &BeforeAfter,
) -> Comparison {
    let of = |pick: fn(&(u64, u64)) -> u64| sizes.iter().map(|size| pick(size) as f64).collect();
    let both = [before, after];
    let models: Vec<Compared> = both
        .iter()
        .zip(names)
        .map(|(one, model)| Compared { model, digest: one.model_digest, texts: vec![one.tokens()] })
        .collect();
    let measured: Vec<Perplexity> = both.iter().map(|one| one.loss.clone()).collect();
    let read = format!("{}, windows of {}", before.text, before.loss.window);
    let (found, note) = text_rows(&read, &models, &measured);
    let mut rows = vec![
        Row::new("parameters".into(), Kind::Size, of(|size| size.0)),
        Row::new(bytes, Kind::Bytes, of(|size| size.1)),
    ];
    rows.extend(found);
    let speeds = both.iter().map(|one| one.tokens_per_second).collect();
    rows.push(Row::new("tokens per second, one pass over the text".into(), Kind::Speed, speeds));
    Comparison { models, rows, latency: None, notes: note.into_iter().collect() }
}

/// Perplexities and bits per byte of the text that was read last, and a note where the models
/// do not read the same tokens.
fn text_rows(
    read: &str,
    models: &[Compared],
    measured: &[Perplexity],
) -> (Vec<Row>, Option<String>) {
    let last = |model: &Compared| model.texts.last().map(|text| text.tokens_digest);
    let first = models.first().and_then(last);
    let same = || models.iter().map(|model| last(model) == first);
    let note = (!same().all(|same| same)).then(|| {
        format!(
            "{read}: not all models see the same tokens, so perplexities per token cannot be \
             compared; bits per byte can"
        )
    });
    let differences = measured.iter().zip(same()).enumerate().map(|(at, (one, same))| {
        let (first, window) = (&measured[0].window_nll, one.window);
        paired::windows(first, &one.window_nll, window).filter(|_| at > 0 && same)
    });
    let differences = differences.collect();
    let losses = measured.iter().map(|one| (one.nll, one.nll_stderr)).collect();
    let perplexities = Row::perplexities(format!("perplexity, {read}"), losses, differences);
    let bits = Row::bits_per_byte(format!("bits per byte, {read}"), measured, same());
    (std::iter::once(perplexities).chain(bits).collect(), note)
}

/// Every task by its metrics, and the means.
fn task_rows(answered: &[ZeroShot]) -> Vec<Row> {
    let Some(first) = answered.first() else { return Vec::new() };
    let mut rows = Vec::new();
    for (at, task) in first.tasks.iter().enumerate() {
        for (metric, name) in [(Metric::Acc, "acc"), (Metric::AccNorm, "acc_norm")] {
            let of = |one: &ZeroShot| one.tasks[at].metric(metric);
            let estimates: Option<Vec<Estimate>> = answered.iter().map(of).collect();
            let Some(estimates) = estimates else { continue };
            let asked = task.answers.len();
            let name = format!("{}, {name}, {asked} of {} questions", task.task, task.all);
            let others = answered[1..]
                .iter()
                .map(|other| Some(paired_answers(task, &other.tasks[at], metric)?.difference()));
            rows.push(Row::accuracies(name, &estimates, task.chance(), others));
        }
    }
    type Named = (&'static str, fn(&ZeroShot) -> Option<Mean>);
    let means: [Named; 2] = [
        ("mean of seven, as in the literature", ZeroShot::literature_mean),
        ("mean of acc_norm where defined, else acc", ZeroShot::norm_mean),
    ];
    rows.extend(means.into_iter().filter_map(|(name, mean)| mean_row(name, answered, mean)));
    let articles: Option<Vec<&RollingResult>> =
        answered.iter().map(|one| one.rolling.as_ref()).collect();
    rows.extend(articles.and_then(|articles| article_row(&articles)));
    rows
}

/// Two models' answers to a task, paired.
fn paired_answers(first: &TaskResult, other: &TaskResult, metric: Metric) -> Option<PairedAnswers> {
    PairedAnswers::of(&first.right(metric), &other.right(metric))
}

/// A mean over tasks; `None` where the tasks have none.
fn mean_row(name: &str, answered: &[ZeroShot], of: fn(&ZeroShot) -> Option<Mean>) -> Option<Row> {
    let means = answered.iter().map(of).collect::<Option<Vec<Mean>>>()?;
    let estimate = |mean: &Mean| Estimate { value: mean.value, stderr: mean.stderr };
    let estimates: Vec<Estimate> = means.iter().map(estimate).collect();
    let task = |one: &'_ ZeroShot, name: &str| one.tasks.iter().position(|t| t.task == name);
    let places: Option<Vec<(usize, Metric)>> = means[0]
        .of
        .iter()
        .map(|(name, metric)| Some((task(&answered[0], name)?, *metric)))
        .collect();
    let (places, first) = (places?, &answered[0].tasks);
    let chance = places.iter().map(|&(at, _)| first[at].chance()).sum::<f64>();
    let others = answered[1..].iter().map(|other| {
        let tasks = places.iter();
        let pairs = tasks.map(|&(at, metric)| paired_answers(&first[at], &other.tasks[at], metric));
        PairedAnswers::mean(&pairs.collect::<Option<Vec<_>>>()?)
    });
    Some(Row::accuracies(name.to_owned(), &estimates, chance / places.len() as f64, others))
}

/// Word perplexity of `wikitext`'s articles; `None` without words.
fn article_row(articles: &[&RollingResult]) -> Option<Row> {
    let loss = |one: &&RollingResult| paired::by_unit(&one.losses(), &one.article_words);
    let losses = articles.iter().map(loss).collect::<Option<Vec<_>>>()?;
    let first = articles[0].losses();
    let others = articles[1..].iter();
    let others = others.map(|one| paired::parts(&first, &one.losses(), &one.article_words));
    let differences = std::iter::once(None).chain(others).collect();
    Some(Row::perplexities("wikitext, word perplexity".into(), losses, differences))
}

fn latency_rows(measured: &[Latency]) -> Vec<Row> {
    let mut rows = Vec::new();
    let lengths = measured.first().map_or(0, |first| first.timings.len());
    for at in 0..lengths {
        let prompt = measured[0].timings[at].prompt_tokens;
        type Figure = (Kind, &'static str, fn(&Timings) -> f64);
        let figures: [Figure; 3] = [
            (Kind::Speed, "prompt tokens per second", |t| t.prefill_tokens_per_second.median),
            (Kind::Seconds, "seconds to the first token", |t| t.first_token_seconds.median),
            (Kind::Speed, "generated tokens per second", |t| t.decode_tokens_per_second.median),
        ];
        for (kind, name, pick) in figures {
            let name = format!("{name}, prompt of {prompt} tokens");
            let values = measured.iter().map(|one| pick(&one.timings[at])).collect();
            let mut row = Row::new(name, kind, values);
            for (one, percent) in measured.iter().zip(&mut row.percent) {
                if let Some(ratios) = &one.ratios {
                    *percent = 100.0 * pick(&ratios[at]);
                }
            }
            rows.push(row);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_retained_the_other_way_round() {
        let row = Row::new("p".into(), Kind::Perplexity, vec![10.0, 20.0]);
        assert_eq!(row.percent, [100.0, 50.0]);
        let row = Row::new("a".into(), Kind::Accuracy, vec![0.5, 0.4]);
        assert_eq!(row.percent, [100.0, 80.0]);
    }
}
