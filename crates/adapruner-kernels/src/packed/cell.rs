//! A weight's packed form, made at its first use.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor, TensorId};

use super::{Arithmetic, PackedWeight};

/// Holds the packed form of one weight beside the weight, once it was used.
///
/// Clones share it. It is only made of bf16 weights on the CPU that are not
/// tracked, on processors with an [`Arithmetic::preferred`], and never used for
/// another tensor than the one it was made of: a weight that is replaced is
/// packed for each product. It takes as many bytes as the weight, which stays for
/// the backward pass.
#[derive(Debug, Clone, Default)]
pub struct Packed(Arc<OnceLock<(TensorId, Arc<PackedWeight>)>>);

impl Packed {
    /// The packed form of `weight`, if there is one.
    ///
    /// # Errors
    /// Weights that are no matrix.
    pub(crate) fn of(&self, weight: &Tensor) -> Result<Option<Arc<PackedWeight>>> {
        let packable = weight.dtype() == DType::BF16
            && weight.device().is_cpu()
            && !weight.track_op()
            && Arithmetic::preferred().is_some();
        if !packable {
            return Ok(None);
        }
        if self.0.get().is_none() {
            let packed = Arc::new(PackedWeight::pack(weight)?);
            self.0.get_or_init(|| (weight.id(), packed));
        }
        Ok(self.0.get().filter(|(id, _)| *id == weight.id()).map(|(_, packed)| packed.clone()))
    }
}
