//! Files that carry the digest of their own bytes, so that reading detects a single flipped bit
//! in a file of this program.
//!
//! The seal is a JSON string `"sealed":"…"` of 64 hexadecimal digits: the last field of a JSON
//! file, or an entry of a safetensors file's metadata. It is the BLAKE3 digest of the whole
//! file with those digits written as zeros. The version of a file tells whether it must have
//! one, so a damaged seal is detected as missing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    digest::Digest,
    error::{Error, Result},
    output::{HeaderEntry, safetensors_header},
};

/// The key of the seal.
pub const KEY: &str = "sealed";
/// A seal that is not computed yet.
pub const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Largest header of a safetensors file that is searched.
const LARGEST_HEADER: usize = 100_000_000;

/// Bytes from which on a digest is worth all threads.
const ON_THREADS: usize = 16 << 20;

/// What the seal of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// There is none.
    None,
    /// The file is as it was written.
    Whole,
    /// The file was changed.
    Broken,
}

/// Whether a file must have a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Must {
    /// It was written by a version that seals.
    Have,
    /// It may be older.
    MayLack,
}

/// Whether files of this version of the program have seals: since 0.2.
pub fn since(version: &str) -> Must {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(0 | 1))) => Must::MayLack,
        _ => Must::Have,
    }
}

/// Where the digits of the seal are: in the header of a safetensors file, or
/// anywhere in other files, whose first byte may be damaged.
fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    let length = length.and_then(|length| usize::try_from(length).ok());
    let header = length.filter(|length| *length <= LARGEST_HEADER);
    let header = header.and_then(|length| bytes.get(..length + 8));
    let searched = header.unwrap_or(bytes);
    let quoted = format!("\"{KEY}\"");
    // The last one: fields before it may hold anything.
    let at = searched.windows(quoted.len()).rposition(|window| window == quoted.as_bytes())?;
    let rest = &searched[at + quoted.len()..];
    let skipped = rest.iter().take_while(|byte| b": ".contains(byte)).count();
    let start = at + quoted.len() + skipped + 1;
    let range = start..start.checked_add(BLANK.len())?;
    let quoted = searched.get(start - 1) == Some(&b'"') && searched.get(range.end) == Some(&b'"');
    quoted.then_some(range)
}

fn digest(bytes: &[u8], digits: &Range<usize>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..digits.start]).update(BLANK.as_bytes());
    let rest = &bytes[digits.end..];
    // Small files are read before the threads of this process are set up.
    if rest.len() < ON_THREADS {
        hasher.update(rest);
    } else {
        hasher.update_rayon(rest);
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Holds a file's bytes against its seal.
pub fn check(bytes: &[u8]) -> Seal {
    let Some(digits) = digits(bytes) else { return Seal::None };
    let found = &bytes[digits.clone()];
    if digest(bytes, &digits).to_string().as_bytes() == found { Seal::Whole } else { Seal::Broken }
}

/// Refuses a file that was changed since it was written.
///
/// # Errors
/// A seal that is broken, or that is missing though the file must have one.
pub fn demand(path: &Path, bytes: &[u8], must: Must) -> Result<()> {
    match (check(bytes), must) {
        (Seal::Whole, Must::Have | Must::MayLack) | (Seal::None, Must::MayLack) => Ok(()),
        (Seal::Broken, Must::Have | Must::MayLack) | (Seal::None, Must::Have) => Err(broken(path)),
    }
}

/// The error for a file that was changed.
pub fn broken(path: &Path) -> Error {
    Error::format(path, "damaged: its content is not what was written (its own digest differs)")
        .advise("take an undamaged copy, or remove it and make it again")
}

/// Puts the seal in the place of [`BLANK`].
///
/// # Errors
/// None for bytes with a blank seal.
pub fn seal(bytes: &mut [u8]) -> Result<(), MissingSeal> {
    let digits = digits(bytes).ok_or(MissingSeal)?;
    let digest = digest(bytes, &digits).to_string();
    bytes[digits].copy_from_slice(digest.as_bytes());
    Ok(())
}

/// Bytes without a place for a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no place for a seal")]
pub struct MissingSeal;

/// A value as indented JSON with a seal as its last field, and a line feed.
///
/// # Errors
/// A value that is no JSON object.
pub fn json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    use serde::ser::Error as _;
    let mut value = serde_json::to_value(value)?;
    let fields = value.as_object_mut();
    let fields = fields.ok_or_else(|| serde_json::Error::custom("only objects are sealed"))?;
    fields.remove(KEY);
    fields.insert(KEY.to_owned(), BLANK.into());
    let mut bytes = serde_json::to_vec_pretty(&value)?;
    bytes.push(b'\n');
    seal(&mut bytes).map_err(serde_json::Error::custom)?;
    Ok(bytes)
}

/// Writes a file with a seal to `to`: `content` is called with a blank seal, so
/// that its digest is known, and again with that digest.
///
/// # Errors
/// Those of `content`.
pub fn write(
    to: &mut dyn Write,
    content: impl Fn(&mut dyn Write, &str) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    content(&mut hasher, BLANK)?;
    content(to, &Digest::from_bytes(*hasher.finalize().as_bytes()).to_string())
}

