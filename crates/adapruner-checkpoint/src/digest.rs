//! Content digests (BLAKE3, 256 bits), written into every artifact so that it
//! can be traced to its inputs.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    input,
    mapped::MappedFile,
};

/// A 256-bit BLAKE3 digest, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a plain file's content, read by memory map on all threads.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        Self::of_mapped(path, MappedFile::digest)
    }

    /// The same on the calling thread alone.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn of_file_alone(path: &Path) -> Result<Self> {
        Self::of_mapped(path, MappedFile::digest_alone)
    }

    fn of_mapped(path: &Path, digest: impl Fn(&MappedFile) -> Self) -> Result<Self> {
        let file = input::open(path)?;
        if file.metadata().map_err(Error::io(path, "read"))?.len() == 0 {
            return Ok(Self::of_bytes(&[]));
        }
        Ok(digest(&MappedFile::of(file, path)?))
    }

    /// The digest of labelled parts: each label and part enters with its
    /// length, so that no two lists of parts are confused.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut digest = Parts::default();
        for (label, part) in parts {
            digest.add(label, part);
        }
        digest.finish()
    }

    /// A digest that was computed piece by piece.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The digest of labelled parts, made part by part: [`Digest::of_parts`]
/// without having all of them at once.
#[derive(Debug, Default)]
pub struct Parts(blake3::Hasher);

impl Parts {
    /// Adds a part.
    pub fn add(&mut self, label: &str, part: &[u8]) {
        self.begin(label, part.len() as u64);
        self.push(part);
    }

    /// Begins a part of so many bytes, which are [pushed](Self::push) next.
    pub fn begin(&mut self, label: &str, bytes: u64) {
        self.0.update(&(label.len() as u64).to_le_bytes());
        self.0.update(label.as_bytes());
        self.0.update(&bytes.to_le_bytes());
    }

    /// The next bytes of the part that was begun.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all parts.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        blake3::Hash::from_hex(text)
            .map(|h| Self(*h.as_bytes()))
            .map_err(|e| format!("not a digest of 64 hexadecimal digits: {e}"))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}
