//! Reading models: GGUF and Hugging Face, the good and the bad.

mod experts;
mod gguf_bytes;
mod gguf_header;
mod gguf_model;
mod hf_folder;
mod opening;

use std::path::{Path, PathBuf};

/// A file or folder of the committed fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}
