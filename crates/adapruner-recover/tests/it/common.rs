//! Fixtures, and how far numbers may be apart.

use std::{collections::HashMap, path::PathBuf};

use adapruner_checkpoint::Checkpoint;
use adapruner_model::{Decoder, Placement, Residency};
use candle_core::{DType, Device, Tensor};

/// f32 here against f64 there, relative to the largest number of a tensor.
pub const F32: f64 = 2e-5;

/// The models with an adapter in `fixtures/lora`.
pub const MODELS: [&str; 2] = ["gqa3_untied", "biases"];

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

pub fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&fixtures().join("models").join(name)).unwrap()
}

pub fn decoder(checkpoint: &Checkpoint) -> Decoder {
    Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap()
}

pub fn adapter_folder(model: &str, which: &str) -> PathBuf {
    fixtures().join("lora").join(model).join(which)
}

/// What PEFT and torch computed.
pub struct Expected(HashMap<String, Tensor>);

impl Expected {
    pub fn of(model: &str) -> Self {
        let path = fixtures().join("lora").join(model).join("expected.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in expected.safetensors"))
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.get(name).to_dtype(DType::U32).unwrap().to_vec1().unwrap()
    }
}

fn wide(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap()
}

fn most(t: &Tensor) -> f64 {
    wide(t).abs().unwrap().flatten_all().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[track_caller]
pub fn near(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let distance = most(&(wide(found) - wide(expected)).unwrap()) / most(expected);
    assert!(distance <= tolerance, "{what}: off by {distance:e}, tolerance {tolerance:e}");
}

/// The message of an error with its advice.
pub fn said<T>(result: adapruner_recover::Result<T>) -> String {
    let error = result.err().expect("an error");
    format!("{error} ({})", error.hint().unwrap_or("no hint"))
}
