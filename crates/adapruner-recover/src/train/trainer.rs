//! A model whose adapter, or whose every parameter, is trained.

use std::collections::BTreeMap;

use adapruner_checkpoint::{
    Checkpoint,
    names::{self, Projection},
};
use adapruner_model::{
    Decoder,
    train::{
        Adapters, Batch, Dropout, LowRank, PassOptions, adamw::Parameter, adapter_gradients,
        full_gradients,
    },
};
use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Error, Result},
    lora::{Adapter, Update},
    peft::{Side, tensor_name},
};

/// What is learned.
#[derive(Debug, Clone)]
enum Kind {
    /// Low-rank updates; their numbers are the parameters.
    Lora(Adapter),
    /// All parameters.
    Full,
}

/// A model in training.
pub struct Trainer<'a> {
    base: &'a Decoder,
    kind: Kind,
    /// By name: PEFT's of an adapter, the model's own of a model.
    pub parameters: BTreeMap<String, Parameter>,
}

/// Losses and gradients of one part of a step.
pub(crate) struct PartGradients {
    /// Sum of each term, in nats.
    pub terms: Vec<f64>,
    /// The matching of hidden states, with its weight.
    pub hidden: f64,
    /// Gradients of the whole sum, by name.
    pub gradients: BTreeMap<String, Vec<f32>>,
}

impl<'a> Trainer<'a> {
    /// `base` with an adapter to train.
    pub fn lora(base: &'a Decoder, adapter: Adapter) -> Self {
        let mut parameters = BTreeMap::new();
        for (&(layer, projection), update) in &adapter.updates {
            let Update { a, b, rank, .. } = update;
            let name = |side| tensor_name(base.config(), layer, projection, side);
            let shape = vec![*rank, a.len() / rank];
            parameters.insert(name(Side::A), Parameter::new(shape, a.clone(), true));
            let shape = vec![b.len() / rank, *rank];
            parameters.insert(name(Side::B), Parameter::new(shape, b.clone(), true));
        }
        Self { base, kind: Kind::Lora(adapter), parameters }
    }

    /// `base`, all of whose parameters are trained, starting from those of `checkpoint`, the
    /// same model. Biases and norms do not decay, as in transformers.
    ///
    /// # Errors
    /// Weights that are damaged.
    pub fn full(base: &'a Decoder, checkpoint: &Checkpoint) -> Result<Self> {
        let mut parameters = BTreeMap::new();
        for tensor in names::expected_tensors(&checkpoint.config) {
            let loaded = checkpoint.tensors.load(&tensor.name, DType::F32, &Device::Cpu)?;
            let decays = tensor.shape.len() > 1;
            let values = loaded.flatten_all()?.to_vec1()?;
            parameters.insert(tensor.name, Parameter::new(tensor.shape, values, decays));
        }
        Ok(Self { base, kind: Kind::Full, parameters })
    }

    /// PEFT's name of a matrix of an update.
    fn name(&self, layer: usize, projection: Projection, side: Side) -> String {
        tensor_name(self.base.config(), layer, projection, side)
    }

    /// Number of trained parameters.
    pub fn learned_parameters(&self) -> u64 {
        self.parameters.values().map(|p| p.values.len() as u64).sum()
    }

    /// `V`.
    pub fn vocabulary(&self) -> usize {
        self.base.config().vocab_size
    }

    /// How many layers the model has.
    pub(crate) fn layers(&self) -> usize {
        self.base.config().layers.len()
    }

    /// The adapter as it is now, where one is learned.
    pub fn adapter(&self) -> Option<Adapter> {
        let Kind::Lora(adapter) = &self.kind else { return None };
        let mut adapter = adapter.clone();
        for (&(layer, projection), update) in &mut adapter.updates {
            let values = |side| self.parameters[&self.name(layer, projection, side)].values.clone();
            (update.a, update.b) = (values(Side::A), values(Side::B));
        }
        Some(adapter)
    }

    /// All learned numbers as tensors on the CPU, by name.
    ///
    /// # Errors
    /// No memory.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.parameters.iter().map(|(name, p)| Ok((name.clone(), tensor(p)?))).collect()
    }

    /// Whether every part of a step has a model of its own.
    pub(crate) fn drops_out(&self) -> bool {
        matches!(&self.kind, Kind::Lora(adapter) if adapter.dropout > 0.0)
    }

    /// The model with what was learned so far; with a seed for its dropout, or
    /// without dropout.
    ///
    /// # Errors
    /// No memory.
    pub fn decoder(&self, dropout: Option<u64>) -> Result<Decoder> {
        let device = &self.base.placement().device;
        let Kind::Lora(adapter) = &self.kind else {
            let placement = self.base.placement();
            let place = |(name, p): (&String, &Parameter)| {
                let dtype =
                    if p.shape.len() > 1 { placement.dtype } else { placement.activations() };
                Ok((name.clone(), tensor(p)?.to_dtype(dtype)?.to_device(device)?))
            };
            let tensors = self.parameters.iter().map(place).collect::<Result<_>>()?;
            return Ok(self.base.with_parameters(&tensors)?);
        };
        let low_rank = |(&(layer, projection), update): (&(usize, Projection), &Update)| {
            let of = |side| {
                tensor(&self.parameters[&self.name(layer, projection, side)])?.to_device(device)
            };
            let dropout = dropout.filter(|_| adapter.dropout > 0.0).map(|seed| Dropout {
                probability: adapter.dropout,
                seed: mixed(seed, (layer * Projection::ALL.len() + projection as usize) as u64),
            });
            let scale = adapter.scale(update);
            let low_rank = LowRank { a: of(Side::A)?, b: of(Side::B)?, scale, dropout };
            Ok(((layer, projection), low_rank))
        };
        let adapters: Adapters = adapter.updates.iter().map(low_rank).collect::<Result<_>>()?;
        Ok(self.base.with_adapters(&adapters)?)
    }

    /// Losses and gradients of a batch.
    pub(crate) fn gradients(
        &self,
        decoder: &Decoder,
        batch: &Batch<'_>,
        options: &PassOptions,
    ) -> Result<PartGradients> {
        let flat = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let mut gradients = BTreeMap::new();
        let (terms, hidden) = match &self.kind {
            Kind::Lora(_) => {
                let learned = adapter_gradients(decoder, batch, options)?;
                for (&(layer, projection), grad) in &learned.gradients {
                    gradients.insert(self.name(layer, projection, Side::A), flat(&grad.a)?);
                    gradients.insert(self.name(layer, projection, Side::B), flat(&grad.b)?);
                }
                (learned.terms, learned.hidden)
            }
            Kind::Full => {
                let learned = full_gradients(decoder, batch, options)?;
                for (name, grad) in &learned.gradients {
                    gradients.insert(name.clone(), flat(grad)?);
                }
                (learned.terms, learned.hidden)
            }
        };
        for (name, parameter) in &self.parameters {
            let found = gradients.get(name).map(Vec::len);
            if found != Some(parameter.values.len()) {
                return Err(Error::Model(adapruner_model::Error::NoGradient(name.clone())));
            }
        }
        Ok(PartGradients { terms, hidden, gradients })
    }
}

fn tensor(parameter: &Parameter) -> candle_core::Result<Tensor> {
    Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)
}

/// A separate seed for `part` (SplitMix64's finaliser, Steele et al. 2014).
pub(crate) fn mixed(seed: u64, part: u64) -> u64 {
    let mut z = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
