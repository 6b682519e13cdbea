//! The inputs and outputs of a command, and their overlaps.
//!
//! One rule for all commands: an output may never be, contain or lie in
//! anything that the command reads, nor any other output.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    stage::{Kind, StagedDir, StagedFile, Target},
    state::{StateDir, StateKind},
};
use crate::error::{Error, Overlap, Result};

/// Most entries of a folder that is read whose links are followed.
const MOST_ENTRIES: usize = 10_000;

/// What a command reads and writes, declared before it begins.
///
/// Roles are what the user calls a path (`--out`, `MODEL`); messages name them.
#[derive(Debug, Clone, Default)]
#[must_use = "claim them"]
pub struct Files {
    reads: Vec<Read>,
    writes: Vec<Write>,
}

#[derive(Debug, Clone)]
struct Read {
    role: String,
    path: PathBuf,
    how: How,
}

/// What of a path is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// All of it.
    Whole,
    /// Files that are looked for in it: new files beside them do no harm.
    Searched,
}

#[derive(Debug, Clone)]
struct Write {
    role: String,
    path: PathBuf,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Staged { kind: Kind, force: bool },
    State(&'static StateKind),
}

impl Files {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file or folder that is read. A path where nothing stands (the
    /// name of a text set, a hub id) is ignored.
    pub fn read(mut self, role: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.reads.push(Read { role: role.into(), path: path.into(), how: How::Whole });
        self
    }

    /// Adds a folder in which files are looked for by name.
    pub fn search(mut self, role: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        self.reads.push(Read { role: role.into(), path: folder.into(), how: How::Searched });
        self
    }

    /// Adds a file that is written; with `force` it may replace another.
    pub fn file(self, role: impl Into<String>, path: impl Into<PathBuf>, force: bool) -> Self {
        self.write(role, path, What::Staged { kind: Kind::File, force })
    }

    /// Adds a folder that is written; with `force` it may replace an output of
    /// this program.
    pub fn folder(self, role: impl Into<String>, path: impl Into<PathBuf>, force: bool) -> Self {
        self.write(role, path, What::Staged { kind: Kind::Folder, force })
    }

    /// Adds a folder of state, made where there is none.
    pub fn state(
        self,
        role: impl Into<String>,
        path: impl Into<PathBuf>,
        kind: &'static StateKind,
    ) -> Self {
        self.write(role, path, What::State(kind))
    }

    fn write(mut self, role: impl Into<String>, path: impl Into<PathBuf>, what: What) -> Self {
        self.writes.push(Write { role: role.into(), path: path.into(), what });
        self
    }

    /// Every path that is read, with its role.
    pub fn reads(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.reads.iter().map(|read| (read.role.as_str(), read.path.as_path()))
    }

    /// Every path that is written, with its role.
    pub fn writes(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.writes.iter().map(|write| (write.role.as_str(), write.path.as_path()))
    }

    /// Refuses outputs that overlap with what is read or with each other, that
    /// exist and may not be replaced, or that have no folder to stand in.
    ///
    /// # Errors
    /// The first of these, with both paths and roles.
    pub fn claim(self) -> Result<Writer> {
        let mut protected = Protected::default();
        for read in &self.reads {
            protected.add(&read.role, &read.path, read.how);
        }
        let writer = Writer { protected: Arc::new(protected), writes: self.writes };
        for (index, write) in writer.writes.iter().enumerate() {
            for other in &writer.writes[..index] {
                writer.check_apart(write, other)?;
            }
            match write.what {
                What::Staged { kind, force } => drop(writer.target(write, kind, force)?),
                What::State(kind) => {
                    writer.protected.check_state(&write.role, &write.path, kind)?;
                    StateDir::check(&write.path, kind)?;
                }
            }
        }
        Ok(writer)
    }
}

/// Makes the outputs that a command declared, and no others.
#[derive(Debug)]
pub struct Writer {
    protected: Arc<Protected>,
    writes: Vec<Write>,
}

impl Writer {
    /// Begins a declared file.
    ///
    /// # Errors
    /// One that was not declared, that exists and may not be replaced, or that
    /// cannot be created.
    pub fn file(&self, path: &Path) -> Result<StagedFile> {
        let write = self.declared(path)?;
        match write.what {
            What::Staged { kind: Kind::File, force } => {
                StagedFile::begin(self.target(write, Kind::File, force)?)
            }
            What::Staged { kind: Kind::Folder, .. } | What::State(_) => Err(undeclared(path)),
        }
    }

    /// Begins a declared folder.
    ///
    /// # Errors
    /// See [`file`](Self::file).
    pub fn folder(&self, path: &Path) -> Result<StagedDir> {
        let write = self.declared(path)?;
        match write.what {
            What::Staged { kind: Kind::Folder, force } => {
                StagedDir::begin(self.target(write, Kind::Folder, force)?)
            }
            What::Staged { kind: Kind::File, .. } | What::State(_) => Err(undeclared(path)),
        }
    }

