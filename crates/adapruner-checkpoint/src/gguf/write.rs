//! A [`Checkpoint`] to a GGUF file.
//!
//! Tensors are read, converted and written one at a time, so that memory is
//! bounded by the largest of them. All sizes are known beforehand, from the
//! configuration alone; the header is written first.

use std::{collections::BTreeMap, path::Path};

use adapruner_arch::family::{NormWeight, RowOrder};

use super::{
    Planned,
    config::llama3_divisors,
    encode::{self, ALIGNMENT, Row},
    kind::TensorKind,
    layout::{Layout, layout},
    mixture::GgufType,
    quantize::{StoredAs, stored_kind, write_tensor},
    source::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT},
    write_metadata::{metadata, per_layer_warnings},
};
use crate::{
    checkpoint::Checkpoint,
    config::{ModelConfig, RopeScaling},
    error::{Error, Result},
    names::{self, FileFormat, Part, StoredTensor, stored_tensors},
    open::check,
    output::{FileWriter, FloatType, OnProgress, Written, kept_type, prevailing_type},
};

/// How a GGUF file is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufOptions {
    /// Type of the weight matrices. Where `None`: the float type that most of
    /// the source's have, and F16 where they are quantised, since blocks that
    /// are cut or quantised a second time lose more than that costs in bytes.
    pub kind: Option<GgufType>,
    /// `general.name`; the name of the model's file or folder where `None`.
    pub name: Option<String>,
    /// `general.description`.
    pub description: Option<String>,
}

/// A tensor's place in the file.
struct Place {
    tensor: StoredTensor,
    /// What was asked for.
    wanted: TensorKind,
    kind: TensorKind,
    bytes: u64,
    /// What is done to its values.
    stored: StoredAs,
}

/// Writes `checkpoint` to the file `path`: as its own architecture where all
/// layers have the same widths, else as `deci` where they are like Llama's.
///
/// Made for the file of a [`StagedFile`](crate::atomic::StagedFile): what is
/// left behind by an error is not cleaned up here.
///
/// # Errors
/// A model that llama.cpp cannot hold ([`super::check_fits`]), a tensor that cannot be read or
/// has another shape than the configuration
/// says, a value that the type asked for cannot hold, a tokenizer that GGUF
/// cannot express, a file that cannot be written.
pub fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &GgufOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Written> {
    let plan = FilePlan::new(checkpoint, options)?;
    let mut file = FileWriter::create(path)?;
    file.write(&plan.header)?;
    for (_, bytes) in &plan.rotation {
        file.write(bytes)?;
        pad(&mut file, bytes.len() as u64)?;
    }
    let total = plan.places.iter().map(|p| p.bytes).sum();
    let mut done = 0;
    for place in &plan.places {
        for part in &place.tensor.parts {
            write_tensor(checkpoint, part, place.kind, place.stored, |bytes| {
                file.write(bytes)?;
                done += bytes.len() as u64;
                on_progress(done, total);
                Ok(())
            })?;
        }
        pad(&mut file, place.bytes)?;
    }
    let FilePlan { kind, warnings, .. } = plan;
    Ok(Written { files: vec![file.finish()?], dtype: kind.to_string(), warnings })
}

/// Bytes of the file that [`write()`] would make, exactly; no weight is read for it.
///
/// # Errors
/// A model that llama.cpp cannot hold, a tokenizer that GGUF cannot express.
pub fn planned_bytes(checkpoint: &Checkpoint, options: &GgufOptions) -> Result<u64> {
    let FilePlan { header, rotation, places, .. } = FilePlan::new(checkpoint, options)?;
    let rotation = rotation.iter().map(|(_, bytes)| bytes.len() as u64);
    let data = rotation.chain(places.iter().map(|place| place.bytes));
    Ok(header.len() as u64 + data.map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum::<u64>())
}

