//! `latency`: prompt and generation speed of a model, alone or against another.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use adapruner::{
    VERSION,
    latency::{Latency, LatencySettings, Spread, Timings, latency},
    memory,
    settings::RunSettings,
};
use adapruner_checkpoint::{Checkpoint, atomic::Files};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{CommonArgs, MODEL, Perform, Session};
use crate::{
    args::RunArgs,
    children,
    combine::Combine,
    printer::{bytes, grouped, table},
};

/// Measure a model's prompt speed, generation speed and peak memory.
///
/// Runs one sequence at a time with a key-value cache. With --against, the two models alternate
/// in every round and ratios are computed per round; the memory of each is measured in a
/// separate process.
///
/// Example: adapruner latency SMALLER --against MODEL --rounds 7
#[derive(Debug, Args)]
pub struct LatencyCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// Model to compare with; ratios are MODEL's figures divided by its
    #[arg(long, value_name = "DENSE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    latency: LatencyArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// What is measured.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Latency")]
pub struct LatencyArgs {
    /// Prompt lengths in tokens [default: 128,512, if they fit the context]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    prompt_tokens: Vec<usize>,
    /// Tokens to generate after the first one
    #[arg(long, value_name = "N", default_value_t = 64)]
    new_tokens: usize,
    /// Measured rounds, after one warm-up round
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

impl LatencyArgs {
    /// Fills in the defaults, for these models.
    pub fn resolve(&self, models: &[Checkpoint]) -> LatencySettings {
        let Self { prompt_tokens, new_tokens, rounds } = self;
        let context = models.iter().map(|c| c.config.longest()).min().unwrap_or(0);
        let prompt_tokens = if prompt_tokens.is_empty() {
            let fits = |length: &usize| length.saturating_add(*new_tokens) <= context;
            [128, 512].into_iter().filter(fits).collect()
        } else {
            prompt_tokens.clone()
        };
        LatencySettings { prompt_tokens, new_tokens: *new_tokens, rounds: *rounds }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    /// MODEL.
    #[serde(flatten)]
    model: &'a Latency,
    /// Peak memory of a process that holds this model alone.
    peak_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against<'a>>,
    settings: &'a LatencySettings,
    run: &'a RunSettings,
    version: &'static str,
}

#[derive(Serialize)]
struct Against<'a> {
    #[serde(flatten)]
    model: &'a Latency,
    peak_memory_bytes: Option<u64>,
}

impl Perform for LatencyCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let against = self.against.iter();
        Ok(against.fold(self.common.files(), |files, path| files.read("--against", path)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &LatencyCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let run = args.run.over(&file.run).resolve()?;
    // The other model first: ratios are taken of the first.
    let paths: Vec<&Path> = args.against.iter().chain([&args.common.model]).map(|p| &**p).collect();
    let models = paths.iter().map(|p| session.open(MODEL, p)).collect::<Result<Vec<_>>>()?;
    let placement = run.placement(&models)?;
    let settings = args.latency.resolve(&models);
    let alone = paths.len() == 1;
    let apart = |path: &&Path| peak_apart(path, &settings, &run);
    let peaks: Vec<Option<u64>> =
        if alone { Vec::new() } else { paths.iter().map(apart).collect::<Result<_>>()? };
    let measured = latency(&models, &settings, &placement, &session.bars())?;
    let peak = |at: usize| peaks.get(at).copied().unwrap_or_else(memory::peak);
    let last = measured.len() - 1;
    let report = Report {
        model: &measured[last],
        peak_memory_bytes: peak(last),
        against: (!alone).then(|| Against { model: &measured[0], peak_memory_bytes: peak(0) }),
        settings: &settings,
        run: &run,
        version: VERSION,
    };
    args.common.printer().result(&report, text)
}

/// What the memory of another process is read from.
#[derive(Deserialize)]
struct Peak {
    peak_memory_bytes: Option<u64>,
}

/// Most memory of a process of this program that measures one model alone.
fn peak_apart(model: &Path, settings: &LatencySettings, run: &RunSettings) -> Result<Option<u64>> {
    let name = model.display();
    let lengths: Vec<String> = settings.prompt_tokens.iter().map(usize::to_string).collect();
    let mut command = children::this_program()?;
    command.args(["latency", "--json", "--rounds", "1"]);
    command.args(["--prompt-tokens", &lengths.join(",")]);
    command.args(["--new-tokens", &settings.new_tokens.to_string()]);
    command.args(["--device", &run.device.to_string(), "--dtype", &run.dtype.to_string()]);
    command.args(["--matmul-precision", &run.matmul_precision.to_string()]);
    if let Some(threads) = run.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    command.arg("--").arg(model).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("{name}: cannot measure its memory"))?;
    if !output.status.success() {
        bail!("{name}: measuring its memory ended with {}", output.status);
    }
    let peak: Peak = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{name}: measuring its memory printed no JSON"))?;
    Ok(peak.peak_memory_bytes)
}

fn text(report: &Report<'_>) -> String {
    let mut out = figures(report.model, report.peak_memory_bytes);
    if let Some(against) = &report.against {
        out.push_str(&format!("\n{}", figures(against.model, against.peak_memory_bytes)));
        let mut rows = Vec::new();
        for timings in report.model.ratios.iter().flatten() {
            rows.extend(rows_of(timings, &|spread, _| shown(spread, 3)));
        }
        out.push_str("\nfirst divided by second, per round\n");
        out.push_str(&labelled(&rows));
    }
    let rounds = report.settings.rounds;
    out + &format!(
        "\nmedian (smallest to largest) of {rounds} rounds of one sequence; generated tokens: {} after \
         the first\n",
        report.settings.new_tokens
    )
}

fn figures(model: &Latency, peak: Option<u64>) -> String {
    let peak = peak.map_or_else(|| "unknown".to_owned(), bytes);
    let mut out = table(&[
        ("model", model.model.clone()),
        ("parameters", grouped(model.parameters)),
        ("stored", format!("{} of tensors", bytes(model.bytes))),
        ("peak memory", format!("{peak} (process with this model alone, run in {})", model.dtype)),
    ]);
    let mut rows = Vec::new();
    for timings in &model.timings {
        rows.extend(rows_of(timings, &|spread, unit| match unit {
            "s" => format!("{} s", shown(spread, 4)),
            other => format!("{} {other}", shown(spread, 1)),
        }));
    }
    out.push_str(&labelled(&rows));
    out
}

fn rows_of(
    timings: &Timings,
    show: &dyn Fn(Spread, &'static str) -> String,
) -> Vec<(String, String)> {
    let prompt = timings.prompt_tokens;
    vec![
        (format!("prompt of {prompt}"), show(timings.prefill_tokens_per_second, "tokens/s")),
        (format!("first token after {prompt}"), show(timings.first_token_seconds, "s")),
        (format!("generation after {prompt}"), show(timings.decode_tokens_per_second, "tokens/s")),
    ]
}

fn shown(spread: Spread, digits: usize) -> String {
    let Spread { median, least, largest } = spread;
    format!("{median:.digits$} ({least:.digits$} to {largest:.digits$})")
}

fn labelled(rows: &[(String, String)]) -> String {
    let rows: Vec<_> = rows.iter().map(|(label, text)| (label.as_str(), text.clone())).collect();
    table(&rows)
}
