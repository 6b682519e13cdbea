//! GGUF files, in and out.

pub mod config;
mod encode;
mod experts;
pub mod header;
pub mod kind;
mod layout;
mod mixture;
mod quantize;
pub mod source;
pub mod value;
pub mod write;
mod write_metadata;

use std::{path::Path, sync::Arc};

pub use header::{Header, TensorInfo};
pub use kind::TensorKind;
pub use mixture::{GgufType, Mixture};
pub use source::GgufSource;
pub use value::{Metadata, Value};
pub use write::{GgufOptions, planned_bytes, write};

use crate::{
    checkpoint::Checkpoint,
    config::ModelConfig,
    error::{Error, Result},
    mapped::MappedFile,
    open::check,
    tokenizer::TextTokenizer,
};

/// What is about to be done to a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planned {
    /// Layers may get widths of their own.
    pub per_layer: bool,
    /// Heads may be removed.
    pub heads: bool,
}

/// Refuses a model that llama.cpp cannot hold, before any work is done for it, as it is and as it
/// is planned to be.
///
/// # Errors
/// What cannot be held, with what can be done instead.
pub fn check_fits(config: &ModelConfig, planned: Planned) -> Result<()> {
    match layout::layout(config, planned) {
        Ok(_) => Ok(()),
        Err((message, hint)) => Err(Error::unsupported("GGUF", message).advise(hint)),
    }
}

/// Opens a GGUF file.
///
/// # Errors
/// See [`Checkpoint::open`].
pub fn open(path: &Path) -> Result<Checkpoint> {
    let file = MappedFile::open(path)?;
    let header = Header::parse(&file).map_err(|e| Error::format(path, e.to_string()))?;
    let parts = header.metadata.get("split.count").and_then(Value::as_u64).unwrap_or(0);
    if parts > 1 {
        let message = format!("one of {parts} parts; split GGUF files are not supported");
        let error = Error::unsupported(path, message);
        return Err(error.advise("join the parts with llama-gguf-split --merge"));
    }
    let config = config::model_config(path, &header, &file)?;
    let source = GgufSource::new(Arc::new(file), &header, &config)?;
    check::tensors(path, &config, &source)?;
    let mut tokenizer = TextTokenizer::from_gguf(path, &header.metadata)?;
    check::tokenizer(path, &mut tokenizer, config.vocab_size)?;
    Ok(Checkpoint {
        config,
        tokenizer: Arc::new(tokenizer),
        generation_config: None,
        pass_through: None,
        tensors: Arc::new(source),
        origin: path.to_path_buf(),
    })
}
