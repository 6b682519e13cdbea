//! A model folder: Hugging Face files, `model.gguf`, and the manifest that records their
//! inputs.

use std::path::PathBuf;

pub use adapruner_checkpoint::gguf::Planned;
use adapruner_checkpoint::{
    Checkpoint, Error, ModelConfig,
    atomic::StagedDir,
    gguf::{self, GgufType},
    hf::{self, StoreType},
    sealed,
};
use anyhow::Result;
use serde::Serialize;

use crate::{
    manifest::{FILE_NAME, Manifest},
    progress::Progress,
};

/// File name of the GGUF model in an output folder.
pub const GGUF_NAME: &str = "model.gguf";

/// Formats that a model is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A Hugging Face folder.
    Hf,
    /// A GGUF file.
    Gguf,
}

adapruner_choice::choice!(Format, "format", {
    Hf => "hf",
    Gguf => "gguf",
});

/// What is written and where.
#[derive(Debug, Clone, Serialize)]
pub struct OutputSettings {
    /// The folder.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub out: PathBuf,
    /// Formats, each once.
    pub formats: Vec<Format>,
    /// Type of the safetensors weights.
    pub save_dtype: StoreType,
    /// Type of the GGUF weights; `None` keeps the model's float type.
    #[serde(serialize_with = "optional_name")]
    pub gguf_type: Option<GgufType>,
    /// Whether an earlier output may be replaced.
    pub force: bool,
}

fn optional_name<S: serde::Serializer>(
    kind: &Option<GgufType>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match kind {
        Some(kind) => serializer.collect_str(kind),
        None => serializer.serialize_none(),
    }
}

/// Refuses formats that cannot represent a model of `config` with the planned changes, before
/// any work is done.
///
/// # Errors
/// What cannot be represented, with an alternative.
pub fn check_fits(settings: &OutputSettings, config: &ModelConfig, planned: Planned) -> Result<()> {
    for format in &settings.formats {
        match format {
            Format::Hf => {}
            Format::Gguf => gguf::check_fits(config, planned)?,
        }
    }
    Ok(())
}

/// Writes `checkpoint` and its manifest, checks that it opens again, and only
/// then makes the folder visible.
///
/// # Errors
/// Weights that are damaged or do not fit the type they are stored in, a full
/// disk, no permission; nothing is left behind.
pub fn finish(
    staged: StagedDir,
    checkpoint: &Checkpoint,
    settings: &OutputSettings,
    mut manifest: Manifest,
    progress: &dyn Progress,
) -> Result<Manifest> {
    for format in &settings.formats {
        let (written, path) = match format {
            Format::Hf => {
                let options = hf::HfOptions { store: settings.save_dtype, ..Default::default() };
                let mut told = |done, all| progress.at("writing safetensors", done, all);
                let dir = staged.path().to_path_buf();
                (hf::write(checkpoint, &dir, &options, &mut told), dir)
            }
            Format::Gguf => {
                let options = gguf::GgufOptions { kind: settings.gguf_type, ..Default::default() };
                let mut told = |done, all| progress.at("writing GGUF", done, all);
                let path = staged.path().join(GGUF_NAME);
                (gguf::write(checkpoint, &path, &options, &mut told), path)
            }
        };
        let written = written.map_err(|e| staged.relocate(e))?;
        manifest.files.extend(written.files);
        manifest.warnings.extend(written.warnings);
        let found = Checkpoint::open(&path).map_err(|e| staged.relocate(e))?;
        check_written(&found, checkpoint)?;
    }
    let path = staged.path().join(FILE_NAME);
    let json = sealed::json(&manifest)?;
    std::fs::write(&path, json).map_err(Error::io(&settings.out, "write"))?;
    staged.commit()?;
    Ok(manifest)
}

/// Compares a written and reopened model with the original.
fn check_written(found: &Checkpoint, checkpoint: &Checkpoint) -> Result<()> {
    anyhow::ensure!(
        found.config.layers == checkpoint.config.layers
            && found.config.parameters() == checkpoint.config.parameters(),
        "{}: the model that was written opens with other widths than it has (a bug: please report \
         it)",
        found.origin.display()
    );
    Ok(())
}
