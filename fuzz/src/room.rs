//! Folders for readers that want files.

use std::{cell::OnceCell, fs, path::PathBuf};

use adapruner_checkpoint::sealed;
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

/// The same bytes with a seal that fits them, where they have one: what is
/// fuzzed is what lies behind the check of the digest.
pub(crate) fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let _ = sealed::seal(&mut bytes);
    bytes
}

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
