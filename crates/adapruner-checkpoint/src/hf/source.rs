//! The tensors of a Hugging Face folder: one `model.safetensors`, or shards
//! and their index.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use adapruner_arch::multimodal::{Composite, Naming};
use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use safetensors::{Dtype, tensor::Metadata};

use super::read_json;
use crate::{
    checkpoint::{TensorMeta, TensorSource},
    config::ModelConfig,
    convert::{self, ConvertError, Rows, Stored},
    digest::Digest,
    error::{Error, Result},
    mapped::MappedFile,
    names::{FileFormat, StoredTensor, stored_tensors},
};

/// The weights of a model that has them in one file.
pub const SINGLE: &str = "model.safetensors";
/// The index of a model whose weights are sharded.
pub const INDEX: &str = "model.safetensors.index.json";

/// Largest header of a safetensors file, as the format's own reader has it.
const MAX_HEADER: u64 = 100_000_000;
/// What `torch.compile`, data-parallel training and PEFT put before the names of
/// a model's tensors.
const PREFIXES: [&str; 3] = ["_orig_mod.", "module.", "base_model.model."];
/// Most files of one model.
const MAX_SHARDS: usize = 1 << 12;

/// Where a tensor lies and how it is stored.
#[derive(Debug)]
struct Entry {
    shard: usize,
    range: Range<usize>,
    /// Where its bytes lie in pieces: how long a piece is, and from one to the next.
    pieces: Option<(usize, usize)>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Entry {
    /// The bytes, of a shard.
    fn bytes<'a>(&self, shard: &'a [u8]) -> Cow<'a, [u8]> {
        let all = &shard[self.range.clone()];
        match self.pieces {
            None => Cow::Borrowed(all),
            Some((piece, step)) => {
                let pieces = all.chunks(step).flat_map(|from| &from[..piece.min(from.len())]);
                Cow::Owned(pieces.copied().collect())
            }
        }
    }

    fn meta(&self) -> TensorMeta {
        TensorMeta {
            shape: self.shape.clone(),
            stored: format!("{:?}", self.dtype),
            bytes: self.len() as u64,
        }
    }

    /// How many bytes it has.
    fn len(&self) -> usize {
        match self.pieces {
            None => self.range.len(),
            Some((piece, step)) => self.range.len().div_ceil(step) * piece,
        }
    }
}

/// A [`TensorSource`] over mapped safetensors files.
#[derive(Debug)]
pub struct SafetensorsSource {
    folder: PathBuf,
    /// In the order of their names.
    shards: Vec<MappedFile>,
    /// The model's tensors, by canonical name.
    entries: BTreeMap<String, Entry>,
    /// Those of the parts beside a language model, by the names in the files.
    others: BTreeMap<String, Entry>,
    /// How the files name the model's tensors, where not by their canonical names.
    naming: Option<&'static Naming>,
    /// Digests of the small files that belong to the model, by name.
    files: Vec<(String, Digest)>,
    digest: OnceLock<Digest>,
}

