//! `export`: a model in other formats.

use adapruner::{footprint::Footprint, manifest::Manifest, outputs};
use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session, required};
use crate::{
    combine::Combine,
    output_args::OutputArgs,
    printer::{bytes, grouped, passed_row, table},
};

/// Write a model in other formats: GGUF to Hugging Face and back, other types.
///
/// Example: adapruner export MODEL.gguf --out FOLDER --format hf --save-dtype bf16
///
/// Example: adapruner export MODEL --format gguf --gguf-type q4_k_m --dry-run
#[derive(Debug, Args)]
pub struct ExportCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Print the size, write nothing
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
}

impl Perform for ExportCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let files = self.common.files();
        if self.dry_run {
            return Ok(files);
        }
        Ok(self.output.over(&self.common.file()?.output).files(files))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &ExportCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let written = args.output.over(&file.output);
    let stored = written.stored();
    let output = if args.dry_run { None } else { Some(required(written.resolve())?) };
    let checkpoint = args.common.open(session)?;
    outputs::check_fits(&stored, &checkpoint.config, outputs::Planned::default())?;
    let Some(output) = output else {
        let footprint = Footprint::of(&checkpoint, &checkpoint, &stored, None)?;
        let would = Sizes { parameters: checkpoint.config.parameters(), footprint };
        return args.common.printer().result(&would, Sizes::text);
    };
    let staged = session.writer.folder(&output.out)?;
    let manifest = Manifest::new("export", &output, &checkpoint)?;
    let manifest = outputs::finish(staged, &checkpoint, &output, manifest, &session.bars())?;
    args.common.printer().result(&manifest, |manifest| table(&rows(manifest)))
}

/// What a model takes as it would be written.
#[derive(Serialize)]
pub struct Sizes {
    /// Parameters of the model.
    pub parameters: u64,
    /// Its bytes, and those of the model that it is made from.
    pub footprint: Footprint,
}

impl Sizes {
    fn text(&self) -> String {
        let size = self.footprint.to_string();
        table(&[("parameters", grouped(self.parameters)), ("size", size)])
    }
}

/// What was written, row by row.
pub fn rows(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let mut rows = vec![("parameters", grouped(manifest.parameters))];
    rows.extend(manifest.passed.as_ref().map(passed_row));
    if let Some((study, point)) =
        manifest.study.as_ref().and_then(|study| Some((study, study.point.as_ref()?)))
    {
        rows.push((
            "point",
            format!(
                "trial {} of {} for {}: measured as loss {:.4} with {} parameters ({:.1} % removed)",
                study.trial,
                study.study,
                point.asked,
                study.loss,
                grouped(point.parameters),
                100.0 * point.removed
            ),
        ));
    }
    rows.extend(manifest.masks.as_ref().map(|masks| ("learned masks", masks.to_string())));
    rows.extend(manifest.compensation.as_ref().map(|c| ("compensation", c.to_string())));
    for file in &manifest.files {
        rows.push(("written", format!("{} ({})", file.name, bytes(file.bytes))));
    }
    for warning in &manifest.warnings {
        rows.push(("warning", warning.clone()));
    }
    rows
}
