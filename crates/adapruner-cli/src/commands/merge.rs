//! `merge`: merges a LoRA adapter into its model.

use std::path::PathBuf;

use adapruner::{
    manifest::{AdapterRecord, Manifest},
    outputs,
};
use adapruner_checkpoint::{Digest, atomic::Files};
use adapruner_recover::{merge, peft};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session, export, required};
use crate::{combine::Combine, output_args::OutputArgs, printer::table};

/// Merge a LoRA adapter in PEFT's format into its model.
///
/// Example: adapruner merge MODEL --adapter RECOVERED/adapter --out MERGED --format hf,gguf
#[derive(Debug, Args)]
pub struct MergeCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// Folder with adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Settings<'a> {
    adapter: &'a PathBuf,
    output: &'a outputs::OutputSettings,
}

impl Perform for MergeCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let output = self.output.over(&self.common.file()?.output);
        Ok(output.files(self.common.files().read("--adapter", &self.adapter)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &MergeCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let output = required(args.output.over(&file.output).resolve())?;
    let checkpoint = args.common.open(session)?;
    outputs::check_fits(&output.stored, &checkpoint.config, outputs::Planned::default())?;
    session.check(&args.adapter)?;
    let adapter = peft::read(&args.adapter, &checkpoint.config)?;
    let merged = merge::merge(&checkpoint, &adapter)?;
    let staged = session.writer.folder(&output.out)?;
    let settings = Settings { adapter: &args.adapter, output: &output };
    let mut manifest = Manifest::new("merge", &settings, &checkpoint)?;
    manifest.adapter = Some(AdapterRecord {
        path: args.adapter.clone(),
        digest: Digest::of_file(&args.adapter.join(peft::WEIGHTS))?,
        parameters: adapter.parameters(),
    });
    let manifest = outputs::finish(staged, &merged, &output, manifest, &session.bars())?;
    args.common.printer().result(&manifest, |manifest| table(&export::rows(manifest)))
}
