//! `eval`: perplexity on a text, accuracy on tasks.

use adapruner::{
    VERSION, memory,
    pipeline::{self, Evaluation},
    settings::{EvalSettings, RunSettings},
    zero_shot::{Questions, TaskSettings, ZeroShot, zero_shot},
};
use adapruner_checkpoint::{
    Checkpoint,
    atomic::{Files, StagedFile},
};
use adapruner_eval::{metrics::Metric, zero_shot::Mean};
use adapruner_model::Placement;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{CommonArgs, Perform, Session};
use crate::{
    args::{EvalArgs, RunArgs},
    combine::Combine,
    failure::advised,
    printer::{bytes, grouped, table},
    task_args::TaskArgs,
};

/// Measure the perplexity of a model on a text, or its accuracy on tasks.
///
/// A text is tokenised once and cut into non-overlapping windows; the mean negative
/// log-likelihood over all predicted tokens is exponentiated once. Tasks are evaluated
/// zero-shot with the prompts and metrics of lm-evaluation-harness.
///
/// Example: adapruner eval SmolLM2-135M.gguf --text wikitext2 --data-dir data
///
/// Example: adapruner eval MODEL --tasks boolq,piqa,hellaswag --data-dir data --limit 500
#[derive(Debug, Args)]
pub struct EvalCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    eval: EvalArgs,
    #[command(flatten)]
    tasks: TaskArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    /// Of a text alone: the evaluation; of tasks: the harness's layout, with the
    /// evaluation of a text in `perplexity`.
    #[serde(flatten)]
    measured: Map<String, Value>,
    model: String,
    settings: Settings<'a>,
    run: &'a RunSettings,
    peak_memory_bytes: Option<u64>,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Settings<'a> {
    Text(&'a EvalSettings),
    Tasks {
        tasks: &'a TaskSettings,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a EvalSettings>,
    },
}

impl Perform for EvalCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let file = self.common.file()?;
        let files = self.eval.over(&file.eval).files(self.common.files());
        Ok(self.tasks.over(&file.tasks).files(files))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &EvalCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let run = args.run.over(&file.run).resolve()?;
    let eval = args.eval.over(&file.eval);
    let asked = args.tasks.over(&file.tasks);
    let (text, tasks) = (eval.resolve(), asked.resolve(&eval)?);
    let settings = match (&tasks, &text) {
        (Some(tasks), text) => Settings::Tasks { tasks, text: text.as_ref() },
        (None, Some(text)) => Settings::Text(text),
        (None, None) => {
            return Err(advised(
                "text: missing",
                "give a text, --text wikitext2, or tasks, --tasks boolq,piqa",
            ));
        }
    };
    let questions = tasks.as_ref().map(Questions::read).transpose()?;
    let checkpoint = args.common.open(session)?;
    let placement = run.placement([&checkpoint])?;
    let log = asked.log_samples.as_deref().map(|path| session.writer.file(path)).transpose()?;

    let evaluation =
        text.as_ref().map(|text| measure(&checkpoint, text, &placement, session)).transpose()?;
    let answered = match (&tasks, &questions) {
        (Some(tasks), Some(questions)) => {
            Some(zero_shot(&checkpoint, questions, tasks, &placement, &session.bars())?)
        }
        (Some(_), None) | (None, _) => None,
    };
    if let Some(log) = log {
        write_answers(log, answered.as_ref())?;
    }
    let report = Report {
        measured: as_json(evaluation.as_ref(), answered.as_ref())?,
        model: args.common.model.display().to_string(),
        settings,
        run: &run,
        peak_memory_bytes: memory::peak(),
        version: VERSION,
    };
    args.common.printer().result(&report, |report| {
        let mut rows = vec![("model", report.model.clone())];
        rows.extend(evaluation.as_ref().map(rows_of).unwrap_or_default());
        rows.extend(answered.as_ref().map(rows_of_tasks).unwrap_or_default());
        if let (Some(answered), None) = (&answered, &evaluation) {
            rows.push(("model digest", answered.model_digest.to_string()));
        }
        rows.push((
            "peak memory",
            report.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), bytes),
        ));
        let accuracies = answered.as_ref().map(accuracies).unwrap_or_default();
        accuracies + &table(&rows)
    })
}

fn measure(
    checkpoint: &Checkpoint,
    settings: &EvalSettings,
    placement: &Placement,
    session: &Session,
) -> Result<Evaluation> {
    let tokens = pipeline::eval_tokens(checkpoint, settings)?;
    let batch = settings.batch_tokens;
    let bars = session.bars();
    Ok(pipeline::evaluate(checkpoint, &tokens, placement, batch, "perplexity", &bars)?)
}

