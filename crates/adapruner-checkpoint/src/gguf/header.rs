//! The header of a GGUF file: metadata and the table of tensors.
//!
//! The file is hostile. Every count and length is held against the bytes that
//! are left before anything is allocated, so that parsing takes memory in
//! proportion to the file, and every tensor is held against the file and its
//! neighbours, so that a parsed header can be used to slice the map without
//! another look.
//!
//! Sizes are in bytes; `dims` stand in GGUF's order, the row length first.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    kind::{TensorKind, refused_kind},
    value::{Metadata, Value},
};

/// The first four bytes of a GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Where tensors start when the file does not say: multiples of 32.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Elements of all metadata arrays together; four times the largest
/// vocabularies with scores, types and merges.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 22;
/// Largest key or tensor name, as the format's own limit for keys.
const MAX_NAME: u64 = 65_535;
/// ggml's own limit.
const MAX_DIMS: u32 = 4;
/// Fewest bytes of a metadata entry: key length, type, a value of one byte.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// Fewest bytes of a tensor's row in the table: name length, number of
/// dimensions, one dimension, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Why some bytes are no header that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The magic is missing.
    #[error("not a GGUF file: magic \"GGUF\" expected, {found} found")]
    Magic {
        /// The first bytes, escaped.
        found: String,
    },
    /// A version this reader does not know.
    #[error("GGUF version {found} is not supported, only 2 and 3 (little-endian)")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The file ends too early.
    #[error(
        "truncated: {what} reaches to byte {needed}, but the file has {present} bytes, {missing} too few",
        missing = needed.saturating_sub(*present)
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes that the file must have for it.
        needed: u64,
        /// Bytes that the file has.
        present: u64,
    },
    /// A count that the rest of the file cannot hold.
    #[error("{what} is {found}: the file must have at least {needed} bytes, but has {present}")]
    Count {
        /// Which count.
        what: String,
        /// Its value.
        found: u64,
        /// Bytes that the file must have for it.
        needed: u64,
        /// Bytes that the file has.
        present: u64,
    },
    /// A count beyond what any model has.
    #[error("{what} is {found}, at most {limit} expected")]
    Limit {
        /// Which count.
        what: String,
        /// Its value.
        found: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// Something of the wrong form.
    #[error("{what}: {message}")]
    Malformed {
        /// The entry or tensor concerned.
        what: String,
        /// Expected and found.
        message: String,
    },
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// GGUF's name (`blk.0.attn_q.weight`).
    pub name: String,
    /// One to four dimensions, none zero, the row length first.
    pub dims: Vec<u64>,
    /// Element type; the row length is a multiple of its block.
    pub kind: TensorKind,
    /// Start, counted from [`Header::data_offset`].
    pub offset: u64,
    /// Length of its data.
    pub bytes: u64,
}

/// A header whose tensors all lie in the file it was parsed from, aligned and
/// apart from each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Typed values by key.
    pub metadata: Metadata,
    /// The tensor table in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensors' data starts in the file.
    pub data_offset: u64,
    /// Tensors start at multiples of this, a power of two ≥ 8.
    pub alignment: u64,
}

impl Header {
    /// Parses the header of a whole file.
    ///
    /// # Errors
    /// Anything that breaks the format; see [`HeaderError`]. Never panics, and
    /// allocates no more than a small multiple of the bytes given.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader { file, at: 0, array_elements: 0 };
        let found = file.get(..4).unwrap_or(file);
        if found != MAGIC {
            return Err(HeaderError::Magic { found: format!("\"{}\"", found.escape_ascii()) });
        }
        reader.at = 4;
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(HeaderError::Version { found: version });
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let entry_count = reader.u64("the number of metadata entries")?;
        reader.check_count("the number of metadata entries", entry_count, MIN_ENTRY)?;
        reader.check_count("the number of tensors", tensor_count, MIN_TENSOR)?;

