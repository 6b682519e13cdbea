//! Outputs that appear whole or not at all.
//!
//! An output is written under a hidden name beside its target (so on the same
//! file system) and renamed when it is complete. Dropped before that, by an
//! error or a panic, it is removed and the target is as it was. An interrupt
//! runs no destructors: its handler calls [`discard_all`] before it exits.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::error::{Error, Result};

/// The file by which a folder is known to be an output of this program.
pub const MANIFEST: &str = "manifest.json";

/// What stands on the disk and must not stay: outputs that are not committed,
/// and old ones that a commit has moved aside. Renames and removals are done
/// under this lock.
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
    /// Makes an empty folder that is to become `target`.
    ///
    /// With `force` it may replace an older output: a folder that is empty or
    /// has a [`MANIFEST`], and holds none of `inputs` (the model being read).
    ///
    /// # Errors
    /// A target that exists and may not be replaced; no parent folder, or one
    /// that cannot be written to.
    pub fn new(target: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let stage = Stage::prepare(target, force, inputs, Kind::Folder)?;
        stage.begin(|path| std::fs::create_dir(path)).map(Self)
    }

    /// Where to write; exists until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.0.staged
    }

    /// What it will become.
    pub fn target(&self) -> &Path {
        &self.0.target
    }

    /// An error about a path below the hidden folder, as one about the target.
    pub fn relocate(&self, error: Error) -> Error {
        error.relocate(|path| match path.strip_prefix(self.path()) {
            Ok(rest) => self.target().join(rest),
            Err(_) => path.to_path_buf(),
        })
    }

    /// Brings everything to the disk and renames it to the target.
    ///
    /// # Errors
    /// A target that appeared meanwhile, or a refusal of the operating system;
    /// the disk is then as it was before.
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

/// A file that becomes `target` when it is complete.
#[derive(Debug)]
pub struct StagedFile(Stage);

impl StagedFile {
    /// Makes an empty file that is to become `target`.
    ///
    /// With `force` it may replace a file that is none of `inputs` (the model
    /// being read) and lies in none of them.
    ///
    /// # Errors
    /// See [`StagedDir::new`].
    pub fn new(target: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let stage = Stage::prepare(target, force, inputs, Kind::File)?;
        stage.begin(|path| File::create_new(path).map(drop)).map(Self)
    }

    /// Where to write; exists until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.0.staged
    }

    /// What it will become.
    pub fn target(&self) -> &Path {
        &self.0.target
    }

    /// Brings the file to the disk and renames it to the target.
    ///
    /// # Errors
    /// See [`StagedDir::commit`].
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

#[derive(Debug)]
struct Stage {
    target: PathBuf,
    staged: PathBuf,
    parent: PathBuf,
    kind: Kind,
    force: bool,
    /// Canonical.
    inputs: Vec<PathBuf>,
}

