//! Where a model runs and in which number type.

use adapruner_kernels::packed::{Packed, PackedBytes};
use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The first CUDA device (feature `cuda`).
    Cuda,
    /// The first Metal device (feature `metal`).
    Metal,
}

/// `--dtype`: the type the weights are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeChoice {
    /// f32 on the CPU, bf16 elsewhere.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16; on the CPU activations and sums stay f32.
    Bf16,
}

adapruner_choice::choice!(DeviceChoice, "device", {
    Cpu => "cpu",
    Cuda => "cuda",
    Metal => "metal",
});

adapruner_choice::choice!(DTypeChoice, "dtype", {
    Auto => "auto",
    F32 => "f32" | "float32",
    Bf16 => "bf16" | "bfloat16",
});

/// A device together with the type weights are held in there.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// Type of the weight matrices.
    pub dtype: DType,
}

impl Placement {
    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }

    /// Opens the device that was asked for.
    ///
    /// # Errors
    /// A device that was not compiled in or is not there.
    pub fn resolve(device: DeviceChoice, dtype: DTypeChoice) -> Result<Self> {
        let opened = match device {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda => Device::new_cuda(0),
            DeviceChoice::Metal => Device::new_metal(0),
        };
        let device = opened.map_err(|e| Error::Device {
            device: device.to_string(),
            message: e.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
        let dtype = match dtype {
            DTypeChoice::F32 => DType::F32,
            DTypeChoice::Bf16 => DType::BF16,
            DTypeChoice::Auto if device.is_cpu() => DType::F32,
            DTypeChoice::Auto => DType::BF16,
        };
        Ok(Self { device, dtype })
    }

    /// Bytes for each parameter that passes hold beside the weights in the precision of
    /// products that is set.
    pub fn packed_bytes(&self) -> PackedBytes {
        if self.device.is_cpu() { Packed::bytes(self.dtype) } else { PackedBytes::default() }
    }

    /// Type of the activations: f32 on the CPU, the weights' type elsewhere.
    pub fn activations(&self) -> DType {
        if self.device.is_cpu() { DType::F32 } else { self.dtype }
    }
}
