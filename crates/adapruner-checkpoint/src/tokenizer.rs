//! Tokenizers from tokenizer.json or GGUF metadata.

use std::path::Path;

use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// A tokenizer with its special tokens and chat template.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` of a Hugging Face folder.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub fn from_hf_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|e| Error::Tokenizer { path, message: e.to_string() })?;
        Ok(Self { inner })
    }

    /// Placeholder.
    ///
    /// # Errors
    /// Always.
    pub fn from_gguf(path: &Path, _metadata: &Metadata) -> Result<Self> {
        Err(Error::Tokenizer { path: path.into(), message: "no reader yet".into() })
    }

    /// Ids that the tokenizer can produce, one past the largest.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
