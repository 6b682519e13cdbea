//! `sample`: token sequences sampled from a model.

use std::path::PathBuf;

use adapruner::{VERSION, pipeline, settings::SampleSettings};
use adapruner_checkpoint::{Digest, atomic::Files};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::{
    args::RunArgs,
    combine::Combine,
    printer::{grouped, table},
};

/// Sample token sequences from a model, as token ids.
///
/// The file (a JSON array of arrays) serves as calibration or evaluation text if no other is
/// available. Sequences start after the beginning-of-text token; end-of-text tokens are never
/// drawn.
///
/// Example: adapruner sample MODEL --samples 32 --sample-tokens 128 --out calibration.json
#[derive(Debug, Args)]
pub struct SampleCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// Number of sequences
    #[arg(long, value_name = "N", default_value_t = 32)]
    samples: usize,
    /// Tokens per sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    sample_tokens: usize,
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    written: String,
    digest: Digest,
    model: String,
    model_digest: Digest,
    settings: &'a SampleSettings,
    first: String,
    version: &'static str,
}

impl Perform for SampleCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        Ok(self.common.files().file("--out", &self.out, self.force))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &SampleCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let run = args.run.over(&file.run).resolve()?;
    let SampleCommand { samples, sample_tokens, temperature, seed, .. } = *args;
    let settings = SampleSettings { samples, sample_tokens, temperature, seed };
    let checkpoint = args.common.open(session)?;
    let placement = run.placement([&checkpoint])?;
    let staged = session.writer.file(&args.out)?;
    let rows = pipeline::sample(&checkpoint, &settings, &placement, &session.bars())?;
    let json = serde_json::to_string(&rows)? + "\n";
    staged.write(json.as_bytes())?;
    let first = rows.first().map_or(&[][..], |row| &row[..row.len().min(32)]);
    let report = Report {
        written: args.out.display().to_string(),
        digest: Digest::of_bytes(json.as_bytes()),
        model: args.common.model.display().to_string(),
        model_digest: checkpoint.digest()?,
        settings: &settings,
        first: checkpoint.tokenizer.decode(first, true)?,
        version: VERSION,
    };
    args.common.printer().result(&report, |report| {
        table(&[
            ("model", report.model.clone()),
            ("drawn", format!("{samples} sequences of {} tokens", grouped(sample_tokens as u64))),
            ("first", format!("{:?}…", report.first)),
            ("written", report.written.clone()),
        ])
    })
}
