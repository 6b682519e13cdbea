//! A journal in a file, shared with Optuna's `JournalFileBackend`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::{Backend, Exchange, Line, within};
use super::lock::Lock;
use super::record;
use crate::error::{Error, Result};

/// How long a lock may stand still before its holder counts as dead.
const GRACE: Duration = Duration::from_secs(30);
const CHUNK: u64 = 1 << 16;

/// A journal in a file: appended to under a lock, read without one.
#[derive(Debug)]
pub struct FileBackend {
    path: PathBuf,
    grace: Duration,
}

impl FileBackend {
    /// Opens the journal, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |action, source| Error::Io { path: path.into(), action, source };
        let full = std::path::absolute(path).map_err(|error| io("find", error))?;
        let found = std::fs::metadata(&full).map(|found| found.is_file());
        if matches!(found, Ok(false)) {
            let refused = std::io::Error::other("not a regular file");
            return Err(io("open", refused));
        }
        let file = OpenOptions::new().append(true).create(true).open(&full);
        file.map_err(|error| io("open", error))?;
        #[cfg(unix)]
        if let Some(folder) = full.parent() {
            // So that the name of the file is as durable as what is in it.
            #[expect(clippy::disallowed_methods, reason = "a folder; nothing is read")]
            let opened = File::open(folder);
            let synced = opened.and_then(|folder| folder.sync_all());
            synced.map_err(|error| io("make durable", error))?;
        }
        Ok(Self { path: full, grace: GRACE })
    }

    /// Opens a journal that is there, to be read: nothing is made or locked, so
    /// that no permission to write is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no such file or it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |action, source| Error::Io { path: path.into(), action, source };
        let full = std::path::absolute(path).map_err(|error| io("find", error))?;
        let found = std::fs::metadata(&full).map_err(|error| io("open", error))?;
        if !found.is_file() {
            return Err(io("open", std::io::Error::other("not a regular file")));
        }
        Ok(Self { path: full, grace: GRACE })
    }

    /// Breaks locks that stand still for `grace` rather than 30 seconds.
    pub fn with_lock_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Adds records under the lock, which the caller holds.
    fn add(&self, records: &[String]) -> Result<()> {
        let mut text = records.join("\n").into_bytes();
        text.push(b'\n');
        let file = OpenOptions::new().read(true).append(true).open(&self.path);
        let mut file = file.map_err(self.io("open"))?;
        let length = mend(&mut file).map_err(self.io("repair the end of"))?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.map_err(|error| {
            // Back to where all was well; if even that fails, the next writer does it.
            let _ = file.set_len(length);
            self.io("append to")(error)
        })
    }

    fn io(&self, action: &'static str) -> impl Fn(std::io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Io { path: path.clone(), action, source }
    }
}

impl Backend for FileBackend {
    fn append(&mut self, records: &[String]) -> Result<()> {
        let _lock = Lock::acquire(&self.path, self.grace)?;
        self.add(records)
    }

    fn exchange(
        &mut self,
        records: &[String],
        offset: u64,
        others: Option<u64>,
    ) -> Result<Exchange> {
        if records.is_empty() {
            return Ok(Exchange { lines: self.read_from(offset)?, added: true });
        }
        let lock = Lock::acquire(&self.path, self.grace)?;
        if others.is_some() {
            let lines = self.read_from(offset)?;
            if !within(&lines, others) {
                return Ok(Exchange { lines, added: false });
            }
        }
        self.add(records)?;
        drop(lock);
        Ok(Exchange { lines: self.read_from(offset)?, added: true })
    }

    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>> {
        #[expect(clippy::disallowed_methods, reason = "a plain file, as `new` saw to")]
        let mut file = File::open(&self.path).map_err(self.io("open"))?;
        let length = file.metadata().map_err(self.io("read"))?.len();
        let Some(size) = length.checked_sub(offset) else {
            return Err(Error::Journal {
                place: self.path.display().to_string(),
                message: format!(
                    "expected the {offset} bytes that were read before, found {length}"
                ),
            });
        };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(offset)).map_err(self.io("read"))?;
        file.take(size).read_to_end(&mut text).map_err(self.io("read"))?;
        let mut end = offset;
        let whole = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
            let text = line.strip_suffix(b"\n")?.to_vec();
            end += line.len() as u64;
            Some(Line { text, end })
        });
        Ok(whole.collect())
    }

    fn place(&self, number: u64) -> String {
        format!("{}:{}", self.path.display(), number.saturating_add(1))
    }
}

/// Cuts off a last line without its end, which a writer that died left behind,
/// and gives the length.
fn mend(file: &mut File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut chunk = Vec::new();
    while end > 0 {
        // The last byte alone at first: mostly that is all there is to see.
        let start = end.saturating_sub(if end == length { 1 } else { CHUNK });
        chunk.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(end))?;
        file.take(length - end).read_to_end(&mut tail)?;
        // A whole record with a byte behind it was not torn: the byte was a line feed.
        if tail.split_last().is_some_and(|(_, line)| record::read(line).is_ok()) {
            let message = format!("damaged: the byte at {} is no line feed", length - 1);
            return Err(std::io::Error::other(message));
        }
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(backend: &mut FileBackend, offset: u64) -> Vec<String> {
        let lines = backend.read_from(offset).unwrap();
        lines.into_iter().map(|line| String::from_utf8(line.text).unwrap()).collect()
    }

    #[test]
    fn a_line_feed_that_was_damaged_costs_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let record = r#"{"op_code":1,"worker_id":"w","study_id":0}"#;
        std::fs::write(&path, format!("{record}\n{record}\u{b}")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut backend = FileBackend::open(&path).unwrap();
        let error = backend.append(&[record.to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no line feed"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_torn_end_is_ignored_by_readers_and_cut_off_by_writers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for torn in ["x".into(), "{\"op_code\":".into(), "y".repeat(3 * CHUNK as usize)] {
            for before in ["", "first\n"] {
                std::fs::write(&path, format!("{before}{torn}")).unwrap();
                let mut backend = FileBackend::open(&path).unwrap();
                assert_eq!(lines(&mut backend, 0).concat(), before.trim());
                backend.append(&["a".into(), "b".into()]).unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{before}a\nb\n"));
                assert_eq!(lines(&mut backend, before.len() as u64), ["a", "b"]);
            }
        }
    }

    #[test]
    fn a_journal_that_shrank_or_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut backend = FileBackend::open(&path).unwrap();
        backend.append(&["a".into()]).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(backend.read_from(2).unwrap_err().to_string().contains("found 0"));
        std::fs::remove_file(&path).unwrap();
        assert!(backend.append(&["a".into()]).is_err());
        assert!(!path.exists());
    }
}
