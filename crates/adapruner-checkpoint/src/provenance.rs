//! Checks the files of a folder against its `manifest.json`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{
    atomic::MANIFEST,
    digest::Digest,
    error::{Error, Result},
    input,
    output::OutputFile,
    sealed::{self, Seal},
};

/// The files that this program wrote into a folder, by its manifest.
#[derive(Debug, Clone, Deserialize)]
pub struct Provenance {
    /// Version of the program that wrote them.
    pub adapruner: String,
    /// The files, by path in the folder.
    pub files: Vec<OutputFile>,
}

impl Provenance {
    /// Reads a folder's manifest; `None` where it has none, or one of another
    /// program.
    ///
    /// # Errors
    /// One that cannot be read, or that was changed since it was written.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= input::RECORD.bytes() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "read")(error)),
        }
        let bytes = input::read(&path, input::RECORD)?;
        match sealed::from_json(&path, &bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) if sealed::check(&bytes) == Seal::Broken => Err(error),
            // Another program's.
            Err(_) if serde_json::from_slice::<Self>(&bytes).is_err() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds files of a folder against its manifest: those that `wanted` wants.
    ///
    /// # Errors
    /// The first that is missing, or whose length or digest is another.
    pub fn verify(&self, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for file in self.files.iter().filter(|file| wanted(&file.name)) {
            let path = folder.join(&file.name);
            let expected = format!("{} bytes of digest {} expected", file.bytes, file.digest);
            let found = match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() == file.bytes => {
                    let digest = Digest::of_file(&path)?;
                    (digest != file.digest).then(|| format!("digest {digest} found"))
                }
                Ok(metadata) => Some(format!("{} bytes found", metadata.len())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Some("no such file found".to_owned())
                }
                Err(error) => return Err(Error::io(&path, "read")(error)),
            };
            if let Some(found) = found {
                return Err(changed(&path, &format!("{expected}, {found}")));
            }
        }
        Ok(())
    }
}

/// Holds what is about to be read against the manifest beside it: a folder, or
/// a file in one. Folders without a manifest of this program pass, and files
/// that it does not name.
///
/// # Errors
/// The first file that differs from what was written.
pub fn verify(path: &Path) -> Result<()> {
    if path.is_dir()
        && let Some(record) = Provenance::read(path)?
    {
        // A GGUF file beside a folder's weights is another model of its own.
        return record
            .verify(path, |name| !name.ends_with(".gguf") && !name.starts_with("adapter/"));
    }
    // A file or folder that another folder's manifest names.
    let absolute = std::path::absolute(path).map_err(Error::io(path, "resolve"))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(());
    };
    let Some(record) = Provenance::read(parent)? else { return Ok(()) };
    let within = PathBuf::from(name);
    record.verify(parent, |file| Path::new(file).starts_with(&within))
}

fn changed(path: &Path, message: &str) -> Error {
    let error =
        Error::format(path, format!("is not what manifest.json says was written: {message}"));
    error.advise("take an undamaged copy; where you edited it on purpose, --no-verify opens it")
}
