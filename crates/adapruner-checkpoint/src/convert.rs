//! Stored numbers (little-endian floats, GGML blocks) to tensors, checked for
//! NaN and infinity on the way.
//!
//! All threads convert chunks of rows that fit a core's cache, straight from the stored bytes
//! into the tensor's buffer. A stored row may belong in another place: GGUF keeps the rows of a
//! head's query and key projections interleaved (`0, D/2, 1, D/2 + 1, …`), and
//! [`Rows::Interleaved`] brings them back to Hugging Face's order.
//!
//! Axes: `R` rows, `C` columns, `D` head width.

use std::{borrow::Cow, ops::Range};

use candle_core::{CpuStorage, DType, Device, Tensor, WithDType, quantized::GgmlDType};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Elements that one thread converts at a time.
const CHUNK: usize = 1 << 16;

/// The bytes of a stored tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    /// Little-endian floats or GGML blocks; as many as `shape` demands.
    pub bytes: &'a [u8],
    /// Element type; the row length is a multiple of its block.
    pub kind: GgmlDType,
    /// Order of the stored rows.
    pub rows: Rows,
}

/// In which order the rows of a matrix (or the elements of a vector) stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As Hugging Face has them.
    Plain,
    /// Within each head of this many rows (an even number that divides `R`),
    /// row `2·i + half` holds what Hugging Face has in row `half·D/2 + i`.
    Interleaved {
        /// `D`.
        head_dim: usize,
    },
}

impl Rows {
    /// Where wanted row `row` is stored.
    fn stored(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::Interleaved { head_dim } => {
                let (head, inner) = (row / head_dim, row % head_dim);
                let (half, index) = (inner / (head_dim / 2), inner % (head_dim / 2));
                head * head_dim + 2 * index + half
            }
        }
    }
}

/// Why a stored tensor could not become a tensor.
#[derive(Debug)]
pub(crate) enum ConvertError {
    /// What is wrong, for the message about the tensor.
    Values(String),
    /// The tensor library failed.
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for ConvertError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}

/// Converts stored values to a contiguous tensor.
///
/// # Shapes
/// `shape` is `[R, C]` or `[R]`; so is the result.
///
/// # Errors
/// Values that are NaN or infinite (or become so in `dtype`), a `dtype` that
/// is no float, bytes that do not match `shape`, no memory on the device.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; all but floats are refused")]
pub(crate) fn tensor(
    stored: Stored<'_>,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor, ConvertError> {
    let data = match dtype {
        DType::F32 => Tensor::from_vec(values::<f32>(stored, shape)?, shape, device),
        DType::BF16 => Tensor::from_vec(values::<bf16>(stored, shape)?, shape, device),
        DType::F16 => Tensor::from_vec(values::<f16>(stored, shape)?, shape, device),
        DType::F64 => Tensor::from_vec(values::<f64>(stored, shape)?, shape, device),
        other => {
            return Err(ConvertError::Values(format!(
                "cannot be read as {other:?}, only as F32, F16, BF16 or F64"
            )));
        }
    };
    Ok(data?)
}

/// Converts stored values to a vector of `T`.
///
/// # Errors
/// As [`tensor`].
pub(crate) fn values<T: Element>(
    stored: Stored<'_>,
    shape: &[usize],
) -> Result<Vec<T>, ConvertError> {
    let elements: usize = shape.iter().product();
    let rows = shape.first().copied().unwrap_or(1);
    let columns = elements.checked_div(rows).unwrap_or(0);
    let (block, block_bytes) = (stored.kind.block_size(), stored.kind.type_size());
    let expected = elements / block * block_bytes;
    if !elements.is_multiple_of(block) || stored.bytes.len() != expected {
        return Err(ConvertError::Values(format!(
            "{expected} bytes expected for shape {shape:?}, {} found",
            stored.bytes.len()
        )));
    }
    if elements == 0 {
        return Ok(Vec::new());
    }
    let chunk_rows = chunk_rows(stored, rows, columns)?;

    let mut out = vec![T::zero(); elements];
    let bad = out
        .par_chunks_mut(chunk_rows * columns)
        .enumerate()
        .map(|(index, chunk)| -> Result<NonFinite, candle_core::Error> {
            let start = index * chunk_rows * columns;
            let range = start..start + chunk.len();
            convert_chunk(stored, range, columns, chunk)?;
            Ok(NonFinite::count(chunk, start))
        })
        .try_reduce(NonFinite::default, |a, b| Ok(a.join(b)))?;
    match bad.first {
        None => Ok(out),
        Some(first) => {
            let place = match shape {
                [_, _] => format!("[{}, {}]", first / columns, first % columns),
                _ => format!("[{first}]"),
            };
            Err(ConvertError::Values(format!(
                "{} of {elements} values are NaN or infinite, the first at {place}",
                bad.count
            )))
        }
    }
}

