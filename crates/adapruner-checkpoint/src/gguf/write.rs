//! A [`Checkpoint`] to a GGUF file.
//!
//! Tensors are read, converted and written one at a time, so that memory is
//! bounded by the largest of them. All sizes are known beforehand, from the
//! configuration alone; the header is written first.

use std::{collections::BTreeMap, path::Path};

use super::{
    config::llama3_divisors,
    encode::{self, ALIGNMENT, Row},
    kind::TensorKind,
    quantize::{stored_kind, write_tensor},
    source::{ROPE_FREQS, projection_name},
    write_metadata::{metadata, per_layer_warnings},
};
use crate::{
    checkpoint::Checkpoint,
    config::{ModelConfig, RopeScaling},
    error::{Error, Result},
    names::{self, ExpectedTensor, Projection},
    open::check,
    output::{FileWriter, FloatType, OnProgress, Written, kept_type, prevailing_type},
};

/// How a GGUF file is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufOptions {
    /// Type of the weight matrices. Where `None`: the float type that most of
    /// the source's have, and F16 where they are quantised, since blocks that
    /// are cut or quantised a second time lose more than that costs in bytes.
    pub kind: Option<TensorKind>,
    /// `general.name`; the name of the model's file or folder where `None`.
    pub name: Option<String>,
    /// `general.description`.
    pub description: Option<String>,
}

/// A tensor's place in the file.
struct Place {
    gguf_name: String,
    tensor: ExpectedTensor,
    kind: TensorKind,
    bytes: u64,
    /// `D` where rows are interleaved.
    interleave: Option<usize>,
}

/// Writes `checkpoint` to the file `path`: as architecture `llama` where all
/// layers have the same widths, else as `deci`.
///
/// Made for the file of a [`StagedFile`](crate::atomic::StagedFile): what is
/// left behind by an error is not cleaned up here.
///
/// # Errors
/// A tensor that cannot be read or has another shape than the configuration
/// says, a value that the type asked for cannot hold, a tokenizer that GGUF
/// cannot express, a file that cannot be written.
pub fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &GgufOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Written> {
    let config = &checkpoint.config;
    check::config(&checkpoint.origin, config)?;
    let kind = options.kind.unwrap_or_else(|| source_kind(checkpoint));
    let mut warnings = per_layer_warnings(config);
    let metadata = metadata(checkpoint, kind, options, &mut warnings)?;
    let places = places(&checkpoint.origin, config, kind)?;
    warnings.extend(fallback_warnings(&places, kind));

    let divisors = rope_divisors(config).unwrap_or_default();
    let divisor_bytes: Vec<u8> = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    let (mut rows, mut offset) = (Vec::new(), 0);
    let mut row = |name: &str, shape: &[usize], kind: TensorKind, bytes: u64| {
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        rows.push(Row { name: name.to_owned(), dims, kind: kind.code(), offset });
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
    };
    if !divisors.is_empty() {
        row(ROPE_FREQS, &[divisors.len()], TensorKind::F32, divisor_bytes.len() as u64);
    }
    for place in &places {
        row(&place.gguf_name, &place.tensor.shape, place.kind, place.bytes);
    }

    let mut file = FileWriter::create(path)?;
    file.write(&encode::header(&metadata, &rows))?;
    file.write(&divisor_bytes)?;
    pad(&mut file, divisor_bytes.len() as u64)?;
    let total = places.iter().map(|p| p.bytes).sum();
    let mut done = 0;
    for place in &places {
        write_tensor(checkpoint, &place.tensor, place.kind, place.interleave, |bytes| {
            file.write(bytes)?;
            done += bytes.len() as u64;
            on_progress(done, total);
            Ok(())
        })?;
        pad(&mut file, place.bytes)?;
    }
    Ok(Written { files: vec![file.finish()?], dtype: kind.name().to_owned(), warnings })
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
        (kept_type(checkpoint, tensor), elements)
    });
    match prevailing_type(&matrices.collect::<Vec<_>>()) {
        FloatType::F32 => TensorKind::F32,
        FloatType::F16 => TensorKind::F16,
        FloatType::Bf16 => TensorKind::BF16,
    }
}

