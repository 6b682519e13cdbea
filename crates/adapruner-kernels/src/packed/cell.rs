//! A weight's packed form, made when it pays.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor, TensorId};

use super::{Arithmetic, PackedWeight};

/// Products of at least so many rows lay the weight out on their way: measured,
/// that costs a tenth of the time at 256 rows and a fiftieth at 1024.
const MANY_ROWS: usize = 512;

/// Holds the packed form of one weight beside the weight.
///
/// It takes as many bytes as the weight, which stays for the backward pass; so it
/// is made at the first product of few rows (generation, short batches), and
/// where there is none, as when evaluating large batches, nothing is held. Clones
/// share it. It is only made of bf16 weights on the CPU that are not tracked, on
/// processors with an [`Arithmetic::of_bf16`], and never used for another tensor
/// than the one it was made of: a weight that is replaced is laid out on the way.
#[derive(Debug, Clone, Default)]
pub struct Packed(Arc<OnceLock<(TensorId, Arc<PackedWeight>)>>);

impl Packed {
    /// The packed form of `weight` for a product of `rows`, if there is one.
    ///
    /// # Errors
    /// Weights that are no matrix.
    pub(crate) fn of(&self, weight: &Tensor, rows: usize) -> Result<Option<Arc<PackedWeight>>> {
        if rows >= MANY_ROWS && self.0.get().is_none() {
            return Ok(None);
        }
        let packable = weight.dtype() == DType::BF16
            && weight.device().is_cpu()
            && !weight.track_op()
            && Arithmetic::of_bf16(rows).is_some();
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