/// What a JSON file says of the program that wrote it.
#[derive(Deserialize)]
struct Maker {
    adapruner: Option<String>,
}

/// Reads a JSON file of this program, whose field `adapruner` says which version
/// wrote it; `path` is for messages.
///
/// # Errors
/// A file that was changed since it was written, or that is no such JSON.
pub fn from_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    if check(bytes) == Seal::Broken {
        return Err(broken(path));
    }
    let malformed = |e: serde_json::Error| Error::format(path, e.to_string());
    let maker: Maker = serde_json::from_slice(bytes).map_err(malformed)?;
    demand(path, bytes, maker.adapruner.as_deref().map_or(Must::MayLack, since))?;
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Numbers of a tensor that is written.
#[derive(Debug, Clone)]
pub struct Floats<'a> {
    /// Name of the tensor.
    pub name: String,
    /// Its row-major shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: &'a [f32],
}

/// Whether a file gets a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// One of this program.
    Yes,
    /// One that other programs made the form of.
    No,
}

/// Writes F32 tensors and metadata to `to` as a safetensors file, a piece of a
/// tensor in memory at a time.
///
/// # Shapes
/// Each tensor has as many numbers as its shape says.
///
/// # Errors
/// Those of `to`.
pub fn safetensors(
    to: &mut dyn Write,
    tensors: &[Floats<'_>],
    metadata: &BTreeMap<String, String>,
    sealed: Sealed,
) -> std::io::Result<()> {
    match sealed {
        Sealed::No => content(to, tensors, metadata),
        Sealed::Yes => write(to, |to, seal| {
            let mut metadata = metadata.clone();
            metadata.insert(KEY.to_owned(), seal.to_owned());
            content(to, tensors, &metadata)
        }),
    }
}

/// [`safetensors()`] to the file `path`; `shown` is the path for messages.
///
/// # Errors
/// A refusal of the operating system.
pub fn write_safetensors(
    (path, shown): (&Path, &Path),
    tensors: &[Floats<'_>],
    metadata: &BTreeMap<String, String>,
    sealed: Sealed,
) -> Result<()> {
    let file = File::create(path).map_err(Error::io(shown, "create"))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let written = safetensors(&mut file, tensors, metadata, sealed).and_then(|()| file.flush());
    written.map_err(Error::io(shown, "write"))
}

/// Numbers that are turned into bytes at once.
const PIECE: usize = 1 << 16;

fn content(
    to: &mut dyn Write,
    tensors: &[Floats<'_>],
    metadata: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    to.write_all(&header(tensors, metadata))?;
    let mut bytes = Vec::with_capacity(PIECE * size_of::<f32>());
    for piece in tensors.iter().flat_map(|tensor| tensor.values.chunks(PIECE)) {
        bytes.clear();
        piece.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        to.write_all(&bytes)?;
    }
    Ok(())
}

fn header(tensors: &[Floats<'_>], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let entry = |tensor: &Floats<'_>| HeaderEntry {
        name: tensor.name.clone(),
        dtype: "F32".to_owned(),
        shape: tensor.shape.clone(),
        bytes: size_of_val(tensor.values) as u64,
    };
    safetensors_header(json!(metadata), tensors.iter().map(entry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_since_0_2_have_seals() {
        for (version, must) in [
            ("0.1.0", Must::MayLack),
            ("0.0.9", Must::MayLack),
            ("0.2.0", Must::Have),
            ("1.0.0", Must::Have),
            ("", Must::Have),
            ("0", Must::Have),
            ("x.1", Must::Have),
        ] {
            assert_eq!(since(version), must, "{version}");
        }
    }

    /// Flips every bit of a sealed file: none goes unnoticed.
    fn every_flip_is_noticed(mut bytes: Vec<u8>) {
        assert_eq!(check(&bytes), Seal::Whole);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&bytes), Seal::Whole, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_json_file_is_noticed() {
        let value =
            json!({"adapruner": "0.2.0", "sealed": "no", "list": [1, 2.5, "\"sealed\": \"x\""]});
        let bytes = json(&value).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        every_flip_is_noticed(bytes);
    }

    #[test]
    fn every_flipped_bit_of_a_safetensors_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let values = [1.0, -0.5, f32::MIN_POSITIVE, 3.0];
        let tensors = [Floats { name: "a".into(), shape: vec![2, 2], values: &values }];
        let metadata = BTreeMap::from([("adapruner".to_owned(), "{\"version\":2}".to_owned())]);
        write_safetensors((&path, &path), &tensors, &metadata, Sealed::Yes).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a").unwrap().shape(), [2, 2]);
        every_flip_is_noticed(bytes);
    }

    #[test]
    fn what_has_no_seal_says_so() {
        for bytes in
            [&b""[..], b"{", b"{}", b"\x05\0\0\0\0\0\0\0{}   ", b"\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(check(bytes), Seal::None, "{bytes:?}");
        }
        assert_eq!(seal(&mut b"{}".to_vec()), Err(MissingSeal));
        assert!(json(&[1, 2]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            check(&bytes);
        }
    }
}
