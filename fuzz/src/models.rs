//! Readers of models.

use std::path::Path;

use adapruner_checkpoint::{
    Checkpoint, TensorSource,
    gguf::{self, Header, config::model_config},
    hf::{self, SafetensorsSource},
    tokenizer::TextTokenizer,
};
use candle_core::{DType, Device};

use crate::room::{folder, seed};

/// A GGUF file.
pub(crate) fn gguf(file: &[u8]) {
    let Ok(header) = Header::parse(file) else { return };
    for tensor in &header.tensors {
        let data = header.data(tensor, file).expect("an accepted tensor lies in the file");
        assert_eq!(data.len() as u64, tensor.bytes);
    }
    let path = Path::new("model.gguf");
    if let Ok(tokenizer) = TextTokenizer::from_gguf(path, &header.metadata) {
        crate::tokenizers::exercise(&tokenizer);
    }
    if model_config(path, &header, file).is_ok()
        && let Ok(checkpoint) = gguf::open(&crate::room::file("gguf", "model.gguf", file))
    {
        read(&checkpoint);
    }
}

/// `model.safetensors` of a folder.
pub(crate) fn safetensors(bytes: &[u8]) {
    let folder = folder("safetensors", &model(&[("model.safetensors", bytes)]));
    if let Ok(source) = SafetensorsSource::open(&folder, Vec::new()) {
        load(&source);
    }
    if let Ok(checkpoint) = hf::open(&folder) {
        read(&checkpoint);
    }
}

/// `model.safetensors.index.json` of a folder.
pub(crate) fn index(bytes: &[u8]) {
    let weights = seed!("safetensors/model.safetensors");
    let files = [
        ("model.safetensors.index.json", bytes),
        ("model-00001-of-00002.safetensors", weights),
        ("model-00002-of-00002.safetensors", weights),
    ];
    if let Ok(checkpoint) = hf::open(&folder("index", &model(&files))) {
        read(&checkpoint);
    }
}

/// `config.json` of a folder.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(json) = serde_json::from_slice(bytes)
        && let Ok(config) = hf::config::model_config(Path::new("config.json"), &json)
    {
        let _ = config.parameters();
    }
    let weights = seed!("safetensors/model.safetensors");
    let files = [("config.json", bytes), ("model.safetensors", weights)];
    if let Ok(checkpoint) = hf::open(&folder("config", &model(&files))) {
        read(&checkpoint);
    }
}

/// `files` with the other files of a folder.
fn model<'a>(files: &[(&'a str, &'a [u8])]) -> Vec<(&'a str, &'a [u8])> {
    let rest = [
        ("config.json", seed!("config/config.json")),
        ("tokenizer.json", seed!("tokenizer/tokenizer.json")),
        ("tokenizer_config.json", seed!("tokenizer_config/tokenizer_config.json")),
    ];
    // Those that are fuzzed are written last.
    rest.into_iter().chain(files.iter().copied()).collect()
}

fn read(checkpoint: &Checkpoint) {
    load(checkpoint.tensors.as_ref());
    checkpoint.digest().expect("an opened model has a digest");
}

/// Loads every tensor; values that are refused are refused.
fn load(source: &dyn TensorSource) {
    for name in source.names() {
        let meta = source.meta(&name).expect("a named tensor has a shape");
        if let Ok(tensor) = source.load(&name, DType::F32, &Device::Cpu) {
            assert_eq!(tensor.dims(), meta.shape);
        }
    }
}
