//! Optuna's lock file: `<journal>.lock`, a symbolic link whose creation is
//! atomic also on network file systems.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Result};

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A held lock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: PathBuf,
    identity: Option<Identity>,
}

/// Tells one lock from the next under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    made: SystemTime,
    inode: u64,
}

impl Lock {
    /// Waits for the lock of `target`, an absolute path. A lock is broken when
    /// for `grace` neither it nor what it points to has changed: who held it is
    /// dead.
    pub(crate) fn acquire(target: &Path, grace: Duration) -> Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(".lock");
        let file = PathBuf::from(name);
        let mut wait = FIRST_WAIT;
        let mut seen = None;
        let mut since = Instant::now();
        loop {
            match create(target, &file) {
                Ok(()) => {
                    let identity = identity(&file);
                    return Ok(Self { file, identity });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Io { path: file, action: "make a lock", source });
                }
            }
            let holder = identity(&file);
            let moved = fs::metadata(&file).and_then(|meta| meta.modified()).ok();
            if seen != Some((holder, moved)) {
                seen = Some((holder, moved));
                since = Instant::now();
            }
            // The link may have been renewed by another who waited as long.
            if since.elapsed() > grace && holder.is_some() && identity(&file) == holder {
                // Whoever fails here has lost the race to break it.
                let _ = remove(&file);
                wait = FIRST_WAIT;
                continue;
            }
            sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If it was broken meanwhile, it is another's now.
        if self.identity.is_some() && identity(&self.file) == self.identity {
            // What cannot be removed is broken by the next after its grace.
            let _ = remove(&self.file);
        }
    }
}

/// Renames, then unlinks: of several that try, one succeeds.
fn remove(file: &Path) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!("{:032x}.rename", rand::random::<u128>()));
    fs::rename(file, &name)?;
    fs::remove_file(&name)
}

fn identity(file: &Path) -> Option<Identity> {
    let meta = fs::symlink_metadata(file).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&meta);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Identity { made: meta.modified().ok()?, inode })
}

#[cfg(unix)]
fn create(target: &Path, file: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, file)
}

/// Optuna's `JournalFileOpenLock`.
#[cfg(not(unix))]
fn create(_target: &Path, file: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(file).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_exclusive_and_released() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let lock = Lock::acquire(&journal, Duration::from_secs(30)).unwrap();
        let waiter = {
            let journal = journal.clone();
            std::thread::spawn(move || {
                let _lock = Lock::acquire(&journal, Duration::from_secs(30)).unwrap();
                Instant::now()
            })
        };
        sleep(Duration::from_millis(60));
        let released = Instant::now();
        drop(lock);
        assert!(waiter.join().unwrap() >= released);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_dead_holder_s_lock_is_broken_after_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        fs::write(&journal, "").unwrap();
        // As Optuna leaves it for a relative path: pointing nowhere.
        std::os::unix::fs::symlink("elsewhere/journal", folder.path().join("journal.lock"))
            .unwrap();
        let start = Instant::now();
        let lock = Lock::acquire(&journal, Duration::from_millis(80)).unwrap();
        assert!(start.elapsed() > Duration::from_millis(80));
        // A lock that was broken belongs to another: its first owner lets it be.
        fs::remove_file(folder.path().join("journal.lock")).unwrap();
        sleep(Duration::from_millis(5));
        let other = Lock::acquire(&journal, Duration::from_secs(30)).unwrap();
        drop(lock);
        assert!(fs::symlink_metadata(folder.path().join("journal.lock")).is_ok());
        drop(other);
        assert!(fs::symlink_metadata(folder.path().join("journal.lock")).is_err());
    }
}
