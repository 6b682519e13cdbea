//! Any bytes as a GGUF file: read or refused, never a panic, never memory out
//! of proportion to the input.
//!
//! A corpus to start from: `fixtures/gguf_types/types.gguf`.

#![no_main]

use std::path::Path;

use adapruner_checkpoint::gguf::{Header, config::model_config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(header) = Header::parse(file) else { return };
    for tensor in &header.tensors {
        let data = header.data(tensor, file).expect("an accepted tensor lies in the file");
        assert_eq!(data.len() as u64, tensor.bytes);
    }
    let _ = model_config(Path::new("fuzz.gguf"), &header, file);
});
