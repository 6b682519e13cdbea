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
use anyhow::Result;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    bars::{Bars, ProgressForm},
    config_file::ConfigFile,
    failure::advised,
    printer::Printer,
    typed::Named,
};

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
    /// Open outputs of this program though they were edited: do not hold them
    /// against the digests in their manifest.json
    #[arg(long, global = true)]
    pub no_verify: bool,
    /// How progress is shown on stderr: auto (a bar on a terminal, else lines), bar, lines (one
    /// now and then), json (events, one a line) or off
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        env = "ADAPRUNER_PROGRESS",
        default_value = "auto"
    )]
    progress: Named<ProgressForm>,
    /// Show no progress, and errors alone
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
}

/// A subcommand. [`run`] is the only way to run one: it claims the files first.
trait Perform {
    /// Whether its result, or what keeps it from one, is printed as JSON.
    fn json(&self) -> bool;

    /// Everything that it reads and writes, by what was typed and what the
    /// configuration file says; nothing is opened yet.
    ///
    /// # Errors
    /// What is missing or contradicts itself.
    fn files(&self) -> Result<Files>;

    /// Runs it. Outputs come from the context alone.
    ///
    /// # Errors
    /// Whatever it could not do.
    fn run(&self, session: &Session) -> Result<()>;
}

/// What a command may do.
struct Session {
    /// Makes the outputs that the command declared.
    writer: Writer,
    /// Whether models are held against the digests in their manifests.
    verify: bool,
    /// How progress is shown.
    progress: ProgressForm,
}

impl Session {
    /// What stages tell how far they are.
    fn bars(&self) -> Bars {
        Bars::new(self.progress)
    }

    /// Opens a model; `role` is what the command line calls it.
    ///
    /// # Errors
    /// One that was changed since this program wrote it, that overlaps with an
    /// output, or that cannot be opened.
    fn open(&self, role: &str, path: &Path) -> Result<Checkpoint> {
        self.check(path)?;
        let checkpoint = Checkpoint::open(path)?;
        // One that was fetched lies elsewhere.
        self.writer.check_read(role, &checkpoint.origin)?;
        Ok(checkpoint)
    }

    /// Holds a file or folder against the manifest beside it.
    ///
    /// # Errors
    /// What was changed since.
    fn check(&self, path: &Path) -> Result<()> {
        if self.verify && path.exists() {
            provenance::verify(path)?;
        }
        Ok(())
    }
}

/// What the command line calls the model.
const MODEL: &str = "MODEL";

/// What every command that reads a model takes.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Hugging Face folder, GGUF file, or hub id
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
    /// importance, plan, masks, compensation, output, search, space and recover,
    /// whose keys are the options' names; what is typed wins
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

/// Runs what was typed.
///
/// # Errors
/// Whatever the subcommand could not do.
pub fn run(cli: &Cli) -> Result<()> {
    let command = cli.command.as_perform();
    let writer = command.files()?.claim()?;
    let progress = if cli.quiet { ProgressForm::Off } else { cli.progress.0 };
    command.run(&Session { writer, verify: !cli.no_verify, progress })
}

impl Cli {
    /// The whole command line. An option whose field is an `Option<bool>` is a switch that a
    /// settings file has too: it stands alone (`--force`), or says which (`--force=false`), so
    /// that what is typed wins over the file both ways.
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
        }
    }
}

/// An output that must be named.
fn required(output: Option<OutputSettings>) -> Result<OutputSettings> {
    output.ok_or_else(|| advised("out: missing", "name a folder to write: --out DIR"))
}
