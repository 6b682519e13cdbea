//! `report`: a study as one self-contained page.

use std::path::PathBuf;

use adapruner::{
    recovered,
    search::{StudyFolder, page::page},
};
use adapruner_checkpoint::atomic::StagedFile;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::printer::{Printer, bytes, table};

/// Make a page of a study: what was found, how, and what it cost.
///
/// The page is one file that loads nothing from elsewhere: best loss so far over
/// trials and seconds, coefficients against loss, importances of the parameters,
/// the samples that were chosen, widths of every layer, warnings, costs, and the
/// command that makes it again; with --recovery, losses and learning rate of the
/// training after it.
///
/// Example: adapruner report STUDY --out report.html
#[derive(Debug, Args)]
pub struct ReportCommand {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Redis that holds the trials, as given to search
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
    /// Output folder of a recovery, whose training is shown too
    #[arg(long, value_name = "DIR")]
    recovery: Option<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Written {
    out: String,
    bytes: u64,
    studies: usize,
    trials: usize,
}

/// Runs the command.
pub fn run(args: &ReportCommand) -> Result<()> {
    let staged = StagedFile::new(&args.out, args.force, &[])?;
    let folder = StudyFolder::open(&args.study)?;
    let mut page = page(&folder, args.storage.as_deref(), adapruner_study::journal::timestamp())?;
    page.recovery = args.recovery.as_deref().map(recovered::shown).transpose()?;
    let html = adapruner_report::render(&page);
    std::fs::write(staged.path(), &html)
        .with_context(|| format!("{}: cannot write", args.out.display()))?;
    staged.commit()?;
    let written = Written {
        out: args.out.display().to_string(),
        bytes: html.len() as u64,
        studies: page.runs.len(),
        trials: page.runs.iter().map(|run| run.trials.len()).sum(),
    };
    Printer::new(args.json).result(&written, |w| {
        table(&[
            ("written", format!("{} ({})", w.out, bytes(w.bytes))),
            ("studies", w.studies.to_string()),
            ("trials", w.trials.to_string()),
        ])
    })
}
