//! Documents on disk: written one after another, read in any order.
//!
//! | held in memory | bytes |
//! |---|---|
//! | of a document | 8: where it ends, and whether it is blank |
//! | of the content | none of it, beyond [`IN_MEMORY`]: it stands in a temporary file without a name |
//!
//! Documents stand there with the joiner between them, so that the joined text
//! is one range. A plain text is mapped where it is.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use super::pieces::{PIECE, Pieces, whole_characters};
use crate::{
    digest::{Digest, Parts},
    error::{Error, Result},
    input,
    mapped::MappedFile,
};

/// Documents of a text, at most; of each 12 bytes are held.
pub(super) const MOST_DOCUMENTS: usize = 1 << 24;
/// Bytes of content that are held without a temporary file.
const IN_MEMORY: usize = 16 << 20;
/// Bytes that are written to the temporary file together.
const WRITTEN: usize = 1 << 20;

/// What documents hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Text.
    Text,
    /// Token ids, four bytes each, the lowest first.
    Ids,
}

/// The content of a text.
#[derive(Debug)]
pub(super) struct Store {
    held: Held,
    /// Twice the end of each document, and 1 where it is blank.
    ends: Vec<u64>,
    pub(super) form: Form,
    /// What stands between two documents.
    pub(super) joiner: &'static str,
    pub(super) digest: Digest,
}

#[derive(Debug)]
enum Held {
    Memory(Vec<u8>),
    /// From this offset on.
    Mapped(MappedFile, usize),
}

impl Store {
    /// A plain text where it stands, as one document.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub(super) fn of_file(path: &Path) -> Result<Self> {
        let (mut pieces, mut digest, mut blank) = (Pieces::open(path)?, Parts::default(), true);
        let file = MappedFile::open(path)?;
        let (mut start, mut bytes) = (None, 0);
        digest.add("joiner", b"");
        while pieces.load()? {
            let start = *start.get_or_insert_with(|| {
                let start = pieces.start();
                digest.begin("document", (file.len() as u64).saturating_sub(start));
                start
            });
            let piece = pieces.piece();
            digest.push(piece.as_bytes());
            blank = blank && piece.trim().is_empty();
            bytes = pieces.start() + piece.len() as u64 - start;
        }
        let start = start.unwrap_or(file.len() as u64);
        if start + bytes != file.len() as u64 {
            return Err(changed(path));
        }
        Ok(Self {
            held: Held::Mapped(file, usize::try_from(start).unwrap_or(usize::MAX)),
            ends: vec![bytes << 1 | u64::from(blank)],
            form: Form::Text,
            joiner: "",
            digest: digest.finish(),
        })
    }

    /// Number of documents.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where a document stands.
    pub(super) fn range(&self, document: usize) -> Range<usize> {
        let start = match document {
            0 => 0,
            _ => self.end(document - 1) + self.joiner.len(),
        };
        start..self.end(document)
    }

    /// Where the first so many documents stand, joined.
    pub(super) fn joined(&self, documents: usize) -> Range<usize> {
        0..documents.checked_sub(1).map_or(0, |last| self.end(last))
    }

    fn end(&self, document: usize) -> usize {
        (self.ends[document] >> 1) as usize
    }

    /// Whether there is nothing in a document but white space.
    pub(super) fn is_blank(&self, document: usize) -> bool {
        self.ends[document] & 1 == 1
    }

    /// The bytes of a range that end within `most`, with whole characters of
    /// text or whole ids.
    fn piece(&self, range: &Range<usize>, most: usize) -> &[u8] {
        let end = range.end.min(range.start + most);
        let bytes = match &self.held {
            Held::Memory(bytes) => bytes.get(range.start..end),
            Held::Mapped(file, start) => file.get(start + range.start..start + end),
        };
        let bytes = bytes.unwrap_or_default();
        match self.form {
            _ if end == range.end => bytes,
            Form::Text => &bytes[..whole_characters(bytes)],
            Form::Ids => &bytes[..bytes.len() / 4 * 4],
        }
    }

    /// Lets go of the memory in which a range of a file was read.
    fn release(&self, range: &Range<usize>) {
        match &self.held {
            Held::Memory(_) => {}
            Held::Mapped(file, start) => file.release(start + range.start..start + range.end),
        }
    }

    /// The text of a range, piece by piece.
    pub(super) fn text(&self, range: Range<usize>) -> impl Iterator<Item = Result<&str>> {
        self.stretch(range).map(|bytes| std::str::from_utf8(bytes?).map_err(|_| self.changed()))
    }

    /// The ids of a range, piece by piece.
    pub(super) fn ids(&self, range: Range<usize>) -> impl Iterator<Item = Result<Vec<u32>>> {
        let id = |id: &[u8]| u32::from_le_bytes(id.try_into().unwrap_or_default());
        self.stretch(range).map(move |bytes| Ok(bytes?.chunks_exact(4).map(id).collect()))
    }

    fn stretch(&self, left: Range<usize>) -> Stretch<'_> {
        Stretch { store: self, read: left.start..left.start, left }
    }

    fn changed(&self) -> Error {
        match &self.held {
            Held::Memory(_) => changed(Path::new("text")),
            Held::Mapped(file, _) => changed(file.path()),
        }
    }
}

