//! A model whose tensors are read once and then kept in memory, for work that reads the same
//! weights repeatedly.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use candle_core::{DType, Device, DeviceLocation, Tensor};

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    digest::Digest,
    error::Result,
};

impl Checkpoint {
    /// The same model; each tensor is kept in memory once it was loaded, in the
    /// type and on the device it was loaded for.
    #[must_use]
    pub fn resident(&self) -> Self {
        let source = ResidentSource {
            base: self.tensors.clone(),
            held: Mutex::default(),
            digest: OnceLock::new(),
        };
        Self { tensors: Arc::new(source), ..self.clone() }
    }
}

/// What a tensor was loaded as: name, type, whether on the CPU and which device.
type Key = (String, &'static str, Option<usize>);

struct ResidentSource {
    base: Arc<dyn TensorSource>,
    held: Mutex<BTreeMap<Key, Tensor>>,
    digest: OnceLock<Digest>,
}

impl TensorSource for ResidentSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(name)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let place = match device.location() {
            DeviceLocation::Cpu => None,
            DeviceLocation::Cuda { gpu_id } | DeviceLocation::Metal { gpu_id } => Some(gpu_id),
        };
        let key = (name.to_owned(), dtype.as_str(), place);
        let held = |map: &Mutex<BTreeMap<Key, Tensor>>| {
            map.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
        };
        if let Some(tensor) = held(&self.held) {
            return Ok(tensor);
        }
        let tensor = self.base.load(name, dtype, device)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key, tensor.clone());
        Ok(tensor)
    }

    fn digest(&self) -> Result<Digest> {
        match self.digest.get() {
            Some(digest) => Ok(*digest),
            None => Ok(*self.digest.get_or_init({
                let digest = self.base.digest()?;
                move || digest
            })),
        }
    }
}
