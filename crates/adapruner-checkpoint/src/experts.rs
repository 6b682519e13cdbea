//! A model with some of its experts: their maps under the numbers of their new places, and their
//! rows of the routers.
//!
//! Axes: `E` experts before, `H` hidden.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    digest::Digest,
    error::{Error, Result},
    names::{Part, expected_tensors},
};

impl Checkpoint {
    /// The same model with the experts `kept` of each layer alone (ascending indices, in each
    /// layer as many), which become experts 0, 1, …. Tokens are routed among these.
    ///
    /// # Errors
    /// A model without experts; another number of layers; indices that do not ascend or that the
    /// model does not have; numbers that differ between layers; fewer than a token takes.
    pub fn with_experts(&self, kept: &[Vec<usize>]) -> Result<Self> {
        let refuse =
            |message: String| Error::unsupported(&self.origin, format!("experts: {message}"));
        let Some(experts) = self.config.experts else {
            return Err(refuse("the model has none".into()));
        };
        if kept.len() != self.config.layers.len() {
            let (expected, found) = (self.config.layers.len(), kept.len());
            return Err(refuse(format!("expected those of {expected} layers, found {found}")));
        }
        let count = kept.first().map_or(0, Vec::len);
        for (layer, own) in kept.iter().enumerate() {
            let ascending = own.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || own.last().is_some_and(|&last| last >= experts.count) {
                let below = experts.count;
                return Err(refuse(format!(
                    "layer {layer}: expected ascending indices below {below}, found {own:?}"
                )));
            }
            if own.len() != count || count < experts.chosen.max(1) {
                return Err(refuse(format!(
                    "layer {layer}: expected as many in every layer, at least the {} that a token \
                     takes, found {}",
                    experts.chosen,
                    own.len()
                )));
            }
        }
        let config = self.config.of_experts(count);
        let names = expected_tensors(&config).into_iter().map(|tensor| {
            let of = match tensor.part {
                Part::Expert(layer, expert, projection) => {
                    let from = Part::Expert(layer, kept[layer][expert], projection);
                    Origin { name: self.config.name(from), rows: None }
                }
                Part::Router(layer) => {
                    let rows = kept[layer].iter().map(|&expert| expert as u32).collect();
                    Origin { name: tensor.name.clone(), rows: Some(rows) }
                }
                Part::Embedding
                | Part::Positions
                | Part::Norm(..)
                | Part::NormBias(..)
                | Part::Weight(..)
                | Part::Bias(..)
                | Part::FinalNorm
                | Part::FinalNormBias
                | Part::Head => Origin { name: tensor.name.clone(), rows: None },
            };
            (tensor.name, of)
        });
        let indices: Vec<u8> =
            kept.iter().flatten().flat_map(|&at| (at as u64).to_le_bytes()).collect();
        let digest = Digest::of_parts([
            ("experts of", self.digest()?.as_bytes().as_slice()),
            ("kept", indices.as_slice()),
        ]);
        let tensors = RoutedSource { base: self.tensors.clone(), names: names.collect(), digest };
        Ok(Self { config, tensors: Arc::new(tensors), ..self.clone() })
    }
}

/// What a tensor is made of.
struct Origin {
    /// Its name in the base.
    name: String,
    /// The rows that stay, where not all do.
    rows: Option<Arc<[u32]>>,
}

/// A model's tensors, those of experts under other names and with other rows.
struct RoutedSource {
    base: Arc<dyn TensorSource>,
    names: BTreeMap<String, Origin>,
    digest: Digest,
}

impl TensorSource for RoutedSource {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        let Origin { name, rows } = self.names.get(name)?;
        let mut meta = self.base.meta(name)?;
        if let Some(rows) = rows {
            let before = meta.shape.first_mut()?;
            let bytes = u128::from(meta.bytes) * rows.len() as u128 / (*before).max(1) as u128;
            meta.bytes = bytes as u64;
            *before = rows.len();
        }
        Some(meta)
    }

    /// # Shapes
    /// Of a router: `[E, H]` before, a row for each expert that stays here.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(Origin { name, rows }) = self.names.get(name) else {
            return Err(Error::NotFound {
                name: name.to_owned(),
                message: "the model has no such tensor, or its expert was removed".into(),
            });
        };
        let whole = self.base.load(name, dtype, device)?;
        match rows {
            None => Ok(whole),
            Some(rows) => Ok(whole.index_select(&Tensor::new(&**rows, whole.device())?, 0)?),
        }
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}
