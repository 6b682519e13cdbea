//! The tensors of a GGUF file under their Hugging Face names.
//!
//! Files of some architectures keep the rows of query and key projections
//! (and the elements of their biases) interleaved for adjacent-pair rotary
//! embedding; they are brought back to Hugging Face's half-split order when
//! they are read. Norms that multiply by one more than their weight hold the sum.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, OnceLock},
};

use adapruner_arch::family::{NormWeight, RowOrder};
use candle_core::{DType, Device, Tensor};

use super::{
    header::{Header, shown},
    kind::TensorKind,
};
use crate::{
    checkpoint::{TensorMeta, TensorSource},
    config::ModelConfig,
    convert::{self, ConvertError, Rows, Stored},
    digest::Digest,
    error::{Error, Result},
    mapped::MappedFile,
    names::{ExpectedTensor, FileFormat, stored_tensors},
    replaced::check_finite,
};

/// The frequency divisors of a scaled rotary embedding, which belong to the
/// configuration, not to the weights.
pub const ROPE_FREQS: &str = "rope_freqs.weight";
/// Those for short texts.
pub const ROPE_SHORT: &str = "rope_factors_short.weight";
/// Those for long texts.
pub const ROPE_LONG: &str = "rope_factors_long.weight";

/// All of them.
const OF_ROTATION: [&str; 3] = [ROPE_FREQS, ROPE_SHORT, ROPE_LONG];

/// Where a tensor lies and how it is stored.
#[derive(Debug)]
struct Entry {
    range: Range<usize>,
    kind: TensorKind,
    /// Row-major.
    shape: Vec<usize>,
    rows: Rows,
    /// Whether it holds one more than the weight.
    one_plus: bool,
}

/// A [`TensorSource`] over a mapped GGUF file.
#[derive(Debug)]
pub struct GgufSource {
    file: Arc<MappedFile>,
    entries: BTreeMap<String, Entry>,
    digest: OnceLock<Digest>,
}

impl GgufSource {
    /// The tensors of `file`, whose header is `header`, of a model of this configuration.
    ///
    /// # Errors
    /// A tensor that no such model has, or one that does not lie in the file.
    pub fn new(file: Arc<MappedFile>, header: &Header, config: &ModelConfig) -> Result<Self> {
        let (family, mut entries) = (config.family(), BTreeMap::new());
        let expected = stored_tensors(config, family, FileFormat::Gguf).into_iter();
        let expected = expected.map(|t| (t.gguf_name, (t.shape, t.parts)));
        let expected: BTreeMap<String, (Vec<usize>, Vec<ExpectedTensor>)> = expected.collect();
        let rotated = match family.gguf.map(|gguf| gguf.rows) {
            None | Some(RowOrder::HalfSplit) => Rows::Plain,
            Some(RowOrder::Interleaved) => Rows::Interleaved { head_dim: config.head_dim },
        };
        for tensor in header.tensors.iter().filter(|t| !OF_ROTATION.contains(&t.name.as_str())) {
            let Some((whole, parts)) = expected.get(&tensor.name) else {
                let message = format!(
                    "tensor {} is not part of the {} model that the metadata describes",
                    shown(&tensor.name),
                    family.title
                );
                return Err(Error::unsupported(file.path(), message));
            };
            let name = &parts[0].name;
            let outside = || Error::tensor(file.path(), name, "does not lie in the file");
            let bytes = header.data(tensor, &file).ok_or_else(outside)?;
            let start = bytes.as_ptr().addr() - file.as_ptr().addr();
            let shape = tensor.dims.iter().rev().map(|&d| usize::try_from(d));
            let shape = shape.collect::<Result<Vec<_>, _>>().map_err(|_| outside())?;
            // One alone may be of another shape, which is told with all others.
            if parts.len() > 1 && shape != *whole {
                let message = format!("shape {whole:?} expected, {shape:?} found");
                return Err(Error::tensor(file.path(), &tensor.name, message));
            }
            let elements = |shape: &[usize]| shape.iter().product::<usize>();
            let mut from = start;
            for ExpectedTensor { part, name, shape: of_part } in parts {
                let of_part = if parts.len() > 1 { of_part } else { &shape };
                let end = match parts.len() {
                    1 => start + bytes.len(),
                    // Whole rows, and rows are whole blocks.
                    _ => {
                        let share = bytes.len() as u128 * elements(of_part) as u128;
                        from + (share / elements(whole).max(1) as u128) as usize
                    }
                };
                let entry = Entry {
                    range: from..end,
                    kind: tensor.kind,
                    shape: of_part.clone(),
                    rows: if part.is_rotated() { rotated } else { Rows::Plain },
                    one_plus: part.is_norm() && family.norm_weight == NormWeight::OnePlus,
                };
                entries.insert(name.clone(), entry);
                from = end;
            }
        }
        Ok(Self { file, entries, digest: OnceLock::new() })
    }
}

impl TensorSource for GgufSource {
    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.entries.get(name).map(|entry| TensorMeta {
            shape: entry.shape.clone(),
            stored: entry.kind.name().to_owned(),
            bytes: entry.range.len() as u64,
        })
    }

    /// # Shapes
    /// As [`meta`](TensorSource::meta) says: GGUF's dimensions reversed.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let path = self.file.path();
        let entry =
            self.entries.get(name).ok_or_else(|| Error::tensor(path, name, "not in the file"))?;
        let stored = Stored {
            bytes: &self.file[entry.range.clone()],
            kind: entry.kind.ggml_dtype(),
            rows: entry.rows,
        };
        let read = if entry.one_plus { DType::F32 } else { dtype };
        let tensor = convert::tensor(stored, &entry.shape, read, device);
        self.file.release(entry.range.clone());
        let tensor = tensor.map_err(|error| match error {
            ConvertError::Values(message) => Error::tensor(path, name, message),
            ConvertError::Candle(error) => error.into(),
        })?;
        if !entry.one_plus {
            return Ok(tensor);
        }
        let tensor = (tensor - 1.0)?.to_dtype(dtype)?;
        check_finite(name, &tensor)?;
        Ok(tensor)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(*self.digest.get_or_init(|| self.file.digest()))
    }
}
