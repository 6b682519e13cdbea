//! A [`Checkpoint`] to a Hugging Face folder.
//!
//! Tensors are read, converted and written one at a time, so that memory is
//! bounded by the largest of them. All sizes are known beforehand, from the
//! configuration alone; headers are written first.

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{
    PassThrough,
    config::Kind,
    modeling::{MODELING_FILE, modeling},
    source::{INDEX, SINGLE},
    write_config::{config_json, form},
};
use crate::{
    checkpoint::{Checkpoint, TensorMeta},
    error::{Error, Result},
    names::{FileFormat, StoredTensor, stored_tensors},
    open::check,
    output::{
        FileWriter, FloatType, HeaderEntry, OnProgress, OutputFile, Written, for_bytes, kept_type,
        load, prevailing_type, safetensors_header, write_file,
    },
};

/// In which type weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreType {
    /// Every tensor in the float type it has in the source, so without loss;
    /// F16, the type of their scales, where it was quantised.
    #[default]
    Keep,
    /// All in 32-bit float.
    F32,
    /// All in 16-bit float.
    F16,
    /// All in brain float.
    Bf16,
}

impl StoreType {
    fn of(self, checkpoint: &Checkpoint, tensor: &StoredTensor) -> FloatType {
        match self {
            Self::Keep => kept_type(checkpoint, &tensor.parts),
            Self::F32 => FloatType::F32,
            Self::F16 => FloatType::F16,
            Self::Bf16 => FloatType::Bf16,
        }
    }
}

adapruner_choice::choice!(StoreType, "type", {
    Keep => "keep",
    F32 => "f32" | "float32",
    F16 => "f16" | "float16",
    Bf16 => "bf16" | "bfloat16",
});

/// How a folder is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HfOptions {
    /// Type of the weights.
    pub store: StoreType,
    /// Most bytes of tensors in a file; a larger tensor has a file to itself.
    pub max_shard_bytes: u64,
}

impl Default for HfOptions {
    /// The source's types, files of at most 5 GB.
    fn default() -> Self {
        Self { store: StoreType::Keep, max_shard_bytes: 5_000_000_000 }
    }
}

/// A tensor's place in a file.
struct Place {
    /// In the file.
    name: String,
    /// In the words of the format.
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    content: Content,
}

/// What a tensor in a file is.
enum Content {
    /// One of the language model.
    Model(StoredTensor, FloatType),
    /// One of another part, as it was read.
    PassedThrough,
}

impl Place {
    /// Bytes of one of its numbers.
    fn width(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|&d| d as u64).product();
        self.bytes / elements.max(1)
    }
}

/// Writes `checkpoint` into the existing folder `dir`: config.json,
/// generation_config.json where the model has one, the tokenizer, the weights
/// in one file or in shards with their index, and where widths differ between
/// layers the code that transformers needs to open it.
///
/// Made for the folder of a [`StagedDir`](crate::atomic::StagedDir): what is
/// left behind by an error is not cleaned up here.
///
/// # Errors
/// A tensor that cannot be read or has another shape than the configuration
/// says, a value that is infinite in the type asked for, a file that cannot be
/// written.
pub fn write(
    checkpoint: &Checkpoint,
    dir: &Path,
    options: &HfOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Written> {
    let FolderPlan { small, places, dtype, warnings } = FolderPlan::new(checkpoint, options)?;
    let mut files = Vec::new();
    for (name, bytes) in small {
        let path = dir.join(&name);
        if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        }
        // Named by its place in the folder: chat templates have one of their own.
        files.push(OutputFile { name, ..write_file(&path, &bytes)? });
    }
    files.extend(write_weights(checkpoint, dir, places, options, on_progress)?);
    Ok(Written { files, dtype: dtype.name().to_owned(), warnings })
}

/// Bytes of all files that [`write()`] would make, exactly but for the digits of an index of
/// shards; no weight is read for it.
///
/// # Errors
/// A configuration that contradicts itself, a tokenizer that cannot be written.
pub fn planned_bytes(checkpoint: &Checkpoint, options: &HfOptions) -> Result<u64> {
    let FolderPlan { small, places, .. } = FolderPlan::new(checkpoint, options)?;
    let small: u64 = small.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let weights = shards(places, options.max_shard_bytes).into_iter().map(|shard| {
        let data: u64 = shard.iter().map(|place| place.bytes).sum();
        header(&shard).len() as u64 + data
    });
    Ok(small + weights.sum::<u64>())
}

/// A folder before it is written.
struct FolderPlan {
    /// Files that are made at once, by their places in the folder.
    small: Vec<(String, Vec<u8>)>,
    /// The model's tensors.
    places: Vec<Place>,
    /// The type of most numbers in matrices.
    dtype: FloatType,
    warnings: Vec<String>,
}

