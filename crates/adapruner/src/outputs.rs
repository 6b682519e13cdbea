//! A model folder: Hugging Face files, `model.gguf`, and the manifest that records their
//! inputs.

use std::path::PathBuf;

pub use adapruner_checkpoint::gguf::Planned;
use adapruner_checkpoint::{
    Checkpoint, Error, ModelConfig,
    atomic::StagedDir,
    gguf::{self, GgufType, TensorKind},
    hf::{self, StoreType},
    sealed,
};
use serde::Serialize;

use crate::{
    error::Result,
    footprint::stored_bytes,
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

/// How a model is written.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// Formats, each once.
    pub formats: Vec<Format>,
    /// Type of the safetensors weights.
    pub save_dtype: StoreType,
    /// Type of the GGUF weights; `None` keeps the model's float type.
    #[serde(serialize_with = "optional_name")]
    pub gguf_type: Option<GgufType>,
}

impl Stored {
    fn hf(&self) -> hf::HfOptions {
        hf::HfOptions { store: self.save_dtype, ..Default::default() }
    }

    fn gguf(&self) -> gguf::GgufOptions {
        gguf::GgufOptions { kind: self.gguf_type, ..Default::default() }
    }

    /// Whether some of what is written has all weights in f32.
    pub fn all_f32(&self) -> bool {
        self.formats.iter().any(|format| match format {
            Format::Hf => self.save_dtype == StoreType::F32,
            Format::Gguf => self.gguf_type == Some(TensorKind::F32.into()),
        })
    }

    /// Numbers of a block of the GGUF type, where it is written and quantised: what rows are
    /// multiples of.
    pub fn block(&self) -> Option<usize> {
        let kind = self.gguf_type.filter(|_| self.formats.contains(&Format::Gguf))?;
        let block = kind.block_size() as usize;
        (block > 1).then_some(block)
    }

    /// Bytes of a model in a format, as it would be written: of `model.gguf`, or of all files
    /// of the Hugging Face folder. No weight is read for it.
    ///
    /// # Errors
    /// A model that the format cannot hold.
    pub fn bytes_in(&self, format: Format, model: &Checkpoint) -> Result<u64> {
        Ok(match format {
            Format::Hf => hf::planned_bytes(model, &self.hf())?,
            Format::Gguf => gguf::planned_bytes(model, &self.gguf())?,
        })
    }

    /// The format whose size counts: GGUF where it is written.
    pub fn format(&self) -> Format {
        if self.formats.contains(&Format::Gguf) { Format::Gguf } else { Format::Hf }
    }

    /// Bytes of a model in [`Stored::format`].
    ///
    /// # Errors
    /// See [`Stored::bytes_in`].
    pub fn bytes(&self, model: &Checkpoint) -> Result<u64> {
        self.bytes_in(self.format(), model)
    }
}

/// What is written and where.
#[derive(Debug, Clone, Serialize)]
pub struct OutputSettings {
    /// The folder.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub out: PathBuf,
    /// How.
    #[serde(flatten)]
    pub stored: Stored,
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
pub fn check_fits(stored: &Stored, config: &ModelConfig, planned: Planned) -> Result<()> {
    for format in &stored.formats {
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
    for format in &settings.stored.formats {
        let (written, path) = match format {
            Format::Hf => {
                let options = settings.stored.hf();
                let mut told = |done, all| progress.at("writing safetensors", done, all);
                let dir = staged.path().to_path_buf();
                (hf::write(checkpoint, &dir, &options, &mut told), dir)
            }
            Format::Gguf => {
                let options = settings.stored.gguf();
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
        manifest.warnings.extend(larger(*format, stored_bytes(&found), manifest.model_bytes));
    }
    let path = staged.path().join(FILE_NAME);
    let json = sealed::json(&manifest)?;
    std::fs::write(&path, json).map_err(Error::io(&settings.out, "write"))?;
    staged.commit()?;
    Ok(manifest)
}

/// Warns if a format takes more bytes than the model that was read.
fn larger(format: Format, bytes: u64, source: u64) -> Option<String> {
    (bytes > source).then(|| {
        let hint = match format {
            Format::Hf => "--format gguf with --gguf-type q4_k_m",
            Format::Gguf => "--gguf-type q4_k_m or q8_0",
        };
        format!(
            "{format}: the weights take {bytes} bytes, {:.1} times the {source} of the model that \
             was read, which stores them in fewer bits (hint: {hint} takes less)",
            bytes as f64 / source as f64
        )
    })
}

/// Compares a written and reopened model with the original.
fn check_written(found: &Checkpoint, checkpoint: &Checkpoint) -> Result<()> {
    crate::error::ensure!(
        found.config.layers == checkpoint.config.layers
            && found.config.parameters() == checkpoint.config.parameters(),
        "{}: the model that was written opens with other widths than it has (a bug: please report \
         it)",
        found.origin.display()
    );
    Ok(())
}
