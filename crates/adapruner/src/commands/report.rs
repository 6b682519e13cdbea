//! `report`: a study as one self-contained page.

use std::path::PathBuf;

use adapruner::{
    recovered,
    search::{StudyFolder, page::page},
};
use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{Perform, Session};
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

impl Perform for ReportCommand {
    fn files(&self) -> Result<Files> {
        let files = Files::new().read("STUDY", &self.study);
        let recovery = self.recovery.iter();
        let files = recovery.fold(files, |files, path| files.read("--recovery", path));
        Ok(files.file("--out", &self.out, self.force))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &ReportCommand, session: &Session) -> Result<()> {
    let staged = session.writer.file(&args.out)?;
    let folder = StudyFolder::open(&args.study)?;
    let mut page = page(&folder, args.storage.as_deref(), adapruner_study::journal::timestamp())?;
    page.recovery = args.recovery.as_deref().map(recovered::shown).transpose()?;
    let html = adapruner_report::render(&page);
    staged.write(html.as_bytes())?;
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