impl FolderPlan {
    fn new(checkpoint: &Checkpoint, options: &HfOptions) -> Result<Self> {
        let config = &checkpoint.config;
        check::config(&checkpoint.origin, config)?;
        let (kind, mut warnings) = form(config);
        let places = places(checkpoint, kind, options.store);
        let matrix = |place: &Place| match &place.content {
            Content::Model(tensor, kind) if tensor.shape.len() == 2 => {
                Some((*kind, place.bytes / kind.bytes()))
            }
            Content::Model(..) | Content::PassedThrough => None,
        };
        let dtype = prevailing_type(&places.iter().filter_map(matrix).collect::<Vec<_>>());
        let json = pretty(&config_json(checkpoint, kind, dtype));
        let mut small = vec![("config.json".to_owned(), json)];
        if let Some(passed) = &checkpoint.pass_through {
            small.extend(passed.files().iter().cloned());
        }
        if let Some(generation) = &checkpoint.generation_config {
            small.push(("generation_config.json".to_owned(), pretty(generation)));
        }
        small.extend(checkpoint.tokenizer.hf_files()?);
        if kind.per_layer {
            let code = modeling(kind.family(), kind.multimodal).into_bytes();
            small.push((MODELING_FILE.to_owned(), code));
            let why = match config.uniform_widths() {
                None => "widths differ between layers",
                Some(_) => "the family's class cannot hold this number of heads",
            };
            warnings.push(format!("{why}: open with trust_remote_code=True"));
        }
        Ok(Self { small, places, dtype, warnings })
    }
}

fn pretty(json: &serde_json::Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

fn places(checkpoint: &Checkpoint, kind: Kind, store: StoreType) -> Vec<Place> {
    let passed = checkpoint.pass_through.as_deref();
    let place = |tensor: StoredTensor| {
        let kind = store.of(checkpoint, &tensor);
        let elements: u64 = tensor.shape.iter().map(|&d| d as u64).product();
        Place {
            name: passed.map_or_else(|| tensor.name.clone(), |p| p.name_in_folder(&tensor.name)),
            dtype: kind.name().to_owned(),
            shape: tensor.shape.clone(),
            bytes: elements * kind.bytes(),
            content: Content::Model(tensor, kind),
        }
    };
    let other = |(name, meta): (&str, TensorMeta)| Place {
        name: name.to_owned(),
        dtype: meta.stored,
        shape: meta.shape,
        bytes: meta.bytes,
        content: Content::PassedThrough,
    };
    let stored = stored_tensors(&checkpoint.config, kind.family(), FileFormat::HuggingFace);
    let others = passed.into_iter().flat_map(PassThrough::tensors).map(other);
    stored.into_iter().map(place).chain(others).collect()
}

/// Tensors to files of at most `most` bytes, in the order of the forward pass.
fn shards(places: Vec<Place>, most: u64) -> Vec<Vec<Place>> {
    let mut shards: Vec<Vec<Place>> = Vec::new();
    let mut room = 0;
    for place in places {
        if shards.is_empty() || place.bytes > room {
            shards.push(Vec::new());
            room = most;
        }
        room = room.saturating_sub(place.bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(place);
        }
    }
    // Wide elements first: every tensor then starts at a multiple of its own.
    for shard in &mut shards {
        shard.sort_by_key(|place| std::cmp::Reverse(place.width()));
    }
    shards
}

fn write_weights(
    checkpoint: &Checkpoint,
    dir: &Path,
    places: Vec<Place>,
    options: &HfOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Vec<OutputFile>> {
    let total: u64 = places.iter().map(|p| p.bytes).sum();
    let shards = shards(places, options.max_shard_bytes);
    let count = shards.len();
    let (mut files, mut map, mut done) = (Vec::new(), Map::new(), 0);
    for (index, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let mut file = FileWriter::create(&dir.join(&name))?;
        file.write(&header(shard))?;
        for place in shard {
            let mut sink = |bytes: &[u8]| {
                file.write(bytes)?;
                done += bytes.len() as u64;
                on_progress(done, total);
                Ok(())
            };
            match (&place.content, &checkpoint.pass_through) {
                (Content::Model(tensor, kind), _) => {
                    for tensor in tensors(checkpoint, tensor, *kind) {
                        for_bytes(&tensor?, &mut sink)?;
                    }
                }
                (Content::PassedThrough, passed) => {
                    passed.iter().try_for_each(|passed| passed.tensor(&place.name, &mut sink))?;
                }
            }
            map.insert(place.name.clone(), name.clone().into());
        }
        files.push(file.finish()?);
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        files.push(write_file(&dir.join(INDEX), &pretty(&index))?);
    }
    Ok(files)
}

/// The tensors that follow each other in a stored one, those whose rows take turns as one.
fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    stored: &'a StoredTensor,
    kind: FloatType,
) -> Box<dyn Iterator<Item = Result<Tensor>> + 'a> {
    let parts = stored.parts.iter().map(move |part| load(checkpoint, part, kind));
    let rounds = stored.rounds(&checkpoint.config);
    if rounds == 1 {
        return Box::new(parts);
    }
    let mixed = || -> Result<Tensor> {
        let parts = parts.map(|part| Ok(part?.reshape((rounds, ()))?));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 1)?.reshape(stored.shape.as_slice())?.contiguous()?)
    };
    Box::new(std::iter::once(mixed()))
}

fn header(shard: &[Place]) -> Vec<u8> {
    let entry = |place: &Place| HeaderEntry {
        name: place.name.clone(),
        dtype: place.dtype.clone(),
        shape: place.shape.clone(),
        bytes: place.bytes,
    };
    safetensors_header(json!({"format": "pt"}), shard.iter().map(entry))
}