        let mut metadata = Metadata::new();
        for _ in 0..entry_count {
            let key = reader.string("a metadata key", MAX_NAME)?;
            let value = reader.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(malformed(metadata_key(&key), "given twice"));
            }
        }
        let alignment = alignment(&metadata)?;

        let mut tensors = Vec::new();
        let mut names = BTreeSet::new();
        for _ in 0..tensor_count {
            let tensor = reader.tensor(alignment)?;
            if !names.insert(tensor.name.clone()) {
                return Err(malformed(tensor_named(&tensor.name), "given twice"));
            }
            tensors.push(tensor);
        }
        // The position is at most the slice's length: no overflow.
        let data_offset = (reader.at as u64).next_multiple_of(alignment);
        check_places(&tensors, data_offset, file.len() as u64)?;
        Ok(Self { version, metadata, tensors, data_offset, alignment })
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The bytes of `tensor` in the `file` that this header was parsed from;
    /// `None` where they are not in it.
    pub fn data<'a>(&self, tensor: &TensorInfo, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.data_offset.checked_add(tensor.offset)?).ok()?;
        let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
        file.get(start..end)
    }
}

fn malformed(what: impl Into<String>, message: impl Into<String>) -> HeaderError {
    HeaderError::Malformed { what: what.into(), message: message.into() }
}

/// A name from the file, fit for one line of a message.
pub(crate) fn shown(name: &str) -> String {
    const LIMIT: usize = 80;
    let mut escaped = name.chars().flat_map(char::escape_debug);
    let mut text: String = escaped.by_ref().take(LIMIT).collect();
    if escaped.next().is_some() {
        text.push('…');
    }
    text
}

fn metadata_key(key: &str) -> String {
    format!("metadata key {}", shown(key))
}

fn tensor_named(name: &str) -> String {
    format!("tensor {}", shown(name))
}

fn alignment(metadata: &Metadata) -> Result<u64, HeaderError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(a) if a.is_power_of_two() && (8..=1 << 20).contains(&a) => Ok(a),
        _ => Err(malformed(
            "metadata key general.alignment",
            "a power of two from 8 to 1048576 expected",
        )),
    }
}

/// Holds the tensors' places against the file's end and each other.
fn check_places(tensors: &[TensorInfo], data_offset: u64, file: u64) -> Result<(), HeaderError> {
    let mut places = BTreeMap::new();
    let mut last: Option<(u64, &TensorInfo)> = None;
    for tensor in tensors {
        let end = data_offset
            .checked_add(tensor.offset)
            .and_then(|start| start.checked_add(tensor.bytes))
            .ok_or_else(|| out_of_range(tensor))?;
        if last.is_none_or(|(furthest, _)| end > furthest) {
            last = Some((end, tensor));
        }
        if let Some(other) = places.insert(tensor.offset, tensor) {
            return Err(overlap(other, tensor));
        }
    }
    if let Some((needed, tensor)) = last.filter(|(end, _)| *end > file) {
        let what = tensor_named(&tensor.name);
        return Err(HeaderError::Truncated { what, needed, present: file });
    }
    let mut before: Option<&TensorInfo> = None;
    for tensor in places.into_values() {
        if let Some(before) = before
            && before.offset + before.bytes > tensor.offset
        {
            return Err(overlap(before, tensor));
        }
        before = Some(tensor);
    }
    Ok(())
}

fn out_of_range(tensor: &TensorInfo) -> HeaderError {
    malformed(
        tensor_named(&tensor.name),
        format!("offset {} and length {} are out of range", tensor.offset, tensor.bytes),
    )
}

fn overlap(a: &TensorInfo, b: &TensorInfo) -> HeaderError {
    malformed(
        tensor_named(&b.name),
        format!(
            "its data at offset {} overlaps that of {} ({} bytes at offset {})",
            b.offset,
            tensor_named(&a.name),
            a.bytes,
            a.offset
        ),
    )
}

