//! Where a model runs.

use adapruner_model::{DTypeChoice, DeviceChoice, Placement};
use candle_core::DType;

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
    for (choice, weights) in [
        (DTypeChoice::Auto, DType::F32),
        (DTypeChoice::F32, DType::F32),
        (DTypeChoice::Bf16, DType::BF16),
    ] {
        let placement = Placement::resolve(DeviceChoice::Cpu, choice).unwrap();
        assert_eq!((placement.dtype, placement.activations()), (weights, DType::F32));
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Placement::resolve(DeviceChoice::Cuda, DTypeChoice::Auto).unwrap_err();
    assert!(error.to_string().starts_with("device cuda: "), "{error}");
    assert!(error.hint().unwrap().contains("--device cpu"));
}
