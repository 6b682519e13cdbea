//! The folder of a study: its files and its workers.
//!
//! | file | content |
//! |---|---|
//! | `journal.log` | the trials, in Optuna's journal format |
//! | `search.json` | the search's inputs: digests, settings, measured costs |
//! | `bank.safetensors` | statistics of the whole pool |
//! | `pool.jsonl` | the pool: a sample a line, with source, text and token ids |
//! | `results/NAME.json` | the result of a finished search of that name |
//! | `results/correlate/NAME.json` | correlations of losses and accuracies of its trials |
//! | `results/correlate/points/` | the models that this was measured on, a file each |
//! | `workers/` | a locked file for every worker at work |
//!
//! With `--storage redis://…` the trials are in Redis instead of `journal.log`,
//! and every machine has a folder of its own.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use adapruner_checkpoint::{
    Digest,
    atomic::{StagedFile, StateDir, StateKind, Writer},
    input, sealed,
};
use adapruner_study::{JournalStorage, Storage, Trial, TrialState};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    advice::advised,
    error::{Context, Error, Result},
};

/// The folder of a study, as the one place that writes knows it.
pub static STUDY: StateKind = StateKind {
    name: "study",
    known_by: &["search.json"],
    owned: &["search.json", "journal.log", "bank.safetensors", "pool.jsonl", "results", "workers"],
};

/// A study's folder.
#[derive(Debug, Clone)]
pub struct StudyFolder {
    root: PathBuf,
    /// Where it may be written to.
    state: Option<StateDir>,
}

/// Minimum interval between heartbeats of a trial in a journal; shorter than the worker's own
/// interval.
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);

/// Trial attribute that names the worker.
pub(super) const WORKER: &str = "worker";

