//! Prompt and generation speed of models.
//!
//! Times are wall-clock seconds of one sequence. Several models alternate within each round, so
//! other load on the machine affects them equally, and ratios are computed per round. The first
//! round warms up and does not count.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_model::{
    Decoder, Placement,
    generate::{Sampling, stream},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, ensure},
    footprint::stored_bytes,
    pipeline::residency,
    progress::Progress,
    search::compare::median,
};

/// What is measured.
#[derive(Debug, Clone, Serialize)]
pub struct LatencySettings {
    /// Lengths of the prompts, in tokens.
    pub prompt_tokens: Vec<usize>,
    /// Tokens to generate after the first one.
    pub new_tokens: usize,
    /// Measured rounds.
    pub rounds: usize,
}

/// A figure over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub largest: f64,
}

impl Spread {
    /// From one figure per round.
    pub fn of(values: &[f64]) -> Self {
        Self {
            median: median(values.iter().copied()),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            largest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The figures of a prompt length, each a round's or a ratio of two rounds'.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens per second, until the first new token is chosen.
    pub prefill_tokens_per_second: Spread,
    /// Seconds until the first new token is chosen.
    pub first_token_seconds: Spread,
    /// Generated tokens per second after the first one, each in its own pass.
    pub decode_tokens_per_second: Spread,
}

/// A model and its speed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Where it was opened.
    pub model: String,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Its parameters.
    pub parameters: u64,
    /// Bytes of its tensors as they are stored.
    pub bytes: u64,
    /// Type of the weights while it ran.
    pub dtype: String,
    /// By length of the prompt.
    pub timings: Vec<Timings>,
    /// Per-round ratios to the first model's figures; none for the first model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratios: Option<Vec<Timings>>,
}

/// Seconds of one pass over a prompt and the tokens after it.
#[derive(Debug, Clone, Copy)]
struct Pass {
    prompt: usize,
    first: f64,
    decode_rate: f64,
}

impl Pass {
    fn figures(self) -> [f64; 3] {
        [self.prompt as f64 / self.first, self.first, self.decode_rate]
    }
}

/// Measures models in turn.
///
/// # Errors
/// No rounds or tokens, a prompt that does not fit the context of every model,
/// damaged weights, or no memory.
pub fn latency(
    checkpoints: &[Checkpoint],
    settings: &LatencySettings,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<Latency>> {
    let LatencySettings { prompt_tokens, new_tokens, rounds } = settings;
    ensure!(*rounds > 0, "rounds: at least 1 expected, 0 found");
    ensure!(*new_tokens > 0, "new-tokens: at least 1 expected, 0 found");
    ensure!(!prompt_tokens.is_empty(), "prompt-tokens: at least one length expected, none found");
    for checkpoint in checkpoints {
        let context = checkpoint.config.longest();
        for &length in prompt_tokens {
            let fits = length.checked_add(*new_tokens).is_some_and(|all| all <= context);
            ensure!(length > 0, "prompt-tokens: at least 1 expected, 0 found");
            ensure!(
                fits,
                "prompt-tokens: {length} and {new_tokens} new tokens do not fit the context of \
                 {context} of {}",
                checkpoint.origin.display()
            );
        }
    }
    let load = |c: &Checkpoint| Decoder::load(c, placement, residency(c, placement));
    let decoders = checkpoints.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    // By model and length, a pass a round.
    let mut passes = vec![vec![Vec::with_capacity(*rounds); prompt_tokens.len()]; decoders.len()];
    let all = ((rounds + 1) * decoders.len() * prompt_tokens.len()) as u64;
    let mut done = 0;
    for round in 0..=*rounds {
        for (at, &length) in prompt_tokens.iter().enumerate() {
            for (decoder, passes) in decoders.iter().zip(&mut passes) {
                let pass = time(decoder, length, *new_tokens)?;
                if round > 0 {
                    passes[at].push(pass);
                }
                done += 1;
                progress.at("latency", done, all);
            }
        }
    }
    let by_length = |own: &[Vec<Pass>], figures: &dyn Fn(usize, usize, Pass) -> [f64; 3]| {
        let of = |(at, own): (usize, &Vec<Pass>)| {
            let rows: Vec<_> =
                own.iter().enumerate().map(|(round, pass)| figures(at, round, *pass)).collect();
            let spread = |k: usize| Spread::of(&rows.iter().map(|row| row[k]).collect::<Vec<_>>());
            Timings {
                prompt_tokens: prompt_tokens[at],
                prefill_tokens_per_second: spread(0),
                first_token_seconds: spread(1),
                decode_tokens_per_second: spread(2),
            }
        };
        own.iter().enumerate().map(of).collect::<Vec<_>>()
    };
    let ratio = |at: usize, round: usize, pass: Pass| {
        let (own, first) = (pass.figures(), passes[0][at][round].figures());
        [own[0] / first[0], own[1] / first[1], own[2] / first[2]]
    };
    let mut out = Vec::with_capacity(checkpoints.len());
    for (model, (checkpoint, own)) in checkpoints.iter().zip(&passes).enumerate() {
        out.push(Latency {
            model: checkpoint.origin.display().to_string(),
            model_digest: checkpoint.digest()?,
            parameters: checkpoint.config.parameters(),
            bytes: stored_bytes(checkpoint),
            dtype: placement.dtype.as_str().to_owned(),
            timings: by_length(own, &|_, _, pass| pass.figures()),
            ratios: (model > 0).then(|| by_length(own, &ratio)),
        });
    }
    Ok(out)
}

/// One prompt of arbitrary tokens and the most likely ones after it.
fn time(decoder: &Decoder, prompt: usize, new_tokens: usize) -> Result<Pass> {
    let vocabulary = decoder.config().vocab_size as u64;
    let ids: Vec<u32> =
        (0..prompt as u64).map(|at| (at.wrapping_mul(7919) % vocabulary) as u32).collect();
    let greedy = Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        seed: 0,
        first_stream: 0,
        banned: Vec::new(),
    };
    let mut first = None;
    let start = Instant::now();
    stream(decoder, &ids, new_tokens + 1, &greedy, &[], &mut |_| {
        first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        Ok::<(), adapruner_model::Error>(())
    })?;
    let all = start.elapsed().as_secs_f64();
    let first = first.unwrap_or(all);
    Ok(Pass { prompt, first, decode_rate: new_tokens as f64 / (all - first) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_all_rounds() {
        let spread = Spread::of(&[4.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, least: 1.0, largest: 4.0 });
    }
}
