//! The same model with low-rank updates beside its projections, with masks on what
//! its units give, or with some of its parameters replaced; all other weights are
//! shared.

use std::collections::BTreeMap;

use adapruner_checkpoint::{
    ModelConfig,
    names::{self, Projection},
};
use adapruner_kernels::{LowRank, packed::Packed};
use candle_core::{Result as CandleResult, Tensor};

use crate::{
    block::Block,
    decoder::Decoder,
    error::{Error, Result},
    load::as_factor,
};

/// Low-rank updates by layer and projection.
pub type Adapters = BTreeMap<(usize, Projection), LowRank>;

/// Masks of what the units of a layer give, by layer and by the projection that reads
/// it: factors of the heads' outputs side by side (`[N·D]`) or of the channels (`[F]`).
pub type Masks = BTreeMap<(usize, Projection), Tensor>;

/// What was changed of a model's weights.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) adapters: Adapters,
    pub(crate) masks: Masks,
    /// By canonical name.
    pub(crate) parameters: BTreeMap<String, Tensor>,
}

impl Changes {
    /// Changes the block of layer `layer`.
    pub(crate) fn apply(
        &self,
        config: &ModelConfig,
        layer: usize,
        block: &mut Block,
    ) -> CandleResult<()> {
        for (part, projection, linear) in block.projections_mut(layer) {
            linear.adapter = self.adapters.get(&(layer, projection)).cloned();
            linear.mask = self.masks.get(&(layer, projection)).cloned();
            if self.parameters.contains_key(&config.name(part)) {
                linear.packed = Packed::default();
            }
        }
        if self.parameters.is_empty() {
            return Ok(());
        }
        let family = config.family();
        for (part, tensor) in block.parameters_mut(layer) {
            let other = part.name(family).and_then(|name| self.parameters.get(&name));
            if let Some(other) = other {
                *tensor = if part.is_norm() { as_factor(other, family)? } else { other.clone() };
            }
        }
        block.share_norm();
        Ok(())
    }
}

/// Refuses a change of the maps of experts.
fn refuse_experts(config: &ModelConfig, projection: Projection, what: &str) -> Result<(), String> {
    match config.experts.is_some() && !projection.is_attention() {
        true => Err(format!("the maps of experts are not {what}, only those of attention")),
        false => Ok(()),
    }
}

impl Decoder {
    /// The same model, its weights shared, with low-rank updates beside its
    /// projections in place of those it had.
    ///
    /// # Errors
    /// An update of a projection that the model does not have, or that does not fit
    /// it.
    pub fn with_adapters(&self, adapters: &Adapters) -> Result<Self> {
        let config = self.config();
        for (&(layer, projection), adapter) in adapters {
            let name = projection.weight(config.family(), layer);
            let unfit = |message: String| Error::Unfit { name: name.clone(), message };
            if !config.has(layer, projection) {
                return Err(unfit("the model has no such projection to adapt".to_owned()));
            }
            refuse_experts(config, projection, "adapted").map_err(unfit)?;
            let [outputs, inputs] = names::projection_shape(config, layer, projection);
            adapter.check(outputs, inputs).map_err(|e| unfit(e.to_string()))?;
        }
        let adapters = adapters.clone();
        self.changed(Changes { adapters, ..self.changes.clone() })
    }

    /// The same model, its weights shared, with masks on what its units give in place
    /// of those it had.
    ///
    /// # Errors
    /// A mask of a projection that the model does not have or that reads no units, or
    /// that does not fit it.
    pub fn with_masks(&self, masks: &Masks) -> Result<Self> {
        let config = self.config();
        let mut placed = Masks::new();
        for (&(layer, projection), mask) in masks {
            let unfit = |message: String| {
                let name = projection.weight(config.family(), layer);
                Error::Unfit { name, message }
            };
            if !config.has(layer, projection) || !projection.prunes_columns() {
                return Err(unfit("the model has no such projection that reads units".to_owned()));
            }
            refuse_experts(config, projection, "masked").map_err(unfit)?;
            let [_, inputs] = names::projection_shape(config, layer, projection);
            if mask.dims() != [inputs] {
                let found = mask.dims();
                return Err(unfit(format!("a mask of [{inputs}] expected, {found:?} found")));
            }
            let placement = self.placement();
            let mask = mask.to_dtype(placement.activations())?.to_device(&placement.device)?;
            placed.insert((layer, projection), mask.contiguous()?);
        }
        self.changed(Changes { masks: placed, ..self.changes.clone() })
    }

    /// The masks on what the units give.
    pub fn masks(&self) -> &Masks {
        &self.changes.masks
    }

    /// The low-rank updates beside the projections.
    pub fn adapters(&self) -> &Adapters {
        &self.changes.adapters
    }

    /// The same model with some parameters replaced, by canonical name; all others
    /// are shared. The head of a tied model is its embedding.
    ///
    /// # Errors
    /// A name that the model does not have, or a shape that is not its.
    pub fn with_parameters(&self, parameters: &BTreeMap<String, Tensor>) -> Result<Self> {
        let expected: BTreeMap<String, Vec<usize>> = names::expected_tensors(self.config())
            .into_iter()
            .map(|tensor| (tensor.name, tensor.shape))
            .collect();
        let mut changes = self.changes.clone();
        for (name, tensor) in parameters {
            let unfit = |message: String| Error::Unfit { name: name.clone(), message };
            let Some(shape) = expected.get(name) else {
                return Err(unfit("the model has no such parameter".to_owned()));
            };
            if tensor.dims() != shape.as_slice() {
                return Err(unfit(format!("expected shape {shape:?}, found {:?}", tensor.dims())));
            }
            changes.parameters.insert(name.clone(), tensor.contiguous()?);
        }
        self.changed(changes)
    }
}
