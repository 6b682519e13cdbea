//! `compare-models`: several models in one table.

use std::path::PathBuf;

use adapruner::{
    VERSION,
    compare_models::{self, Comparison, ComparisonSettings, compare, markdown},
    settings::RunSettings,
    zero_shot::{Questions, TaskSettings},
};
use adapruner_checkpoint::{Checkpoint, atomic::Files};
use adapruner_eval::zero_shot::Selection;
use adapruner_study::journal::timestamp;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{MODEL, Perform, Session, latency::LatencyArgs};
use crate::{
    args::{EvalArgs, RunArgs},
    printer::Printer,
    search_args::command_line,
};

/// Compare models; the first one is the baseline.
///
/// Prints Markdown tables: sizes, perplexities and task accuracies with standard
/// errors, speeds, and the percentage of the baseline that each model retains; then,
/// for every accuracy and loss, the difference from the baseline, paired over the
/// same questions or windows, with a 95 % interval, and what is retained above
/// chance.
///
/// Example: adapruner compare-models MODEL SMALLER --text wikitext2 --tasks boolq,piqa --data-dir data
///
/// Example: adapruner compare-models MODEL Q2_K.gguf SMALLER.gguf --text wikitext2 --report sizes.html
#[derive(Debug, Args)]
pub struct CompareModelsCommand {
    /// Hugging Face folders, GGUF files, or hub ids; the first is the baseline
    #[arg(value_name = "MODEL", required = true, num_args = 2..)]
    models: Vec<PathBuf>,
    /// Text to measure perplexity on, as for eval; repeatable
    #[arg(long, value_name = "FILE|SET")]
    text: Vec<PathBuf>,
    /// Tokens per window [default: 128]
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
    /// Use only the first N windows of each text and the first N questions of each task
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Field or column that holds the text of a record [default: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Tasks to evaluate, as for eval
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Custom task, defined in a TOML file; repeatable
    #[arg(long, value_name = "FILE")]
    task_file: Vec<PathBuf>,
    /// Folder of named sets and task data
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA")]
    data_dir: Option<PathBuf>,
    /// Tokens per batch [default: chosen by free memory]
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Do not measure speed
    #[arg(long)]
    no_latency: bool,
    #[command(flatten)]
    latency: LatencyArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Also write the result to this file: as JSON with --json or where its name ends in .json,
    /// else as Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write a self-contained HTML page: the last model beside the first, size against
    /// quality, all tables
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replace these files if they exist
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl CompareModelsCommand {
    /// Fills in the defaults, for these models.
    fn resolve(&self, models: &[Checkpoint]) -> ComparisonSettings {
        let text = |text: &PathBuf| EvalArgs {
            text: Some(text.clone()),
            window: self.window,
            limit: self.limit,
            field: self.field.clone(),
            data_dir: self.data_dir.clone(),
            batch_tokens: self.batch_tokens,
        };
        let asked = !self.tasks.is_empty() || !self.task_file.is_empty();
        ComparisonSettings {
            texts: self.text.iter().filter_map(|name| text(name).resolve()).collect(),
            tasks: asked.then(|| TaskSettings {
                tasks: self.tasks.clone(),
                task_files: self.task_file.clone(),
                data_dir: self.data_dir.clone(),
                selection: self.limit.map_or(Selection::All, Selection::First),
                batch_tokens: self.batch_tokens,
            }),
            latency: (!self.no_latency).then(|| self.latency.resolve(models)),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    comparison: Comparison,
    settings: &'a ComparisonSettings,
    run: &'a RunSettings,
    version: &'static str,
}

impl Perform for CompareModelsCommand {
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        let files = self.models.iter().fold(Files::new(), |files, path| files.read(MODEL, path));
        let files = self.text.iter().fold(files, |files, text| files.read("--text", text));
        let tasks = self.task_file.iter();
        let files = tasks.fold(files, |files, task| files.read("--task-file", task));
        let folders = self.data_dir.iter();
        let files = folders.fold(files, |files, folder| files.search("--data-dir", folder));
        let files = self.out.iter().fold(files, |files, out| files.file("--out", out, self.force));
        let report = self.report.iter();
        Ok(report.fold(files, |files, path| files.file("--report", path, self.force)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &CompareModelsCommand, session: &Session) -> Result<()> {
    let run = args.run.resolve()?;
    let models =
        args.models.iter().map(|path| session.open(MODEL, path)).collect::<Result<Vec<_>>>()?;
    let placement = run.placement(&models)?;
    let settings = args.resolve(&models);
    let questions = settings.tasks.as_ref().map(Questions::read).transpose()?;
    let begin = |path: &Option<PathBuf>| path.as_ref().map(|path| session.writer.file(path));
    let (out, page) = (begin(&args.out).transpose()?, begin(&args.report).transpose()?);
    let bars = session.bars();
    let comparison = compare(&models, &settings, questions.as_ref(), &placement, &bars)?;
    let report = Report { comparison, settings: &settings, run: &run, version: VERSION };
    if let Some(out) = out {
        let named_json = args.out.as_ref().and_then(|out| out.extension());
        let named_json = named_json.is_some_and(|end| end.eq_ignore_ascii_case("json"));
        let text = if args.json || named_json {
            serde_json::to_string_pretty(&report)? + "\n"
        } else {
            markdown(&report.comparison)
        };
        out.write(text.as_bytes())?;
    }
    if let Some(staged) = page {
        let page = compare_models::page(&report.comparison, command_line(), timestamp());
        staged.write(adapruner_report::render(&page).as_bytes())?;
    }
    Printer::new(args.json).result(&report, |report| markdown(&report.comparison))
}
