//! The only code that opens input files.
//!
//! A path from the user may be an endless pipe, a device, or a file far larger than any of its
//! kind. Every reader of every crate opens its files through this module, which accepts only
//! plain files (or links to them) and reads no more than the [`Cap`] of the file's kind.
//! `clippy.toml` forbids `File::open`, `std::fs::read` and `std::fs::read_to_string` elsewhere.
//!
//! | kind | [`Cap`] | bytes, at most |
//! |---|---|---|
//! | settings of a run (TOML) | [`SETTINGS`] | 1 MiB |
//! | definition of a task (TOML) | [`TASK`] | 1 MiB |
//! | adapter configuration | [`ADAPTER_CONFIG`] | 4 MiB |
//! | `config.json`, `generation_config.json`, index of weights | [`MODEL_JSON`] | 64 MiB |
//! | `tokenizer.json` and the other files of a tokenizer | [`TOKENIZER`] | 128 MiB |
//! | pruning plan | [`PLAN`] | 256 MiB |
//! | manifest, record or result that this program wrote (JSON) | [`RECORD`] | 256 MiB |
//! | log of a training, samples of a study (JSON, one a line) | [`LOG`] | 1 GiB |
//! | data of a task | [`TASK_DATA`] | 1 GiB |
//! | text, training records | [`TEXT`] | 4 GiB |
//!
//! Weights, statistics and training states are mapped
//! ([`MappedFile`](crate::mapped::MappedFile)), not read, and have no cap.

use std::{
    fs::{File, FileType},
    io::{Read, Seek},
    path::Path,
};

use crate::error::{Error, Result};

/// How large a file of a kind may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    what: &'static str,
    bytes: u64,
}

impl Cap {
    const fn new(what: &'static str, bytes: u64) -> Self {
        Self { what, bytes }
    }

    /// Bytes, at most.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    fn exceeded(self, path: &Path, found: &str) -> Error {
        let Self { what, bytes } = self;
        Error::format(path, format!("{found} bytes: {what} has at most {bytes}"))
    }
}

const MIB: u64 = 1 << 20;

/// Settings of a run.
pub const SETTINGS: Cap = Cap::new("a file of settings", MIB);
/// The definition of a task.
pub const TASK: Cap = Cap::new("the definition of a task", MIB);
/// The configuration of an adapter.
pub const ADAPTER_CONFIG: Cap = Cap::new("the configuration of an adapter", 4 * MIB);
/// A model's configuration or the index of its weights.
pub const MODEL_JSON: Cap = Cap::new("a JSON file of a model", 64 * MIB);
/// A file of a tokenizer; tokenizers of 262 144 tokens have 33 MB.
pub const TOKENIZER: Cap = Cap::new("a file of a tokenizer", 128 * MIB);
/// A pruning plan.
pub const PLAN: Cap = Cap::new("a plan", 256 * MIB);
/// A manifest, record or result of this program.
pub const RECORD: Cap = Cap::new("a record of this program", 256 * MIB);
/// The log of a training or the samples of a study.
pub const LOG: Cap = Cap::new("a log of this program", 1024 * MIB);
/// Records of a task's data set.
pub const TASK_DATA: Cap = Cap::new("the data of a task", 1024 * MIB);
/// A text, packed or not, or training records.
pub const TEXT: Cap = Cap::new("a text", 4096 * MIB);

/// Opens a plain file of any size.
///
/// # Errors
/// A file that is missing or unreadable; a folder, pipe, device or socket, by
/// name; a Git LFS pointer.
pub fn open(path: &Path) -> Result<File> {
    let kind = std::fs::metadata(path).map_err(Error::io(path, "open"))?.file_type();
    // Opening a pipe would wait for a writer.
    plain(path, kind)?;
    #[expect(clippy::disallowed_methods, reason = "the one place that opens input files")]
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    plain(path, file.metadata().map_err(Error::io(path, "read"))?.file_type())?;
    let mut start = Vec::new();
    let limit = POINTER.len() as u64;
    file.by_ref().take(limit).read_to_end(&mut start).map_err(Error::io(path, "read"))?;
    if start == POINTER {
        let error = Error::format(path, "a Git LFS pointer, not the file itself");
        return Err(
            error.advise("fetch the files: git lfs install, then git lfs pull in that folder")
        );
    }
    file.rewind().map_err(Error::io(path, "read"))?;
    Ok(file)
}

