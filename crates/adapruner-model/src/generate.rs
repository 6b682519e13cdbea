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
    let weights: Vec<f64> =
        logits.iter().map(|&l| (f64::from(l - top) / sampling.temperature).exp()).collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return Ok(index as u32);
        }
    }
    Ok(best as u32)
}
