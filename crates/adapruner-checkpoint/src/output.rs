//! Shared code of the model writers: files with digests, and tensors as bytes.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::Checkpoint,
    digest::Digest,
    error::{Error, Result},
    names::ExpectedTensor,
};

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Its name in the output folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Digest of its content.
    pub digest: Digest,
}

impl OutputFile {
    /// A file that is there, by its name alone.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, bytes, digest: Digest::of_file(path)? })
    }
}

/// What a writer made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The files, in the order they were written.
    pub files: Vec<OutputFile>,
    /// Type of the weight matrices, in the words of the format.
    pub dtype: String,
    /// What the user should know: programs that will not open it, tensors that were stored in
    /// another type than requested.
    pub warnings: Vec<String>,
}

/// Told how many bytes of tensors are written, and how many there are in all.
pub type OnProgress<'a> = dyn FnMut(u64, u64) + 'a;

/// Float types that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloatType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Brain float.
    Bf16,
}

impl FloatType {
    /// The tensor library's name of the type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The formats' name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The type that holds without loss what is stored as `stored`, and F16
    /// for blocks of integers, whose scales are F16.
    pub(crate) fn of_stored(stored: &str) -> Self {
        match stored {
            "F32" | "F64" => Self::F32,
            "BF16" => Self::Bf16,
            _ => Self::F16,
        }
    }
}

/// The type in which a checkpoint's tensors are kept together: theirs, F32 where they differ.
pub(crate) fn kept_type(checkpoint: &Checkpoint, tensors: &[ExpectedTensor]) -> FloatType {
    let kind = |tensor: &ExpectedTensor| match checkpoint.tensors.meta(&tensor.name) {
        Some(meta) => FloatType::of_stored(&meta.stored),
        None => FloatType::F32,
    };
    let mut kinds = tensors.iter().map(kind);
    let first = kinds.next().unwrap_or(FloatType::F32);
    if kinds.all(|kind| kind == first) { first } else { FloatType::F32 }
}

/// The type that most of the weights of `tensors` have, by number of elements.
pub(crate) fn prevailing_type(tensors: &[(FloatType, u64)]) -> FloatType {
    let elements = |kind| tensors.iter().filter(|(k, _)| *k == kind).map(|(_, n)| n).sum::<u64>();
    [FloatType::F32, FloatType::Bf16, FloatType::F16]
        .into_iter()
        .max_by_key(|kind| elements(*kind))
        .unwrap_or(FloatType::F32)
}

/// Reads a tensor for a writer, of the shape that the configuration demands.
///
/// # Shapes
/// That of `tensor`.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    tensor: &ExpectedTensor,
    kind: FloatType,
) -> Result<Tensor> {
    let name = &tensor.name;
    let load = |dtype| checkpoint.tensors.load(name, dtype, &Device::Cpu);
    let loaded = match load(kind.dtype()) {
        // Told apart from values that were bad before.
        Err(Error::Tensor { .. }) if kind == FloatType::F16 && load(DType::F32).is_ok() => {
            let message = "has values beyond ±65504, which F16 cannot hold";
            return Err(Error::tensor(&checkpoint.origin, name, message)
                .advise("store the weights as bf16 or f32"));
        }
        loaded => loaded?,
    };
    if loaded.dims() != tensor.shape {
        let message = format!("shape {:?} expected, {:?} found", tensor.shape, loaded.dims());
        return Err(Error::tensor(&checkpoint.origin, name, message));
    }
    Ok(loaded.contiguous()?)
}

/// Hands the values of a tensor on as little-endian bytes, a piece at a time.
///
/// # Shapes
/// Any; the tensor is contiguous, on the CPU, F32, F16 or BF16.
pub(crate) fn for_bytes(tensor: &Tensor, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    /// Elements of a piece.
    const PIECE: usize = 1 << 16;
    let (storage, layout) = tensor.storage_and_layout();
    let foreign = || Error::Candle(candle_core::Error::Msg("tensor is not in plain memory".into()));
    let (start, end) = layout.contiguous_offsets().ok_or_else(foreign)?;
    let mut bytes = Vec::with_capacity(PIECE * 4);
    let mut pieces = |count: usize, push: &dyn Fn(usize, usize, &mut Vec<u8>)| -> Result<()> {
        for from in (0..count).step_by(PIECE) {
            bytes.clear();
            push(from, (from + PIECE).min(count), &mut bytes);
            sink(&bytes)?;
        }
        Ok(())
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign enum; the writers load floats only"
    )]
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let values = &values[start..end];
            pieces(values.len(), &|from, to, out| {
                values[from..to].iter().for_each(|v| out.extend(v.to_le_bytes()));
            })
        }
        Storage::Cpu(CpuStorage::F16(values)) => {
            let values = &values[start..end];
            pieces(values.len(), &|from, to, out| {
                values[from..to].iter().for_each(|v| out.extend(v.to_le_bytes()));
            })
        }
        Storage::Cpu(CpuStorage::BF16(values)) => {
            let values = &values[start..end];
            pieces(values.len(), &|from, to, out| {
                values[from..to].iter().for_each(|v| out.extend(v.to_le_bytes()));
            })
        }
        _ => Err(foreign()),
    }
}

/// A tensor in the header of a safetensors file.
pub(crate) struct HeaderEntry {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: u64,
}

/// The header of a safetensors file, its length first, blanks behind it so that
/// tensors start at a multiple of eight.
pub(crate) fn safetensors_header(
    metadata: serde_json::Value,
    tensors: impl Iterator<Item = HeaderEntry>,
) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), metadata);
    let mut offset = 0;
    for HeaderEntry { name, dtype, shape, bytes } in tensors {
        let end = offset + bytes;
        let place = [offset, end];
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": place});
        entries.insert(name, entry);
        offset = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    bytes
}

/// A file being written, with its digest.
pub(crate) struct FileWriter {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl FileWriter {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path, "create"))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<OutputFile> {
        self.file.flush().map_err(Error::io(&self.path, "write"))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = Digest::from_bytes(*self.hasher.finalize().as_bytes());
        Ok(OutputFile { name, bytes: self.bytes, digest })
    }
}

/// Writes a small file.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<OutputFile> {
    let mut file = FileWriter::create(path)?;
    file.write(bytes)?;
    file.finish()
}
