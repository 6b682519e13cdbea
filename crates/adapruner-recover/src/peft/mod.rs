//! Adapters in PEFT's format: reads and writes a folder with `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! Features of PEFT's LoRA beyond plain updates of the projections (DoRA, trained biases, other
//! modules saved whole, …) are refused by name; ignoring them would give another model than
//! PEFT's.
//!
//! Axes: `r` rank, `in` inputs and `out` outputs of a projection.

mod config;
mod targets;

use std::{collections::BTreeMap, path::Path};

use adapruner_checkpoint::{
    Error as FileError, ModelConfig,
    arch::Multimodal,
    mapped::MappedFile,
    names::{self, Projection},
    output::OutputFile,
    sealed::{self, Floats, Sealed},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    error::{Error, Result},
    lora::{Adapter, Update},
};
use config::AdapterConfig;

/// File name of an adapter's configuration.
pub const CONFIG: &str = "adapter_config.json";
/// File name of an adapter's tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model.
const PREFIX: &str = "base_model.model.";

/// The two matrices of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// `A`, `[r, in]`.
    A,
    /// `B`, `[out, r]`.
    B,
}

/// PEFT's name of a tensor of a model.
pub fn tensor_name(
    model: &ModelConfig,
    layer: usize,
    projection: Projection,
    side: Side,
) -> String {
    let side = match side {
        Side::A => "lora_A",
        Side::B => "lora_B",
    };
    format!("{PREFIX}{}.{side}.weight", model.module(projection, layer))
}

/// The tensor that a name of PEFT's stands for in a model.
fn parsed(model: &ModelConfig, name: &str) -> Option<(usize, Projection, Side)> {
    let family = model.family();
    let layers = format!("{}.", family.hf.outer.layers);
    let name = name.strip_prefix(PREFIX)?;
    let own = match model.multimodal.map(Multimodal::composite) {
        None => name.to_owned(),
        // Earlier versions of transformers named modules as folders name tensors.
        Some(composite) => {
            let mut namings = [&composite.modules].into_iter().chain(composite.namings);
            namings.find_map(|naming| naming.alone(name))?
        }
    };
    let (layer, rest) = own.strip_prefix(&layers)?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let named = |p: &Projection| {
        let rest = rest.strip_prefix(p.module_of(family));
        family.has(*p) && rest.is_some_and(|rest| rest.starts_with('.'))
    };
    let projection = Projection::ALL.into_iter().find(named)?;
    match rest.strip_prefix(projection.module_of(family))? {
        ".lora_A.weight" => Some((layer, projection, Side::A)),
        ".lora_B.weight" => Some((layer, projection, Side::B)),
        _ => None,
    }
}

