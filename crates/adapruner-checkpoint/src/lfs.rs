//! Git LFS pointers: small text files that stand where large ones belong.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use crate::error::{Error, Result};

/// The first line of every pointer.
const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses a file whose content, or the beginning of it, is that of a pointer.
///
/// # Errors
/// A pointer.
pub fn check(path: &Path, content: &[u8]) -> Result<()> {
    if !content.starts_with(START) {
        return Ok(());
    }
    let error = Error::format(path, "a Git LFS pointer, not the file that it stands for");
    Err(error.advise("fetch the files: git lfs install, then git lfs pull in that folder"))
}

/// Opens a file that is no pointer.
///
/// # Errors
/// A pointer; a file that cannot be read.
pub(crate) fn open(path: &Path) -> Result<File> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    // What is no plain file is the caller's to refuse, before it is read.
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let mut start = Vec::new();
        let limit = START.len() as u64;
        file.by_ref().take(limit).read_to_end(&mut start).map_err(Error::io(path, "read"))?;
        check(path, &start)?;
        file.rewind().map_err(Error::io(path, "read"))?;
    }
    Ok(file)
}
