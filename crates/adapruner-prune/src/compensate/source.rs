//! Tensors of a compensated model: those that were fitted anew held in memory,
//! all others read through.

use std::{collections::BTreeMap, sync::Arc};

use adapruner_checkpoint::{Digest, Result as SourceResult, TensorMeta, TensorSource};
use candle_core::{DType, Device, Tensor};

pub(super) struct RefittedSource {
    pub(super) base: Arc<dyn TensorSource>,
    /// f32, on the CPU.
    pub(super) refitted: BTreeMap<String, Tensor>,
    pub(super) digest: Digest,
}

impl TensorSource for RefittedSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(name)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> SourceResult<Tensor> {
        match self.refitted.get(name) {
            Some(tensor) => Ok(tensor.to_dtype(dtype)?.to_device(device)?),
            None => self.base.load(name, dtype, device),
        }
    }

    fn digest(&self) -> SourceResult<Digest> {
        Ok(self.digest)
    }
}
