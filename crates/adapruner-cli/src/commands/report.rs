//! `report`: a study, or a comparison of models, as one self-contained page.

use std::path::{Path, PathBuf};

use adapruner::{
    compare_models::{self, Comparison},
    recovered,
    search::{StudyFolder, page::page},
};
use adapruner_checkpoint::{atomic::Files, mapped::MappedFile};
use adapruner_study::journal::timestamp;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{Perform, Session};
use crate::{
    failure::advised,
    printer::{Printer, bytes, table},
    search_args::command_line,
};

/// Make an HTML page of a study or of a comparison of models.
///
/// The page is one self-contained file. Of a study: best loss over trials and seconds,
/// coefficients against loss, importances of the parameters, chosen samples, widths of every
/// layer, warnings, costs, and the command that reproduces it; with --recovery, losses and
/// learning rate of the training. With --models, it opens with the last model beside the first
/// and has size against quality, the models side by side, standard errors and paired differences;
/// that alone where no study is named. An --out that ends in .svg is the picture of size against
/// quality alone.
///
/// Example: adapruner report STUDY --out report.html
///
/// Example: adapruner report --models models.json --out sizes.svg
#[derive(Debug, Args)]
pub struct ReportCommand {
    /// Folder of the study
    #[arg(value_name = "STUDY", required_unless_present = "models")]
    study: Option<PathBuf>,
    /// Redis URL of the trials, as given to search
    #[arg(long, value_name = "URL", requires = "study")]
    storage: Option<String>,
    /// Output folder of `recover`, to show its training too
    #[arg(long, value_name = "DIR", requires = "study")]
    recovery: Option<PathBuf>,
    /// Comparison of the resulting models, as written by compare-models --out FILE.json
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
        let study = self.study.iter();
        let files = study.fold(Files::new(), |files, path| files.read("STUDY", path));
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

/// A comparison that was recorded.
fn recorded(path: &Path) -> Result<Comparison> {
    let bytes = MappedFile::open(path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        advised(
            format!("{}: {error}", path.display()),
            "--models takes what compare-models --out FILE.json wrote",
        )
    })
}

fn run(args: &ReportCommand, session: &Session) -> Result<()> {
    let staged = session.writer.file(&args.out)?;
    let models = args.models.as_deref().map(recorded).transpose()?;
    let is_picture = args.out.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg"));
    let (document, runs) = match (&args.study, &models) {
        (_, models) if is_picture => {
            let trade = models.as_ref().and_then(compare_models::trade).ok_or_else(|| {
                advised(
                    format!("{}: there is nothing to draw", args.out.display()),
                    "size against quality needs --models of at least three models, measured on a \
                     text",
                )
            })?;
            (adapruner_report::picture(&trade), Vec::new())
        }
        (Some(study), models) => {
            let folder = StudyFolder::open(study)?;
            let mut page = page(&folder, args.storage.as_deref(), timestamp())?;
            page.recovery = args.recovery.as_deref().map(recovered::shown).transpose()?;
            page.models = models.as_ref().map(compare_models::models);
            (adapruner_report::render(&page), page.runs)
        }
        (None, Some(models)) => {
            let page = compare_models::page(models, command_line(), timestamp());
            (adapruner_report::render(&page), page.runs)
        }
        (None, None) => return Err(advised("STUDY: missing", "name a study, or --models FILE")),
    };
    staged.write(document.as_bytes())?;
    let written = Written {
        out: args.out.display().to_string(),
        bytes: document.len() as u64,
        studies: runs.len(),
        trials: runs.iter().map(|run| run.trials.len()).sum(),
    };
    Printer::new(args.json).result(&written, |w| {
        table(&[
            ("written", format!("{} ({})", w.out, bytes(w.bytes))),
            ("studies", w.studies.to_string()),
            ("trials", w.trials.to_string()),
        ])
    })
}
