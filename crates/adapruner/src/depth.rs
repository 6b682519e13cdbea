//! Removal of whole layers.
//!
//! *Block influence* (ShortGPT, Men et al., arXiv 2403.03853) is the mean over all tokens of
//! `1 − cos(x, y)`, where `x` enters a layer and `y` leaves it. The layers with the lowest
//! influence are removed; this takes one forward pass. By *loss*, the layer whose removal
//! increases the loss of the samples least is removed first, then the next one, measured without
//! the first ([`removal_order`]).
//!
//! Losses are nats per predicted token.

use std::{fmt, str::FromStr};

use adapruner_checkpoint::{Checkpoint, text::TokenSet};
use adapruner_eval::ChunkedWindows;
use adapruner_model::{Decoder, Placement};
use serde::{Deserialize, Serialize};

use crate::{
    advice::advised,
    error::{Context, Result},
    greedy::{Goal, removal_order},
    pipeline::{self, TokensRecord},
    progress::Progress,
};

/// Maximum number of calibration samples to measure layers on.
pub const SAMPLES: usize = 16;

/// The layers to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// This many of the cheapest.
    Count(usize),
    /// The layers with these indices, ascending.
    These(Vec<usize>),
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::These(layers) => {
                for (at, run) in layers.chunk_by(|a, b| a + 1 == *b).enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{}-{}", run[0], run[run.len() - 1])?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Layers {
    type Err = String;

    /// `4` is a number of layers; `20,22` and `20-23` are layers.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("expected a number of layers, or layers as 20,22 or 20-23, found {text:?}");
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| refused());
        if !text.contains([',', '-']) {
            return number(text).map(Self::Count);
        }
        let mut layers = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            // More layers than any model has.
            if first > last || last - first > 100_000 {
                return Err(refused());
            }
            layers.extend(first..=last);
        }
        layers.sort_unstable();
        layers.dedup();
        Ok(Self::These(layers))
    }
}

/// How to choose the layers to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerMetric {
    /// Block influence.
    #[default]
    Influence,
    /// Loss of the model without them.
    Loss,
}

adapruner_choice::choice!(LayerMetric, "metric of layers", {
    Influence => "influence",
    Loss => "loss",
});

/// Settings of layer removal.
#[derive(Debug, Clone, Serialize)]
pub struct DepthSettings {
    /// The layers to remove.
    #[serde(serialize_with = "display")]
    pub layers: Layers,
    /// How to choose them if only their number is given.
    pub metric: LayerMetric,
}

fn display<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// A removed layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RemovedLayer {
    /// Its index in the original model.
    pub layer: usize,
    /// Its block influence, or the increase of the loss when it was removed after those before it.
    pub cost: f64,
}

/// Record of how the layers were chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenBy {
    /// The metric.
    pub metric: LayerMetric,
    /// The calibration samples.
    pub samples: TokensRecord,
    /// The layers in the order of their removal.
    pub layers: Vec<RemovedLayer>,
}

/// Record of layer removal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DepthRecord {
    /// Number of layers before.
    pub before: usize,
    /// Indices of the removed layers, ascending.
    pub removed: Vec<usize>,
    /// How they were chosen; `None` if the user named them.
    pub chosen: Option<ChosenBy>,
}

impl fmt::Display for DepthRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, removed, chosen } = self;
        write!(f, "{before} → {} layers, without ", before - removed.len())?;
        for (at, layer) in removed.iter().enumerate() {
            write!(f, "{}{layer}", if at == 0 { "" } else { ", " })?;
        }
        match chosen {
            Some(ChosenBy { metric, samples, .. }) => {
                write!(f, " (by {metric} on {} samples of {})", samples.windows, samples.text)
            }
            None => Ok(()),
        }
    }
}

/// A model without the removed layers.
pub struct Chosen {
    /// The model with the remaining layers.
    pub model: Checkpoint,
    /// Indices of the remaining layers in the original model, ascending.
    pub kept: Vec<usize>,
    /// How the others were chosen.
    pub record: DepthRecord,
}

impl DepthSettings {
    /// Whether calibration samples are needed.
    pub fn is_measured(&self) -> bool {
        match self.layers {
            Layers::Count(_) => true,
            Layers::These(_) => false,
        }
    }

    /// Checks the settings against the number of layers of a model.
    ///
    /// # Errors
    /// Layers that the model does not have, none, or all of them.
    pub fn check(&self, layers: usize) -> Result<()> {
        let (count, odd) = match &self.layers {
            Layers::Count(count) => (*count, None),
            Layers::These(these) => (these.len(), these.iter().find(|&&layer| layer >= layers)),
        };
        if let Some(odd) = odd {
            return Err(advised(
                format!("drop-layers: no layer {odd}: the model has layers 0 to {}", layers - 1),
                "inspect shows a model's layers",
            ));
        }
        if count == 0 || count >= layers {
            return Err(advised(
                format!(
                    "drop-layers: expected from 1 to {} of the model's {layers} layers, found \
                     {count}",
                    layers.saturating_sub(1)
                ),
                "at least one layer must stay",
            ));
        }
        Ok(())
    }
}