/// A position in the file, never past its end.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// Elements of all arrays so far.
    array_elements: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8], HeaderError> {
        let truncated = || HeaderError::Truncated {
            what: what.to_owned(),
            needed: (self.at as u64).saturating_add(length),
            present: self.file.len() as u64,
        };
        let end = usize::try_from(length).ok().and_then(|l| self.at.checked_add(l));
        let bytes = end.and_then(|end| self.file.get(self.at..end)).ok_or_else(truncated)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], HeaderError> {
        let bytes = self.take(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(bytes);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, HeaderError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, HeaderError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Holds a count of things of at least `size` bytes against what is left.
    fn check_count(&self, what: &str, found: u64, size: u64) -> Result<(), HeaderError> {
        let (at, present) = (self.at as u64, self.file.len() as u64);
        let needed = found.saturating_mul(size).saturating_add(at);
        if needed <= present {
            return Ok(());
        }
        Err(HeaderError::Count { what: what.to_owned(), found, needed, present })
    }

    fn string(&mut self, what: &str, limit: u64) -> Result<String, HeaderError> {
        let length = self.u64(what)?;
        if length > limit {
            let what = format!("the length of {what}");
            return Err(HeaderError::Limit { what, found: length, limit });
        }
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(malformed(what, format!("not UTF-8 ({e})"))),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, HeaderError> {
        let what = metadata_key(key);
        let kind = ValueKind::from_code(self.u32(&what)?, &what)?;
        let ValueKind::Array = kind else { return self.scalar(kind, &what) };

        let element = ValueKind::from_code(self.u32(&what)?, &what)?;
        if element == ValueKind::Array {
            return Err(malformed(what, "arrays of arrays are not supported"));
        }
        let count = self.u64(&what)?;
        self.check_count(&format!("the length of {what}"), count, element.min_bytes())?;
        self.array_elements = self.array_elements.saturating_add(count);
        if self.array_elements > MAX_ARRAY_ELEMENTS {
            return Err(HeaderError::Limit {
                what: format!("the number of array elements up to {what}"),
                found: self.array_elements,
                limit: MAX_ARRAY_ELEMENTS,
            });
        }
        let values = (0..count).map(|_| self.scalar(element, &what));
        values.collect::<Result<_, _>>().map(Value::Array)
    }

    fn scalar(&mut self, kind: ValueKind, what: &str) -> Result<Value, HeaderError> {
        Ok(match kind {
            ValueKind::U8 => Value::U8(u8::from_le_bytes(self.array(what)?)),
            ValueKind::I8 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            ValueKind::U16 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            ValueKind::I16 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            ValueKind::U32 => Value::U32(u32::from_le_bytes(self.array(what)?)),
            ValueKind::I32 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            ValueKind::U64 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            ValueKind::I64 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            ValueKind::F32 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            ValueKind::F64 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            ValueKind::Bool => match self.array::<1>(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(malformed(what, format!("boolean 0 or 1 expected, {other} found")));
                }
            },
            ValueKind::String => Value::String(self.string(what, u64::MAX)?),
            ValueKind::Array => return Err(malformed(what, "a single value expected")),
        })
    }

    fn tensor(&mut self, alignment: u64) -> Result<TensorInfo, HeaderError> {
        let name = self.string("a tensor name", MAX_NAME)?;
        let what = tensor_named(&name);
        let rank = self.u32(&what)?;
        if !(1..=MAX_DIMS).contains(&rank) {
            let message = format!("1 to {MAX_DIMS} dimensions expected, {rank} found");
            return Err(malformed(what, message));
        }
        let dims = (0..rank).map(|_| self.u64(&what)).collect::<Result<Vec<_>, _>>()?;
        let code = self.u32(&what)?;
        let offset = self.u64(&what)?;
        let kind = TensorKind::from_code(code).ok_or_else(|| {
            let known = TensorKind::ALL.map(TensorKind::name).join(", ");
            let found = refused_kind(code);
            malformed(&what, format!("element type {found} is not supported, only {known}"))
        })?;
        let elements = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
        let elements = match elements {
            Some(n) if n > 0 => n,
            _ => return Err(malformed(what, format!("impossible dimensions {dims:?}"))),
        };
        if !dims[0].is_multiple_of(kind.block_size()) {
            let (name, block) = (kind.name(), kind.block_size());
            let message =
                format!("rows of {} elements, but {name} needs a multiple of {block}", dims[0]);
            return Err(malformed(what, message));
        }
        let bytes = (elements / kind.block_size())
            .checked_mul(kind.block_bytes())
            .ok_or_else(|| malformed(&what, format!("impossible dimensions {dims:?}")))?;
        if !offset.is_multiple_of(alignment) {
            let message = format!("offset {offset} is not a multiple of {alignment}");
            return Err(malformed(what, message));
        }
        Ok(TensorInfo { name, dims, kind, offset, bytes })
    }
}

/// The types of metadata values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueKind {
    fn from_code(code: u32, what: &str) -> Result<Self, HeaderError> {
        Ok(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return Err(malformed(what, format!("unknown value type {code}"))),
        })
    }

    /// Fewest bytes a value takes in the file.
    fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String | Self::Array => 8,
        }
    }
}
