//! The bytes of text files, unpacked where they are compressed.

use std::{
    io::{BufReader, Read},
    ops::Deref,
    path::Path,
};

use super::{MAX_BYTES, check_size};
use crate::{
    error::{Error, Result},
    mapped::MappedFile,
};

/// A file may unpack to so many times its size; text does to a tenth of it.
const EXPANSION: u64 = 100;
/// Bytes that even the smallest file may unpack to.
const ALWAYS: u64 = 16 << 20;

/// The bytes of a file.
pub struct Bytes(Held);

enum Held {
    Mapped(MappedFile),
    Unpacked(Vec<u8>),
}

impl Bytes {
    /// Opens a file that is read whole, and unpacks it where it is named `.gz` or `.zst`.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged or cut off, or has or unpacks to more than a
    /// text may have.
    pub fn open(path: &Path) -> Result<Self> {
        match Packing::split(&lower_name(path)).0 {
            Some(packing) => Ok(Self(Held::Unpacked(packing.unpack(path)?))),
            None => {
                check_size(path)?;
                Ok(Self(Held::Mapped(MappedFile::open(path)?)))
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(file) => file,
            Held::Unpacked(bytes) => bytes,
        }
    }
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

    /// What the file unpacks to.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged or cut off, or unpacks to more than a text
    /// may have.
    fn unpack(self, path: &Path) -> Result<Vec<u8>> {
        let file = crate::lfs::open(path)?;
        let metadata = file.metadata().map_err(Error::io(path, "read"))?;
        if !metadata.is_file() {
            return Err(Error::format(path, "not a regular file"));
        }
        let most = metadata.len().saturating_mul(EXPANSION).clamp(ALWAYS, MAX_BYTES);
        let file = BufReader::new(file);
        let damaged =
            |e: std::io::Error| Error::format(path, format!("damaged or cut off ({self}): {e}"));
        let mut bytes = Vec::new();
        match self {
            Self::Gzip => {
                flate2::bufread::MultiGzDecoder::new(file).take(most + 1).read_to_end(&mut bytes)
            }
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(file)
                .map_err(damaged)?
                .take(most + 1)
                .read_to_end(&mut bytes),
        }
        .map_err(damaged)?;
        if bytes.len() as u64 > most {
            let message = format!("unpacks to more than {most} bytes, which are the most here");
            let error = Error::Text { path: path.into(), message };
            return Err(error.advise("unpack it and give a part of it"));
        }
        Ok(bytes)
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
