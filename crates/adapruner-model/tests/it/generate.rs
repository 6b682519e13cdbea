//! Sampling.

use std::sync::Mutex;

use adapruner_model::{
    Error,
    generate::{Sampling, generate},
};
use candle_core::{D, DType};

use crate::common::{decoder, ids};

fn sampling(temperature: f64) -> Sampling {
    Sampling { temperature, seed: 7, first_stream: 0, banned: Vec::new() }
}

fn prompts() -> Vec<Vec<u32>> {
    (0..3).map(|seed| ids(5, 512, seed)).collect()
}

#[test]
fn a_seed_gives_the_same_text_again() {
    let decoder = decoder("tiny");
    let run =
        |sampling: &Sampling| generate(&decoder, &prompts(), 20, sampling, &|_, _| {}).unwrap();
    let first = run(&sampling(1.0));
    assert_eq!(first, run(&sampling(1.0)));
    assert_ne!(first, run(&Sampling { seed: 8, ..sampling(1.0) }));
    assert!(first.iter().all(|text| text.len() == 20));
}

#[test]
fn a_text_does_not_depend_on_those_beside_it() {
    let decoder = decoder("tiny");
    for temperature in [0.0, 1.0] {
        let run = |prompts: &[Vec<u32>]| {
            generate(&decoder, prompts, 20, &sampling(temperature), &|_, _| {}).unwrap()
        };
        let all = run(&prompts());
        assert_eq!(all[..1], run(&prompts()[..1]));
        assert_eq!(all[..2], run(&prompts()[..2]));
    }
}

#[test]
fn temperature_zero_takes_the_most_likely_token() {
    let decoder = decoder("tiny");
    let mut text = prompts()[0].clone();
    let added = generate(&decoder, &prompts()[..1], 8, &sampling(0.0), &|_, _| {}).unwrap();
    for &token in &added[0] {
        let logits = decoder.logits(&decoder.tokens(&[&text]).unwrap()).unwrap();
        let last = logits.narrow(1, text.len() - 1, 1).unwrap().argmax(D::Minus1).unwrap();
        let best = last.flatten_all().unwrap().to_dtype(DType::U32).unwrap();
        assert_eq!(best.to_vec1::<u32>().unwrap(), [token]);
        text.push(token);
    }
}

#[test]
fn banned_tokens_are_never_drawn() {
    let decoder = decoder("tiny");
    let likely = generate(&decoder, &prompts(), 12, &sampling(0.0), &|_, _| {}).unwrap().concat();
    // One of them is no token at all.
    let banned: Vec<u32> = likely.into_iter().chain([9999]).collect();
    for temperature in [0.0, 1.5] {
        let sampling = Sampling { banned: banned.clone(), ..sampling(temperature) };
        let added = generate(&decoder, &prompts(), 12, &sampling, &|_, _| {}).unwrap();
        assert!(added.iter().flatten().all(|token| !banned.contains(token)));
    }
    let sampling = Sampling { banned: (0..512).collect(), ..sampling(1.0) };
    let error = generate(&decoder, &prompts(), 1, &sampling, &|_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Tokens(_)), "{error}");
}

#[test]
fn progress_is_told_and_positions_end() {
    let decoder = decoder("tiny");
    let steps = Mutex::new(Vec::new());
    let progress = |done, all| steps.lock().unwrap().push((done, all));
    generate(&decoder, &prompts(), 3, &sampling(0.0), &progress).unwrap();
    assert_eq!(steps.into_inner().unwrap(), [(1, 3), (2, 3), (3, 3)]);
    let limit = decoder.config().max_position_embeddings;
    let long = [ids(limit, 512, 1)];
    // The token after the last position can still be predicted, no more.
    assert!(generate(&decoder, &long, 1, &sampling(0.0), &|_, _| {}).is_ok());
    assert!(generate(&decoder, &long, 2, &sampling(0.0), &|_, _| {}).is_err());
    assert!(generate(&decoder, &[], 1, &sampling(0.0), &|_, _| {}).is_err());
}