/// Reads an adapter for a model of `model`'s widths.
///
/// # Errors
/// Files that are missing or malformed, an adapter that does more than plain
/// LoRA, tensors that the model has no place for or of another shape than its,
/// and other tensors than the configuration says.
pub fn read(folder: &Path, model: &ModelConfig) -> Result<Adapter> {
    let config_path = folder.join(CONFIG);
    let config = AdapterConfig::read(&config_path)?;
    let modules = config.modules(model).map_err(|message| {
        Error::format(&config_path, message).advise("the adapter must be one of this very model")
    })?;
    let path = folder.join(WEIGHTS);
    let file = MappedFile::open(&path).map_err(|e| {
        e.advise("an adapter is a folder with adapter_config.json and adapter_model.safetensors")
    })?;
    let tensors =
        SafeTensors::deserialize(&file).map_err(|e| Error::format(&path, e.to_string()))?;
    let mut found: BTreeMap<(usize, Projection), [Option<Vec<f32>>; 2]> = BTreeMap::new();
    let mut named: Vec<_> = tensors.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    for (name, view) in named {
        let refuse = |message: String| Error::tensor(&path, name, message);
        let Some((layer, projection, side)) = parsed(model, name) else {
            let message = "no low-rank update of one of the projections";
            return Err(refuse(message.into()).advise("merge this adapter with PEFT itself"));
        };
        if !model.has(layer, projection) {
            let layers = model.layers.len();
            let message = format!("the model has no such projection (it has {layers} layers)");
            return Err(refuse(message).advise("the adapter must be one of this very model"));
        }
        if !modules.contains(&(layer, projection)) {
            let message = format!("{CONFIG} gives this module no update");
            return Err(refuse(message).advise("tensors and configuration must be of one adapter"));
        }
        let rank = config.rank(model, layer, projection);
        let [out, inputs] = names::projection_shape(model, layer, projection);
        let expected = match side {
            Side::A => [rank, inputs],
            Side::B => [out, rank],
        };
        if view.shape() != expected {
            let message = format!("shape {expected:?} expected, {:?} found", view.shape());
            return Err(refuse(message).advise("the adapter must be one of this very model"));
        }
        let values = numbers(&view).map_err(refuse)?;
        found.entry((layer, projection)).or_default()[side as usize] = Some(values);
    }
    if found.is_empty() {
        return Err(Error::format(&path, "no tensors"));
    }
    let missing = |(layer, projection): (usize, Projection), side| {
        let message = format!("missing, though {CONFIG} gives its module an update");
        Error::tensor(&path, tensor_name(model, layer, projection, side), message)
            .advise("the file is a part of an adapter, or of another one")
    };
    if let Some(module) = modules.iter().find(|module| !found.contains_key(module)) {
        return Err(missing(*module, Side::A));
    }
    let updates = found.into_iter().map(|((layer, projection), sides)| {
        let missing = |side| missing((layer, projection), side);
        let [a, b] = sides;
        let update = Update {
            a: a.ok_or_else(|| missing(Side::A))?,
            b: b.ok_or_else(|| missing(Side::B))?,
            rank: config.rank(model, layer, projection),
            alpha: config.alpha(model, layer, projection),
        };
        Ok(((layer, projection), update))
    });
    Ok(Adapter {
        updates: updates.collect::<Result<_>>()?,
        rslora: config.use_rslora,
        dropout: config.lora_dropout,
    })
}

/// Writes an adapter of a model of `model`'s widths so that
/// `PeftModel.from_pretrained` reads it. `base` is the folder or hub id that
/// `AutoPeftModelForCausalLM` finds the model by.
///
/// # Errors
/// A refusal of the operating system.
pub fn write(
    adapter: &Adapter,
    model: &ModelConfig,
    base: &str,
    folder: &Path,
) -> Result<Vec<OutputFile>> {
    let config = folder.join(CONFIG);
    std::fs::write(&config, config::json(adapter, model, base))
        .map_err(FileError::io(&config, "write"))?;
    let path = folder.join(WEIGHTS);
    let tensors = adapter.updates.iter().flat_map(|(&(layer, projection), update)| {
        let Update { a, b, rank, .. } = update;
        let named = |side, shape, values| Floats {
            name: tensor_name(model, layer, projection, side),
            shape,
            values,
        };
        [
            named(Side::A, vec![*rank, a.len() / rank], &a[..]),
            named(Side::B, vec![b.len() / rank, *rank], &b[..]),
        ]
    });
    let tensors: Vec<Floats<'_>> = tensors.collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    sealed::write_safetensors((&path, &path), &tensors, &metadata, Sealed::No)?;
    [config, path].iter().map(|path| Ok(OutputFile::of(path)?)).collect()
}

/// The numbers of a tensor of floats; an error in words for others, and for
/// those that are not finite.
pub(crate) fn numbers(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let data = view.data();
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum")]
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => {
            data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()
        }
        Dtype::F16 => {
            let wide = |bytes: &[u8; 2]| half::f16::from_le_bytes(*bytes).to_f32();
            data.as_chunks().0.iter().map(wide).collect()
        }
        Dtype::BF16 => {
            let wide = |bytes: &[u8; 2]| half::bf16::from_le_bytes(*bytes).to_f32();
            data.as_chunks().0.iter().map(wide).collect()
        }
        other => return Err(format!("F32, F16, BF16 or F64 expected, {other:?} found")),
    };
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("element {at} is {} (expected a finite number)", values[at])),
        None => Ok(values),
    }
}
