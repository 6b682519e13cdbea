//! The subcommands, one file each.

mod apply;
mod compare;
mod compare_models;
mod completions;
mod correlate;
#[cfg(test)]
mod declared;
mod doctor;
mod eval;
mod export;
mod generate;
mod inspect;
mod latency;
mod learned;
mod man;
mod merge;
mod prune;
#[cfg(test)]
mod python;
mod recover;
mod reduced;
mod report;
mod run;
mod sample;
mod search;
mod stats;
mod trials;

use std::{
    any::TypeId,
    ffi::OsString,
    path::{Path, PathBuf},
};

use adapruner::outputs::OutputSettings;
use adapruner_checkpoint::{
    Checkpoint,
    atomic::{Files, Writer},
    provenance,
};
use adapruner_kernels::{SWITCHED_OFF, instruction_flags, switch_off};
use anyhow::Result;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    bars::{Bars, ProgressForm},
    config_file::ConfigFile,
    failure::advised,
    printer::Printer,
    typed::Named,
};

/// Make a language model smaller by removing whole attention heads and feed-forward channels;
/// the result is an ordinary dense model.
///
/// MODEL is a Hugging Face folder, a GGUF file, or a hub id (owner/name).
#[derive(Debug, Parser)]
#[command(name = "adapruner", version, propagate_version = true, after_help = EXAMPLE)]
pub struct Cli {
    /// Print more on stderr; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Do not check outputs of this program against the digests in their manifest.json, so that
    /// edited ones can be opened
    #[arg(long, global = true)]
    pub no_verify: bool,
    /// Progress on stderr: auto (a bar on a terminal, otherwise lines), bar, lines (one now and
    /// then), json (one event per line) or off
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        env = "ADAPRUNER_PROGRESS",
        default_value = "auto"
    )]
    progress: Named<ProgressForm>,
    /// Sets of instructions that matrix products go without, with those that build on them, for
    /// comparisons or where a processor's are faulty; `adapruner doctor` lists them
    #[arg(
        long,
        global = true,
        value_name = "SETS",
        env = SWITCHED_OFF,
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = instruction_set
    )]
    without_instructions: Vec<String>,
    /// Print no progress and only errors
    #[arg(long, short, global = true, conflicts_with_all = ["verbose", "progress"])]
    pub quiet: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example: measure, remove a fifth, measure again
  adapruner eval MODEL --text wikitext2
  adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --out SMALLER
  adapruner eval SMALLER --text wikitext2

Exit codes: 0 done, 1 an error that you can fix, 2 wrong usage, 130 interrupted.";

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
    Trials(trials::TrialsCommand),
    Report(report::ReportCommand),
    Run(run::RunCommand),
    Apply(Box<apply::ApplyCommand>),
    Recover(Box<recover::RecoverCommand>),
    Merge(merge::MergeCommand),
    Export(export::ExportCommand),
    Doctor(doctor::DoctorCommand),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// A subcommand. [`run`] is the only way to run one; it claims the files first.
trait Perform {
    /// Whether its result or error is printed as JSON.
    fn json(&self) -> bool;

    /// Every file that it reads or writes, according to the command line and the configuration
    /// file; nothing is opened yet.
    ///
    /// # Errors
    /// Missing or contradictory options.
    fn files(&self) -> Result<Files>;

    /// Runs it. It creates outputs only through the session.
    ///
    /// # Errors
    /// Any failure.
    fn run(&self, session: &Session) -> Result<()>;
}

/// What a running command may use.
struct Session {
    /// Creates the outputs that the command declared.
    writer: Writer,
    /// Whether models are checked against the digests in their manifests.
    verify: bool,
    /// How progress is shown.
    progress: ProgressForm,
}

impl Session {
    /// The progress display of stages.
    fn bars(&self) -> Bars {
        Bars::new(self.progress)
    }

    /// Opens a model; `role` is its name on the command line.
    ///
    /// # Errors
    /// A model that was changed since this program wrote it, overlaps with an output, or cannot
    /// be opened.
    fn open(&self, role: &str, path: &Path) -> Result<Checkpoint> {
        self.check(path)?;
        let checkpoint = Checkpoint::open(path)?;
        // One that was fetched lies elsewhere.
        self.writer.check_read(role, &checkpoint.origin)?;
        Ok(checkpoint)
    }