impl SafetensorsSource {
    /// Maps the weights of `folder`. `files` are the digests of what belongs
    /// to the model beside the weights; they enter this source's digest.
    ///
    /// # Errors
    /// No safetensors weights, a shard that is missing, a damaged header, a
    /// tensor that stands in no shard or in another than the index says.
    pub fn open(folder: &Path, files: Vec<(String, Digest)>) -> Result<Self> {
        let mut source = Self {
            folder: folder.to_path_buf(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            others: BTreeMap::new(),
            naming: None,
            files,
            digest: OnceLock::new(),
        };
        let index = folder.join(INDEX);
        if folder.join(SINGLE).exists() {
            source.add_shard(SINGLE)?;
        } else if index.exists() {
            source.add_indexed(&index)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(source)
    }

    /// Takes the tensors of the language model by the names that it has alone, and sets those of
    /// the other parts aside; how the folder names them.
    ///
    /// # Errors
    /// No tensors of a language model; one that belongs to no part.
    pub fn set_others_aside(&mut self, composite: &'static Composite) -> Result<&'static Naming> {
        let named = |naming: &&Naming| {
            let begin = naming.language.first().map_or("", |(_, here)| here);
            self.entries.keys().any(|name| name.starts_with(begin))
        };
        let Some(naming) = composite.namings.iter().find(named) else {
            let begin = |naming: &Naming| Some(format!("{}…", naming.language.first()?.1));
            let known: Vec<String> = composite.namings.iter().filter_map(begin).collect();
            let message =
                format!("no tensors of a language model, {} expected", known.join(" or "));
            return Err(Error::format(&self.folder, message));
        };
        for (name, entry) in std::mem::take(&mut self.entries) {
            if let Some(own) = naming.alone(&name) {
                self.entries.insert(own, entry);
            } else if naming.part(composite.parts, &name).is_some() {
                self.others.insert(name, entry);
            } else {
                let message = format!("belongs to no part of {}", composite.title);
                return Err(Error::tensor(&self.folder, name, message));
            }
        }
        self.naming = Some(naming);
        Ok(naming)
    }

    /// The name that a tensor of the model has in the folder.
    pub fn name_in_folder(&self, name: &str) -> String {
        self.naming.map_or_else(|| name.to_owned(), |naming| naming.here(name))
    }

    /// Names, shapes and types of the tensors of the parts beside a language model.
    pub fn others(&self) -> impl Iterator<Item = (&str, TensorMeta)> {
        self.others.iter().map(|(name, entry)| (name.as_str(), entry.meta()))
    }

    /// Reads a tensor of a part beside the language model: the stored bytes.
    ///
    /// # Errors
    /// One that is not there, or has values that are NaN or infinite.
    pub fn other<T>(&self, name: &str, then: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let Some(entry) = self.others.get(name) else {
            return Err(Error::tensor(&self.folder, name, "not in the folder"));
        };
        let shard = &self.shards[entry.shard];
        let bytes = entry.bytes(shard);
        if let Some(kind) = float_kind(entry.dtype) {
            let stored = Stored { bytes: &bytes, kind, rows: Rows::Plain };
            convert::values::<f32>(stored, &entry.shape).map_err(|error| match error {
                ConvertError::Values(message) => Error::tensor(shard.path(), name, message),
                ConvertError::Candle(error) => error.into(),
            })?;
        }
        let done = then(&bytes);
        shard.release(entry.range.clone());
        done
    }

    /// Drops the tensors that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| keep(name));
    }

    /// Takes the matrices apart that the folder holds as one.
    ///
    /// # Errors
    /// One whose shape is not that of its parts.
    pub fn take_apart(&mut self, config: &ModelConfig) -> Result<()> {
        let stored = stored_tensors(config, config.family(), FileFormat::HuggingFace);
        for stored in stored.iter().filter(|t| t.parts.len() > 1) {
            let StoredTensor { name, shape, parts, .. } = stored;
            let Some(whole) = self.entries.remove(name) else {
                let message = format!("missing, shape {shape:?} expected");
                return Err(Error::tensor(&self.folder, name, message));
            };
            if whole.shape != *shape {
                let message = format!("shape {shape:?} expected, {:?} found", whole.shape);
                return Err(Error::tensor(&self.folder, name, message));
            }
            let row = whole.range.len() / shape[0].max(1);
            // In how many rounds all parts are gone through.
            let rounds = stored.rounds(config);
            let step = whole.range.len() / rounds;
            let mut start = whole.range.start;
            for part in parts {
                let piece = part.shape[0] / rounds * row;
                let end = start + piece;
                let entry = Entry {
                    range: start..start + (rounds - 1) * step + piece,
                    pieces: (rounds > 1).then_some((piece, step)),
                    shape: part.shape.clone(),
                    dtype: whole.dtype,
                    shard: whole.shard,
                };
                self.entries.insert(part.name.clone(), entry);
                start = end;
            }
        }
        Ok(())
    }

    /// Refuses experts that the folder holds as one tensor.
    ///
    /// # Errors
    /// The first such tensor.
    pub fn check_experts(&self, config: &ModelConfig) -> Result<()> {
        const EXPERTS: &str = ".experts.";
        let stacked = |name: &&String| {
            let behind = name.split_once(EXPERTS).map(|(_, behind)| behind);
            behind.is_some_and(|behind| !behind.starts_with(|c: char| c.is_ascii_digit()))
        };
        if config.experts.is_none() {
            return Ok(());
        }
        match self.entries.keys().find(stacked) {
            None => Ok(()),
            Some(name) => {
                let message = "all experts in one tensor are not supported, one tensor for each of \
                               an expert's maps expected";
                let error = Error::unsupported(&self.folder, format!("tensor {name}: {message}"));
                Err(error.advise(
                    "open the folder with transformers and save it again: save_pretrained writes each expert's maps by themselves",
                ))
            }
        }
    }

    /// Takes off what wrappers put before the names of all tensors.
    ///
    /// # Errors
    /// A prefix before the names of some tensors only.
    pub fn strip_prefixes(&mut self) -> Result<()> {
        while let Some(prefix) = PREFIXES
            .into_iter()
            .find(|prefix| self.entries.keys().any(|name| name.starts_with(prefix)))
        {
            let all = self.entries.len();
            let with = self.entries.keys().filter(|name| name.starts_with(prefix)).count();
            if with < all {
                let message = format!("{with} of {all} tensor names begin with {prefix:?}");
                let error = Error::unsupported(&self.folder, message);
                return Err(error.advise(
                    "save the model itself rather than its wrapper; merge an adapter first",
                ));
            }
            tracing::warn!(
                "{}: {prefix:?} is taken off the names of all tensors",
                self.folder.display()
            );
            let entries = std::mem::take(&mut self.entries);
            let strip = |(name, entry): (String, Entry)| (name[prefix.len()..].to_owned(), entry);
            self.entries = entries.into_iter().map(strip).collect();
        }
        Ok(())
    }

    /// Refuses stored types that cannot be read, before anything is loaded.
    ///
    /// # Errors
    /// The first tensor that is not F32, F16 or BF16.
    pub fn check_dtypes(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            if float_kind(entry.dtype).is_none() {
                let path = self.shards[entry.shard].path();
                return Err(refused_dtype(path, &self.name_in_folder(name), entry.dtype));
            }
        }
        for (name, entry) in &self.others {
            // Buffers of positions are whole numbers.
            if float_kind(entry.dtype).is_none() && entry.dtype != Dtype::I64 {
                let path = self.shards[entry.shard].path();
                return Err(refused_dtype(path, name, entry.dtype)
                    .advise("give the folder with the weights that are not quantised"));
            }
        }
        Ok(())
    }

    fn add_indexed(&mut self, index: &Path) -> Result<()> {
        let shards = shard_tensors(index)?;
        for (file, tensors) in shards {
            if !self.folder.join(&file).exists() {
                let message = format!("names {file}, which is not in the folder");
                return Err(Error::format(index, message));
            }
            let shard = self.add_shard(&file)?;
            for tensor in tensors {
                if self.entries.get(&tensor).is_none_or(|entry| entry.shard != shard) {
                    let message = format!("should be in {file}, but is not");
                    return Err(Error::tensor(index, tensor, message));
                }
            }
        }
        Ok(())
    }

    /// Maps a file and takes up its tensors; the file's number.
    fn add_shard(&mut self, name: &str) -> Result<usize> {
        let path = self.folder.join(name);
        let file = MappedFile::open(&path)?;
        let (start, metadata) = read_header(&path, &file)?;
        let shard = self.shards.len();
        for (tensor, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let entry = Entry {
                shard,
                range: start + from..start + to,
                pieces: None,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            if let Some(other) = self.entries.insert(tensor.clone(), entry) {
                let message = format!("also in {}", self.shards[other.shard].path().display());
                return Err(Error::tensor(path, tensor, message));
            }
        }
        self.shards.push(file);
        Ok(shard)
    }
}

impl TensorSource for SafetensorsSource {
    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.entries.get(name).map(Entry::meta)
    }

    /// # Shapes
    /// As [`meta`](TensorSource::meta) says.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::tensor(&self.folder, name, "not in the folder"));
        };
        let shard = &self.shards[entry.shard];
        let Some(kind) = float_kind(entry.dtype) else {
            return Err(refused_dtype(shard.path(), name, entry.dtype));
        };
        let bytes = entry.bytes(shard);
        let stored = Stored { bytes: &bytes, kind, rows: Rows::Plain };
        let tensor = convert::tensor(stored, &entry.shape, dtype, device);
        shard.release(entry.range.clone());
        tensor.map_err(|error| match error {
            ConvertError::Values(message) => {
                Error::tensor(shard.path(), self.name_in_folder(name), message)
            }
            ConvertError::Candle(error) => error.into(),
        })
    }

    /// Covers the files given to [`open`](Self::open) and the shards by name.
    fn digest(&self) -> Result<Digest> {
        let compute = || {
            let shards = self.shards.iter().map(|shard| {
                let name = shard.path().file_name().unwrap_or_default().to_string_lossy();
                (name.into_owned(), shard.digest())
            });
            let parts: Vec<(String, Digest)> = self.files.iter().cloned().chain(shards).collect();
            Digest::of_parts(parts.iter().map(|(name, d)| (name.as_str(), &d.as_bytes()[..])))
        };
        Ok(*self.digest.get_or_init(compute))
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum; the rest is refused")]
fn float_kind(dtype: Dtype) -> Option<GgmlDType> {
    match dtype {
        Dtype::F32 => Some(GgmlDType::F32),
        Dtype::F16 => Some(GgmlDType::F16),
        Dtype::BF16 => Some(GgmlDType::BF16),
        _ => None,
    }
}

fn refused_dtype(path: &Path, name: &str, dtype: Dtype) -> Error {
    let message = format!("element type {dtype:?} is not supported, only F32, F16 and BF16");
    Error::tensor(path, name, message)
}

/// Parses the header of a safetensors file: where its data starts, and its
/// tensors, which the parser holds to be apart, in order and without holes.
fn read_header(path: &Path, file: &[u8]) -> Result<(usize, Metadata)> {
    let present = file.len() as u64;
    let truncated = |what: &str, needed: u64| {
        let message =
            format!("truncated: {what} reaches to byte {needed}, but the file has {present} bytes");
        Error::format(path, message)
    };
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(truncated("the header's length", 8));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let message = format!(
            "not a safetensors file: a header of {length} bytes, at most {MAX_HEADER} expected"
        );
        return Err(Error::format(path, message));
    }
    let header = usize::try_from(length).ok().and_then(|l| rest.get(..l));
    let Some(header) = header else { return Err(truncated("the header", 8 + length)) };
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|e| Error::format(path, format!("safetensors header: {e}")))?;
    let start = 8 + header.len();
    let needed = (start as u64).saturating_add(metadata.data_len() as u64);
    if needed > present {
        return Err(truncated("the last tensor", needed));
    }
    if needed < present {
        let message = format!("{present} bytes, but its tensors end at byte {needed}");
        return Err(Error::format(path, message));
    }
    Ok((start, metadata))
}

