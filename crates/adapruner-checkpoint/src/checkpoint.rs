//! [`Checkpoint`]: a model as configuration, tokenizer and lazily read tensors, in any file
//! format, pruned or not.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};

use crate::{
    config::ModelConfig, digest::Digest, error::Result, hf::PassThrough, tokenizer::TextTokenizer,
};

/// Shape and stored type of a tensor, known without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMeta {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The type as stored, in the words of its format (`BF16`, `Q4_1`).
    pub stored: String,
    /// Bytes it takes where it is stored.
    pub bytes: u64,
}

/// Tensors by canonical (Hugging Face) name, read on demand.
///
/// An implementation holds maps and indices, never copies of the weights; a
/// sliced or merged model is a source that reads through another.
pub trait TensorSource: Send + Sync {
    /// Names of all tensors, sorted.
    fn names(&self) -> Vec<String>;

    /// What is known of `name`; `None` where there is no such tensor.
    fn meta(&self, name: &str) -> Option<TensorMeta>;

    /// Reads `name`, converted to `dtype` (F32, F16, BF16 or F64) on `device`,
    /// contiguous, its rows in Hugging Face's order (never GGUF's permuted
    /// one).
    ///
    /// A source that reads a file refuses values that are NaN or infinite, or become so in
    /// `dtype`: every weight that is run, pruned or written has passed this check.
    ///
    /// # Errors
    /// A missing tensor, NaN or infinite values, or no memory on the device.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// Digest of the content, computed on first use.
    ///
    /// # Errors
    /// Where the files behind it cannot be read.
    fn digest(&self) -> Result<Digest>;
}

/// A model that can be run, pruned and written.
///
/// Evaluation, recovery and export cannot tell a pruned model from a dense
/// one: both are this type.
#[derive(Clone)]
pub struct Checkpoint {
    /// Architecture and widths.
    pub config: ModelConfig,
    /// The tokenizer with its special tokens and chat template.
    pub tokenizer: Arc<TextTokenizer>,
    /// `generation_config.json`, where the model came with one.
    pub generation_config: Option<serde_json::Value>,
    /// The weights.
    pub tensors: Arc<dyn TensorSource>,
    /// What the folder has beside the language model, where it is that of a larger model.
    pub pass_through: Option<Arc<PassThrough>>,
    /// Where it was opened, for messages and manifests.
    pub origin: PathBuf,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a GGUF file or (feature `hub`) a hub id.
    ///
    /// Nothing of the weights is read: tensors are memory-mapped and converted
    /// when they are used. Every tensor that the configuration demands is
    /// checked for presence and shape.
    ///
    /// # Errors
    /// A file that is missing, damaged, hostile or of an unknown architecture.
    pub fn open(path: &Path) -> Result<Self> {
        crate::open::open(path)
    }

    /// Digest of the model's content (configuration and tensors).
    ///
    /// # Errors
    /// Where the files behind it cannot be read.
    pub fn digest(&self) -> Result<Digest> {
        self.tensors.digest()
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("origin", &self.origin)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