    /// Checks a file or folder against the manifest beside it.
    ///
    /// # Errors
    /// Files that have changed.
    fn check(&self, path: &Path) -> Result<()> {
        if self.verify && path.exists() {
            provenance::verify(path)?;
        }
        Ok(())
    }
}

/// The model's name on the command line.
const MODEL: &str = "MODEL";

/// Arguments of every command that reads a model.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Hugging Face folder, GGUF file, or hub id
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
    /// importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation, output,
    /// search, space and recover, whose keys are the options' names; the command line takes precedence
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl CommonArgs {
    fn open(&self, session: &Session) -> Result<Checkpoint> {
        session.open(MODEL, &self.model)
    }

    /// What is read.
    fn files(&self) -> Files {
        let files = Files::new().read(MODEL, &self.model);
        match &self.config {
            Some(config) => files.read("--config", config),
            None => files,
        }
    }

    fn printer(&self) -> Printer {
        Printer::new(self.json)
    }

    fn file(&self) -> Result<ConfigFile> {
        ConfigFile::read(self.config.as_deref())
    }
}

/// Runs the command line.
///
/// # Errors
/// Any failure of the subcommand.
pub fn run(cli: &Cli) -> Result<()> {
    let fresh = switch_off(cli.without_instructions.clone());
    debug_assert!(fresh, "instructions are chosen before they are used");
    let command = cli.command.as_perform();
    let writer = command.files()?.claim()?;
    let progress = if cli.quiet { ProgressForm::Off } else { cli.progress.0 };
    command.run(&Session { writer, verify: !cli.no_verify, progress })
}

impl Cli {
    /// The whole command line. An option whose field is an `Option<bool>` is a switch that a
    /// settings file has too: it can be given alone (`--force`) or with a value
    /// (`--force=false`), so the command line overrides the file both ways.
    pub fn line() -> clap::Command {
        let switches = |arg: clap::Arg| {
            let is_bool = arg.get_value_parser().type_id() == TypeId::of::<bool>();
            if !is_bool || !arg.get_action().takes_values() {
                return arg;
            }
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("BOOL")
                .hide_possible_values(true)
        };
        Self::command().mut_subcommands(|command| command.mut_args(switches))
    }

    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// Wrong usage; a request for help or the version, which clap prints as one.
    pub fn read<S: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = S>,
    ) -> Result<Self, clap::Error> {
        Self::from_arg_matches(&Self::line().try_get_matches_from(words)?)
    }

    /// Whether the subcommand prints JSON.
    pub fn json(&self) -> bool {
        self.command.as_perform().json()
    }
}

impl Command {
    fn as_perform(&self) -> &dyn Perform {
        match self {
            Self::Inspect(command) => command,
            Self::Eval(command) => &**command,
            Self::Generate(command) => &**command,
            Self::Latency(command) => &**command,
            Self::CompareModels(command) => &**command,
            Self::Sample(command) => &**command,
            Self::Stats(command) => &**command,
            Self::Prune(command) => &**command,
            Self::Search(command) => &**command,
            Self::Compare(command) => &**command,
            Self::Correlate(command) => &**command,
            Self::Trials(command) => command,
            Self::Report(command) => command,
            Self::Run(command) => command,
            Self::Apply(command) => &**command,
            Self::Recover(command) => &**command,
            Self::Merge(command) => command,
            Self::Export(command) => command,
            Self::Doctor(command) => command,
            Self::Completions(command) => command,
            Self::Man(command) => command,
        }
    }
}

/// A set of instructions by its flag.
fn instruction_set(flag: &str) -> Result<String, String> {
    let known = instruction_flags();
    match flag.trim() {
        flag if flag.is_empty() || known.contains(&flag) => Ok(flag.to_owned()),
        _ => Err(format!("expected some of {}", known.join(", "))),
    }
}

/// An output that must be named.
fn required(output: Option<OutputSettings>) -> Result<OutputSettings> {
    output.ok_or_else(|| advised("out: missing", "name a folder to write: --out DIR"))
}
