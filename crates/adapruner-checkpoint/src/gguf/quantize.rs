//! Which element type a tensor is stored in, and its values in that type.
//!
//! Axes: `R` rows, `C` columns (the row length), `D` head width.

use candle_core::{CpuStorage, Device, Storage, Tensor, quantized::QTensor};
use rayon::prelude::*;

use super::kind::TensorKind;
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    names::{ExpectedTensor, Part},
    output::{FloatType, for_bytes, load},
};

/// Elements that one thread quantises at a time; whole blocks of every type.
const CHUNK: usize = 1 << 14;

/// The type that a tensor is stored in, where `wanted` is asked for.
///
/// As llama.cpp's quantisation has it: vectors are F32;
/// the matrix that gives the logits is Q6_K (Q8_0 where its rows do not fit)
/// below eight bits; rows that fit no block of the type fall back to a type of
/// blocks of 32, and to F16 where these do not fit either. llama.cpp falls
/// back from Q2_K and Q3_K to IQ4_NL, which is not written here: Q4_0, of the
/// same size, takes its place.
pub(super) fn stored_kind(wanted: TensorKind, tensor: &ExpectedTensor, tied: bool) -> TensorKind {
    let [_, columns] = tensor.shape[..] else { return TensorKind::F32 };
    let fits = |kind: TensorKind| (columns as u64).is_multiple_of(kind.block_size());
    let output = if tied { Part::Embedding } else { Part::Head };
    let wanted = match wanted {
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 | TensorKind::Q8_0 => wanted,
        TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q2K
        | TensorKind::Q3K
        | TensorKind::Q4K
        | TensorKind::Q5K
        | TensorKind::Q6K => {
            if tensor.part == output {
                TensorKind::Q6K
            } else {
                wanted
            }
        }
    };
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        TensorKind::Q2K | TensorKind::Q3K => TensorKind::Q4_0,
        TensorKind::Q4K => TensorKind::Q5_0,
        TensorKind::Q5K => TensorKind::Q5_1,
        TensorKind::Q6K => TensorKind::Q8_0,
        TensorKind::F32
        | TensorKind::F16
        | TensorKind::BF16
        | TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q8_0 => TensorKind::F16,
    };
    if fits(smaller) { smaller } else { TensorKind::F16 }
}

/// What is done to a tensor's values before they are stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StoredAs {
    /// `D` where the rows of heads are interleaved.
    pub(super) interleave: Option<usize>,
    /// Whether one more than the weight is stored.
    pub(super) one_plus: bool,
}

/// Reads a tensor and hands on its bytes as GGUF stores them: rows of query
/// and key projections interleaved, one added, where that is asked for, values in
/// `kind`.
///
/// # Shapes
/// `[R, C]` or `[R]`, as `tensor` says.
///
/// # Errors
/// See [`load`]; values that the scale of a block cannot hold.
pub(super) fn write_tensor(
    checkpoint: &Checkpoint,
    tensor: &ExpectedTensor,
    kind: TensorKind,
    stored: StoredAs,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let float = match kind {
        TensorKind::F16 => FloatType::F16,
        TensorKind::BF16 => FloatType::Bf16,
        TensorKind::F32
        | TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q8_0
        | TensorKind::Q2K
        | TensorKind::Q3K
        | TensorKind::Q4K
        | TensorKind::Q5K
        | TensorKind::Q6K => FloatType::F32,
    };
    let mut values = load(checkpoint, tensor, float)?;
    if let Some(head_dim) = stored.interleave {
        values = interleaved(&values, head_dim)?;
    }
    if stored.one_plus {
        values = (values + 1.0)?;
    }
    match kind {
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => for_bytes(&values, sink),
        TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q8_0
        | TensorKind::Q2K
        | TensorKind::Q3K
        | TensorKind::Q4K
        | TensorKind::Q5K
        | TensorKind::Q6K => {
            let beyond = |value: &f32| value.abs() > 65_504.0;
            let (storage, layout) = values.storage_and_layout();
            let floats = match (&*storage, layout.contiguous_offsets()) {
                (Storage::Cpu(CpuStorage::F32(floats)), Some((start, end))) => &floats[start..end],
                _ => return Err(candle_core::Error::Msg("not in plain memory".into()).into()),
            };
            if floats.par_iter().any(beyond) {
                let message = format!("has values beyond ±65504, too large for {}", kind.name());
                return Err(Error::tensor(&checkpoint.origin, &tensor.name, message)
                    .advise("store the weights as bf16 or f32"));
            }
            // As many chunks at a time as keep all threads busy, no more.
            for part in floats.chunks(CHUNK * 64) {
                let blocks = part.par_chunks(CHUNK).map(|chunk| quantize(chunk, kind));
                for bytes in blocks.collect::<Result<Vec<_>>>()? {
                    sink(&bytes)?;
                }
            }
            Ok(())
        }
    }
}

/// The blocks of some values, as many as whole blocks take.
fn quantize(values: &[f32], kind: TensorKind) -> Result<Vec<u8>> {
    let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, kind.ggml_dtype())?.data()?.into_owned())
}

/// The rows of each head of width `D` in GGUF's order: first, first of the
/// second half, second, second of the second half, and so on.
///
/// # Shapes
/// `[R, C]` or `[R]`, `R` a multiple of `D`; so is the result.
fn interleaved(values: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (rows, columns) = (values.dim(0)?, values.elem_count() / values.dim(0)?);
    let halves = values.reshape((rows / head_dim, 2, head_dim / 2, columns))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape(values.dims())?)
}
