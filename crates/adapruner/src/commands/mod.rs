//! The subcommands, one file each.

mod apply;
mod compare;
mod compare_models;
mod completions;
mod correlate;
mod eval;
mod export;
mod generate;
mod inspect;
mod latency;
mod merge;
mod prune;
mod recover;
mod report;
mod run;
mod sample;
mod search;
mod stats;

use std::path::PathBuf;

use adapruner::outputs::OutputSettings;
use adapruner_checkpoint::Checkpoint;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{config_file::ConfigFile, failure::advised, printer::Printer};

/// Make a language model smaller by removing whole attention heads and
/// feed-forward channels; what remains is an ordinary dense model.
///
/// MODEL is a Hugging Face folder, a GGUF file, or a hub id (owner/name).
#[derive(Debug, Parser)]
#[command(name = "adapruner", version, propagate_version = true, after_help = EXAMPLE)]
pub struct Cli {
    /// Say more on stderr; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example: measure, remove a fifth, measure again
  adapruner eval MODEL --text wikitext2
  adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --protect 4,2 --out SMALLER
  adapruner eval SMALLER --text wikitext2

Exit codes: 0 done, 1 something you can mend, 2 wrong usage, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::InspectArgs),
    Eval(Box<eval::EvalCommand>),
    Generate(Box<generate::GenerateCommand>),
    Latency(Box<latency::LatencyCommand>),
    CompareModels(Box<compare_models::CompareModelsCommand>),
    Sample(Box<sample::SampleCommand>),
    Stats(Box<stats::StatsCommand>),
    Prune(Box<prune::PruneCommand>),
    Search(Box<search::SearchCommand>),
    Compare(Box<compare::CompareCommand>),
    Correlate(Box<correlate::CorrelateCommand>),
    Report(report::ReportCommand),
    Run(run::RunCommand),
    Apply(Box<apply::ApplyCommand>),
    Recover(Box<recover::RecoverCommand>),
    Merge(merge::MergeCommand),
    Export(export::ExportCommand),
    Completions(completions::CompletionsArgs),
}

/// What every command that reads a model takes.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Hugging Face folder, GGUF file, or hub id
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Settings from a TOML file with the tables run, eval, tasks, calibration,
    /// importance, plan, compensation, output, search, space and recover, whose
    /// keys are the options' names; what is typed wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl CommonArgs {
    fn open(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::open(&self.model)?)
    }

    fn printer(&self) -> Printer {
        Printer::new(self.json)
    }

    fn file(&self) -> Result<ConfigFile> {
        ConfigFile::read(self.config.as_deref())
    }
}

/// Runs what was typed.
///
/// # Errors
/// Whatever the subcommand could not do.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::CompareModels(args) => compare_models::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Correlate(args) => correlate::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// An output that must be named.
fn required(output: Option<OutputSettings>) -> Result<OutputSettings> {
    output.ok_or_else(|| advised("out: missing", "name a folder to write: --out DIR"))
}
