//! Base model and trained update merged into one model.
//!
//! Nothing is computed here. The merged checkpoint reads through the base's
//! tensors and adds an update when a weight is loaded, so that one weight is in
//! memory at a time.
//!
//! Axes: `r` rank, `in` inputs and `out` outputs of a projection.

use std::{collections::BTreeMap, sync::Arc};

use adapruner_checkpoint::{
    Checkpoint, Digest, Result as FileResult, TensorMeta, TensorSource, check_finite,
    names::{self, Projection},
};
use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Error, Result},
    lora::{Adapter, Update},
};

/// A weight's update as the two factors of `scale·B·A`.
struct Factors {
    /// `[r, in]`.
    a: Tensor,
    /// `[out, r]`.
    b: Tensor,
    scale: f64,
}

/// The model with an adapter added to its weights.
///
/// # Errors
/// An adapter that does not fit the model.
pub fn merge(checkpoint: &Checkpoint, adapter: &Adapter) -> Result<Checkpoint> {
    let mut factors = BTreeMap::new();
    let mut parts = vec![("base".to_owned(), checkpoint.digest()?.as_bytes().to_vec())];
    for (&(layer, projection), update) in &adapter.updates {
        let name = projection.weight(checkpoint.config.family(), layer);
        let [out, inputs] = fitting(checkpoint, layer, projection, update)?;
        let scale = adapter.scale(update);
        let numbers = update.a.iter().chain(&update.b).flat_map(|v| v.to_le_bytes());
        parts.push((name.clone(), scale.to_le_bytes().into_iter().chain(numbers).collect()));
        let a = Tensor::from_slice(&update.a, (update.rank, inputs), &Device::Cpu)?;
        let b = Tensor::from_slice(&update.b, (out, update.rank), &Device::Cpu)?;
        factors.insert(name, Factors { a, b, scale });
    }
    let digest =
        Digest::of_parts(parts.iter().map(|(label, part)| (label.as_str(), part.as_slice())));
    let source = MergedSource { base: checkpoint.tensors.clone(), factors, digest };
    Ok(Checkpoint { tensors: Arc::new(source), ..checkpoint.clone() })
}

/// `[out, in]` of a projection that an update fits.
fn fitting(
    checkpoint: &Checkpoint,
    layer: usize,
    projection: Projection,
    update: &Update,
) -> Result<[usize; 2]> {
    let config = &checkpoint.config;
    let name = projection.weight(config.family(), layer);
    if !config.has(layer, projection) {
        return Err(Error::tensor(&checkpoint.origin, name, "not in the model"));
    }
    let [out, inputs] = names::projection_shape(config, layer, projection);
    let (a, b) = (update.rank * inputs, out * update.rank);
    if (update.a.len(), update.b.len()) != (a, b) {
        let message = format!(
            "an update of {a} and {b} numbers expected, {} and {} found",
            update.a.len(),
            update.b.len()
        );
        return Err(Error::tensor(&checkpoint.origin, name, message));
    }
    Ok([out, inputs])
}

struct MergedSource {
    base: Arc<dyn TensorSource>,
    factors: BTreeMap<String, Factors>,
    digest: Digest,
}

impl TensorSource for MergedSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(name)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> FileResult<Tensor> {
        let Some(Factors { a, b, scale }) = self.factors.get(name) else {
            return self.base.load(name, dtype, device);
        };
        let weight = self.base.load(name, DType::F32, &Device::Cpu)?;
        let merged = (weight + (b.matmul(a)? * *scale)?)?;
        let merged = merged.to_dtype(dtype)?;
        check_finite(name, &merged)?;
        Ok(merged.to_device(device)?)
    }

    fn digest(&self) -> FileResult<Digest> {
        Ok(self.digest)
    }
}
