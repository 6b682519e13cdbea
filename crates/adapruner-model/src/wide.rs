//! Tensors as f64, for sums that are finished once.
//!
//! Metal has no f64: candle fails there on the cast itself. This is the only
//! module that casts a tensor of a device to f64 (held by a test over the
//! sources of all crates).

use candle_core::{DType, Device, Result, Tensor};

/// `tensor` as f64: where it is, or on the CPU if its device has no f64.
///
/// # Shapes
/// Any, kept.
///
/// # Errors
/// No memory.
pub fn in_f64(tensor: &Tensor) -> Result<Tensor> {
    match tensor.device().is_metal() {
        true => tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64),
        false => tensor.to_dtype(DType::F64),
    }
}

/// Sums along an axis: in f64 where the device has it, else in the tensor's own
/// type on the device, so that what is handed over is short.
///
/// # Shapes
/// `values` of any shape, the result without `axis`.
///
/// # Errors
/// No memory.
pub fn sum_in_f64(values: &Tensor, axis: usize) -> Result<Tensor> {
    match values.device().is_metal() {
        true => in_f64(&values.sum(axis)?),
        false => in_f64(values)?.sum(axis),
    }
}
