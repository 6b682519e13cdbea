//! `report`: a study as one self-contained page.

use std::path::{Path, PathBuf};

use adapruner::{
    compare_models::{self, Comparison},
    recovered,
    search::{StudyFolder, page::page},
};
use adapruner_checkpoint::{atomic::Files, mapped::MappedFile};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{Perform, Session};
use crate::{
    failure::advised,
    printer::{Printer, bytes, table},
};

/// Make an HTML page of a study: its result, its trials and its cost.
///
/// The page is one self-contained file: best loss over trials and seconds, coefficients against
/// loss, importances of the parameters, chosen samples, widths of every layer, warnings, costs,
/// and the command that reproduces it; with --recovery, losses and learning rate of the
/// training; with --models, the models side by side, with standard errors and paired
/// differences.
///
/// Example: adapruner report STUDY --out report.html
#[derive(Debug, Args)]
pub struct ReportCommand {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Redis URL of the trials, as given to search
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
    /// Output folder of `recover`, to show its training too
    #[arg(long, value_name = "DIR")]
    recovery: Option<PathBuf>,
    /// Comparison of the resulting models, as written by compare-models --json --out
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
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
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        let files = Files::new().read("STUDY", &self.study);
        let recovery = self.recovery.iter();
        let files = recovery.fold(files, |files, path| files.read("--recovery", path));
        let models = self.models.iter();
        let files = models.fold(files, |files, path| files.read("--models", path));
        Ok(files.file("--out", &self.out, self.force))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

/// The models that a comparison holds, as the page shows them.
fn models(path: &Path) -> Result<adapruner_report::Models> {
    let bytes = MappedFile::open(path)?;
    let comparison = serde_json::from_slice::<Comparison>(&bytes).map_err(|error| {
        advised(
            format!("{}: {error}", path.display()),
            "--models takes what compare-models --json --out FILE wrote",
        )
    })?;
    Ok(compare_models::page(&comparison))
}

fn run(args: &ReportCommand, session: &Session) -> Result<()> {
    let staged = session.writer.file(&args.out)?;
    let folder = StudyFolder::open(&args.study)?;
    let mut page = page(&folder, args.storage.as_deref(), adapruner_study::journal::timestamp())?;
    page.recovery = args.recovery.as_deref().map(recovered::shown).transpose()?;
    page.models = args.models.as_deref().map(models).transpose()?;
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