/// The first line of every Git LFS pointer, a small text file that stands where a
/// large file belongs.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a plain file of limited size; returns the file and its size.
///
/// # Errors
/// Those of [`open`]; a file that is larger.
pub fn open_capped(path: &Path, cap: Cap) -> Result<(File, u64)> {
    let file = open(path)?;
    let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
    if bytes > cap.bytes {
        return Err(cap.exceeded(path, &bytes.to_string()));
    }
    Ok((file, bytes))
}

/// The bytes of a plain file.
///
/// # Errors
/// Those of [`open_capped`], also where the file grows while it is read.
pub fn read(path: &Path, cap: Cap) -> Result<Vec<u8>> {
    let (file, size) = open_capped(path, cap)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // Files of the system have more bytes than their size says.
    file.take(cap.bytes + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > cap.bytes {
        return Err(cap.exceeded(path, &format!("more than {}", cap.bytes)));
    }
    Ok(bytes)
}

/// The bytes of a plain file; `None` where there is no file.
///
/// # Errors
/// Those of [`read`].
pub fn read_if_there(path: &Path, cap: Cap) -> Result<Option<Vec<u8>>> {
    match read(path, cap) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a plain file.
///
/// # Errors
/// Those of [`read`]; bytes that are not UTF-8, with their place.
pub fn read_text(path: &Path, cap: Cap) -> Result<String> {
    String::from_utf8(read(path, cap)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let message = format!("not UTF-8: byte {:#04x} at offset {at}", e.as_bytes()[at]);
        Error::format(path, message).advise("convert it to UTF-8")
    })
}

/// Refuses what is no plain file.
fn plain(path: &Path, kind: FileType) -> Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let found = name(kind);
    let error = Error::format(path, format!("{found}, not a regular file"));
    Err(if kind.is_dir() {
        error
    } else {
        error.advise("give a file; write what it yields to one")
    })
}

#[cfg(unix)]
fn name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        _ => "a special file",
    }
}

#[cfg(not(unix))]
fn name(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a special file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_up_to_their_cap_are_read() {
        const SMALL: Cap = Cap::new("a test", 4);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(read(&path, SMALL).unwrap(), b"abcd");
        assert_eq!(read_text(&path, SMALL).unwrap(), "abcd");
        std::fs::write(&path, "abcde").unwrap();
        let error = read(&path, SMALL).unwrap_err().to_string();
        assert!(error.ends_with("file: 5 bytes: a test has at most 4"), "{error}");
        assert_eq!(read_if_there(&folder.path().join("none"), SMALL).unwrap(), None);
        assert!(read_if_there(&path, SMALL).is_err());
        std::fs::write(&path, b"ab\xff").unwrap();
        let error = read_text(&path, SMALL).unwrap_err().to_string();
        assert!(error.ends_with("not UTF-8: byte 0xff at offset 2"), "{error}");
    }

    /// Files of the system whose size is 0 are capped by what they yield.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_yields_more_than_its_size_is_capped() {
        const SMALL: Cap = Cap::new("a test", 4);
        let error = read(Path::new("/proc/self/status"), SMALL).unwrap_err().to_string();
        assert!(error.ends_with("more than 4 bytes: a test has at most 4"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_named_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let zero = folder.path().join("zero");
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        for (path, found) in [
            (pipe.as_path(), "a named pipe"),
            (&socket, "a socket"),
            (&zero, "a character device"),
            (folder.path(), "a folder"),
        ] {
            let error = open(path).unwrap_err().to_string();
            assert_eq!(error, format!("{}: {found}, not a regular file", path.display()));
        }
    }
}