/// How many rows a chunk has: whole blocks, whole heads where rows move.
fn chunk_rows(stored: Stored<'_>, rows: usize, columns: usize) -> Result<usize, ConvertError> {
    let plain = (CHUNK / columns).clamp(1, rows);
    let wanted = match stored.rows {
        Rows::Plain => plain,
        Rows::Interleaved { head_dim } => {
            if head_dim == 0 || !head_dim.is_multiple_of(2) || !rows.is_multiple_of(head_dim) {
                return Err(ConvertError::Values(format!(
                    "{rows} rows are not whole heads of an even width {head_dim}"
                )));
            }
            plain.next_multiple_of(head_dim)
        }
    };
    let whole_blocks = columns.is_multiple_of(stored.kind.block_size());
    Ok(if whole_blocks { wanted } else { rows })
}

/// Converts the elements `range` (whole rows, whole blocks) into `out`.
fn convert_chunk<T: Element>(
    stored: Stored<'_>,
    range: Range<usize>,
    columns: usize,
    out: &mut [T],
) -> Result<(), candle_core::Error> {
    let (block, block_bytes) = (stored.kind.block_size(), stored.kind.type_size());
    let bytes = &stored.bytes[range.start / block * block_bytes..range.end / block * block_bytes];
    match stored.kind {
        GgmlDType::F32 => place(stored.rows, columns, bytes, 4, out, T::from_f32_bytes),
        GgmlDType::F16 => place(stored.rows, columns, bytes, 2, out, T::from_f16_bytes),
        GgmlDType::BF16 => place(stored.rows, columns, bytes, 2, out, T::from_bf16_bytes),
        GgmlDType::Q4_0
        | GgmlDType::Q4_1
        | GgmlDType::Q5_0
        | GgmlDType::Q5_1
        | GgmlDType::Q8_0
        | GgmlDType::Q8_1
        | GgmlDType::Q2K
        | GgmlDType::Q3K
        | GgmlDType::Q4K
        | GgmlDType::Q5K
        | GgmlDType::Q6K
        | GgmlDType::Q8K => {
            let blocks = stored.kind.from_data(Cow::Borrowed(bytes));
            let CpuStorage::F32(floats) = blocks.dequantize(range.len())? else {
                candle_core::bail!("{:?} did not dequantise to F32", stored.kind);
            };
            place(stored.rows, columns, &floats, 1, out, T::from_floats);
        }
    }
    Ok(())
}

/// Converts rows of `columns · width` items of `source` into rows of `out`,
/// whole heads at a time where their order changes.
fn place<S, T>(
    rows: Rows,
    columns: usize,
    source: &[S],
    width: usize,
    out: &mut [T],
    convert: impl Fn(&[S], &mut [T]),
) {
    match rows {
        Rows::Plain => convert(source, out),
        Rows::Interleaved { .. } => {
            let stride = columns * width;
            for (row, wanted) in out.chunks_exact_mut(columns).enumerate() {
                let at = rows.stored(row) * stride;
                convert(&source[at..at + stride], wanted);
            }
        }
    }
}

/// Values that are NaN or infinite.
#[derive(Debug, Default, Clone, Copy)]
struct NonFinite {
    count: usize,
    /// Flat index of the first.
    first: Option<usize>,
}