/// The files that an index names, and the tensors that each should hold.
///
/// # Errors
/// An index that is damaged or points out of its folder.
pub(crate) fn shard_tensors(index: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let (json, _) = read_json(index)?;
    let Some(map) = json.get("weight_map").and_then(serde_json::Value::as_object) else {
        return Err(Error::format(index, "weight_map: an object expected"));
    };
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|name| is_plain_file_name(name));
        let Some(file) = file else {
            let message = "the name of a file in the same folder expected";
            return Err(Error::format(index, format!("weight_map: {tensor:?}: {message}")));
        };
        shards.entry(file.to_owned()).or_default().insert(tensor.clone());
    }
    if shards.len() > MAX_SHARDS {
        let message = format!("at most {MAX_SHARDS} files expected, {} found", shards.len());
        return Err(Error::format(index, message));
    }
    Ok(shards)
}

/// Whether a name from an index stays in the index's folder.
fn is_plain_file_name(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|file| file == path.as_os_str()) && !name.contains(['/', '\\'])
}

fn no_weights(folder: &Path) -> Error {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    if pickled.iter().any(|name| folder.join(name).exists()) {
        let message = "weights only as pytorch_model.bin, which is not supported";
        return Error::unsupported(folder, message).advise(
            "convert it to safetensors: load it with transformers, then save_pretrained(folder, safe_serialization=True)",
        );
    }
    Error::format(folder, format!("neither {SINGLE} nor {INDEX}"))
}
