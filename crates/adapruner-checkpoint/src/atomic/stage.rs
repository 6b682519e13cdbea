//! Staged outputs: hidden and locked until they are complete.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    files::Protected,
    leftovers::{self, OLD},
    owned,
    replace::{self, Renamed, remove, sync, sync_folder},
};
use crate::error::{Error, Result};

/// Files on disk that must not stay: outputs that are not committed, and old ones that a commit
/// has replaced. Renames and removals are done under this lock.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // The set is whole after any panic: it is changed by single calls.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps every commit and every new output waiting while it is held.
#[derive(Debug)]
#[must_use = "hold it until the process exits, so that no output is begun or committed after it"]
pub struct Discarded {
    _lock: MutexGuard<'static, BTreeSet<PathBuf>>,
}

/// Removes every output that is not committed, after a commit in progress.
///
/// For the handler of an interrupt: `let _held = discard_all(); exit(130)`.
/// What cannot be removed is left under its hidden name.
pub fn discard_all() -> Discarded {
    let mut lock = live();
    for path in std::mem::take(&mut *lock) {
        let _ = remove(&path);
    }
    Discarded { _lock: lock }
}

/// A folder that becomes `target` when it is complete.
#[derive(Debug)]
pub struct StagedDir(Stage);

impl StagedDir {
    pub(super) fn begin(target: Target) -> Result<Self> {
        Stage::begin(target, |path| std::fs::create_dir(path)).map(Self)
    }

    /// Where to write; exists until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.0.staged
    }

    /// What it will become.
    pub fn target(&self) -> &Path {
        &self.0.target.path
    }

    /// An error about a path below the hidden folder, as one about the target.
    pub fn relocate(&self, error: Error) -> Error {
        error.relocate(|path| match path.strip_prefix(self.path()) {
            Ok(rest) => self.target().join(rest),
            Err(_) => path.to_path_buf(),
        })
    }

    /// Syncs everything to disk and renames it to the target.
    ///
    /// # Errors
    /// A target that appeared meanwhile, or a refusal of the operating system; the disk is then
    /// unchanged.
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

/// A file that becomes `target` when it is complete.
#[derive(Debug)]
pub struct StagedFile(Stage);

impl StagedFile {
    pub(super) fn begin(target: Target) -> Result<Self> {
        Stage::begin(target, |path| File::create_new(path).map(drop)).map(Self)
    }

    /// Writes all of the file and commits it.
    ///
    /// # Errors
    /// A full disk; see [`StagedDir::commit`].
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        std::fs::write(self.path(), bytes).map_err(Error::io(self.target(), "write"))?;
        self.commit()
    }

    /// Where to write; exists until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.0.staged
    }

    /// What it will become.
    pub fn target(&self) -> &Path {
        &self.0.target.path
    }

    /// Syncs the file to disk and renames it to the target.
    ///
    /// # Errors
    /// See [`StagedDir::commit`].
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// Where an output goes, and what it may replace.
#[derive(Debug)]
pub(super) struct Target {
    role: String,
    path: PathBuf,
    parent: PathBuf,
    kind: Kind,
    force: bool,
    protected: Arc<Protected>,
}

impl Target {
    /// Checks that an output can go to `path`.
    ///
    /// # Errors
    /// An overlap with what is read, something that exists and may not be
    /// replaced, no folder to stand in.
    pub(super) fn new(
        role: &str,
        path: &Path,
        kind: Kind,
        force: bool,
        protected: Arc<Protected>,
    ) -> Result<Self> {
        let parent = parent(path)?;
        let (role, path) = (role.to_owned(), path.to_path_buf());
        let target = Self { role, path, parent, kind, force, protected };
        target.check()?;
        if target.kind == Kind::Folder && target.path.is_dir() {
            owned::check(&target.path)?;
        }
        Ok(target)
    }