    /// Opens a declared folder of state, made where there is none.
    ///
    /// # Errors
    /// One that was not declared, that holds what is not ours, or that cannot be
    /// created.
    pub fn state(&self, path: &Path) -> Result<StateDir> {
        let write = self.declared(path)?;
        match write.what {
            What::State(kind) => StateDir::open(path, kind),
            What::Staged { .. } => Err(undeclared(path)),
        }
    }

    /// Refuses outputs that overlap with a path that turned out to be read,
    /// such as a model that was fetched.
    ///
    /// # Errors
    /// The first overlap.
    pub fn check_read(&self, role: &str, path: &Path) -> Result<()> {
        let mut protected = Protected::default();
        protected.add(role, path, How::Whole);
        self.writes.iter().try_for_each(|write| match write.what {
            What::Staged { .. } => protected.check(&write.role, &write.path),
            What::State(kind) => protected.check_state(&write.role, &write.path, kind),
        })
    }

    fn declared(&self, path: &Path) -> Result<&Write> {
        let found = self.writes.iter().find(|write| write.path == path);
        found.ok_or_else(|| undeclared(path))
    }

    fn target(&self, write: &Write, kind: Kind, force: bool) -> Result<Target> {
        Target::new(&write.role, &write.path, kind, force, self.protected.clone())
    }

    /// Refuses outputs that are or contain one another.
    fn check_apart(&self, write: &Write, other: &Write) -> Result<()> {
        let [here, there] = [&write.path, &other.path].map(|path| resolved(path));
        match Relation::of(&here, &there) {
            Some(relation) => Err(Error::Overlap(Box::new(Overlap {
                role: write.role.clone(),
                path: write.path.clone(),
                relation,
                other_role: format!("written as {}", other.role),
                other: other.path.clone(),
            }))),
            None => Ok(()),
        }
    }
}

fn undeclared(path: &Path) -> Error {
    Error::unsupported(path, "an output that the command did not declare (a bug: please report it)")
}

/// How an output lies to what it must not touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It is the same file or folder.
    Is,
    /// It contains it.
    Contains,
    /// It lies in it.
    LiesIn,
}

impl Relation {
    /// Of two resolved paths.
    fn of(output: &Path, other: &Path) -> Option<Self> {
        match (other.starts_with(output), output.starts_with(other)) {
            (true, true) => Some(Self::Is),
            (true, false) => Some(Self::Contains),
            (false, true) => Some(Self::LiesIn),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is => "is",
            Self::Contains => "contains",
            Self::LiesIn => "lies in",
        })
    }
}

/// What is read, by every path that leads to it.
#[derive(Debug, Default)]
pub(super) struct Protected(Vec<Guarded>);

#[derive(Debug)]
struct Guarded {
    role: String,
    shown: PathBuf,
    how: How,
    /// Resolved: the path itself, what it links to, what links in it lead to.
    places: Vec<PathBuf>,
}

impl Protected {
    fn add(&mut self, role: &str, path: &Path, how: How) {
        let Ok(canonical) = path.canonicalize() else { return };
        let mut places = vec![resolved_name(path)];
        if how == How::Whole && canonical.is_dir() {
            links(&canonical, &mut places);
        }
        places.push(canonical);
        self.0.push(Guarded { role: role.to_owned(), shown: path.to_path_buf(), how, places });
    }

    /// Refuses an output that touches any of it.
    ///
    /// # Errors
    /// The first overlap.
    pub(super) fn check(&self, role: &str, output: &Path) -> Result<()> {
        self.refuse(role, output, |relation, how| {
            how == How::Searched
                && relation == Relation::LiesIn
                && output.symlink_metadata().is_err()
        })
    }

    /// Refuses a folder of state that touches any of it: only what such a folder
    /// owns is written to, so other files in it may be read.
    ///
    /// # Errors
    /// The first overlap.
    fn check_state(&self, role: &str, root: &Path, kind: &StateKind) -> Result<()> {
        self.refuse(role, root, |relation, how| match relation {
            Relation::Is => false,
            Relation::Contains => true,
            Relation::LiesIn => how == How::Searched,
        })?;
        kind.owned.iter().try_for_each(|name| self.check(role, &root.join(name)))
    }

    fn refuse(
        &self,
        role: &str,
        output: &Path,
        harmless: impl Fn(Relation, How) -> bool,
    ) -> Result<()> {
        let names = [resolved(output), resolved_name(output)];
        for guarded in &self.0 {
            let relations = guarded
                .places
                .iter()
                .flat_map(|place| names.iter().filter_map(move |name| Relation::of(name, place)));
            for relation in relations {
                if !harmless(relation, guarded.how) {
                    return Err(Error::Overlap(Box::new(Overlap {
                        role: role.to_owned(),
                        path: output.to_path_buf(),
                        relation,
                        other_role: format!("read as {}", guarded.role),
                        other: guarded.shown.clone(),
                    })));
                }
            }
        }
        Ok(())
    }
}

/// Where links in a folder and the folders in it lead.
fn links(folder: &Path, to: &mut Vec<PathBuf>) {
    let mut folders = vec![folder.to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MOST_ENTRIES {
                return;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => to.extend(entry.path().canonicalize().ok()),
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A path with every link of it followed, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| resolved_name(path))
}

/// A path with every link followed but a last one.
fn resolved_name(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => absolute,
    }
}