fn as_json(
    evaluation: Option<&Evaluation>,
    answered: Option<&ZeroShot>,
) -> Result<Map<String, Value>> {
    let evaluation = evaluation.map(serde_json::to_value).transpose()?;
    Ok(match (answered, evaluation) {
        (None, Some(Value::Object(evaluation))) => evaluation,
        (None, _) => Map::new(),
        (Some(answered), None) => answered.to_json()?,
        (Some(answered), Some(evaluation)) => {
            let mut out = answered.to_json()?;
            out.insert("perplexity".into(), evaluation);
            out
        }
    })
}

/// Writes one answer per line.
fn write_answers(log: StagedFile, answered: Option<&ZeroShot>) -> Result<()> {
    let mut lines = String::new();
    for answer in answered.into_iter().flat_map(ZeroShot::answers) {
        lines.push_str(&serde_json::to_string(answer)?);
        lines.push('\n');
    }
    Ok(log.write(lines.as_bytes())?)
}

/// What an evaluation says, row by row.
fn rows_of(e: &Evaluation) -> Vec<(&'static str, String)> {
    let loss = &e.loss;
    let sure = |stderr: Option<f64>| stderr.map_or_else(String::new, |s| format!(" ± {s:.4}"));
    let stderr = sure(loss.nll_stderr);
    let bits = loss.bits.as_ref().map(|bits| {
        let stderr = sure(bits.bits_per_byte_stderr);
        let (value, bytes) = (bits.bits_per_byte, grouped(bits.bytes));
        ("bits per byte", format!("{value:.5}{stderr} ({bytes} bytes of predicted text)"))
    });
    let mut rows = vec![
        ("parameters", grouped(e.parameters)),
        ("text", e.text.clone()),
        ("perplexity", format!("{:.4} (windows of {} tokens)", loss.perplexity, loss.window)),
        ("loss", format!("{:.5}{stderr} nats per predicted token", loss.nll)),
    ];
    rows.extend(bits);
    rows.extend([
        (
            "measured",
            format!("{} predicted tokens in {} windows", grouped(loss.tokens), loss.windows),
        ),
        (
            "speed",
            format!(
                "{:.0} tokens/s ({}, {:.1} s, {} tokens at a time)",
                e.tokens_per_second, e.dtype, e.seconds, e.batch_tokens
            ),
        ),
        ("model digest", e.model_digest.to_string()),
        ("text digest", e.text_digest.to_string()),
    ]);
    rows
}

/// How the tasks were measured, row by row.
fn rows_of_tasks(answered: &ZeroShot) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(rolling) = &answered.rolling {
        rows.push((
            "wikitext",
            format!(
                "word perplexity {:.4}, byte perplexity {:.4}, {:.4} bits per byte",
                rolling.word_perplexity(),
                rolling.byte_perplexity(),
                rolling.bits_per_byte()
            ),
        ));
        rows.push(("articles", format!("{} of {}", rolling.log_likelihoods.len(), rolling.all)));
    }
    rows.push((
        "asked",
        format!(
            "in {:.1} s ({}, {} tokens at a time)",
            answered.seconds, answered.dtype, answered.batch_tokens
        ),
    ));
    rows
}

/// Accuracies as a table, with the means below; standard errors behind ±.
fn accuracies(answered: &ZeroShot) -> String {
    if answered.tasks.is_empty() {
        return String::new();
    }
    const METRICS: [Metric; 3] = [Metric::Acc, Metric::AccNorm, Metric::AccBytes];
    let mut rows = vec![["task", "questions", "acc", "acc_norm", "acc_bytes"].map(String::from)];
    for task in &answered.tasks {
        let [acc, norm, bytes] = METRICS.map(|metric| match task.metric(metric) {
            None => String::new(),
            Some(estimate) => match estimate.stderr {
                None => format!("{:.4}", estimate.value),
                Some(stderr) => format!("{:.4} ± {stderr:.4}", estimate.value),
            },
        });
        let asked = format!("{} of {}", task.answers.len(), task.all);
        rows.push([task.task.clone(), asked, acc, norm, bytes]);
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let mut say = |label: &str, mean: Option<Mean>| {
        if let Some(mean) = mean {
            out.push_str(&format!("{label}: {:.4}\n", mean.value));
        }
    };
    say(
        "mean of seven as in the literature (acc_norm of hellaswag, arc_challenge and \
         openbookqa, acc of the others)",
        answered.literature_mean(),
    );
    say("mean of acc_norm where defined, else acc", answered.norm_mean());
    out.push('\n');
    out
}
