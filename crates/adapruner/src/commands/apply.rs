//! `apply`: a plan that was made before, on its model.

use std::path::{Path, PathBuf};

use adapruner::{
    manifest::{Manifest, read_plan},
    outputs,
    outputs::OutputSettings,
};
use adapruner_checkpoint::{Checkpoint, mapped::MappedFile};
use adapruner_prune::{PrunePlan, apply};
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, required};
use crate::{args::OutputArgs, config_file::overlay, printer::table, terminal::Bars};

/// Apply a plan to the model it was made for.
///
/// The plan is a manifest.json of `prune`, or the `full_plan` of `prune
/// --dry-run --json`.
///
/// Example: adapruner apply MODEL --plan SMALLER/manifest.json --out AGAIN --format gguf
#[derive(Debug, Args)]
pub struct ApplyCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// The plan, or a manifest that holds one
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Settings<'a> {
    plan: &'a PathBuf,
    output: &'a OutputSettings,
}

/// Runs the command.
pub fn run(args: &ApplyCommand) -> Result<()> {
    let file = args.common.file()?;
    let output = required(overlay(&args.output, &file.output)?.resolve())?;
    let plan = plan_of(&args.plan)?;
    let checkpoint = args.common.open()?;
    let staged = outputs::begin(&output, &checkpoint.origin)?;
    let pruned: Checkpoint =
        apply(&checkpoint, &plan).with_context(|| args.plan.display().to_string())?;
    let settings = Settings { plan: &args.plan, output: &output };
    let mut manifest = Manifest::new("apply", &settings, &checkpoint)?;
    manifest.parameters = pruned.config.parameters();
    let plan_table = plan.table(&checkpoint.config)?;
    manifest.plan = Some(plan);
    let manifest = outputs::finish(staged, &pruned, &output, manifest, &Bars::default())?;
    args.common.printer().result(&manifest, |manifest| {
        format!("{plan_table}\n{}", table(&super::export::rows(manifest)))
    })
}

fn plan_of(path: &Path) -> Result<PrunePlan> {
    let bytes = MappedFile::open(path)?;
    read_plan(&bytes).with_context(|| path.display().to_string())
}