impl Stage {
    fn prepare(target: &Path, force: bool, inputs: &[&Path], kind: Kind) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(Error::unsupported(target, "not a name that an output can have"));
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        match std::fs::metadata(&parent) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::unsupported(&parent, "not a folder")),
            Err(error) => {
                let error = Error::io(&parent, "open the folder of the output")(error);
                return Err(error.advise("make the folder first, or give another --out"));
            }
        }
        let inputs = inputs.iter().filter_map(|input| input.canonicalize().ok()).collect();
        // Short enough for what is added to it.
        let name: String = name.to_string_lossy().chars().take(48).collect();
        // Unique in this process; a leftover of another is stepped over.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let staged = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let hidden = format!(".{name}.{}-{number}.partial", std::process::id());
            let staged = parent.join(hidden);
            if staged.symlink_metadata().is_err() {
                break staged;
            }
        };
        let stage = Self { target: target.to_path_buf(), staged, parent, kind, force, inputs };
        stage.check_target()?;
        Ok(stage)
    }

    /// Makes the file or folder, and from then on answers for it.
    fn begin(self, create: impl FnOnce(&Path) -> io::Result<()>) -> Result<Self> {
        let mut lock = live();
        create(&self.staged).map_err(Error::io(&self.target, "create"))?;
        lock.insert(self.staged.clone());
        drop(lock);
        Ok(self)
    }

    /// Whether something stands at the target; an error if it must stay.
    fn check_target(&self) -> Result<bool> {
        let target = &self.target;
        let metadata = match target.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io(target, "open")(error)),
        };
        if !self.force {
            return Err(Error::Exists { path: target.clone() });
        }
        let refuse = |message: &str, hint| Err(Error::unsupported(target, message).advise(hint));
        // Where a link leads to decides; a link to nothing may be replaced.
        let kind = std::fs::metadata(target).unwrap_or(metadata);
        let right = match self.kind {
            Kind::File => kind.is_file() || kind.is_symlink(),
            Kind::Folder => kind.is_dir() || kind.is_symlink(),
        };
        if !right {
            let message = match self.kind {
                Kind::File => "exists and is not a regular file",
                Kind::Folder => "exists and is not a folder",
            };
            return refuse(message, "give another --out");
        }
        if let Ok(target) = target.canonicalize() {
            let holds = |input: &PathBuf| match self.kind {
                Kind::File => target.starts_with(input),
                Kind::Folder => input.starts_with(&target),
            };
            if self.inputs.iter().any(holds) {
                return refuse(
                    "is part of the model being read, and is not replaced",
                    "give another --out",
                );
            }
        }
        if self.kind == Kind::Folder && kind.is_dir() && !target.join(MANIFEST).is_file() {
            let mut entries = std::fs::read_dir(target).map_err(Error::io(target, "read"))?;
            if entries.next().is_some() {
                return refuse(
                    "has no manifest.json: not an output of this program, and not replaced",
                    "give another --out, or remove the folder yourself",
                );
            }
        }
        Ok(true)
    }

    fn commit(self) -> Result<()> {
        sync(&self.staged).map_err(Error::io(&self.target, "write"))?;
        let mut lock = live();
        if !lock.contains(&self.staged) {
            let gone = io::Error::new(io::ErrorKind::Interrupted, "interrupted");
            return Err(Error::io(&self.target, "create")(gone));
        }
        let exists = self.check_target()?;
        let aside = match (exists, self.kind) {
            (true, Kind::Folder) => Some(self.staged.with_extension("old")),
            (true, Kind::File) | (false, Kind::File | Kind::Folder) => None,
        };
        replace(&self.staged, &self.target, aside.as_deref())?;
        lock.remove(&self.staged);
        lock.extend(aside.clone());
        drop(lock);
        // The new output is there: what fails from here on does not undo it.
        let _ = sync_folder(&self.parent);
        if let Some(aside) = aside {
            let _ = remove(&aside);
            live().remove(&aside);
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

/// Renames `staged` to `target`, what stands there to `aside` if that is given.
///
/// # Errors
/// A refusal of the operating system; what stood at `target` stands there
/// again, unless that was refused too.
fn replace(staged: &Path, target: &Path, aside: Option<&Path>) -> Result<()> {
    if let Some(aside) = aside {
        std::fs::rename(target, aside).map_err(Error::io(target, "move aside"))?;
    }
    let Err(error) = std::fs::rename(staged, target) else { return Ok(()) };
    let error = Error::io(target, "create")(error);
    match aside.map(|aside| std::fs::rename(aside, target)) {
        None | Some(Ok(())) => Err(error),
        Some(Err(_)) => Err(error.advise(
            "the old folder could not be put back: it is beside it, with a dot before its name and .old behind",
        )),
    }
}

/// Removes a file, link or folder.
fn remove(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return std::fs::remove_file(path);
    }
    // Under another name first, so that no other thread adds to it meanwhile.
    let gone = path.with_extension("discarded");
    match std::fs::rename(path, &gone) {
        Ok(()) => std::fs::remove_dir_all(&gone),
        Err(_) => std::fs::remove_dir_all(path),
    }
}

/// Brings a file, or a folder and all that is in it, to the disk.
fn sync(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return File::open(path)?.sync_all();
    }
    for entry in std::fs::read_dir(path)? {
        sync(&entry?.path())?;
    }
    sync_folder(path)
}

/// Brings the names in a folder to the disk, where the system can.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_put_back_when_the_rename_fails() {
        let folder = tempfile::tempdir().unwrap();
        let [staged, target, aside] = ["staged", "out", "aside"].map(|n| folder.path().join(n));
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("weights"), "old").unwrap();
        let error = replace(&staged, &target, Some(&aside)).unwrap_err();
        assert!(error.to_string().contains("out: cannot create: "), "{error}");
        assert_eq!(std::fs::read(target.join("weights")).unwrap(), b"old");
        assert!(!aside.exists());
    }
}
