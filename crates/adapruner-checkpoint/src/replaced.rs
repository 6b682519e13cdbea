//! A model with some of its tensors replaced by others of the same shapes, held
//! in memory: what was fitted or trained.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    digest::Digest,
    error::{Error, Result},
};

impl Checkpoint {
    /// The same model with `tensors` (f32, by canonical name) in place of its own.
    ///
    /// # Errors
    /// A tensor that the model does not have, or of another shape.
    pub fn with_tensors(&self, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let base = self.digest()?;
        let mut parts = vec![("base", base.as_bytes().to_vec())];
        for (name, tensor) in &tensors {
            let Some(meta) = self.tensors.meta(name) else {
                return Err(Error::tensor(&self.origin, name, "not in the model"));
            };
            if meta.shape != tensor.dims() {
                let message = format!("shape {:?} expected, {:?} found", meta.shape, tensor.dims());
                return Err(Error::tensor(&self.origin, name, message));
            }
            let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
            parts.push((name, Digest::of_bytes(&bytes).as_bytes().to_vec()));
        }
        let digest = Digest::of_parts(parts.iter().map(|(name, part)| (*name, part.as_slice())));
        let source = ReplacedSource { base: self.tensors.clone(), tensors, digest };
        Ok(Self { tensors: Arc::new(source), ..self.clone() })
    }
}

struct ReplacedSource {
    base: Arc<dyn TensorSource>,
    tensors: BTreeMap<String, Tensor>,
    digest: Digest,
}

impl TensorSource for ReplacedSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(name)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            return self.base.load(name, dtype, device);
        };
        let tensor = tensor.to_dtype(dtype)?;
        check_finite(name, &tensor)?;
        Ok(tensor.to_device(device)?)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}

/// Refuses a computed weight that is, or was rounded, beyond all bounds.
///
/// # Errors
/// A tensor with a value that is NaN or infinite.
pub fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let largest = tensor.abs()?.to_dtype(DType::F32)?.max_all()?.to_scalar::<f32>()?;
    // NaN is lost in a maximum, but not in a sum.
    let sum = tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if largest.is_finite() && !sum.is_nan() {
        return Ok(());
    }
    let message = format!("not finite as {}", tensor.dtype().as_str());
    Err(Error::tensor("computed model", name, message).advise("store the weights as bf16 or f32"))
}