impl NonFinite {
    /// One pass over `values`, which start at flat index `offset`.
    fn count<T: Element>(values: &[T], offset: usize) -> Self {
        let count: usize = values
            .chunks(CHUNK)
            .map(|part| part.iter().map(|v| u32::from(!v.finite())).sum::<u32>() as usize)
            .sum();
        let first = (count > 0)
            .then(|| values.iter().position(|v| !v.finite()).map(|i| offset + i))
            .flatten();
        Self { count, first }
    }

    fn join(self, other: Self) -> Self {
        let first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { count: self.count + other.count, first }
    }
}

/// A float type that tensors are read as.
pub(crate) trait Element: WithDType {
    /// Rounds single-precision values.
    fn from_floats(source: &[f32], out: &mut [Self]);

    /// Reads little-endian f32.
    fn from_f32_bytes(source: &[u8], out: &mut [Self]) {
        blockwise(source, 4, out, |bytes, floats| {
            four(bytes, floats, f32::from_bits);
        });
    }

    /// Reads little-endian bf16.
    fn from_bf16_bytes(source: &[u8], out: &mut [Self]) {
        blockwise(source, 2, out, |bytes, floats| {
            two(bytes, floats, |bits| f32::from_bits(u32::from(bits) << 16));
        });
    }

    /// Reads little-endian f16.
    fn from_f16_bytes(source: &[u8], out: &mut [Self]) {
        blockwise(source, 2, out, |bytes, floats| {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..floats.len()];
            two(bytes, halves, f16::from_bits);
            halves.convert_to_f32_slice(floats);
        });
    }

    /// Neither NaN nor infinite.
    fn finite(self) -> bool;
}

/// Elements that pass through the stack at a time.
const BLOCK: usize = 1024;

/// Decodes `source` (`width` bytes an element) by way of f32 on the stack.
fn blockwise<T: Element>(
    source: &[u8],
    width: usize,
    out: &mut [T],
    decode: impl Fn(&[u8], &mut [f32]),
) {
    let mut floats = [0f32; BLOCK];
    for (bytes, out) in source.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK)) {
        let floats = &mut floats[..out.len()];
        decode(bytes, floats);
        T::from_floats(floats, out);
    }
}

fn four<T>(source: &[u8], out: &mut [T], convert: impl Fn(u32) -> T) {
    for (bytes, out) in source.as_chunks::<4>().0.iter().zip(out) {
        *out = convert(u32::from_le_bytes(*bytes));
    }
}

fn two<T>(source: &[u8], out: &mut [T], convert: impl Fn(u16) -> T) {
    for (bytes, out) in source.as_chunks::<2>().0.iter().zip(out) {
        *out = convert(u16::from_le_bytes(*bytes));
    }
}

impl Element for f32 {
    fn from_floats(source: &[f32], out: &mut [Self]) {
        out.copy_from_slice(source);
    }

    fn from_f32_bytes(source: &[u8], out: &mut [Self]) {
        four(source, out, Self::from_bits);
    }

    fn from_bf16_bytes(source: &[u8], out: &mut [Self]) {
        two(source, out, |bits| Self::from_bits(u32::from(bits) << 16));
    }

    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for bf16 {
    fn from_floats(source: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(source);
    }

    fn from_bf16_bytes(source: &[u8], out: &mut [Self]) {
        two(source, out, Self::from_bits);
    }

    fn finite(self) -> bool {
        self.to_bits() & 0x7F80 != 0x7F80
    }
}

impl Element for f16 {
    fn from_floats(source: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(source);
    }

    fn from_f16_bytes(source: &[u8], out: &mut [Self]) {
        two(source, out, Self::from_bits);
    }

    fn finite(self) -> bool {
        self.to_bits() & 0x7C00 != 0x7C00
    }
}

impl Element for f64 {
    fn from_floats(source: &[f32], out: &mut [Self]) {
        for (value, out) in source.iter().zip(out) {
            *out = Self::from(*value);
        }
    }

    fn finite(self) -> bool {
        self.is_finite()
    }
}