/// A file before it is written.
struct FilePlan {
    /// Metadata and the list of tensors, padded.
    header: Vec<u8>,
    /// Tensors of the rotation, the first ones.
    rotation: Vec<(&'static str, Vec<u8>)>,
    /// The model's tensors.
    places: Vec<Place>,
    kind: GgufType,
    warnings: Vec<String>,
}

impl FilePlan {
    fn new(checkpoint: &Checkpoint, options: &GgufOptions) -> Result<Self> {
        let config = &checkpoint.config;
        check::config(&checkpoint.origin, config)?;
        super::check_fits(config, Planned::default())?;
        let layout = layout(config, Planned::default())
            .map_err(|(text, _)| Error::unsupported("GGUF", text))?;
        let kind = options.kind.unwrap_or_else(|| source_kind(checkpoint).into());
        let mut warnings = per_layer_warnings(config);
        let metadata = metadata(checkpoint, layout, kind, options, &mut warnings)?;
        let places = places(config, layout, kind);
        warnings.extend(fallback_warnings(&places));
        if let Some(multimodal) = config.multimodal {
            let titles = multimodal.composite().parts.iter().map(|part| part.title);
            let titles = titles.collect::<Vec<_>>().join(" and ");
            warnings.push(format!(
                "the GGUF file is the language model alone: {titles} are not in it; llama.cpp reads \
                 them from the mmproj file of the original model, which pruning leaves valid"
            ));
        }

        let rotation: Vec<(&str, Vec<u8>)> = rope_divisors(config)
            .into_iter()
            .map(|(name, divisors)| (name, divisors.iter().flat_map(|d| d.to_le_bytes()).collect()))
            .collect();
        let (mut rows, mut offset) = (Vec::new(), 0);
        let mut row = |name: &str, shape: &[usize], kind: TensorKind, bytes: u64| {
            let dims = shape.iter().rev().map(|&d| d as u64).collect();
            rows.push(Row { name: name.to_owned(), dims, kind: kind.code(), offset });
            offset = (offset + bytes).next_multiple_of(ALIGNMENT);
        };
        for (name, bytes) in &rotation {
            row(name, &[bytes.len() / 4], TensorKind::F32, bytes.len() as u64);
        }
        for place in &places {
            row(&place.tensor.gguf_name, &place.tensor.shape, place.kind, place.bytes);
        }
        let header = encode::header(&metadata, &rows);
        Ok(Self { header, rotation, places, kind, warnings })
    }
}

/// Zeros behind `bytes` bytes, up to where the next tensor starts.
fn pad(file: &mut FileWriter, bytes: u64) -> Result<()> {
    let missing = bytes.next_multiple_of(ALIGNMENT) - bytes;
    file.write(&[0; ALIGNMENT as usize][..missing as usize])
}

fn source_kind(checkpoint: &Checkpoint) -> TensorKind {
    let tensors = names::expected_tensors(&checkpoint.config);
    let matrices = tensors.iter().filter(|t| t.shape.len() == 2).map(|tensor| {
        let elements = tensor.shape.iter().map(|&d| d as u64).product();
        (kept_type(checkpoint, std::slice::from_ref(tensor)), elements)
    });
    match prevailing_type(&matrices.collect::<Vec<_>>()) {
        FloatType::F32 => TensorKind::F32,
        FloatType::F16 => TensorKind::F16,
        FloatType::Bf16 => TensorKind::BF16,
    }
}

fn places(config: &ModelConfig, layout: Layout, of: GgufType) -> Vec<Place> {
    let family = config.family();
    let place = |tensor: StoredTensor| {
        let part = tensor.parts.first()?;
        let wanted = match part.part {
            // llama.cpp's files have routers in F32.
            Part::Router(_) => TensorKind::F32,
            Part::Embedding
            | Part::Positions
            | Part::Norm(..)
            | Part::NormBias(..)
            | Part::Weight(..)
            | Part::Expert(..)
            | Part::Bias(..)
            | Part::FinalNorm
            | Part::FinalNormBias
            | Part::Head => of.of(&tensor, config),
        };
        let kind = stored_kind(wanted, part, config.tie_word_embeddings);
        let elements: u64 = tensor.shape.iter().map(|&d| d as u64).product();
        let interleaved = part.part.is_rotated() && layout.rows == RowOrder::Interleaved;
        let stored = StoredAs {
            interleave: interleaved.then_some(config.head_dim),
            one_plus: part.part.is_norm() && family.norm_weight == NormWeight::OnePlus,
        };
        let bytes = elements / kind.block_size() * kind.block_bytes();
        Some(Place { tensor, wanted, kind, bytes, stored })
    };
    let stored = stored_tensors(config, layout.family(), FileFormat::Gguf);
    stored.into_iter().filter_map(place).collect()
}

/// One line for each type that tensors fell back to.
fn fallback_warnings(places: &[Place]) -> Vec<String> {
    let mut fallbacks: BTreeMap<(&str, &str), Vec<&Place>> = BTreeMap::new();
    let matrices = places.iter().filter(|p| p.tensor.shape.len() >= 2);
    for place in matrices.filter(|p| p.kind != p.wanted) {
        fallbacks.entry((place.kind.name(), place.wanted.name())).or_default().push(place);
    }
    let line = |((kind, wanted), places): ((&str, &str), Vec<&Place>)| {
        let first = &places[0].tensor.gguf_name;
        let which = match places.len() {
            1 => first.clone(),
            n => format!("{n} tensors ({first} and others)"),
        };
        format!("{which} stored as {kind} instead of {wanted}")
    };
    fallbacks.into_iter().map(line).collect()
}

/// The tensors that say how frequencies are divided, `[R/2]` each, where the scaling needs them.
fn rope_divisors(config: &ModelConfig) -> Vec<(&'static str, Vec<f32>)> {
    let freqs = |divisors| vec![(ROPE_FREQS, divisors)];
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => Vec::new(),
        RopeScaling::Long { short, long, .. } => {
            vec![(ROPE_LONG, long.clone()), (ROPE_SHORT, short.clone())]
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => freqs(llama3_divisors(
            config.rope.theta,
            config.rotated(),
            *factor,
            *low_freq_factor,
            *high_freq_factor,
            *original_max_position_embeddings,
        )),
        RopeScaling::Factors { divisors } => freqs(divisors.clone()),
    }
}
