//! GGUF files built by hand, good or broken.

use adapruner_checkpoint::gguf::{TensorKind, Value};

/// A tensor to be laid into a file.
#[derive(Debug, Clone)]
pub struct TensorBytes {
    pub name: String,
    /// GGUF's order: the row length first.
    pub dims: Vec<u64>,
    pub kind: u32,
    /// Where it starts; behind the one before where `None`.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A GGUF file, its parts open to change before it is put together.
#[derive(Debug, Clone)]
pub struct GgufBytes {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<TensorBytes>,
    pub alignment: u64,
}

impl Default for GgufBytes {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }
}

impl GgufBytes {
    pub fn entry(mut self, key: &str, value: Value) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self.entries.push((key.to_owned(), value));
        self
    }

    /// Adds an F32 tensor of row-major `shape`.
    pub fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, shape, TensorKind::F32, data)
    }

    pub fn tensor(mut self, name: &str, shape: &[usize], kind: TensorKind, data: Vec<u8>) -> Self {
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        let kind = kind.code();
        self.tensors.push(TensorBytes { name: name.to_owned(), dims, kind, offset: None, data });
        self
    }

    /// The bytes up to the tensors' data, and the whole file.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            string(&mut out, key);
            out.extend(code(value).to_le_bytes());
            payload(&mut out, value);
        }
        let mut next = 0u64;
        let mut places = Vec::new();
        for tensor in &self.tensors {
            let offset = tensor.offset.unwrap_or(next);
            let end = offset.saturating_add(tensor.data.len() as u64);
            next = end.checked_next_multiple_of(self.alignment).unwrap_or(0);
            places.push(offset as usize);
            string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        let start = out.len().next_multiple_of(self.alignment as usize);
        for (tensor, place) in self.tensors.iter().zip(places) {
            let end = (start + tensor.data.len()).saturating_add(place);
            // An offset that is absurd on purpose is not followed.
            if end < 1 << 30 {
                out.resize(out.len().max(end), 0);
                out[end - tensor.data.len()..end].copy_from_slice(&tensor.data);
            }
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

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
