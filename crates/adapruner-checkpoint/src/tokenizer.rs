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

    /// The ids of a text, with the tokenizer's own special tokens.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let fail = |e: tokenizers::Error| Error::Tokenizer {
            path: "tokenizer.json".into(),
            message: e.to_string(),
        };
        Ok(self.inner.encode(text, true).map_err(fail)?.get_ids().to_vec())
    }

    /// Ids that the tokenizer can produce, one past the largest.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
