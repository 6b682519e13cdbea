//! Renames, removals and synchronisation.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Error, Result};

/// What a rename left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renamed {
    /// Nothing: there was nothing before.
    Created,
    /// What stood at the target, under another name, to be removed.
    Replaced(PathBuf),
}

/// Renames `staged` to `target`, where nothing may stand.
///
/// # Errors
/// Something that stands there, a refusal of the operating system.
pub(super) fn create(staged: &Path, target: &Path) -> Result<Renamed> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Renamed::Created),
        Err(error) if unknown(error) => {
            if target.symlink_metadata().is_ok() {
                return Err(Error::Exists { path: target.to_path_buf() });
            }
            std::fs::rename(staged, target).map_err(Error::io(target, "create"))?;
            Ok(Renamed::Created)
        }
        Err(rustix::io::Errno::EXIST) => Err(Error::Exists { path: target.to_path_buf() }),
        Err(error) => Err(Error::io(target, "create")(error.into())),
    }
}

/// Has `staged` and `target` change places, in one step where the system can;
/// else `target` is moved aside first.
///
/// # Errors
/// A refusal of the operating system; what stood at `target` stands there
/// again, unless that was refused too.
pub(super) fn exchange(staged: &Path, target: &Path, aside: &Path) -> Result<Renamed> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Renamed::Replaced(staged.to_path_buf())),
        Err(error) if unknown(error) => move_aside(staged, target, aside),
        Err(error) => Err(Error::io(target, "replace")(error.into())),
    }
}

/// Whether the system or file system does not know the kind of rename.
fn unknown(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP].contains(&error)
}

fn move_aside(staged: &Path, target: &Path, aside: &Path) -> Result<Renamed> {
    std::fs::rename(target, aside).map_err(Error::io(target, "move aside"))?;
    let Err(error) = std::fs::rename(staged, target) else {
        return Ok(Renamed::Replaced(aside.to_path_buf()));
    };
    let error = Error::io(target, "create")(error);
    match std::fs::rename(aside, target) {
        Ok(()) => Err(error),
        Err(_) => Err(error.advise(
            "the old folder could not be put back: it is beside it, with a dot before its name and .old behind",
        )),
    }
}

/// Removes a file, link or folder.
pub(super) fn remove(path: &Path) -> io::Result<()> {
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

/// Syncs a file, or a folder with its content, to disk.
#[expect(clippy::disallowed_methods, reason = "what this program wrote; nothing is read")]
pub(super) fn sync(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return File::open(path)?.sync_all();
    }
    for entry in std::fs::read_dir(path)? {
        sync(&entry?.path())?;
    }
    sync_folder(path)
}

/// Syncs the names in a folder to disk, if the system can.
#[expect(clippy::disallowed_methods, reason = "a folder; nothing is read")]
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &tempfile::TempDir) -> [PathBuf; 3] {
        let paths = ["staged", "out", "aside"].map(|name| folder.path().join(name));
        std::fs::create_dir(&paths[1]).unwrap();
        std::fs::write(paths[1].join("weights"), "old").unwrap();
        paths
    }

    #[test]
    fn what_was_moved_aside_is_put_back_when_the_rename_fails() {
        let folder = tempfile::tempdir().unwrap();
        let [staged, target, aside] = paths(&folder);
        let error = move_aside(&staged, &target, &aside).unwrap_err();
        assert!(error.to_string().contains("out: cannot create: "), "{error}");
        assert_eq!(std::fs::read(target.join("weights")).unwrap(), b"old");
        assert!(!aside.exists());
    }

    #[test]
    fn both_ways_leave_the_new_folder_and_hand_over_the_old_one() {
        for way in [exchange, move_aside] {
            let folder = tempfile::tempdir().unwrap();
            let [staged, target, aside] = paths(&folder);
            std::fs::create_dir(&staged).unwrap();
            std::fs::write(staged.join("weights"), "new").unwrap();
            let Renamed::Replaced(old) = way(&staged, &target, &aside).unwrap() else {
                panic!("nothing was replaced");
            };
            assert_eq!(std::fs::read(target.join("weights")).unwrap(), b"new");
            assert_eq!(std::fs::read(old.join("weights")).unwrap(), b"old");
        }
    }

    #[test]
    fn a_target_that_appeared_meanwhile_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [staged, target] = ["staged", "out"].map(|name| folder.path().join(name));
        for path in [&staged, &target] {
            std::fs::write(path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        assert!(matches!(create(&staged, &target), Err(Error::Exists { .. })));
        assert_eq!(std::fs::read(&target).unwrap(), b"out");
    }
}
