//! A model with some tensors replaced by fitted or trained ones of the same shapes, held in
//! memory, or with added biases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    config::ModelConfig,
    digest::Digest,
    error::{Error, Result},
    names::{ExpectedTensor, Projection, expected_tensors},
};

impl Checkpoint {
    /// The same model with `tensors` (f32, by canonical name) in place of its own.
    ///
    /// # Errors
    /// A tensor that the model does not have, or of another shape.
    pub fn with_tensors(&self, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        self.replaced(self.config.clone(), tensors)
    }

    /// The same model with `biases` (f32, by canonical name). Where one of attention
    /// or of the feed-forward has them at all, its other projections have them too,
    /// of zeros where the model had none.
    ///
    /// # Errors
    /// A tensor that the model has no place for, or of another shape.
    pub fn with_biases(&self, mut biases: BTreeMap<String, Tensor>) -> Result<Self> {
        let mut config = self.config.clone();
        for layer in 0..config.layers.len() {
            for projection in Projection::ALL {
                if biases.contains_key(&projection.bias(config.family(), layer)) {
                    config.add_bias(projection);
                }
            }
        }
        for ExpectedTensor { name, shape, .. } in expected_tensors(&config) {
            if !biases.contains_key(&name) && self.tensors.meta(&name).is_none() {
                biases.insert(name, Tensor::zeros(shape, DType::F32, &Device::Cpu)?);
            }
        }
        self.replaced(config, biases)
    }

    /// The same model with another configuration and `tensors` as it demands them.
    fn replaced(&self, config: ModelConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let base = self.digest()?;
        let mut parts = vec![("base", base.as_bytes().to_vec())];
        let shapes = expected_tensors(&config).into_iter().map(|e| (e.name, e.shape));
        let shapes: BTreeMap<String, Vec<usize>> = shapes.collect();
        for (name, tensor) in &tensors {
            let Some(shape) = shapes.get(name) else {
                return Err(Error::tensor(&self.origin, name, "not in the model"));
            };
            if shape != tensor.dims() {
                let message = format!("shape {shape:?} expected, {:?} found", tensor.dims());
                return Err(Error::tensor(&self.origin, name, message));
            }
            let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
            parts.push((name, Digest::of_bytes(&bytes).as_bytes().to_vec()));
        }
        let digest = Digest::of_parts(parts.iter().map(|(name, part)| (*name, part.as_slice())));
        let source = ReplacedSource { base: self.tensors.clone(), tensors, digest };
        Ok(Self { tensors: Arc::new(source), config, ..self.clone() })
    }
}

struct ReplacedSource {
    base: Arc<dyn TensorSource>,
    tensors: BTreeMap<String, Tensor>,
    digest: Digest,
}

impl TensorSource for ReplacedSource {
    fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> =
            self.base.names().into_iter().chain(self.tensors.keys().cloned()).collect();
        names.into_iter().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        let added = || {
            let tensor = self.tensors.get(name)?;
            let bytes = (tensor.elem_count() * 4) as u64;
            Some(TensorMeta { shape: tensor.dims().to_vec(), stored: "F32".to_owned(), bytes })
        };
        self.base.meta(name).or_else(added)
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
