//! Files as read-only memory maps.

use std::{
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A regular, non-empty file mapped read-only, with the path it was opened by.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// A file that is missing, unreadable, empty or not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let metadata = file.metadata().map_err(Error::io(path, "read"))?;
        if !metadata.is_file() {
            return Err(Error::format(path, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(Error::format(path, "empty file"));
        }
        #[expect(unsafe_code, reason = "the memory map; see STYLE, `unsafe` lives in two places")]
        // SAFETY: the map is private to this process and read-only. This
        // program replaces outputs by rename, never by writing into them, so
        // it does not change a mapped file itself. Another process that
        // truncates the file meanwhile stops this one with a signal; that is
        // the known price of a map, and no bytes are trusted before they are
        // checked.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Self { path: path.to_path_buf(), map })
    }

    /// The path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
