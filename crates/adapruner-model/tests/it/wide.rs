//! f64 on devices that have none.

use std::path::{Path, PathBuf};

use adapruner_model::wide::{in_f64, sum_in_f64};
use candle_core::{Device, Tensor};

/// The one module that may cast to f64 where a tensor is.
const HOME: &str = "adapruner-model/src/wide.rs";

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// candle's Metal has no f64, and no machine here has a Metal: the cast stands in
/// one place, which moves to the CPU first.
#[test]
fn tensors_are_cast_to_f64_in_one_place() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let folder = entry.unwrap().path().join("src");
        if folder.is_dir() {
            sources(&folder, &mut files);
        }
    }
    assert!(files.iter().any(|file| file.ends_with(HOME)), "{files:?}");
    for file in files.into_iter().filter(|file| !file.ends_with(HOME)) {
        #[expect(clippy::disallowed_methods, reason = "a source file of this workspace")]
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String = code.split_whitespace().collect();
        for cast in ["to_dtype(DType::F64", "to_dtype(candle_core::DType::F64", "DType::F64,device"]
        {
            let name = file.display();
            assert!(!code.contains(cast), "{name}: {cast}: use adapruner_model::wide");
        }
    }
}

#[test]
fn sums_are_those_of_f64() {
    let values = Tensor::new(&[[1.0f32, 1e-9], [16_777_216.0, 1.0]], &Device::Cpu).unwrap();
    let sums = sum_in_f64(&values, 0).unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(sums, [16_777_217.0, 1.0 + f64::from(1e-9f32)]);
    assert_eq!(in_f64(&values).unwrap().dims(), [2, 2]);
}
