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
    files: Vec<(String, Vec<u8>)>,
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
        let mut files = Vec::new();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            if path.exists() {
                let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
                files.push((name.to_owned(), bytes));
            }
        }
        Ok(Self { inner, files })
    }

    /// Placeholder.
    ///
    /// # Errors
    /// Always.
    pub fn from_gguf(path: &Path, _metadata: &Metadata) -> Result<Self> {
        let error = |message: String| Error::Tokenizer { path: path.into(), message };
        let text =
            r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}}"#;
        let inner = text.parse::<tokenizers::Tokenizer>().map_err(|e| error(e.to_string()))?;
        Ok(Self { inner, files: Vec::new() })
    }

    /// The tokenizer as files of a Hugging Face folder.
    ///
    /// # Errors
    /// None for a tokenizer that was read from such files.
    pub fn hf_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(self.files.clone())
    }

    /// The tokenizer as metadata of a GGUF file: byte-level BPE.
    ///
    /// # Errors
    /// None.
    pub fn gguf_metadata(&self, vocab_size: usize) -> Result<Metadata> {
        use crate::gguf::Value;
        let token =
            |id: u32| self.inner.id_to_token(id).unwrap_or_else(|| format!("<|unused_{id}|>"));
        let json: serde_json::Value =
            serde_json::from_str(&self.inner.to_string(false).unwrap_or_default())
                .unwrap_or_default();
        let merges = json["model"]["merges"].as_array().cloned().unwrap_or_default();
        let merge = |m: serde_json::Value| {
            Value::String(format!(
                "{} {}",
                m[0].as_str().unwrap_or_default(),
                m[1].as_str().unwrap_or_default()
            ))
        };
        let text = |t: &str| Value::String(t.into());
        let ids = 0..vocab_size as u32;
        let kind = |id: u32| {
            let special = self.inner.get_added_tokens_decoder().contains_key(&id);
            match self.inner.id_to_token(id) {
                None => Value::I32(5),
                Some(_) if special => Value::I32(3),
                Some(_) => Value::I32(1),
            }
        };
        Ok([
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            (
                "tokenizer.ggml.tokens",
                Value::Array(ids.clone().map(|i| Value::String(token(i))).collect()),
            ),
            ("tokenizer.ggml.token_type", Value::Array(ids.map(kind).collect())),
            ("tokenizer.ggml.merges", Value::Array(merges.into_iter().map(merge).collect())),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into())
    }

    /// Ids that the tokenizer can produce, one past the largest.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