    /// Whether something stands there; an error if it must stay.
    fn check(&self) -> Result<bool> {
        self.protected.check(&self.role, &self.path)?;
        let metadata = match self.path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io(&self.path, "open")(error)),
        };
        if !self.force {
            return Err(Error::Exists { path: self.path.clone() });
        }
        // Where a link leads to decides; a link to nothing may be replaced.
        let found = std::fs::metadata(&self.path).unwrap_or(metadata);
        let (right, message) = match self.kind {
            Kind::File => (found.is_file(), "exists and is not a regular file"),
            Kind::Folder => (found.is_dir(), "exists and is not a folder"),
        };
        if !right && !found.is_symlink() {
            return Err(Error::unsupported(&self.path, message).advise("give another --out"));
        }
        Ok(true)
    }
}

/// The parent folder of an output.
///
/// # Errors
/// A path without a name, no such folder.
pub(super) fn parent(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() {
        return Err(Error::unsupported(path, "not a name that an output can have"));
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    match std::fs::metadata(&parent) {
        Ok(metadata) if metadata.is_dir() => Ok(parent),
        Ok(_) => Err(Error::unsupported(&parent, "not a folder")),
        Err(error) => {
            let error = Error::io(&parent, "open the folder of the output")(error);
            Err(error.advise("make the folder first, or give another --out"))
        }
    }
}

#[derive(Debug)]
struct Stage {
    target: Target,
    staged: PathBuf,
    /// Tells other processes that this one lives.
    _lock: Option<File>,
}

impl Stage {
    /// Makes the file or folder, and from then on answers for it.
    fn begin(target: Target, create: impl FnOnce(&Path) -> io::Result<()>) -> Result<Self> {
        leftovers::clear(&target.parent);
        // Short enough for what is added to it.
        let name = target.path.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name.chars().take(48).collect();
        // Unique in this process; a leftover of another is stepped over.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let staged = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let staged = target.parent.join(leftovers::staged_name(&name, number));
            if staged.symlink_metadata().is_err() {
                break staged;
            }
        };
        let mut live = live();
        create(&staged).map_err(Error::io(&target.path, "create"))?;
        live.insert(staged.clone());
        drop(live);
        // Where the file system has no locks, the process's number tells.
        #[expect(clippy::disallowed_methods, reason = "a lock of this program; nothing is read")]
        let opened = File::open(&staged);
        let lock = opened.ok().filter(|file| file.try_lock().is_ok());
        Ok(Self { target, staged, _lock: lock })
    }

    fn commit(self) -> Result<()> {
        let target = &self.target.path;
        sync(&self.staged).map_err(Error::io(target, "write"))?;
        let mut live = live();
        if !live.contains(&self.staged) {
            let gone = io::Error::new(io::ErrorKind::Interrupted, "interrupted");
            return Err(Error::io(target, "create")(gone));
        }
        let renamed = loop {
            break match (self.target.check()?, self.target.kind) {
                (false, Kind::File | Kind::Folder) => match replace::create(&self.staged, target) {
                    // Another process created it since the check, and it may be replaced.
                    Err(Error::Exists { .. }) if self.target.force => continue,
                    created => created?,
                },
                (true, Kind::Folder) => {
                    let aside = self.staged.with_extension(OLD);
                    replace::exchange(&self.staged, target, &aside)?
                }
                // One rename replaces a file.
                (true, Kind::File) => {
                    std::fs::rename(&self.staged, target).map_err(Error::io(target, "create"))?;
                    Renamed::Created
                }
            };
        };
        live.remove(&self.staged);
        let old = match renamed {
            Renamed::Created => None,
            Renamed::Replaced(old) => live.insert(old.clone()).then_some(old),
        };
        drop(live);
        // The new output is there: what fails from here on does not undo it.
        let _ = sync_folder(&self.target.parent);
        if let Some(old) = old {
            let _ = remove(&old);
            self::live().remove(&old);
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if live().remove(&self.staged) {
            let _ = remove(&self.staged);
        }
    }
}