/// The bytes of a range, piece by piece; the memory of each is let go of when
/// the next is asked for.
struct Stretch<'a> {
    store: &'a Store,
    read: Range<usize>,
    left: Range<usize>,
}

impl<'a> Iterator for Stretch<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.store.release(&self.read);
        if self.left.is_empty() {
            return None;
        }
        let bytes = self.store.piece(&self.left, PIECE);
        let start = self.left.start;
        if bytes.is_empty() {
            self.left.start = self.left.end;
            return Some(Err(self.store.changed()));
        }
        self.left.start += bytes.len();
        self.read = start..self.left.start;
        Some(Ok(bytes))
    }
}

impl Drop for Stretch<'_> {
    fn drop(&mut self) {
        self.store.release(&self.read);
    }
}

fn changed(path: &Path) -> Error {
    Error::format(path, "was changed while it was read")
}

/// Writes documents one after another.
pub(super) struct Writer {
    /// What is read, for messages.
    path: PathBuf,
    form: Form,
    joiner: &'static str,
    spool: Spool,
    ends: Vec<u64>,
    digest: Parts,
    /// Where the document that is written begins.
    start: u64,
    blank: bool,
}

impl Writer {
    pub(super) fn new(path: &Path, form: Form, joiner: &'static str) -> Self {
        let mut digest = Parts::default();
        match form {
            Form::Text => digest.add("joiner", joiner.as_bytes()),
            Form::Ids => {}
        }
        Self {
            path: path.to_path_buf(),
            form,
            joiner,
            spool: Spool::default(),
            ends: Vec::new(),
            digest,
            start: 0,
            blank: true,
        }
    }

    /// What is read next, for messages.
    pub(super) fn now(&mut self, path: &Path) {
        self.path = path.to_path_buf();
    }

    /// Documents that were written.
    pub(super) fn documents(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the document that is written.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.len() - self.start
    }

    /// More of the document.
    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        self.blank = self.blank && text.trim().is_empty();
        self.spool.push(text.as_bytes())
    }

    /// Another id of the row.
    pub(super) fn push_id(&mut self, id: u32) -> Result<()> {
        self.blank = false;
        self.spool.push(&id.to_le_bytes())
    }

    /// Takes white space from the document's end, up to so many bytes of it.
    pub(super) fn trim_to(&mut self, bytes: u64) {
        self.spool.truncate(self.start + bytes);
    }

    /// Takes out what was written of the document.
    pub(super) fn clear(&mut self) {
        self.spool.truncate(self.start);
        self.blank = true;
    }

    /// Ends the document and begins the next.
    ///
    /// # Errors
    /// More documents, or more text, than a text may have; a full disk.
    pub(super) fn end(&mut self) -> Result<()> {
        let label = match self.form {
            Form::Text => "document",
            Form::Ids => "row",
        };
        let end = self.spool.len();
        self.digest.begin(label, end - self.start);
        self.spool.digest(self.start, &mut self.digest)?;
        self.ends.push(end << 1 | u64::from(self.blank));
        let refuse = |message: String| {
            let error = Error::Text { path: self.path.clone(), message };
            error.advise("give a part of it")
        };
        if self.ends.len() > MOST_DOCUMENTS {
            return Err(refuse(format!("more than {MOST_DOCUMENTS} documents")));
        }
        // Twice as much for joiners and for ids, which may be shorter as digits.
        let most = 2 * input::TEXT.bytes();
        if end > most {
            return Err(refuse(format!("more than {most} bytes of text")));
        }
        self.spool.push(self.joiner.as_bytes())?;
        self.start = self.spool.len();
        self.blank = true;
        self.spool.settle()
    }

    /// All that was written.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn finish(mut self) -> Result<Store> {
        // The joiner after the last document, or a document without its end.
        let end = self.ends.last().map_or(0, |end| end >> 1);
        self.spool.truncate(end);
        Ok(Store {
            held: self.spool.finish()?,
            ends: self.ends,
            form: self.form,
            joiner: self.joiner,
            digest: self.digest.finish(),
        })
    }
}

