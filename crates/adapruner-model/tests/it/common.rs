//! Fixtures, and how far numbers may be apart.

use std::{collections::HashMap, path::PathBuf};

use adapruner_checkpoint::Checkpoint;
use adapruner_model::{Decoder, Placement, Residency};
use candle_core::{DType, Device, Tensor};

/// Every model of `fixtures/models`.
pub const FIXTURES: [&str; 33] = [
    "biases",
    "falcon",
    "falcon_11b",
    "falcon_40b",
    "gemma2",
    "gemma3",
    "gemma3_vision",
    "gpt_neox",
    "gpt_neox_sequential",
    "gqa3_untied",
    "granite",
    "linear_rope",
    "llama3_rope",
    "mha_tied",
    "mistral3_vision",
    "mistral_no_window",
    "mistral_windows",
    "mixtral",
    "olmo2",
    "olmoe",
    "opt",
    "opt_untied",
    "per_layer",
    "phi3",
    "phi3_long",
    "phi3_windows",
    "qwen2",
    "qwen2_windows",
    "qwen3",
    "qwen3_moe",
    "sharded_bf16",
    "smollm3",
    "tiny",
];

/// f32 here against f64 there, relative to the largest number of a tensor: a
/// few layers of sums that round at 6·10⁻⁸, and norms, softmax and angles that
/// the reference itself rounds to f32.
pub const F32: f64 = 2e-5;

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

pub fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&folder(name)).unwrap()
}

pub fn decoder(name: &str) -> Decoder {
    Decoder::load(&checkpoint(name), &Placement::cpu(), Residency::Resident).unwrap()
}

pub fn with(name: &str, dtype: DType, residency: Residency) -> Decoder {
    let placement = Placement { device: Device::Cpu, dtype };
    Decoder::load(&checkpoint(name), &placement, residency).unwrap()
}

/// What transformers computed of a fixture.
pub struct Expected(HashMap<String, Tensor>);

impl Expected {
    pub fn of(name: &str) -> Self {
        let path = folder(name).join("expected.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in expected.safetensors"))
    }

    pub fn samples(&self) -> Vec<Vec<u32>> {
        self.get("input_ids").to_dtype(DType::U32).unwrap().to_vec2().unwrap()
    }

    /// Parameter names and gradients.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().filter_map(|(name, t)| Some((name.strip_prefix("grad.")?, t)))
    }
}

/// Numbers from a seed, below `limit`.
pub fn ids(len: usize, limit: u32, seed: u32) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * 2_654_435 + seed * 40_503).wrapping_mul(2_246_822_519) % limit)
        .collect()
}

fn wide(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap()
}

/// The largest number, whatever its sign.
pub fn most(t: &Tensor) -> f64 {
    wide(t).abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// The largest difference, relative to the largest number expected.
pub fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    most(&(wide(found) - wide(expected)).unwrap()) / most(expected)
}

#[track_caller]
pub fn near(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "{what}: off by {distance:e}, tolerance {tolerance:e}");
}

/// The bits of a tensor.
pub fn bits(t: &Tensor) -> Vec<u32> {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}
