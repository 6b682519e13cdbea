//! Statistics as data: subsets, bytes, reuse.

use adapruner_checkpoint::{Digest, names::Projection};
use adapruner_prune::{
    Error, Origin, StatsBank, Terms,
    bank::{BankArrays, Term},
};
use candle_core::{DType, Device};
use proptest::prelude::*;

use crate::common::{config, digest, header, random_bank, widths};

/// Means in f64 over a few f32 numbers.
const TOLERANCE: f64 = 1e-12;

#[test]
fn means_of_disjoint_sets_add_up() {
    let bank = random_bank(&config(vec![widths(6, 2, 9), widths(4, 4, 5)]), 7, 1);
    for term in [Term::Signed, Term::Element, Term::Fisher] {
        let (a, b) = (bank.mean(term, &[5, 0, 3]).unwrap(), bank.mean(term, &[6, 1]).unwrap());
        let both = bank.mean(term, &[0, 1, 3, 5, 6]).unwrap();
        for ((a, b), both) in a.iter().zip(&b).zip(&both) {
            assert!((3.0 * a + 2.0 * b - 5.0 * both).abs() < TOLERANCE);
        }
    }
}

#[test]
fn a_single_sample_is_its_own_mean() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 3, 2);
    let mean = bank.mean(Term::Fisher, &[1]).unwrap();
    let down = bank.sample(Term::Fisher, 1, 0, Projection::Down).unwrap();
    assert_eq!(down.len(), 9);
    let at = bank.layout().range(0, Projection::Down);
    assert!(mean[at].iter().zip(down).all(|(&a, &b)| a == f64::from(b)));
}

#[test]
fn impossible_choices_of_samples_are_refused() {
    let bank = random_bank(&config(vec![widths(2, 2, 3)]), 3, 3);
    for samples in [&[][..], &[3], &[1, 1]] {
        assert!(bank.mean(Term::Signed, samples).is_err(), "{samples:?}");
    }
    assert!(bank.sample(Term::Signed, 0, 1, Projection::Q).is_err());
}

#[test]
fn a_bank_survives_its_bytes() {
    let config = config(vec![widths(6, 2, 9), widths(0, 0, 5)]);
    let full = random_bank(&config, 3, 4);
    assert_eq!(StatsBank::from_bytes(&full.to_bytes().unwrap()).unwrap(), full);
    let mut header = header(&config, 3);
    (header.terms, header.batch) = (Terms::Coarse, false);
    let arrays = BankArrays { signed: full.arrays().signed.clone(), ..BankArrays::default() };
    let coarse = StatsBank::new(header, arrays).unwrap();
    let read = StatsBank::from_bytes(&coarse.to_bytes().unwrap()).unwrap();
    assert_eq!(read, coarse);
    assert!(matches!(read.mean(Term::Element, &[0]), Err(Error::MissingTerms { .. })));
}

/// The safetensors crate reads what is written here, name by name.
#[test]
fn the_bytes_are_a_safetensors_file() {
    let bank = random_bank(&config(vec![widths(6, 2, 9), widths(0, 0, 5)]), 3, 4);
    let bytes = bank.to_bytes().unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    assert_eq!(tensors.len(), 5);
    let vectors = bank.layout().len();
    for (name, shape, values) in [
        ("signed", &[3, vectors][..], &bank.arrays().signed),
        ("element", &[3, vectors], &bank.arrays().element),
        ("fisher", &[3, vectors], &bank.arrays().fisher),
        ("batch_first", &[vectors], &bank.arrays().batch_first),
        ("batch_mix", &[vectors], &bank.arrays().batch_mix),
    ] {
        assert_eq!(tensors[name].dims(), shape, "{name}");
        let found = tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(&found, values, "{name}");
    }
    let mut written = Vec::new();
    bank.write_to(&mut written).unwrap();
    assert_eq!(written, bytes);
}

#[test]
fn arrays_that_do_not_follow_from_the_header_are_refused() {
    let config = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&config, 3, 5);
    for change in 0..6 {
        let (mut header, mut arrays) = (bank.header().clone(), bank.arrays().clone());
        match change {
            0 => header.layers[0].ffn += 1,
            1 => header.losses.truncate(2),
            2 => header.version += 1,
            3 => arrays.element.truncate(10),
            4 => header.batch = false,
            _ => header.layers[0].query_heads = usize::MAX / 2,
        }
        assert!(StatsBank::new(header, arrays).is_err(), "{change}");
    }
}

#[test]
fn statistics_of_something_else_are_not_reused() {
    let model = config(vec![widths(6, 2, 9)]);
    let bank = random_bank(&model, 3, 6);
    let text = bank.header().calibration_digest;
    let origin =
        Origin { model_digest: digest(), calibration_digest: text, seed: 42, dtype: DType::F32 };
    bank.check_reuse(&model, &origin).unwrap();
    let other = Digest::of_bytes(b"another");
    let narrower = config(vec![widths(6, 2, 8)]);
    let mut header = bank.header().clone();
    header.matmul_precision = Some("high".into());
    let rounded = StatsBank::new(header, bank.arrays().clone()).unwrap();
    for (result, what) in [
        (bank.check_reuse(&model, &Origin { model_digest: other, ..origin.clone() }), "model"),
        (
            bank.check_reuse(&model, &Origin { calibration_digest: other, ..origin.clone() }),
            "calibration",
        ),
        (bank.check_reuse(&model, &Origin { seed: 43, ..origin.clone() }), "seed"),
        (bank.check_reuse(&model, &Origin { dtype: DType::BF16, ..origin.clone() }), "bf16"),
        (rounded.check_reuse(&model, &origin), "precision"),
        (bank.check_reuse(&narrower, &origin), "6/2/8"),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::OtherStatistics { .. }));
        let message = error.to_string();
        assert!(message.contains(what), "{message}");
        assert!(message.contains("expected") && message.contains("found"), "{message}");
        assert!(error.hint().is_some());
    }
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(at in 0_usize..4000, byte in any::<u8>(), cut in 0_usize..4000) {
        let bank = random_bank(&config(vec![widths(6, 2, 9)]), 2, 7);
        let mut bytes = bank.to_bytes().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = StatsBank::from_bytes(&bytes) {
            prop_assert_eq!(read.layout().len() * read.samples(), read.arrays().signed.len());
        }
        bytes.truncate(cut);
        prop_assert!(StatsBank::from_bytes(&bytes).is_err() || cut >= bytes.len());
    }
}
