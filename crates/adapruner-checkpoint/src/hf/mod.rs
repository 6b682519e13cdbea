//! Hugging Face folders, in and out.

pub mod config;
mod experts;
mod modeling;
mod nested;
pub(crate) mod pass_through;
mod rope;
pub mod source;
mod unknown;
pub mod write;
mod write_config;

use std::{path::Path, sync::Arc};

use adapruner_arch::Multimodal;

pub use pass_through::PassThrough;
pub use source::SafetensorsSource;
pub use write::{HfOptions, StoreType, planned_bytes, write};
pub use write_config::opens_elsewhere;

use crate::{
    checkpoint::{Checkpoint, TensorSource},
    config::ModelConfig,
    digest::Digest,
    error::{Error, Result},
    input, names,
    open::check,
    tokenizer::TextTokenizer,
};

/// Opens a Hugging Face folder.
///
/// # Errors
/// See [`Checkpoint::open`].
pub fn open(folder: &Path) -> Result<Checkpoint> {
    let config_path = folder.join("config.json");
    if !config_path.exists() {
        return Err(no_config(folder));
    }
    let (json, config_digest) = read_json(&config_path)?;
    let config = config::model_config(&config_path, &json)?;

    let mut files = vec![("config.json".to_owned(), config_digest)];
    let tokenizer_path = folder.join("tokenizer.json");
    if tokenizer_path.exists() {
        files.push(("tokenizer.json".to_owned(), Digest::of_file(&tokenizer_path)?));
    }
    let mut source = SafetensorsSource::open(folder, files)?;
    source.strip_prefixes()?;
    let composite = config.multimodal.map(Multimodal::composite);
    let naming = match composite {
        Some(composite) => Some(source.set_others_aside(composite)?),
        None => {
            refuse_larger(folder, &source)?;
            None
        }
    };
    source.retain(|name| !is_surplus(name, &config));
    source.take_apart(&config)?;
    source.check_experts(&config)?;
    let in_folder = |name: &str| source.name_in_folder(name);
    check::tensors(folder, &config, &source).map_err(|error| error.rename(in_folder))?;
    source.check_dtypes()?;
    let source = Arc::new(source);
    let pass_through = match composite.zip(naming) {
        Some((composite, naming)) => {
            let passed = PassThrough::new(folder, composite, naming, &json, source.clone())?;
            Some(Arc::new(passed))
        }
        None => None,
    };

    let mut tokenizer = TextTokenizer::from_hf_folder(folder)?;
    check::tokenizer(folder, &mut tokenizer, config.vocab_size)?;
    let generation_path = folder.join("generation_config.json");
    let generation_config = match generation_path.exists() {
        true => Some(read_json(&generation_path)?.0),
        false => None,
    };
    Ok(Checkpoint {
        config,
        tokenizer: Arc::new(tokenizer),
        generation_config,
        tensors: source,
        pass_through,
        origin: folder.to_path_buf(),
    })
}

/// Tensors that some exports carry and no computation uses: the rotary
/// embedding's frequencies, buffers, and the copy of a tied embedding.
fn is_surplus(name: &str, config: &ModelConfig) -> bool {
    let mut buffers = config.family().hf.buffers.iter();
    name.ends_with(".rotary_emb.inv_freq")
        || buffers.any(|buffer| name.ends_with(buffer))
        || (config.tie_word_embeddings && name == config.name(names::Part::Head))
}

/// Refuses the tensors of a larger model under the configuration of a language model alone.
///
/// # Errors
/// The first such tensor.
fn refuse_larger(folder: &Path, source: &SafetensorsSource) -> Result<()> {
    let names = source.names();
    for composite in Multimodal::ALL.map(Multimodal::composite) {
        for naming in composite.namings {
            let other = |name: &&String| naming.part(composite.parts, name).is_some();
            if let Some(name) = names.iter().find(other) {
                let message = format!(
                    "belongs to a part beside a language model, as {} has it, but config.json has no {} and is that of a language model alone",
                    composite.class(),
                    composite.text
                );
                return Err(Error::tensor(folder, name, message)
                    .advise("take config.json and weights from the same model"));
            }
        }
    }
    Ok(())
}

fn no_config(folder: &Path) -> Error {
    let error = Error::format(folder, "no config.json in this folder");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if entries.into_iter().any(|entry| gguf(&entry.path())) {
        return error.advise("give the GGUF file itself, not its folder");
    }
    error
}

/// Reads a JSON file of bounded size; its content and its digest.
fn read_json(path: &Path) -> Result<(serde_json::Value, Digest)> {
    let bytes = input::read(path, input::MODEL_JSON)?;
    let json = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(path, format!("not valid JSON: {e}")))?;
    Ok((json, Digest::of_bytes(&bytes)))
}