fn places(origin: &Path, config: &ModelConfig, wanted: TensorKind) -> Result<Vec<Place>> {
    let place = |tensor: ExpectedTensor| {
        let Some((gguf_name, projection)) = gguf_name(&tensor.name) else {
            return Err(Error::tensor(origin, tensor.name, "has no name in GGUF"));
        };
        let kind = stored_kind(wanted, &tensor, config.tie_word_embeddings);
        let elements: u64 = tensor.shape.iter().map(|&d| d as u64).product();
        let interleave = match projection {
            Some(Projection::Q | Projection::K) => Some(config.head_dim),
            Some(
                Projection::V
                | Projection::O
                | Projection::Gate
                | Projection::Up
                | Projection::Down,
            )
            | None => None,
        };
        let bytes = elements / kind.block_size() * kind.block_bytes();
        Ok(Place { gguf_name, tensor, kind, bytes, interleave })
    };
    names::expected_tensors(config).into_iter().map(place).collect()
}

/// GGUF's name of a canonical tensor, and the projection it belongs to; `None` for
/// a name that a Llama model does not have.
fn gguf_name(canonical: &str) -> Option<(String, Option<Projection>)> {
    let fixed = |name: &str| Some((name.to_owned(), None));
    match canonical {
        names::EMBEDDING => return fixed("token_embd.weight"),
        names::FINAL_NORM => return fixed("output_norm.weight"),
        names::HEAD => return fixed("output.weight"),
        _ => {}
    }
    let (layer, inner) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, part) = inner.rsplit_once('.')?;
    let projection = Projection::ALL.into_iter().find(|p| p.module() == module);
    let module = match (projection, module, part) {
        (Some(projection), _, "weight" | "bias") => projection_name(projection),
        (None, "input_layernorm", "weight") => "attn_norm",
        (None, "post_attention_layernorm", "weight") => "ffn_norm",
        (Some(_) | None, _, _) => return None,
    };
    Some((format!("blk.{layer}.{module}.{part}"), projection))
}

/// One line for each type that tensors fell back to.
fn fallback_warnings(places: &[Place], wanted: TensorKind) -> Vec<String> {
    let mut fallbacks: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    let matrices = places.iter().filter(|p| p.tensor.shape.len() == 2);
    for place in matrices.filter(|p| p.kind != wanted) {
        fallbacks.entry(place.kind.name()).or_default().push(place);
    }
    let line = |(kind, places): (&str, Vec<&Place>)| {
        let first = &places[0].gguf_name;
        let which = match places.len() {
            1 => first.clone(),
            n => format!("{n} tensors ({first} and others)"),
        };
        format!("{which} stored as {kind} instead of {}", wanted.name())
    };
    fallbacks.into_iter().map(line).collect()
}

/// What `rope_freqs.weight` holds, `[D/2]`, where the scaling needs it.
fn rope_divisors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => None,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => Some(llama3_divisors(
            config.rope.theta,
            config.head_dim,
            *factor,
            *low_freq_factor,
            *high_freq_factor,
            *original_max_position_embeddings,
        )),
        RopeScaling::Factors { divisors } => Some(divisors.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::source::canonical_name, *};

    #[test]
    fn other_names_have_none() {
        for name in [
            "",
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.pre_feedforward_layernorm.weight",
            "model.layers.0.input_layernorm.bias",
            "model.layers.0.self_attn.q_proj.scale",
            "model.layers.0",
            "model.rotary.inv_freq",
        ] {
            assert_eq!(gguf_name(name), None, "{name}");
        }
    }

    #[test]
    fn every_name_comes_back() {
        let names = [names::EMBEDDING, names::FINAL_NORM, names::HEAD].map(str::to_owned);
        let norms = [names::input_norm(3), names::ffn_norm(12)];
        for name in names.into_iter().chain(norms) {
            let (gguf, projection) = gguf_name(&name).unwrap();
            assert_eq!((canonical_name(&gguf), projection), (Some((name, None)), None));
        }
        for p in Projection::ALL {
            for name in [p.weight(7), p.bias(0)] {
                let (gguf, projection) = gguf_name(&name).unwrap();
                assert_eq!((canonical_name(&gguf), projection), (Some((name, Some(p))), Some(p)));
            }
        }
    }
}
