//! The tensors of a GGUF file under their Hugging Face names.
//!
//! GGUF's `llama` and `deci` files keep the rows of query and key projections
//! (and the elements of their biases) interleaved for adjacent-pair rotary
//! embedding; they are brought back to Hugging Face's half-split order when
//! they are read.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, OnceLock},
};

use candle_core::{DType, Device, Tensor};

use super::{
    header::{Header, shown},
    kind::TensorKind,
};
use crate::{
    checkpoint::{TensorMeta, TensorSource},
    convert::{self, ConvertError, Rows, Stored},
    digest::Digest,
    error::{Error, Result},
    mapped::MappedFile,
    names::{self, Projection},
};

/// The frequency divisors of a scaled rotary embedding, which belong to the
/// configuration, not to the weights.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// GGUF's name of a projection inside its block.
pub fn projection_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "attn_q",
        Projection::K => "attn_k",
        Projection::V => "attn_v",
        Projection::O => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    }
}

/// The Hugging Face name of a GGUF tensor, and the projection it belongs to;
/// `None` for a name that Llama's block does not have.
pub fn canonical_name(gguf: &str) -> Option<(String, Option<Projection>)> {
    match gguf {
        "token_embd.weight" => return Some((names::EMBEDDING.to_owned(), None)),
        "output_norm.weight" => return Some((names::FINAL_NORM.to_owned(), None)),
        "output.weight" => return Some((names::HEAD.to_owned(), None)),
        _ => {}
    }
    let (index, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = index.parse().ok()?;
    if layer.to_string() != index {
        return None;
    }
    match rest {
        "attn_norm.weight" => return Some((names::input_norm(layer), None)),
        "ffn_norm.weight" => return Some((names::ffn_norm(layer), None)),
        _ => {}
    }
    let (module, part) = rest.split_once('.')?;
    let projection = Projection::ALL.into_iter().find(|p| projection_name(*p) == module)?;
    let name = match part {
        "weight" => projection.weight(layer),
        "bias" => projection.bias(layer),
        _ => return None,
    };
    Some((name, Some(projection)))
}

/// Where a tensor lies and how it is stored.
#[derive(Debug)]
struct Entry {
    range: Range<usize>,
    kind: TensorKind,
    /// Row-major.
    shape: Vec<usize>,
    rows: Rows,
}

/// A [`TensorSource`] over a mapped GGUF file.
#[derive(Debug)]
pub struct GgufSource {
    file: Arc<MappedFile>,
    entries: BTreeMap<String, Entry>,
    digest: OnceLock<Digest>,
}

impl GgufSource {
    /// The tensors of `file`, whose header is `header` and whose heads are
    /// `head_dim` (`D`) wide.
    ///
    /// # Errors
    /// A tensor that no Llama block has, or one that does not lie in the file.
    pub fn new(file: Arc<MappedFile>, header: &Header, head_dim: usize) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for tensor in header.tensors.iter().filter(|t| t.name != ROPE_FREQS) {
            let Some((name, projection)) = canonical_name(&tensor.name) else {
                let message =
                    format!("tensor {} is not part of a Llama model", shown(&tensor.name));
                return Err(Error::unsupported(file.path(), message));
            };
            let outside = || Error::tensor(file.path(), &name, "does not lie in the file");
            let bytes = header.data(tensor, &file).ok_or_else(outside)?;
            let start = bytes.as_ptr().addr() - file.as_ptr().addr();
            let shape = tensor.dims.iter().rev().map(|&d| usize::try_from(d));
            let shape = shape.collect::<Result<Vec<_>, _>>().map_err(|_| outside())?;
            let rows = match projection {
                Some(Projection::Q | Projection::K) => Rows::Interleaved { head_dim },
                Some(
                    Projection::V
                    | Projection::O
                    | Projection::Gate
                    | Projection::Up
                    | Projection::Down,
                )
                | None => Rows::Plain,
            };
            let range = start..start + bytes.len();
            entries.insert(name, Entry { range, kind: tensor.kind, shape, rows });
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
        let tensor = convert::tensor(stored, &entry.shape, dtype, device);
        self.file.release(entry.range.clone());
        tensor.map_err(|error| match error {
            ConvertError::Values(message) => Error::tensor(path, name, message),
            ConvertError::Candle(error) => error.into(),
        })
    }

    fn digest(&self) -> Result<Digest> {
        Ok(*self.digest.get_or_init(|| self.file.digest()))
    }
}
