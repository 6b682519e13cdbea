//! In which order attention sublayers are best removed, by measured loss.
//!
//! Losses are nats per predicted token.

use std::time::Instant;

use adapruner_checkpoint::Checkpoint;
use adapruner_eval::{ChunkedWindows, flops};
use adapruner_model::Decoder;
use adapruner_prune::{PrunePlan, apply};

use crate::{
    error::{Context, Result},
    greedy::{Goal, removal_order},
    progress::Progress,
    search::{dimension::most_dropped, objective::Cost},
};

/// Maximum number of samples to measure attention sublayers on.
pub const SAMPLES: usize = 16;

/// The loss on windows that are one chunk.
fn mean_of(windows: &ChunkedWindows, decoder: &Decoder, unchanged: usize) -> Result<f64> {
    let losses = windows.nll(decoder, unchanged, 0..1)?;
    losses.first().copied().context("no window to measure on")
}

/// The layers `candidates` in the best order of removing their attention sublayers, each with
/// the loss increase on at most [`SAMPLES`] of `samples`, evenly spread, when it is removed after
/// those before it. They are chosen greedily until `goal` is reached ([`removal_order`]).
///
/// # Errors
/// No samples, a loss that is not finite, damaged weights, no memory.
pub fn order(
    checkpoint: &Checkpoint,
    dense: &Decoder,
    samples: &[Vec<u32>],
    (candidates, goal): (&[usize], &Goal<'_>),
    progress: &dyn Progress,
) -> Result<(Vec<(usize, f64)>, Cost)> {
    let start = Instant::now();
    let (config, digest) = (&checkpoint.config, checkpoint.digest()?);
    let count = SAMPLES.min(samples.len());
    let few: Vec<Vec<u32>> =
        (0..count).map(|at| samples[at * samples.len() / count].clone()).collect();
    let length = few.first().map_or(0, Vec::len);
    let layers = config.layers.len();
    let all = ChunkedWindows::new(dense, &few, count, layers, &|_, _| ())?;
    let mut cost = Cost {
        flops: flops::forward(config, count, length, 0),
        tokens: (count * length) as u64,
        ..Cost::default()
    };
    let mut loss_without = |gone: &[usize]| -> Result<f64> {
        if gone.is_empty() {
            return mean_of(&all, dense, layers);
        }
        let plan = PrunePlan::without_attention(config, digest, gone);
        let decoder = dense.load_beside(&apply(checkpoint, &plan)?)?;
        let unchanged = plan.unchanged(config);
        cost.tokens += (count * length) as u64;
        cost.flops += flops::forward(decoder.config(), count, length, unchanged);
        mean_of(&all, &decoder, unchanged)
    };
    let told = |done, all| progress.at("attention sublayers", done, all);
    let chosen = removal_order(candidates, goal, &mut loss_without, &told)?;
    cost.seconds = start.elapsed().as_secs_f64();
    Ok((chosen, cost))
}

/// All layers with attention in the best order of removing their attention sublayers ([`order`]);
/// as many are chosen greedily as a search drops at the most.
///
/// # Errors
/// Those of [`order`].
pub fn most_first(
    checkpoint: &Checkpoint,
    dense: &Decoder,
    samples: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<(Vec<(usize, f64)>, Cost)> {
    let layers = checkpoint.config.layers.len();
    let candidates = (0..layers).filter(|&layer| checkpoint.config.layers[layer].has_attention());
    let candidates: Vec<usize> = candidates.collect();
    let enough = |gone: &[usize]| gone.len() >= most_dropped(layers);
    order(checkpoint, dense, samples, (&candidates, &Goal::alike(&enough)), progress)
}
