//! Logits, losses and gradients of every fixture, tensor by tensor.

use adapruner_checkpoint::names::{self, ExpectedTensor, Part, Projection};
use adapruner_model::{Residency, parameter_gradients};
use candle_core::{DType, Tensor};

use crate::common::{Expected, F32, FIXTURES, checkpoint, decoder, distance, most, near, with};

/// Weights rounded to 8 bits (4·10⁻³) move the logits of these few layers by
/// some such roundings of the largest.
const BF16: f64 = 4e-2;

#[test]
fn all_fixtures_are_listed() {
    let folder = crate::common::folder("");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FIXTURES);
}

#[test]
fn logits_and_losses_agree_with_transformers() {
    for name in FIXTURES {
        let (decoder, expected) = (decoder(name), Expected::of(name));
        let ids = decoder.tokens(&expected.samples()).unwrap();
        let logits = decoder.logits(&ids).unwrap();
        near(&logits, expected.get("logits"), F32, &format!("{name}, logits"));
        let nll = decoder.nll(&ids).unwrap();
        near(&nll.mean(1).unwrap(), expected.get("nll"), F32, &format!("{name}, losses"));
        // Token by token, from the reference's logits.
        let logits = expected.get("logits").to_dtype(DType::F64).unwrap();
        let (b, t, _) = logits.dims3().unwrap();
        let logits = logits.narrow(1, 0, t - 1).unwrap();
        let all = logits.log_sum_exp(2).unwrap();
        let next = ids.narrow(1, 1, t - 1).unwrap().contiguous().unwrap().unsqueeze(2).unwrap();
        let picked = logits.contiguous().unwrap().gather(&next, 2).unwrap().squeeze(2).unwrap();
        assert_eq!(nll.dims(), [b, t - 1]);
        near(&nll, &(all - picked).unwrap(), F32, &format!("{name}, token losses"));
    }
}

#[test]
fn every_parameter_gradient_agrees_with_transformers() {
    let mut idle = 0;
    // `tiny` is trained for demonstrations and comes without gradients.
    for name in FIXTURES.into_iter().filter(|&name| name != "tiny") {
        let (decoder, expected) = (decoder(name), Expected::of(name));
        let found = parameter_gradients(&decoder, &expected.samples()).unwrap();
        let config = decoder.config();
        let stored = names::stored_tensors(config, config.family(), names::FileFormat::HuggingFace);
        let mut compared = 0;
        for (parameter, gradient) in expected.gradients() {
            let tensor = stored.iter().find(|tensor| tensor.name == *parameter);
            let tensor = tensor.unwrap_or_else(|| panic!("{name}: no {parameter}"));
            let (parts, rounds) = (&tensor.parts, tensor.rounds(config));
            let in_rounds = |part: &ExpectedTensor| found[&part.name].reshape((rounds, ()));
            let found: Vec<_> = parts.iter().map(|part| in_rounds(part).unwrap()).collect();
            let found = Tensor::cat(&found, 1).unwrap().reshape(tensor.shape.as_slice()).unwrap();
            // A bias of keys that are not rotated moves all scores of a query alike, so that what
            // there is of its gradient is rounding.
            let key = |part: &ExpectedTensor| matches!(part.part, Part::Bias(_, Projection::K));
            if most(gradient) == 0.0 {
                // Of an expert that no token takes.
                let expert = |part: &ExpectedTensor| matches!(part.part, Part::Expert(..));
                assert!(parts.iter().all(expert) && most(&found) == 0.0, "{name}, {parameter}");
                idle += 1;
            } else if parts.iter().all(key) && config.learned_positions().is_some() {
                assert!(most(&found) < 1e-6 && most(gradient) < 1e-6, "{name}, {parameter}");
            } else {
                near(&found, gradient, F32, &format!("{name}, gradient of {parameter}"));
            }
            compared += parts.len();
        }
        assert_eq!(compared, found.len(), "{name}: parameters without an expected gradient");
        assert_eq!(compared, names::expected_tensors(config).len(), "{name}");
    }
    assert!(idle > 0, "no fixture has an expert that no token takes");
}

#[test]
fn bf16_weights_are_exact_where_the_file_has_no_more() {
    for name in FIXTURES {
        let (decoder, expected) =
            (with(name, DType::BF16, Residency::Resident), Expected::of(name));
        let checkpoint = checkpoint(name);
        let stored = |name: &str| checkpoint.tensors.meta(name).unwrap().stored;
        let exact = checkpoint.tensors.names().iter().all(|name| stored(name) == "BF16");
        let tolerance = F32 + if exact { 0.0 } else { BF16 };
        let ids = decoder.tokens(&expected.samples()).unwrap();
        let logits = decoder.logits(&ids).unwrap();
        assert_eq!(logits.dtype(), DType::F32);
        near(&logits, expected.get("logits"), tolerance, &format!("{name}, logits"));
        let nll = decoder.nll(&ids).unwrap().mean(1).unwrap();
        near(&nll, expected.get("nll"), tolerance, &format!("{name}, losses"));
    }
}

/// Gradients of bf16 weights are bf16 themselves.
#[test]
fn gradients_of_bf16_weights_agree() {
    let name = "sharded_bf16";
    let (decoder, expected) = (with(name, DType::BF16, Residency::Resident), Expected::of(name));
    let found = parameter_gradients(&decoder, &expected.samples()).unwrap();
    for (parameter, gradient) in expected.gradients() {
        let found = &found[parameter];
        // One rounding to 8 bits; the tied embedding adds two such numbers.
        let tolerance = 1.0 / 128.0;
        near(found, gradient, tolerance, &format!("gradient of {parameter}"));
    }
}

/// The tolerance can be failed: another fixture's numbers are far away.
#[test]
fn the_measure_tells_models_apart() {
    let (decoder, expected) = (decoder("linear_rope"), Expected::of("linear_rope"));
    let ids = decoder.tokens(&expected.samples()).unwrap();
    let shifted = ids.narrow(1, 1, ids.dim(1).unwrap() - 1).unwrap();
    let first = ids.narrow(1, 0, 1).unwrap();
    let turned = Tensor::cat(&[shifted, first], 1).unwrap();
    let logits = decoder.logits(&turned).unwrap();
    assert!(distance(&logits, expected.get("logits")) > 1e-2);
}
