//! Models side by side: what is left of the first model's quality, and what it
//! costs.

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_eval::metrics::Metric;
use adapruner_model::Placement;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    latency::{Latency, LatencySettings, Timings, latency, stored_bytes},
    pipeline::{self, TokensRecord},
    progress::Progress,
    settings::EvalSettings,
    zero_shot::{Questions, TaskSettings, ZeroShot, zero_shot},
};

/// What is compared.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonSettings {
    /// Texts for perplexities.
    pub texts: Vec<EvalSettings>,
    /// Tasks.
    pub tasks: Option<TaskSettings>,
    /// Speed; `None` to leave it out.
    pub latency: Option<LatencySettings>,
}

/// What a figure says, and so how it stands to the first model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A count; the share of the first model's.
    Size,
    /// Lower is better; retained is the first model's divided by this.
    Perplexity,
    /// Higher is better; retained is this divided by the first model's.
    Accuracy,
    /// Tokens a second; divided by the first model's, round by round, the
    /// median.
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
}

impl Row {
    fn new(name: String, kind: Kind, values: Vec<f64>) -> Self {
        let first = values.first().copied().unwrap_or(f64::NAN);
        let percent = |&value: &f64| match kind {
            Kind::Perplexity => 100.0 * (first / value),
            Kind::Size | Kind::Accuracy | Kind::Speed | Kind::Seconds => 100.0 * (value / first),
        };
        let percent = values.iter().map(percent).collect();
        Self { name, kind, values, percent }
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
    /// The models; all are held against the first.
    pub models: Vec<Compared>,
    /// The figures.
    pub rows: Vec<Row>,
    /// Speeds with their spreads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Vec<Latency>>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Measures models and holds them against the first.
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
        Row::new("bytes of the tensors".into(), Kind::Size, of(&stored_bytes)),
    ];
    let mut models = Vec::with_capacity(found);
    for checkpoint in checkpoints {
        let model = checkpoint.origin.display().to_string();
        models.push(Compared { model, digest: checkpoint.digest()?, texts: Vec::new() });
    }
    let mut notes = Vec::new();
    for text in &settings.texts {
        let mut perplexities = Vec::with_capacity(found);
        for (checkpoint, model) in checkpoints.iter().zip(&mut models) {
            progress.note(&model.model);
            let tokens = pipeline::eval_tokens(checkpoint, text)?;
            let batch = text.batch_tokens;
            let measured =
                pipeline::evaluate(checkpoint, &tokens, placement, batch, "perplexity", progress)?;
            perplexities.push(measured.loss.perplexity);
            model.texts.push(TokensRecord::of(&tokens));
        }
        let last = |model: &Compared| model.texts.last().map(|text| text.tokens_digest);
        if models.iter().any(|model| last(model) != last(&models[0])) {
            notes.push(format!(
                "{}: not all models see the same tokens, so perplexities per token cannot be \
                 compared",
                text.text.text.display()
            ));
        }
        let name = format!("perplexity, {}, windows of {}", text.text.text.display(), text.window);
        rows.push(Row::new(name, Kind::Perplexity, perplexities));
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

/// Every task by its metrics, and the means.
fn task_rows(answered: &[ZeroShot]) -> Vec<Row> {
    let Some(first) = answered.first() else { return Vec::new() };
    let mut rows = Vec::new();
    for (at, task) in first.tasks.iter().enumerate() {
        for (metric, name) in [(Metric::Acc, "acc"), (Metric::AccNorm, "acc_norm")] {
            let of = |one: &ZeroShot| one.tasks[at].metric(metric).map(|e| e.value);
            let values: Option<Vec<f64>> = answered.iter().map(of).collect();
            if let Some(values) = values {
                let asked = task.answers.len();
                let name = format!("{}, {name}, {asked} of {} questions", task.task, task.all);
                rows.push(Row::new(name, Kind::Accuracy, values));
            }
        }
    }
    let means = |mean: fn(&ZeroShot) -> Option<f64>| {
        answered.iter().map(mean).collect::<Option<Vec<f64>>>()
    };
    if let Some(values) = means(|one| one.literature_mean().map(|mean| mean.value)) {
        rows.push(Row::new("mean of seven, as the literature".into(), Kind::Accuracy, values));
    }
    if let Some(values) = means(|one| one.norm_mean().map(|mean| mean.value)) {
        let name = "mean of acc_norm where defined, else acc";
        rows.push(Row::new(name.into(), Kind::Accuracy, values));
    }
    if let Some(values) = means(|one| one.rolling.as_ref().map(|r| r.word_perplexity())) {
        rows.push(Row::new("wikitext, word perplexity".into(), Kind::Perplexity, values));
    }
    rows
}

fn latency_rows(measured: &[Latency]) -> Vec<Row> {
    let mut rows = Vec::new();
    let lengths = measured.first().map_or(0, |first| first.timings.len());
    for at in 0..lengths {
        let prompt = measured[0].timings[at].prompt_tokens;
        type Figure = (Kind, &'static str, fn(&Timings) -> f64);
        let figures: [Figure; 3] = [
            (Kind::Speed, "prompt tokens read a second", |t| t.prefill_tokens_per_second.median),
            (Kind::Seconds, "seconds to the first token", |t| t.first_token_seconds.median),
            (Kind::Speed, "tokens made a second", |t| t.decode_tokens_per_second.median),
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

/// The comparison as a Markdown table.
pub fn markdown(comparison: &Comparison) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut out = String::from("|  |");
    for model in &comparison.models {
        out.push_str(&format!(" {} |", cell(&model.model)));
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(comparison.models.len()));
    out.push('\n');
    for row in &comparison.rows {
        out.push_str(&format!("| {} |", cell(&row.name)));
        for (at, (value, percent)) in row.values.iter().zip(&row.percent).enumerate() {
            let value = match row.kind {
                Kind::Size => format!("{value:.0}"),
                Kind::Perplexity => format!("{value:.3}"),
                Kind::Accuracy | Kind::Seconds => format!("{value:.4}"),
                Kind::Speed => format!("{value:.1}"),
            };
            let percent = if at > 0 { format!(" ({percent:.1} %)") } else { String::new() };
            out.push_str(&format!(" {value}{percent} |"));
        }
        out.push('\n');
    }
    out.push_str(
        "\nIn brackets, percent of the first model: of accuracies, sizes, speeds and seconds \
         this model's figure divided by the first's, of perplexities the first's divided by \
         this; of speeds and seconds the median over rounds.\n",
    );
    for note in &comparison.notes {
        out.push_str(&format!("\n{note}\n"));
    }
    out
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
