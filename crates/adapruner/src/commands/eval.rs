//! `eval`: perplexity of a model on a text.

use adapruner::{
    VERSION, memory,
    pipeline::{self, Evaluation},
    settings::{EvalSettings, RunSettings},
};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::CommonArgs;
use crate::{
    args::{EvalArgs, RunArgs},
    config_file::overlay,
    failure::advised,
    printer::{bytes, grouped, table},
    terminal::Bars,
};

/// Measure the perplexity of a model on a text.
///
/// The text is tokenised once and cut into non-overlapping windows; the mean
/// negative log-likelihood over all predicted tokens is exponentiated once.
///
/// Example: adapruner eval SmolLM2-135M.gguf --text wikitext2 --data-dir data
#[derive(Debug, Args)]
pub struct EvalCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    eval: EvalArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    model: String,
    settings: &'a EvalSettings,
    run: &'a RunSettings,
    peak_memory_bytes: Option<u64>,
    version: &'static str,
}

/// Runs the command.
pub fn run(args: &EvalCommand) -> Result<()> {
    let file = args.common.file()?;
    let run = overlay(&args.run, &file.run)?.resolve()?;
    let eval = overlay(&args.eval, &file.eval)?;
    let settings = eval
        .resolve()
        .ok_or_else(|| advised("text: missing", "name a text to measure on: --text wikitext2"))?;
    let placement = run.placement()?;
    let checkpoint = args.common.open()?;
    let tokens = pipeline::eval_tokens(&checkpoint, &settings)?;
    let evaluation = pipeline::evaluate(
        &checkpoint,
        &tokens,
        &placement,
        settings.batch_tokens,
        "perplexity",
        &Bars::default(),
    )?;
    let report = Report {
        evaluation: &evaluation,
        model: args.common.model.display().to_string(),
        settings: &settings,
        run: &run,
        peak_memory_bytes: memory::peak(),
        version: VERSION,
    };
    args.common.printer().result(&report, |report| {
        let mut rows = vec![("model", report.model.clone())];
        rows.extend(rows_of(report.evaluation));
        rows.push((
            "peak memory",
            report.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), bytes),
        ));
        table(&rows)
    })
}

/// What an evaluation says, row by row.
fn rows_of(e: &Evaluation) -> Vec<(&'static str, String)> {
    let loss = &e.loss;
    let stderr = loss.nll_stderr.map_or_else(String::new, |s| format!(" ± {s:.4}"));
    vec![
        ("parameters", grouped(e.parameters)),
        ("text", e.text.clone()),
        ("perplexity", format!("{:.4} (windows of {} tokens)", loss.perplexity, loss.window)),
        ("loss", format!("{:.5}{stderr} nats per predicted token", loss.nll)),
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
    ]
}
