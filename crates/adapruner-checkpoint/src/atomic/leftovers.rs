//! Leftovers of killed processes: staged outputs, and old outputs moved aside.
//!
//! A staged output is called `.NAME.PID-N.partial` and is locked while its
//! process lives; the lock goes with the process, however it ends.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::replace::remove;

/// Extension of an output that is being written.
pub(super) const PARTIAL: &str = "partial";
/// Extension of an older output that was moved aside.
pub(super) const OLD: &str = "old";
/// Extension of what is being removed.
const DISCARDED: &str = "discarded";
/// Age at which something unlocked belongs to nobody, though a process has the
/// number of the one that made it.
const SETTLED: Duration = Duration::from_secs(60);

/// The hidden name of an output of this process, the `number`th.
pub(super) fn staged_name(name: &str, number: u64) -> String {
    format!(".{name}.{}-{number}.{PARTIAL}", std::process::id())
}

/// The process that a hidden name is of, and whether it may be removed: what
/// was moved aside may be the last copy of an output.
fn maker(name: &str) -> Option<(u32, bool)> {
    let (rest, extension) = name.strip_prefix('.')?.rsplit_once('.')?;
    let (stem, made) = rest.rsplit_once('.')?;
    let (process, number) = made.split_once('-')?;
    number.parse::<u64>().ok()?;
    let known = [PARTIAL, OLD, DISCARDED].contains(&extension);
    (known && !stem.is_empty()).then_some(())?;
    Some((process.parse().ok()?, extension != OLD))
}

/// Removes what dead processes left in `folder`, and says so; says where an old
/// output is that a process which was killed had moved aside.
pub(super) fn clear(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((process, removable)) = name.to_str().and_then(maker) else { continue };
        let path = entry.path();
        if process == std::process::id() || !is_dead(&path, process) {
            continue;
        }
        if !removable {
            tracing::warn!(
                "{}: an older output, moved aside by process {process}, which was killed",
                path.display()
            );
        } else if remove(&path).is_ok() {
            tracing::warn!("{}: removed; process {process} was killed", path.display());
        }
    }
}

/// Whether nobody works on what process `process` made.
fn is_dead(path: &PathBuf, process: u32) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a lock of this program; nothing is read")]
    let opened = File::open(path);
    let unlocked = match opened.map(|file| file.try_lock()) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(Err(TryLockError::Error(_))) | Err(_) => false,
    };
    let proc = Path::new("/proc");
    let gone = proc.join("self").exists() && !proc.join(process.to_string()).exists();
    unlocked && (gone || age(path).is_some_and(|age| age > SETTLED))
}

fn age(path: &Path) -> Option<Duration> {
    let modified = path.symlink_metadata().ok()?.modified().ok()?;
    SystemTime::now().duration_since(modified).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_hidden_names_are_known() {
        assert_eq!(maker(&staged_name("out.v2", 3)), Some((std::process::id(), true)));
        assert_eq!(maker(".out.17-0.discarded"), Some((17, true)));
        assert_eq!(maker(".out.17-0.old"), Some((17, false)));
        for name in [
            "out.17-0.partial",
            ".out.partial",
            ".out.17.partial",
            ".17-0.partial",
            "..17-0.partial",
            ".out.a-0.partial",
            ".out.17-b.partial",
            ".out.17-0.part",
        ] {
            assert_eq!(maker(name), None, "{name}");
        }
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_lock_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let path = |name: &str| folder.path().join(name);
        let [partial, old, locked] =
            ["partial", "old", "discarded"].map(|kind| path(&format!(".out.{dead}-1.{kind}")));
        std::fs::create_dir(&partial).unwrap();
        std::fs::write(partial.join("weights"), "half").unwrap();
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&locked, "new").unwrap();
        let mine = path(&staged_name("out", 1));
        std::fs::write(&mine, "mine").unwrap();
        let lock = File::open(&locked).unwrap();
        lock.lock().unwrap();
        clear(folder.path());
        assert!(!partial.exists() && old.exists() && locked.exists() && mine.exists());
        drop(lock);
        clear(folder.path());
        assert!(!locked.exists() && old.exists() && mine.exists());
    }
}
