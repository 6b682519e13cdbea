//! A text file as pieces of valid UTF-8, unpacked where it is compressed.
//!
//! One piece of [`PIECE`] bytes is held at a time, whatever the file's size and
//! however long its lines are.

use std::{
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    input,
};

/// Bytes of a piece, at most.
pub(super) const PIECE: usize = 256 << 10;
/// A file may unpack to so many times its size; text does to a tenth of it.
const EXPANSION: u64 = 100;
/// Bytes that even the smallest file may unpack to.
const ALWAYS: u64 = 16 << 20;

/// A text file that is read piece by piece, without its byte order mark.
pub(crate) struct Pieces {
    path: PathBuf,
    reader: Box<dyn Read>,
    packing: Option<Packing>,
    /// Bytes that the file may have, unpacked.
    most: u64,
    /// Bytes that were read.
    read: u64,
    piece: String,
    /// Offset of the piece in the file, unpacked.
    start: u64,
    /// The first bytes of a character whose other bytes come next.
    cut: Vec<u8>,
    ended: bool,
}

impl Pieces {
    /// Opens a plain file. One that is named `.gz` or `.zst` is unpacked.
    ///
    /// # Errors
    /// A file that cannot be read, is empty or larger than a text may be.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, size) = input::open_capped(path, input::TEXT)?;
        let packing = Packing::split(&lower_name(path)).0;
        let most = match packing {
            Some(_) => size.saturating_mul(EXPANSION).clamp(ALWAYS, input::TEXT.bytes()),
            None if size == 0 => return Err(Error::format(path, "empty file")),
            None => input::TEXT.bytes(),
        };
        let reader: Box<dyn Read> = match packing {
            None => Box::new(file),
            Some(Packing::Gzip) => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file)))
            }
            Some(Packing::Zstd) => Box::new(
                zstd::stream::read::Decoder::new(file)
                    .map_err(|e| Packing::Zstd.damaged(path, &e))?,
            ),
        };
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            packing,
            most,
            read: 0,
            piece: String::new(),
            start: 0,
            cut: Vec::new(),
            ended: false,
        })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The piece that was loaded last; empty before the first and after the last.
    pub(crate) fn piece(&self) -> &str {
        &self.piece
    }

    /// Where that piece begins, in bytes of the unpacked file.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Loads the next piece; whether there is one.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, with their place; a file that is damaged, cut
    /// off, or unpacks to more than a text may have.
    pub(crate) fn load(&mut self) -> Result<bool> {
        let first = self.read == 0;
        let mut bytes = std::mem::take(&mut self.piece).into_bytes();
        self.start += bytes.len() as u64;
        bytes.clear();
        bytes.append(&mut self.cut);
        if self.ended && bytes.is_empty() {
            return Ok(false);
        }
        let missing = (PIECE - bytes.len()) as u64;
        let found = self.reader.by_ref().take(missing).read_to_end(&mut bytes);
        let found = found.map_err(|e| match self.packing {
            Some(packing) => packing.damaged(&self.path, &e),
            None => Error::io(&self.path, "read")(e),
        })?;
        self.ended = (found as u64) < missing;
        self.read += found as u64;
        if self.read > self.most {
            return Err(self.too_much());
        }
        if first {
            if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                return Err(Error::format(&self.path, "UTF-16 text").advise("convert it to UTF-8"));
            }
            if bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
                self.start = BYTE_ORDER_MARK.len() as u64;
            }
        }
        if !self.ended {
            self.cut = bytes.split_off(whole_characters(&bytes));
        }
        self.piece = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            not_utf8(&self.path, e.as_bytes()[at], self.start + at as u64)
        })?;
        Ok(!self.piece.is_empty())
    }

    fn too_much(&self) -> Error {
        let most = self.most;
        let message = match self.packing {
            Some(_) => format!("unpacks to more than {most} bytes, which are the most here"),
            None => format!("more than {most} bytes, which are the most here"),
        };
        Error::Text { path: self.path.clone(), message }.advise("unpack it and give a part of it")
    }
}

/// What says that a text is UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The error for a byte at an offset that no UTF-8 has there.
pub(super) fn not_utf8(path: &Path, byte: u8, at: u64) -> Error {
    let message = format!("not UTF-8: byte {byte:#04x} at offset {at}");
    Error::format(path, message).advise("convert it to UTF-8")
}

/// Bytes up to the last character, which is left out where its end is missing.
/// What is no UTF-8 in another way is not looked for.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let Some(lead) = bytes[tail..].iter().rposition(|byte| byte & 0xc0 != 0x80) else {
        return bytes.len();
    };
    let needed = match bytes[tail + lead] {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    if tail + lead + needed > bytes.len() { tail + lead } else { bytes.len() }
}

/// Whether a file is named as one that is unpacked.
pub(super) fn is_packed(path: &Path) -> bool {
    Packing::split(&lower_name(path)).0.is_some()
}

/// A file's name in lower case, without what says that it is packed.
pub fn unpacked_name(path: &Path) -> String {
    Packing::split(&lower_name(path)).1.to_owned()
}

fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// How a text is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// Zstandard (RFC 8878), of one frame or several.
    Zstd,
}

impl Packing {
    /// By the end of a file's name, and the name without it.
    fn split(name: &str) -> (Option<Self>, &str) {
        let all = [(".gz", Self::Gzip), (".zst", Self::Zstd)];
        let found = all.iter().find_map(|(end, packing)| Some((*packing, name.strip_suffix(end)?)));
        found.map_or((None, name), |(packing, name)| (Some(packing), name))
    }

    fn damaged(self, path: &Path, error: &std::io::Error) -> Error {
        Error::format(path, format!("damaged or cut off ({self}): {error}"))
    }
}

impl std::fmt::Display for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_whole_characters() {
        for (text, whole) in
            [("abc", 3), ("abé", 4), ("ab€", 5), ("a𝄞", 5), ("", 0)].map(|(t, w)| (t.as_bytes(), w))
        {
            assert_eq!(whole_characters(text), whole);
            for cut in 0..text.len() {
                let found = whole_characters(&text[..cut]);
                assert!(std::str::from_utf8(&text[..found]).is_ok() && cut - found < 4);
            }
        }
    }

    #[test]
    fn a_text_of_many_pieces_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let text = format!("\u{feff}{}", "aé€𝄞".repeat(PIECE / 4));
        std::fs::write(&path, &text).unwrap();
        let mut pieces = Pieces::open(&path).unwrap();
        let mut found = String::new();
        while pieces.load().unwrap() {
            assert!(pieces.piece().len() <= PIECE && !pieces.piece().is_empty());
            assert_eq!(pieces.start() as usize, found.len() + 3);
            found += pieces.piece();
        }
        assert!(found == text[3..]);
        assert!(!pieces.load().unwrap());
    }
}
