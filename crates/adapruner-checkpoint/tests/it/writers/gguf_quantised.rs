//! Quantised GGUF files: which type a tensor gets, and how close its values are.

use adapruner_checkpoint::{
    Checkpoint,
    gguf::{GgufOptions, TensorKind},
    names,
};
use candle_core::{DType, Device, Tensor, quantized::QTensor};

use super::{
    config,
    gguf_file::{header, of_kind, write},
    random_model, values, widths,
};

/// `H` = 256, `N·D` = 64, `F` = 32 and 33.
fn model(tied: bool) -> Checkpoint {
    let mut config = config(&[widths(16, 4, 32), widths(16, 4, 33)]);
    config.hidden_size = 256;
    config.tie_word_embeddings = tied;
    random_model(config, DType::F32, 5)
}

/// Relative root mean square error that nearly normal weights may have: a
/// little above what the types are known for.
fn bound(kind: TensorKind) -> f64 {
    match kind {
        TensorKind::F32 => 0.0,
        TensorKind::F16 => 3e-4,
        TensorKind::BF16 => 3e-3,
        TensorKind::Q8_0 => 0.01,
        TensorKind::Q6K => 0.03,
        TensorKind::Q5_0 | TensorKind::Q5_1 | TensorKind::Q5K => 0.06,
        TensorKind::Q4_0 | TensorKind::Q4_1 | TensorKind::Q4K => 0.12,
        TensorKind::Q3K => 0.2,
        TensorKind::Q2K => 0.4,
    }
}

#[test]
fn values_are_within_the_error_of_their_type() {
    let model = model(false);
    for kind in TensorKind::ALL {
        let (_folder, path, _) = write(&model, &of_kind(kind));
        let again = Checkpoint::open(&path).unwrap();
        for tensor in names::expected_tensors(&model.config) {
            let stored = again.tensors.meta(&tensor.name).unwrap().stored;
            let stored = TensorKind::ALL.into_iter().find(|k| k.name() == stored).unwrap();
            let found = values(&again, &tensor.name, DType::F32);
            let wanted = values(&model, &tensor.name, DType::F32);
            let square = |v: f32| f64::from(v) * f64::from(v);
            let error: f64 = found.iter().zip(&wanted).map(|(a, b)| square(a - b)).sum();
            let size: f64 = wanted.iter().map(|v| square(*v)).sum();
            let error = (error / size).sqrt();
            assert!(error <= bound(stored), "{}: {} {error}", tensor.name, stored.name());
            assert!(stored == TensorKind::F32 || error > 0.0, "{}", tensor.name);
        }
    }
}

/// Chunks on several threads give what the quantiser gives of all at once.
#[test]
fn chunks_change_nothing() {
    let model = model(true);
    let name = "model.layers.0.mlp.gate_proj.weight";
    for kind in [TensorKind::Q4_0, TensorKind::Q8_0, TensorKind::Q4K, TensorKind::Q6K] {
        let (_folder, path, _) = write(&model, &of_kind(kind));
        let again = Checkpoint::open(&path).unwrap();
        let whole = model.tensors.load(name, DType::F32, &Device::Cpu).unwrap();
        let whole = QTensor::quantize(&whole, kind.ggml_dtype()).unwrap();
        let whole: Tensor = whole.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        assert_eq!(values(&again, name, DType::F32), whole.to_vec1::<f32>().unwrap());
    }
}

#[test]
fn rows_that_fit_no_block_fall_back_as_in_llama_cpp() {
    let kinds = |tied: bool, kind| {
        let (_folder, path, written) = write(&model(tied), &of_kind(kind));
        let header = header(&path);
        let of = |name: &str| header.tensor(name).map(|t| t.kind.name());
        let found = ["token_embd", "output", "blk.0.attn_q", "blk.0.attn_output", "blk.1.ffn_down"]
            .map(|name| of(&format!("{name}.weight")).unwrap_or("-"));
        assert_eq!(of("blk.0.ffn_norm.weight"), Some("F32"));
        (found, written.warnings)
    };
    // Row lengths: 256, 256, 256, 64, 33.
    for (kind, expected) in [
        (TensorKind::F16, ["F16", "F16", "F16", "F16", "F16"]),
        (TensorKind::Q8_0, ["Q8_0", "Q8_0", "Q8_0", "Q8_0", "F16"]),
        (TensorKind::Q4_0, ["Q4_0", "Q6_K", "Q4_0", "Q4_0", "F16"]),
        (TensorKind::Q5_1, ["Q5_1", "Q6_K", "Q5_1", "Q5_1", "F16"]),
        (TensorKind::Q2K, ["Q2_K", "Q6_K", "Q2_K", "Q4_0", "F16"]),
        (TensorKind::Q3K, ["Q3_K", "Q6_K", "Q3_K", "Q4_0", "F16"]),
        (TensorKind::Q4K, ["Q4_K", "Q6_K", "Q4_K", "Q5_0", "F16"]),
        (TensorKind::Q5K, ["Q5_K", "Q6_K", "Q5_K", "Q5_1", "F16"]),
        (TensorKind::Q6K, ["Q6_K", "Q6_K", "Q6_K", "Q8_0", "F16"]),
    ] {
        let (found, warnings) = kinds(false, kind);
        assert_eq!(found, expected, "{}", kind.name());
        let others = found.iter().filter(|k| **k != kind.name()).count();
        assert_eq!(warnings.is_empty(), others == 0, "{}: {warnings:?}", kind.name());
    }
    // A tied embedding gives the logits too.
    let (found, warnings) = kinds(true, TensorKind::Q4K);
    assert_eq!(found, ["Q6_K", "-", "Q4_K", "Q5_0", "F16"]);
    assert_eq!(
        warnings,
        [
            "blk.1.ffn_down.weight stored as F16 instead of Q4_K",
            "3 tensors (blk.0.attn_output.weight and others) stored as Q5_0 instead of Q4_K",
            "token_embd.weight stored as Q6_K instead of Q4_K",
        ]
    );
    // Without a type asked for, nothing falls back.
    let (_folder, _, written) = write(&model(true), &GgufOptions::default());
    assert!(written.warnings.is_empty());
}