impl StudyFolder {
    /// An existing folder, for reading.
    ///
    /// # Errors
    /// None of that name, or one without a study.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = Self { root: root.to_owned(), state: None };
        crate::error::ensure!(
            folder.record().is_file(),
            "{}: no study: expected a folder with search.json",
            root.display()
        );
        Ok(folder)
    }

    /// The folder, for writing.
    ///
    /// # Errors
    /// No permission, a full disk.
    pub fn create(state: StateDir) -> Result<Self> {
        let folder = Self { root: state.root().to_owned(), state: Some(state) };
        let path = folder.workers();
        match fs::create_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other.with_context(|| format!("{}: cannot create", path.display()))?,
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `search.json`.
    pub fn record(&self) -> PathBuf {
        self.root.join("search.json")
    }

    /// `journal.log`.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.log")
    }

    /// `bank.safetensors`.
    pub fn bank(&self) -> PathBuf {
        self.root.join("bank.safetensors")
    }

    /// `pool.jsonl`.
    pub fn pool(&self) -> PathBuf {
        self.root.join("pool.jsonl")
    }

    /// The result of a study.
    pub fn result(&self, study: &str) -> PathBuf {
        self.root.join("results").join(format!("{study}.json"))
    }

    /// The correlations of a study.
    pub fn correlations(&self, study: &str) -> PathBuf {
        self.root.join("results").join("correlate").join(format!("{study}.json"))
    }

    /// The file of a measured model for correlations.
    pub fn point(&self, name: &str) -> PathBuf {
        self.root.join("results").join("correlate").join("points").join(format!("{name}.json"))
    }

    fn workers(&self) -> PathBuf {
        self.root.join("workers")
    }

    /// Writes a file whole or not at all, in the place of an older one.
    ///
    /// # Errors
    /// A full disk, no permission, a folder that was opened to be read.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        Ok(self.begin(path)?.write(bytes)?)
    }

    /// Begins a file in the place of an older one.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn begin(&self, path: &Path) -> Result<StagedFile> {
        let state = self.state.as_ref().with_context(|| {
            format!("{}: the study was opened to be read (a bug)", self.root.display())
        })?;
        let inside = path.strip_prefix(&self.root).map_err(|_| {
            Error::refused(format!("{}: not within {}", path.display(), self.root.display()))
        })?;
        Ok(state.file(inside)?)
    }

    /// Writes a value as JSON with the digest of the file in it.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        self.write(path, &sealed::json(value)?)
    }

    /// Reads what [`write_json`](Self::write_json) wrote.
    ///
    /// # Errors
    /// A file that is missing, was changed since it was written, or holds
    /// something else.
    pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
        let bytes = input::read(path, input::RECORD)?;
        Ok(sealed::from_json(path, &bytes)?)
    }

    /// The trials' storage: the folder's journal, or Redis at `url`.
    ///
    /// # Errors
    /// A journal that cannot be read or breaks its format, a server that cannot
    /// be reached.
    pub fn storage(&self, url: Option<&str>) -> Result<Arc<dyn Storage>> {
        match url {
            None if self.state.is_none() => Ok(Arc::new(JournalStorage::read(self.journal())?)),
            None => {
                let storage = JournalStorage::file(self.journal())?;
                Ok(Arc::new(storage.with_heartbeat_interval(SIGN_OF_LIFE)))
            }
            Some(url) => redis(url),
        }
    }

    /// Waits until no other process prepares this folder or starts a trial in it.
    ///
    /// # Errors
    /// No permission.
    pub fn alone(&self, what: Exclusive) -> Result<Held> {
        let path = self.workers().join(match what {
            Exclusive::Preparing => "preparing.lock",
            Exclusive::Starting => "starting.lock",
        });
        let file = open_lock(&path)?;
        file.lock().with_context(|| format!("{}: cannot lock", path.display()))?;
        Ok(Held { _file: file })
    }

    /// Registers as a worker until the value is dropped or the process dies.
    ///
    /// # Errors
    /// No permission, a full disk.
    pub fn sign_on(&self) -> Result<Worker> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let file = format!("{}-{nanos:x}", process::id());
        let path = self.workers().join(&file);
        // The starting lock keeps others from mistaking the new file for a dead worker's before
        // it is locked.
        let _starting = self.alone(Exclusive::Starting)?;
        self.clear_workers();
        let mut lock = open_lock(&path)?;
        lock.lock().with_context(|| format!("{}: cannot lock", path.display()))?;
        writeln!(lock, "{}", process::id())?;
        let name = format!("{}/{}/{file}", hostname(), self.place()?);
        Ok(Worker { name, path, _file: lock })
    }

    /// The files of workers, and whether each is at work.
    fn signed_on(&self) -> impl Iterator<Item = (PathBuf, bool)> {
        let entries = fs::read_dir(self.workers()).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_none());
        files.map(|path| {
            #[expect(
                clippy::disallowed_methods,
                reason = "a lock of this program; nothing is read"
            )]
            let lock = File::open(&path);
            let free = matches!(lock.map(|file| file.try_lock()), Ok(Ok(())));
            (path, !free)
        })
    }

    /// Removes the files of workers that were killed: nobody holds their locks.
    fn clear_workers(&self) {
        for (path, at_work) in self.signed_on() {
            if !at_work {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Moves the folder aside as it is and begins it anew; the old one.
    ///
    /// # Errors
    /// A worker that is at work in it, no permission.
    pub fn set_aside(self, writer: &Writer) -> Result<(Self, Self)> {
        let _starting = self.alone(Exclusive::Starting)?;
        if self.signed_on().any(|(_, at_work)| at_work) {
            return Err(advised(
                format!("{}: a search is at work in it", self.root.display()),
                "wait for its end, or stop it",
            ));
        }
        let root = self.root.clone();
        let state = self.state.context("the study was opened to be read (a bug)")?;
        let old = Self { root: state.set_aside()?, state: None };
        Ok((Self::create(writer.state(&root)?)?, old))
    }

    /// Takes over the statistics of another folder, the pool with them.
    ///
    /// # Errors
    /// A full disk, no permission.
    pub(super) fn take_statistics(&self, from: &Self) -> Result<()> {
        for (from, to) in [(from.bank(), self.bank()), (from.pool(), self.pool())] {
            let staged = self.begin(&to)?;
            fs::copy(&from, staged.path())
                .with_context(|| format!("{}: cannot write", to.display()))?;
            staged.commit()?;
        }
        Ok(())
    }

    /// What tells this folder from others on the same machine.
    fn place(&self) -> Result<String> {
        let root = fs::canonicalize(&self.root)
            .with_context(|| format!("{}: cannot resolve", self.root.display()))?;
        let digest = Digest::of_bytes(root.as_os_str().as_encoded_bytes()).to_string();
        Ok(digest[..12].to_owned())
    }

    /// The running trials whose worker is gone, and whether there are trials of workers that
    /// are unknown here: on another machine, or, if trials are `shared` through a server, of
    /// another folder. Only correct while no trial is being started ([`Exclusive::Starting`]).
    ///
    /// # Errors
    /// A folder that is gone.
    pub fn orphans(&self, trials: &[Arc<Trial>], shared: bool) -> Result<Orphans> {
        let place = self.place()?;
        let mut found = Orphans::default();
        for trial in trials.iter().filter(|trial| trial.state == TrialState::Running) {
            match self.life(trial, &place, shared) {
                Life::AtWork => {}
                Life::Gone => found.gone.push(trial.number),
                Life::Unknown => found.unknown = true,
            }
        }
        Ok(found)
    }

    fn life(&self, trial: &Trial, place: &str, shared: bool) -> Life {
        let unsigned = if shared { Life::Unknown } else { Life::Gone };
        let worker = trial.user_attrs.get(WORKER).and_then(Value::as_str).unwrap_or_default();
        let parts: Vec<&str> = worker.split('/').collect();
        // Names from a damaged journal must not lead out of the folder.
        let &[host, of, file] = parts.as_slice() else { return unsigned };
        if host != hostname() || shared && of != place {
            return Life::Unknown;
        }
        #[expect(clippy::disallowed_methods, reason = "a lock of this program; nothing is read")]
        let lock = File::open(self.workers().join(file));
        match lock.map(|file| file.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => Life::AtWork,
            Ok(Ok(()) | Err(TryLockError::Error(_))) | Err(_) => Life::Gone,
        }
    }
}

/// Running trials without a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Their numbers.
    pub gone: Vec<u64>,
    /// Whether there are others whose workers are unknown.
    pub unknown: bool,
}

/// What is known of a trial's worker.
enum Life {
    AtWork,
    Gone,
    Unknown,
}

/// This machine's name; empty where the system does not tell.
#[expect(clippy::disallowed_methods, reason = "asks the system, not a file of the user")]
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().replace('/', "-")
}

/// What only one process may do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusive {
    /// Collecting what all workers share.
    Preparing,
    /// Starting a trial, or giving up those of dead workers.
    Starting,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

/// A registered worker.
#[derive(Debug)]
pub struct Worker {
    name: String,
    path: PathBuf,
    _file: File,
}

impl Worker {
    /// Its name in trials.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that is left behind is not locked, which says the same.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Arc<dyn Storage>> {
    let backend = adapruner_study::journal::RedisBackend::open(url, "")?;
    Ok(Arc::new(JournalStorage::open(backend)?.with_heartbeat_interval(SIGN_OF_LIFE)))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<Arc<dyn Storage>> {
    Err(advised(
        "storage: this build has no Redis",
        "build with --features redis, or leave --storage out",
    ))
}

fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    options.open(path).with_context(|| format!("{}: cannot open", path.display()))
}
