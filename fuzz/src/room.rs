//! Folders for readers that want files.

use std::{cell::OnceCell, fs, path::PathBuf};

use tempfile::TempDir;

thread_local! {
    static ROOM: OnceCell<TempDir> = const { OnceCell::new() };
}

/// A seed, for files that stand beside the one that is fuzzed.
macro_rules! seed {
    ($path:literal) => {
        include_bytes!(concat!("../corpus/", $path)).as_slice()
    };
}
pub(crate) use seed;

/// A folder of this thread's own for `target`, with `files` in it.
///
/// # Panics
/// Where it cannot be written.
pub(crate) fn folder(target: &str, files: &[(&str, &[u8])]) -> PathBuf {
    ROOM.with(|room| {
        let room = room.get_or_init(|| TempDir::with_prefix("adapruner-fuzz").expect("a folder"));
        let folder = room.path().join(target);
        fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("a file");
        }
        folder
    })
}

/// The same with one file, and the path of that.
pub(crate) fn file(target: &str, name: &str, bytes: &[u8]) -> PathBuf {
    folder(target, &[(name, bytes)]).join(name)
}
