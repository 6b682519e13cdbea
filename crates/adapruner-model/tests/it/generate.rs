//! Sampling.

use std::sync::Mutex;

use adapruner_model::{
    Error,
    generate::{Sampling, generate, stream},
};
use candle_core::{D, DType};

use crate::common::{decoder, ids};

fn sampling(temperature: f64) -> Sampling {
    let (top_k, top_p) = (None, None);
    Sampling { temperature, top_k, top_p, seed: 7, first_stream: 0, banned: Vec::new() }
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

/// What [`stream`] hands on, and whether it met an end.
fn streamed(prompt: &[u32], sampling: &Sampling, ends: &[u32]) -> (Vec<u32>, bool) {
    let mut tokens = Vec::new();
    let mut sink = |token| {
        tokens.push(token);
        Ok::<(), Error>(())
    };
    let ended = stream(&decoder("tiny"), prompt, 20, sampling, ends, &mut sink).unwrap();
    (tokens, ended)
}

#[test]
fn a_stream_is_the_same_text_up_to_its_end() {
    let decoder = decoder("tiny");
    for temperature in [0.0, 1.0] {
        let sampling = sampling(temperature);
        let all = generate(&decoder, &prompts()[..1], 20, &sampling, &|_, _| {}).unwrap().remove(0);
        assert_eq!(streamed(&prompts()[0], &sampling, &[]), (all.clone(), false));
        let end = all[7];
        let before = all.iter().position(|&token| token == end).unwrap();
        let (found, ended) = streamed(&prompts()[0], &sampling, &[end]);
        assert_eq!((found.as_slice(), ended), (&all[..before], true));
    }
}

#[test]
fn only_likely_tokens_are_drawn() {
    let decoder = decoder("tiny");
    let prompt = &prompts()[0];
    let logits = decoder.logits(&decoder.tokens(&[prompt]).unwrap()).unwrap();
    let last = logits.narrow(1, prompt.len() - 1, 1).unwrap().flatten_all().unwrap();
    let last = last.to_vec1::<f32>().unwrap();
    let total: f64 = last.iter().map(|&l| f64::from(l).exp()).sum();
    let mut order: Vec<u32> = (0..last.len() as u32).collect();
    order.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]));
    // Enough draws of one token that some would fall outside.
    let drawn = |sampling: Sampling| -> Vec<u32> {
        let first = |seed| {
            let sampling = Sampling { seed, ..sampling.clone() };
            generate(&decoder, std::slice::from_ref(prompt), 1, &sampling, &|_, _| {}).unwrap()[0]
                [0]
        };
        (0..200).map(first).collect()
    };
    let hot = sampling(1.0);
    assert!(drawn(hot.clone()).iter().any(|token| !order[..3].contains(token)));
    let three = drawn(Sampling { top_k: Some(3), ..hot.clone() });
    assert!(three.iter().all(|token| order[..3].contains(token)));
    assert!(order[..2].iter().all(|token| three.contains(token)));
    // The smallest set of tokens that together have half of the probability.
    let mut share = 0.0;
    let likely = order.iter().position(|&token| {
        share += f64::from(last[token as usize]).exp() / total;
        share >= 0.5
    });
    let likely = &order[..=likely.unwrap()];
    let half = drawn(Sampling { top_p: Some(0.5), ..hot.clone() });
    assert!(half.iter().all(|token| likely.contains(token)));
    let one = drawn(Sampling { top_k: Some(1), top_p: Some(1.0), ..hot });
    assert!(one.iter().all(|token| *token == order[0]));
}
