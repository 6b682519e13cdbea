//! State folders that one process at a time may use.

use std::{fs::File, path::PathBuf};

use adapruner_checkpoint::{
    Error as FileError,
    atomic::{MARK, StateDir},
};

use crate::{advice::advised, error::Result};

/// File name of the lock.
const LOCK: &str = "lock";

/// A state folder that this process has locked.
pub struct Locked {
    folder: StateDir,
    _lock: File,
}

impl Locked {
    /// Locks the folder; if another process has it, the error says what that does (`busy`) and
    /// gives `hint`.
    ///
    /// # Errors
    /// A folder that cannot be written, or that another process works in.
    pub fn open(folder: StateDir, busy: &str, hint: &'static str) -> Result<Self> {
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(FileError::io(&path, "create"))?;
        if lock.try_lock().is_err() {
            let folder = folder.root().display();
            return Err(advised(format!("{folder}: another process {busy}"), hint));
        }
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    pub fn folder(&self) -> &StateDir {
        &self.folder
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes these files and what marks the folder, and the folder if it is empty then.
    pub fn remove(self, names: &[&str]) {
        for name in names.iter().chain(&[MARK, LOCK]) {
            // What cannot be removed does no harm: the output is there.
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        let _ = std::fs::remove_dir(self.folder.root());
    }
}

impl Drop for Locked {
    /// A folder without saved state counts as absent.
    fn drop(&mut self) {
        let names = std::fs::read_dir(self.folder.root()).into_iter().flatten().flatten();
        if names.into_iter().all(|entry| entry.file_name() == LOCK || entry.file_name() == MARK) {
            for name in [LOCK, MARK] {
                let _ = std::fs::remove_file(self.folder.join(name));
            }
            let _ = std::fs::remove_dir(self.folder.root());
        }
    }
}
