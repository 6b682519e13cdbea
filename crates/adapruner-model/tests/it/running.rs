//! The same model run in other ways: streamed, with a cache, too far.

use adapruner_model::{Error, KvCache, Residency, parameter_gradients};
use candle_core::{DType, IndexOp, Tensor};

use crate::common::{Expected, F32, FIXTURES, bits, decoder, ids, near, with};

#[test]
fn streamed_equals_resident_bit_for_bit() {
    for (name, dtype) in FIXTURES.into_iter().zip([DType::F32, DType::BF16].into_iter().cycle()) {
        let [resident, streamed] =
            [Residency::Resident, Residency::Streamed].map(|r| with(name, dtype, r));
        let samples = Expected::of(name).samples();
        let tokens = resident.tokens(&samples).unwrap();
        let run = |d: &adapruner_model::Decoder| {
            let mut out = vec![bits(&d.logits(&tokens).unwrap()), bits(&d.nll(&tokens).unwrap())];
            for gradient in parameter_gradients(d, &samples).unwrap().values() {
                out.push(bits(&gradient.to_dtype(DType::F32).unwrap()));
            }
            out
        };
        assert!(run(&resident) == run(&streamed), "{name}");
    }
}

#[test]
fn decoding_with_a_cache_equals_the_full_forward() {
    for name in FIXTURES {
        let decoder = decoder(name);
        let vocabulary = decoder.config().vocab_size as u32;
        let samples = [ids(23, vocabulary, 1), ids(23, vocabulary, 2)];
        let tokens = decoder.tokens(&samples).unwrap();
        let full = decoder.logits(&tokens).unwrap();
        let mut cache = KvCache::default();
        // A prompt, single tokens, and a run of several.
        let mut start = 0;
        for step in [7, 1, 1, 9, 1, 4] {
            let part = tokens.narrow(1, start, step).unwrap();
            let next = decoder.next_logits(&part, &mut cache).unwrap();
            start += step;
            assert_eq!(cache.tokens(), start);
            let expected = full.i((.., start - 1)).unwrap();
            near(&next, &expected, F32, &format!("{name}, token {start}"));
        }
        assert_eq!(start, 23);
    }
}

/// Sequences beside it do not change a sequence.
#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let decoder = decoder("tiny");
    let samples = [ids(40, 512, 3), ids(40, 512, 4), ids(40, 512, 5)];
    let together = decoder.nll(&decoder.tokens(&samples).unwrap()).unwrap();
    for (row, sample) in samples.iter().enumerate() {
        let alone = decoder.nll(&decoder.tokens(&[sample]).unwrap()).unwrap();
        near(&alone.i(0).unwrap(), &together.i(row).unwrap(), F32, &format!("row {row}"));
    }
}

#[test]
fn positions_end_where_the_model_does() {
    let decoder = decoder("tiny");
    let limit = decoder.config().max_position_embeddings;
    let vocabulary = decoder.config().vocab_size as u32;
    let whole = decoder.tokens(&[ids(limit, vocabulary, 6)]).unwrap();
    let mut cache = KvCache::default();
    decoder.next_logits(&whole, &mut cache).unwrap();
    let one = decoder.tokens(&[[1]]).unwrap();
    let error = decoder.next_logits(&one, &mut cache).unwrap_err();
    assert!(matches!(error, Error::Tokens(_)), "{error}");
    let (limit, more) = (limit.to_string(), (limit + 1).to_string());
    let text = error.to_string();
    assert!(text.contains(&limit) && text.contains(&more), "{text}");
    let longer = Tensor::cat(&[whole, one], 1).unwrap();
    assert!(matches!(decoder.nll(&longer), Err(Error::Tokens(_))));
}

#[test]
fn tokens_that_no_model_can_run_are_errors() {
    let decoder = decoder("tiny");
    let none: [Vec<u32>; 0] = [];
    assert!(decoder.tokens(&none).is_err());
    assert!(decoder.tokens(&[vec![]]).is_err());
    assert!(decoder.tokens(&[vec![1, 2], vec![1]]).is_err());
    let error = decoder.tokens(&[vec![1, 2], vec![3, 512]]).unwrap_err().to_string();
    assert!(error.contains("sequence 1 has token id 512"), "{error}");
    let one = decoder.tokens(&[[1]]).unwrap();
    assert!(matches!(decoder.nll(&one), Err(Error::Tokens(_))));
}
