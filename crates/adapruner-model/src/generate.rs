//! Sampling text from a model, many sequences at once, with a key-value cache.
//!
//! Axes: `B` sequences, `V` vocabulary.

use candle_core::Tensor;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    decoder::{Decoder, KvCache},
    error::{Error, Result},
};

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Only the `k` most likely tokens are drawn; `None` for all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability are
    /// drawn, after `top_k`; `None` for all.
    pub top_p: Option<f64>,
    /// Seed; each sequence draws from a stream of its own, so a sequence does
    /// not depend on how many are drawn beside it.
    pub seed: u64,
    /// Stream of the first sequence; the next one has the next stream.
    pub first_stream: usize,
    /// Tokens that are never drawn (those that would end a text early).
    pub banned: Vec<u32>,
}

/// Continues each of `prompts` (equally long) by `new_tokens` tokens and
/// returns what was added. `progress` is told (tokens drawn, tokens in all) of
/// each sequence.
///
/// # Errors
/// Empty or unequal prompts, more positions than the model has, or logits that
/// are not finite.
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    new_tokens: usize,
    sampling: &Sampling,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Vec<u32>>> {
    let mut streams: Vec<ChaCha8Rng> = (0..prompts.len())
        .map(|row| {
            let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
            rng.set_stream((sampling.first_stream + row) as u64);
            rng
        })
        .collect();
    let mut cache = KvCache::default();
    let mut ids = decoder.tokens(prompts)?;
    let mut out = vec![Vec::with_capacity(new_tokens); prompts.len()];
    for step in 0..new_tokens {
        let logits = decoder.next_logits(&ids, &mut cache)?.to_vec2::<f32>()?;
        let mut drawn = Vec::with_capacity(prompts.len());
        for ((row, rng), sequence) in logits.into_iter().zip(&mut streams).zip(&mut out) {
            let token = draw(row, sampling, rng)?;
            sequence.push(token);
            drawn.push(token);
        }
        ids = Tensor::from_vec(drawn, (prompts.len(), 1), &decoder.placement().device)?;
        progress(step + 1, new_tokens);
    }
    Ok(out)
}

/// Continues one prompt by at most `new_tokens` tokens, `sink` being handed each
/// as it is drawn; ends before that where it says so or one of `ends` is drawn,
/// which is not handed on. Whether it was.
///
/// # Errors
/// As [`generate`], and those of `sink`.
pub fn stream<E: From<Error>>(
    decoder: &Decoder,
    prompt: &[u32],
    new_tokens: usize,
    sampling: &Sampling,
    ends: &[u32],
    sink: &mut dyn FnMut(u32) -> Result<(), E>,
) -> Result<bool, E> {
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    rng.set_stream(sampling.first_stream as u64);
    let mut cache = KvCache::default();
    let mut ids = prompt.to_vec();
    for _ in 0..new_tokens {
        let token = draw(decoder.next_row(&ids, &mut cache)?, sampling, &mut rng)?;
        if ends.contains(&token) {
            return Ok(true);
        }
        sink(token)?;
        ids = vec![token];
    }
    Ok(false)
}

/// Draws one token from `V` logits.
fn draw(mut logits: Vec<f32>, sampling: &Sampling, rng: &mut impl Rng) -> Result<u32> {
    for &banned in &sampling.banned {
        if let Some(logit) = logits.get_mut(banned as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let (best, top) = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
    if !top.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return Err(Error::Tokens(format!("the largest of the logits is {top}, expected finite")));
    }
    if sampling.temperature <= 0.0 {
        return Ok(best as u32);
    }
    let weight = |l: f32| (f64::from(l - top) / sampling.temperature).exp();
    let mut weights: Vec<(usize, f64)> = logits.iter().map(|&l| weight(l)).enumerate().collect();
    if sampling.top_k.is_some() || sampling.top_p.is_some() {
        keep_likely(&mut weights, sampling);
    }
    let mut left = rng.random::<f64>() * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    for (index, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return Ok(index as u32);
        }
    }
    Ok(best as u32)
}

/// Keeps what `top_k`, then `top_p` leave, most likely first, the lower id where
/// two are as likely. At least one is left.
fn keep_likely(weights: &mut Vec<(usize, f64)>, sampling: &Sampling) {
    weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if let Some(k) = sampling.top_k {
        weights.truncate(k.max(1));
    }
    if let Some(p) = sampling.top_p {
        let mut open = p * weights.iter().map(|(_, weight)| weight).sum::<f64>();
        let kept = weights.iter().position(|(_, weight)| {
            open -= weight;
            open <= 0.0
        });
        weights.truncate(kept.map_or(weights.len(), |at| at + 1));
    }
}