/// Removes layers from a model. If `settings` gives only their number, they are chosen on at most
/// [`SAMPLES`] of `samples`, evenly spread.
///
/// # Errors
/// Layers that the model does not have, or all of them; no samples although they are needed; a
/// loss that is not finite; damaged weights; lack of memory.
pub fn choose(
    checkpoint: &Checkpoint,
    settings: &DepthSettings,
    samples: Option<&TokenSet>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Chosen> {
    let before = checkpoint.config.layers.len();
    settings.check(before)?;
    let (mut removed, chosen) = match &settings.layers {
        Layers::These(layers) => (layers.clone(), None),
        Layers::Count(count) => {
            let samples = samples.context("drop-layers: no samples to choose layers by")?;
            let samples = samples.few(SAMPLES);
            let metric = settings.metric;
            let mut layers = match metric {
                LayerMetric::Influence => by_influence(checkpoint, &samples, placement, progress)?,
                LayerMetric::Loss => by_loss(checkpoint, &samples, *count, placement, progress)?,
            };
            layers.truncate(*count);
            let removed = layers.iter().map(|of| of.layer).collect();
            (removed, Some(ChosenBy { metric, samples: TokensRecord::of(&samples), layers }))
        }
    };
    removed.sort_unstable();
    let kept: Vec<usize> = (0..before).filter(|layer| !removed.contains(layer)).collect();
    let model = checkpoint.with_layers(&kept)?;
    Ok(Chosen { model, kept, record: DepthRecord { before, removed, chosen } })
}

/// The dense model, and its hidden states of the samples after each layer.
fn run(
    checkpoint: &Checkpoint,
    samples: &TokenSet,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<(Decoder, ChunkedWindows)> {
    let dense = Decoder::load(checkpoint, placement, pipeline::residency(checkpoint, placement))?;
    let windows = ChunkedWindows::new(
        &dense,
        &samples.windows,
        samples.windows.len(),
        checkpoint.config.layers.len(),
        &|done, all| progress.at("layers run", done, all),
    )?;
    Ok((dense, windows))
}

fn by_influence(
    checkpoint: &Checkpoint,
    samples: &TokenSet,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<RemovedLayer>> {
    let (_, windows) = run(checkpoint, samples, placement, progress)?;
    let influences = windows.influences()?.into_iter().enumerate();
    let mut layers: Vec<RemovedLayer> =
        influences.map(|(layer, cost)| RemovedLayer { layer, cost }).collect();
    layers.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.layer.cmp(&b.layer)));
    Ok(layers)
}

fn by_loss(
    checkpoint: &Checkpoint,
    samples: &TokenSet,
    count: usize,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<RemovedLayer>> {
    let (dense, windows) = run(checkpoint, samples, placement, progress)?;
    let candidates: Vec<usize> = (0..checkpoint.config.layers.len()).collect();
    let mut loss = |gone: &[usize]| Ok(windows.nll_without(&dense, gone)?);
    let told = |done, all| progress.at("layers measured", done, all);
    let enough = |gone: &[usize]| gone.len() >= count;
    let order = removal_order(&candidates, &Goal::alike(&enough), &mut loss, &told)?;
    Ok(order.into_iter().map(|(layer, cost)| RemovedLayer { layer, cost }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_a_number_or_a_list() {
        let parse = |text: &str| text.parse::<Layers>();
        assert_eq!(parse("4"), Ok(Layers::Count(4)));
        assert_eq!(parse("7-7"), Ok(Layers::These(vec![7])));
        assert_eq!(parse("9, 2-4,3"), Ok(Layers::These(vec![2, 3, 4, 9])));
        for odd in ["", "x", "-1", "4-2", "1,,2", "1-2-3", "0-99999999999"] {
            assert!(parse(odd).is_err(), "{odd}");
        }
        for layers in [Layers::Count(3), Layers::These(vec![0, 2, 3, 4, 9])] {
            assert_eq!(layers.to_string().parse(), Ok(layers));
        }
    }

    #[test]
    fn at_least_one_layer_is_removed_and_one_remains() {
        let check = |text: &str| {
            let layers = text.parse().unwrap();
            DepthSettings { layers, metric: LayerMetric::Loss }.check(4)
        };
        for fits in ["1", "3", "0-2", "3-3"] {
            check(fits).unwrap();
        }
        for odd in ["0", "4", "9", "0-3", "4-4"] {
            assert!(check(odd).is_err(), "{odd}");
        }
    }
}
