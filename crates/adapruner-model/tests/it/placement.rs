//! Where a model runs.

use adapruner_checkpoint::Checkpoint;
use adapruner_model::{DTypeChoice, Decoder, DeviceChoice, Placement, Residency};
use candle_core::{DType, Device, Tensor};

use crate::common::checkpoint;

#[test]
fn names_read_back() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::Metal] {
        assert_eq!(device.to_string().parse(), Ok(device));
    }
    for dtype in [DTypeChoice::Auto, DTypeChoice::F32, DTypeChoice::Bf16] {
        assert_eq!(dtype.to_string().parse(), Ok(dtype));
    }
    let error = "gpu".parse::<DeviceChoice>().unwrap_err().to_string();
    assert!(error.contains("\"gpu\"") && error.contains("cuda"), "{error}");
    let error = "f64".parse::<DTypeChoice>().unwrap_err().to_string();
    assert!(error.contains("\"f64\"") && error.contains("bf16"), "{error}");
}

#[test]
fn the_processor_computes_in_f32() {
    for (choice, weights) in [(DTypeChoice::F32, DType::F32), (DTypeChoice::Bf16, DType::BF16)] {
        let placement = Placement::resolve(DeviceChoice::Cpu, choice, []).unwrap();
        assert_eq!((placement.dtype, placement.activations()), (weights, DType::F32));
    }
}

#[test]
fn weights_stored_in_bf16_run_so_unless_others_run_with_them() {
    let (bf16, f32) = (checkpoint("sharded_bf16"), checkpoint("mha_tied"));
    let together = |models: &[&Checkpoint]| {
        Placement::resolve(DeviceChoice::Cpu, DTypeChoice::Auto, models.iter().copied())
            .unwrap()
            .dtype
    };
    assert_eq!(together(&[&bf16]), DType::BF16);
    assert_eq!(together(&[&bf16, &bf16]), DType::BF16);
    assert_eq!(together(&[&f32]), DType::F32);
    assert_eq!(together(&[&bf16, &f32]), DType::F32);
}

/// bf16 weights as such and widened to f32: losses differ by the rounding of f32 alone.
#[test]
fn running_as_stored_loses_nothing() {
    let model = checkpoint("sharded_bf16");
    let ids: Vec<u32> = (0..64).map(|at| at * 7 % model.config.vocab_size as u32).collect();
    let logits = |choice| {
        let placement = Placement::resolve(DeviceChoice::Cpu, choice, [&model]).unwrap();
        let decoder = Decoder::load(&model, &placement, Residency::Resident).unwrap();
        let ids = Tensor::new(&ids[..], &Device::Cpu).unwrap().reshape((2, 32)).unwrap();
        decoder.logits(&ids).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (auto, f32) = (logits(DTypeChoice::Auto), logits(DTypeChoice::F32));
    let largest = f32.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    for (auto, f32) in auto.iter().zip(&f32) {
        assert!((auto - f32).abs() <= 2e-5 * largest, "{auto} {f32} of {largest}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Placement::resolve(DeviceChoice::Cuda, DTypeChoice::Auto, []).unwrap_err();
    assert!(error.to_string().starts_with("device cuda: "), "{error}");
    assert!(error.hint().unwrap().contains("--device cpu"));
}
