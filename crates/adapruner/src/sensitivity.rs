//! Layer sensitivities: the loss increase from cutting one layer alone, and a cut spread
//! accordingly.
//!
//! Start from a plan that cuts all layers by the same ratio. For each layer that it cuts,
//! measure a model in which only that layer is cut. Let `s_l` be the loss increase for layer
//! `l`, in nats per predicted token. If the increase grows with the square of the removed
//! share, the sum of increases at a given budget is smallest when layers are cut in proportion
//! to `1/s_l`. Increases are noisy and do not simply add up, so the exponent is a setting:
//! layers are cut in proportion to `s_l^(−power)`.

use adapruner_checkpoint::Checkpoint;
use adapruner_eval::ChunkedWindows;
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{LayerPlan, PrunePlan, apply};

use crate::{
    error::{Context, Result},
    pipeline,
    progress::Progress,
};

/// Maximum number of calibration samples to measure layers on.
pub const SAMPLES: usize = 16;
/// Lower bound of an increase, as a share of the mean: an increase of zero or less is
/// measurement noise.
const LEAST: f64 = 0.1;

/// Increase of the samples' mean loss, in nats per predicted token, when one layer alone is cut
/// as in `plan`; `None` for layers that the plan does not cut.
///
/// # Errors
/// A plan for another model, samples of unequal length, damaged weights, no memory.
pub fn measure(
    checkpoint: &Checkpoint,
    plan: &PrunePlan,
    samples: &[Vec<u32>],
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<Option<f64>>> {
    let config = &checkpoint.config;
    let dense = Decoder::load(checkpoint, placement, pipeline::residency(checkpoint, placement))?;
    let count = SAMPLES.min(samples.len());
    let few: Vec<Vec<u32>> =
        (0..count).map(|at| samples[at * samples.len() / count].clone()).collect();
    let layers = config.layers.len();
    let all = ChunkedWindows::new(&dense, &few, count, layers, &|_, _| ())?;
    let loss = |decoder: &Decoder, unchanged: usize| -> Result<f64> {
        let losses = all.nll(decoder, unchanged, 0..1)?;
        losses.first().copied().context("no sample to measure on")
    };
    let whole: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
    let before = loss(&dense, layers)?;
    let digest = checkpoint.digest()?;
    let mut gains = Vec::with_capacity(layers);
    for (layer, cut) in plan.layers.iter().enumerate() {
        let gain = if *cut == whole[layer] {
            None
        } else {
            let mut kept = whole.clone();
            kept[layer] = cut.clone();
            let alone = PrunePlan::keeping(config, digest, kept);
            let pruned = apply(checkpoint, &alone)?;
            let decoder = match dense.residency() {
                Residency::Resident => dense.load_beside(&pruned)?,
                Residency::Streamed => Decoder::load(&pruned, placement, Residency::Streamed)?,
            };
            Some(loss(&decoder, layer)? - before)
        };
        gains.push(gain);
        progress.at("layer sensitivities", gains.len() as u64, layers as u64);
    }
    Ok(gains)
}

/// Relative cuts of layers from their increases: `s^(−power)`, 1 at the mean increase, 0 for
/// layers without one. Equal weights if no cut increases the loss.
pub fn weights(gains: &[Option<f64>], power: f64) -> Vec<f64> {
    let known: Vec<f64> = gains.iter().flatten().map(|gain| gain.max(0.0)).collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let weight = |gain: f64| match mean > 0.0 {
        true => (gain / mean).max(LEAST).powf(-power),
        false => 1.0,
    };
    gains.iter().map(|gain| gain.map_or(0.0, weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_twice_as_much_loses_half() {
        let gains = [None, Some(3.0), Some(1.5), Some(0.0), Some(-0.5), Some(4.5)];
        // The mean of 3, 1.5, 0, 0 and 4.5 is 1.8; nothing counts as less than a tenth.
        let expected = [0.0, 0.6, 1.2, 10.0, 10.0, 0.4];
        for (found, expected) in weights(&gains, 1.0).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(weights(&gains, 0.0), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(weights(&[Some(-1.0), Some(0.0)], 1.0), [1.0, 1.0]);
    }
}
