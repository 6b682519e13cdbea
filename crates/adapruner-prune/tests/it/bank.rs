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
        assert!(bank.inputs(samples).is_err(), "{samples:?}");
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
    let arrays = of_terms(&full, Terms::Coarse);
    let coarse = StatsBank::new(header.clone(), arrays).unwrap();
    let read = StatsBank::from_bytes(&coarse.to_bytes().unwrap()).unwrap();
    assert_eq!(read, coarse);
    assert!(matches!(read.mean(Term::Element, &[0]), Err(Error::MissingTerms { .. })));
    assert_eq!(read.mean(Term::Signed, &[2]).unwrap(), full.mean(Term::Signed, &[2]).unwrap());
    header.terms = Terms::Activations;
    let forward = StatsBank::new(header, of_terms(&full, Terms::Activations)).unwrap();
    let read = StatsBank::from_bytes(&forward.to_bytes().unwrap()).unwrap();
    assert_eq!(read, forward);
    assert!(matches!(read.mean(Term::Signed, &[0]), Err(Error::MissingTerms { .. })));
    assert_eq!(read.inputs(&[2, 0]).unwrap(), full.inputs(&[0, 2]).unwrap());
}

/// The arrays of a full bank that one of fewer terms has.
fn of_terms(full: &StatsBank, terms: Terms) -> BankArrays {
    let BankArrays { input_sum, input_square, column_abs, column_square, signed, .. } =
        full.arrays().clone();
    let signed = if terms == Terms::Activations { Vec::new() } else { signed };
    let empty = BankArrays::default();
    BankArrays { signed, input_sum, input_square, column_abs, column_square, ..empty }
}

/// What earlier versions of the program wrote of 4 samples of a model of two layers.
#[test]
fn files_of_earlier_versions_are_read() {
    let files = [
        (1, include_bytes!("../../../../fixtures/banks/version1.safetensors").as_slice()),
        (2, include_bytes!("../../../../fixtures/banks/version2.safetensors")),
    ];
    let [first, second] = files.map(|(version, bytes)| {
        let bank = StatsBank::from_bytes(bytes).unwrap();
        let header = bank.header();
        assert_eq!((header.version, header.samples(), header.tokens()), (version, 4, 64));
        assert_eq!((header.terms, header.batch, header.layers.len()), (Terms::Full, true, 2));
        assert!(matches!(bank.inputs(&[0]), Err(Error::MissingTerms { .. })));
        // It is written as it was.
        assert_eq!(StatsBank::from_bytes(&bank.to_bytes().unwrap()).unwrap(), bank);
        bank
    });
    // Of the same samples and model, on other processors.
    for term in [Term::Signed, Term::Element, Term::Fisher] {
        let [a, b] = [&first, &second].map(|bank| bank.mean(term, &[0, 3]).unwrap());
        let scale = b.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        assert!(scale > 0.0);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4 * scale), "{term:?}");
    }
}

/// Versions 1 and 2 had no activation sums: the rest of them is read, and what needs those
/// sums says so.
#[test]
fn banks_of_earlier_versions_are_read() {
    let config = config(vec![widths(6, 2, 9)]);
    let full = random_bank(&config, 3, 4);
    for version in [1, 2] {
        let mut header = header(&config, 3);
        header.version = version;
        let BankArrays { signed, element, fisher, batch_first, batch_mix, .. } =
            full.arrays().clone();
        let arrays =
            BankArrays { signed, element, fisher, batch_first, batch_mix, ..BankArrays::default() };
        let old = StatsBank::new(header.clone(), arrays).unwrap();
        let read = StatsBank::from_bytes(&old.to_bytes().unwrap()).unwrap();
        assert_eq!((read.header().version, &read), (version, &old));
        for term in [Term::Signed, Term::Element, Term::Fisher] {
            assert_eq!(read.mean(term, &[0, 2]).unwrap(), full.mean(term, &[0, 2]).unwrap());
        }
        let refused = read.inputs(&[0]).unwrap_err();
        assert!(matches!(refused, Error::MissingTerms { .. }));
        assert!(refused.to_string().contains("earlier versions have none"), "{refused}");
        assert!(refused.hint().is_some_and(|hint| hint.contains("collect the statistics again")));
        // A header may not promise what its version has not.
        header.terms = Terms::Activations;
        let refused = StatsBank::new(header.clone(), BankArrays::default()).unwrap_err();
        assert!(refused.to_string().contains("no activation sums"), "{refused}");
        header.terms = Terms::Full;
        let refused = StatsBank::new(header, full.arrays().clone()).unwrap_err();
        assert!(refused.to_string().contains("input_sum: expected 0"), "{refused}");
    }
}

/// The safetensors crate reads what is written here, name by name.
#[test]
fn the_bytes_are_a_safetensors_file() {
    let bank = random_bank(&config(vec![widths(6, 2, 9), widths(0, 0, 5)]), 3, 4);
    let bytes = bank.to_bytes().unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    assert_eq!(tensors.len(), 9);
    let (vectors, columns) = (bank.layout().len(), bank.columns().len());
    assert_eq!(columns, 6 * 4 + 9 + 5);
    for (name, shape, values) in [
        ("signed", &[3, vectors][..], &bank.arrays().signed),
        ("element", &[3, vectors], &bank.arrays().element),
        ("fisher", &[3, vectors], &bank.arrays().fisher),
        ("batch_first", &[vectors], &bank.arrays().batch_first),
        ("batch_mix", &[vectors], &bank.arrays().batch_mix),
        ("input_sum", &[3, columns], &bank.arrays().input_sum),
        ("input_square", &[3, columns], &bank.arrays().input_square),
        ("column_abs", &[columns], &bank.arrays().column_abs),
        ("column_square", &[columns], &bank.arrays().column_square),
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
    for change in 0..8 {
        let (mut header, mut arrays) = (bank.header().clone(), bank.arrays().clone());
        match change {
            0 => header.layers[0].ffn += 1,
            1 => header.losses.truncate(2),
            2 => header.version += 1,
            3 => arrays.element.truncate(10),
            4 => header.batch = false,
            5 => arrays.input_square.truncate(10),
            6 => arrays.column_abs.clear(),
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
