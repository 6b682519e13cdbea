//! Where a model runs and in which number type.

use adapruner_checkpoint::{Checkpoint, names};
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
    /// On the CPU as they are stored: bf16 where all matrices are, f32 otherwise, so that no
    /// bit is lost. Elsewhere bf16.
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

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// A device that was not compiled in or is not there.
    pub fn open(self) -> Result<Device> {
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::new_cuda(0),
            Self::Metal => Device::new_metal(0),
        };
        opened.map_err(|e| Error::Device {
            device: self.to_string(),
            message: e.to_string().lines().next().unwrap_or_default().to_owned(),
        })
    }
}

impl DTypeChoice {
    /// The type in which the weights of `models` run together on `device`.
    fn of<'a>(self, device: &Device, models: impl IntoIterator<Item = &'a Checkpoint>) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Auto if device.is_cpu() && !models.into_iter().all(stored_in_bf16) => DType::F32,
            Self::Auto => DType::BF16,
        }
    }
}

/// Whether every matrix of a model is stored in bf16. Vectors (norms, biases) do not count: they
/// always run in the type of the activations.
fn stored_in_bf16(model: &Checkpoint) -> bool {
    let mut matrices =
        names::expected_tensors(&model.config).into_iter().filter(|tensor| tensor.shape.len() > 1);
    matrices
        .all(|tensor| model.tensors.meta(&tensor.name).is_some_and(|meta| meta.stored == "BF16"))
}

impl Placement {
    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }

    /// Where and in which type `models` run, if there is one place for all of them.
    ///
    /// # Errors
    /// A device that was not compiled in or is not there.
    pub fn resolve<'a>(
        device: DeviceChoice,
        dtype: DTypeChoice,
        models: impl IntoIterator<Item = &'a Checkpoint>,
    ) -> Result<Self> {
        let device = device.open()?;
        let dtype = dtype.of(&device, models);
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
