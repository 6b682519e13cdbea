//! Selects the reader for a path or hub id.

pub(crate) mod check;

use std::{io::Read, path::Path};

use crate::{Checkpoint, Error, Result, gguf, hf, input};

/// Opens whatever `path` names.
///
/// # Errors
/// See [`Checkpoint::open`].
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => hf::open(path),
        Ok(_) if is_gguf(path)? => gguf::open(path),
        Ok(_) => {
            let error = Error::unsupported(path, "neither a model folder nor a GGUF file");
            Err(error.advise("give the folder that holds config.json, or a GGUF file"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => missing(path),
        Err(e) => Err(Error::io(path, "open")(e)),
    }
}

/// Whether a file says that it is GGUF, by its name or its first bytes.
fn is_gguf(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return Ok(true);
    }
    let mut magic = Vec::new();
    let file = input::open(path)?;
    file.take(4).read_to_end(&mut magic).map_err(Error::io(path, "read"))?;
    Ok(magic == gguf::header::MAGIC)
}

/// A path that does not exist: a hub id if it looks like one.
fn missing(path: &Path) -> Result<Checkpoint> {
    let name = path.to_string_lossy().into_owned();
    if !is_hub_id(&name) {
        return Err(Error::NotFound { name, message: "no such file or folder".into() });
    }
    #[cfg(feature = "hub")]
    return crate::hub::open(&name);
    #[cfg(not(feature = "hub"))]
    Err(Error::NotFound {
        name,
        message: "no such file or folder, and this build cannot fetch from the hub".into(),
    })
}

/// Whether a name has the form of a hub id, `owner/name`.
pub(crate) fn is_hub_id(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    name.split_once('/').is_some_and(|(owner, model)| {
        part(owner) && part(model) && !model.to_ascii_lowercase().ends_with(".gguf")
    })
}

#[cfg(test)]
mod tests {
    use super::is_hub_id;

    #[test]
    fn hub_ids_are_two_plain_words() {
        for id in ["HuggingFaceTB/SmolLM2-135M", "a/b", "meta-llama/Llama-3.2-1B", "o_o/x.y"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["a", "/a/b", "a/b/c", "./a", "../b", "a/..", "a/", "/b", "a/m.gguf", "a b/c"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
