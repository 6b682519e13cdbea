//! The bytes of a GGUF header.

use super::{
    header::MAGIC,
    value::{Metadata, Value},
};

/// Where tensors start in the files that are written: multiples of this.
pub(super) const ALIGNMENT: u64 = 32;
/// Of the files that are written.
const VERSION: u32 = 3;

/// A row of the tensor table that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    /// GGUF's order: the row length first.
    pub(super) dims: Vec<u64>,
    /// Number of the element type.
    pub(super) kind: u32,
    /// Start, counted from the end of the header.
    pub(super) offset: u64,
}

/// The header up to the first tensor's data. Empty arrays have no type of
/// element and are left out.
pub(super) fn header(metadata: &Metadata, rows: &[Row]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((rows.len() as u64).to_le_bytes());
    let entries = metadata.iter().filter(|(_, value)| value.as_array() != Some(&[]));
    out.extend((entries.clone().count() as u64).to_le_bytes());
    for (key, value) in entries {
        string(&mut out, key);
        out.extend(code(value).to_le_bytes());
        payload(&mut out, value);
    }
    for row in rows {
        string(&mut out, &row.name);
        out.extend((row.dims.len() as u32).to_le_bytes());
        row.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(row.kind.to_le_bytes());
        out.extend(row.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number that stands for a value's type.
fn code(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn payload(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => string(out, text),
        Value::Array(values) => {
            out.extend(values.first().map_or(4, code).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|v| payload(out, v));
        }
    }
}
