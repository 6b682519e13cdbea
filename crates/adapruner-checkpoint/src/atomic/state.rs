//! State folders of a study or a training, replaced file by file.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    leftovers, replace,
    stage::{Kind, StagedFile, Target},
};
use crate::{
    error::{Error, Result},
    input,
};

/// A kind of state, told by the files of its folder.
#[derive(Debug)]
pub struct StateKind {
    /// What it is called, in one word; the mark of such a folder says it.
    pub name: &'static str,
    /// Files by any of which a folder without a [`MARK`] is known to be ours.
    pub known_by: &'static [&'static str],
    /// What is written there: nothing of these names may be somebody else's.
    pub owned: &'static [&'static str],
}

/// The file that says which kind of state a folder holds.
pub const MARK: &str = ".adapruner";
/// Longest mark that is read, in bytes.
const LONGEST_MARK: u64 = 256;

/// A folder of state of this program.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens the folder, made where there is none, and removes what a process
    /// that was killed had half written.
    ///
    /// # Errors
    /// A folder that holds files of these names but no state of ours, no parent
    /// folder, no permission.
    pub fn open(root: &Path, kind: &StateKind) -> Result<Self> {
        Self::check(root, kind)?;
        match std::fs::create_dir(root) {
            // Perhaps by another process, a moment ago.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && root.is_dir() => {}
            made => made.map_err(Error::io(root, "create"))?,
        }
        leftovers::clear(root);
        let folder = Self { root: root.to_path_buf() };
        if !root.join(MARK).exists() {
            folder.write(MARK, format!("{}\n", kind.name).as_bytes())?;
        }
        Ok(folder)
    }

    /// Refuses a folder that is not ours.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub(super) fn check(root: &Path, kind: &StateKind) -> Result<()> {
        match std::fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::unsupported(root, "exists and is not a folder")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return super::stage::parent(root).map(drop);
            }
            Err(error) => return Err(Error::io(root, "open")(error)),
        }
        if let Some(found) = mark(root)? {
            if found == kind.name {
                return Ok(());
            }
            let message = format!("a folder of a {} expected, one of a {found} found", kind.name);
            return Err(Error::unsupported(root, message).advise("give another folder"));
        }
        let there = |name: &&&str| root.join(name).symlink_metadata().is_ok();
        if kind.known_by.iter().any(|name| there(&name)) {
            return Ok(());
        }
        match kind.owned.iter().find(there) {
            None => Ok(()),
            Some(found) => {
                let message =
                    format!("is there, but the folder holds no {} of this program", kind.name);
                let error = Error::unsupported(root.join(found), message);
                Err(error
                    .advise("give another folder, or move the file away: it would be replaced"))
            }
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Renames the folder to the first free of `NAME.1`, `NAME.2`, …; its new path. No other
    /// process may use it.
    ///
    /// # Errors
    /// No permission.
    pub fn set_aside(self) -> Result<PathBuf> {
        let mut number = 1_u64;
        loop {
            let mut name = self.root.clone().into_os_string();
            name.push(format!(".{number}"));
            let aside = PathBuf::from(name);
            match replace::create(&self.root, &aside) {
                Ok(_) => return Ok(aside),
                Err(Error::Exists { .. }) => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Begins a file in the place of an older one; folders on the way to it are
    /// made.
    ///
    /// # Errors
    /// A full disk, no permission, something that is no file.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<StagedFile> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent()
            && !parent.is_dir()
        {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        StagedFile::begin(Target::new("state", &path, Kind::File, true, Default::default())?)
    }

    /// Writes a file whole or not at all, in the place of an older one.
    ///
    /// # Errors
    /// See [`file`](Self::file).
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        self.file(name)?.write(bytes)
    }
}

/// What a folder's mark says, if it has one.
fn mark(root: &Path) -> Result<Option<String>> {
    let path = root.join(MARK);
    let file = match input::open(&path) {
        Ok(file) => file,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(LONGEST_MARK).read_to_string(&mut text).map_err(Error::io(&path, "read"))?;
    Ok(Some(text.trim().to_owned()))
}
