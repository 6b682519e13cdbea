//! A model with part of its layers: the tensors of those that stay, under the names of their
//! new places.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    digest::Digest,
    error::{Error, Result},
    names::expected_tensors,
};

impl Checkpoint {
    /// The same model with the layers `kept` alone (ascending indices), which become layers 0,
    /// 1, …; windows and rotations go with their layers.
    ///
    /// # Errors
    /// No layers, indices that do not ascend or that the model does not have.
    pub fn with_layers(&self, kept: &[usize]) -> Result<Self> {
        let layers = self.config.layers.len();
        let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        if kept.is_empty() || !ascending || kept.last().is_some_and(|&last| last >= layers) {
            let message = format!(
                "layers: expected ascending indices below {layers}, at least one, found {kept:?}"
            );
            return Err(Error::unsupported(&self.origin, message));
        }
        let config = self.config.of_layers(kept);
        let original = |layer: usize| kept.get(layer).copied().unwrap_or(layer);
        let names = expected_tensors(&config).into_iter().map(|tensor| {
            let of = self.config.name(tensor.part.in_layer(original));
            (tensor.name, of)
        });
        let indices: Vec<u8> = kept.iter().flat_map(|&at| (at as u64).to_le_bytes()).collect();
        let digest = Digest::of_parts([
            ("layers of", self.digest()?.as_bytes().as_slice()),
            ("kept", indices.as_slice()),
        ]);
        let source = ShallowSource { base: self.tensors.clone(), names: names.collect(), digest };
        Ok(Self { config, tensors: Arc::new(source), ..self.clone() })
    }
}

/// A model's tensors, those of some layers under other names.
struct ShallowSource {
    base: Arc<dyn TensorSource>,
    /// Every name, and what the tensor is called in the base.
    names: BTreeMap<String, String>,
    digest: Digest,
}

impl TensorSource for ShallowSource {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(self.names.get(name)?)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.names.get(name) {
            Some(of) => self.base.load(of, dtype, device),
            None => Err(Error::NotFound {
                name: name.to_owned(),
                message: "the model has no such tensor, or its layer was removed".into(),
            }),
        }
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}