/// Bytes that go to a temporary file where they are many.
#[derive(Default)]
struct Spool {
    file: Option<File>,
    /// Bytes in the file.
    written: u64,
    /// Those after them.
    tail: Vec<u8>,
}

impl Spool {
    fn len(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > IN_MEMORY { self.write() } else { Ok(()) }
    }

    /// Between two documents, where fewer bytes need to be read again.
    fn settle(&mut self) -> Result<()> {
        if self.file.is_some() && self.tail.len() > WRITTEN { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile().map_err(failed("create"))?),
        };
        file.seek(SeekFrom::Start(self.written)).map_err(failed("write"))?;
        file.write_all(&self.tail).map_err(failed("write"))?;
        self.written += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }

    fn truncate(&mut self, length: u64) {
        match length.checked_sub(self.written) {
            Some(of_tail) => self.tail.truncate(of_tail as usize),
            None => {
                self.written = length;
                self.tail.clear();
            }
        }
    }

    /// Adds what stands from `start` on to a digest.
    fn digest(&mut self, start: u64, digest: &mut Parts) -> Result<()> {
        if let (Some(file), Some(mut left)) = (&mut self.file, self.written.checked_sub(start)) {
            file.seek(SeekFrom::Start(start)).map_err(failed("read"))?;
            let mut piece = vec![0; PIECE.min(left as usize)];
            while left > 0 {
                let next = left.min(PIECE as u64);
                let piece = &mut piece[..next as usize];
                file.read_exact(piece).map_err(failed("read"))?;
                digest.push(piece);
                left -= next;
            }
        }
        let of_tail = start.saturating_sub(self.written) as usize;
        digest.push(&self.tail[of_tail..]);
        Ok(())
    }

    fn finish(mut self) -> Result<Held> {
        if self.file.is_none() {
            self.tail.shrink_to_fit();
            return Ok(Held::Memory(self.tail));
        }
        self.write()?;
        let Some(file) = self.file else { return Ok(Held::Memory(Vec::new())) };
        file.set_len(self.written).map_err(failed("write"))?;
        match self.written {
            0 => Ok(Held::Memory(Vec::new())),
            _ => Ok(Held::Mapped(MappedFile::of(file, &std::env::temp_dir())?, 0)),
        }
    }
}

/// The error of an operation on the temporary file.
fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| {
        Error::io(std::env::temp_dir(), action)(error).advise(
            "texts are unpacked in the folder for temporary files; free space, or set TMPDIR",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents beyond what is held in memory, cut and taken back on the way.
    #[test]
    fn a_store_on_the_disk_is_the_one_in_memory() {
        let long = "é€ab".repeat(IN_MEMORY / 5);
        let documents = ["", "a", &long, " \n", &long[2..], "end"];
        let mut writer = Writer::new(Path::new("text"), Form::Text, "\n\n");
        for document in documents {
            writer.push(&long).unwrap();
            writer.clear();
            for piece in document.split_inclusive('b') {
                writer.push(piece).unwrap();
            }
            let bytes = writer.bytes();
            writer.push("   ").unwrap();
            writer.trim_to(bytes);
            writer.end().unwrap();
        }
        let store = writer.finish().unwrap();
        assert!(matches!(store.held, Held::Mapped(..)));
        let read = |range| store.text(range).collect::<Result<String>>().unwrap();
        for (at, document) in documents.iter().enumerate() {
            assert!(read(store.range(at)) == *document, "{at}");
            assert_eq!(store.is_blank(at), document.trim().is_empty(), "{at}");
        }
        assert!(read(store.joined(6)) == documents.join("\n\n"));
        assert!(read(store.joined(2)) == "\n\na");
        let parts = documents.map(|document| ("document", document.as_bytes()));
        let joiner: [(&str, &[u8]); 1] = [("joiner", b"\n\n")];
        assert_eq!(store.digest, Digest::of_parts(joiner.into_iter().chain(parts)));
    }
}
