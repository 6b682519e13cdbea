//! Collects statistics within a memory limit: decides first how to split the pass, and refuses
//! if no split fits.

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_model::{Decoder, PassCuts, Placement, Residency};
use adapruner_prune::{
    CollectOptions, Collection, Error as PruneError, Footprint, StatsBank, Terms, collect,
    streamed_weights,
};

use crate::{
    advice::advised,
    error::{Error, Result},
    progress::Progress,
};

/// Samples, and what is collected of them.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Token ids of each sample.
    pub samples: &'a [Vec<u32>],
    /// Which per-sample terms.
    pub terms: Terms,
    /// Whether the terms of the whole set are collected as well.
    pub batch: bool,
    /// Maximum tokens per batch; `None` to choose by free memory.
    pub batch_tokens: Option<usize>,
    /// Digest of the samples.
    pub calibration_digest: Digest,
    /// Seed they were drawn with.
    pub seed: u64,
}

/// How a collection is split, and its memory.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// How the pass is split.
    pub cuts: PassCuts,
    /// Its memory.
    pub footprint: Footprint,
}

/// Bytes of the weights that [`collected`] reads block by block, with what it maps.
pub fn streamed(checkpoint: &Checkpoint, placement: &Placement) -> u64 {
    streamed_weights(&checkpoint.config, placement, largest_stored(checkpoint))
}

/// Bytes of a model's largest tensor where it is stored.
pub fn largest_stored(checkpoint: &Checkpoint) -> u64 {
    let names = checkpoint.tensors.names().into_iter();
    let bytes = names.filter_map(|name| checkpoint.tensors.meta(&name)).map(|meta| meta.bytes);
    bytes.max().unwrap_or(0)
}

/// Splits a collection so that it needs at most `memory` bytes, `weights` of them for weights.
///
/// # Errors
/// A collection that cannot fit, with the memory it needs and the limit.
pub fn cut(checkpoint: &Checkpoint, wanted: &Wanted<'_>, weights: u64, memory: u64) -> Result<Cut> {
    let lengths: Vec<usize> = wanted.samples.iter().map(Vec::len).collect();
    let collection = Collection {
        config: &checkpoint.config,
        weights,
        lengths: &lengths,
        terms: wanted.terms,
        batch: wanted.batch,
        batch_tokens: wanted.batch_tokens,
    };
    let cuts = collection.cut(memory).map_err(refused)?;
    Ok(Cut { cuts, footprint: collection.footprint(&cuts) })
}

fn refused(error: PruneError) -> Error {
    if !matches!(error, PruneError::Memory { .. }) {
        return error.into();
    }
    advised(
        error.to_string(),
        "a larger --memory, fewer --samples, a smaller --batch-tokens where one was given; stats: \
         --no-batch, --terms coarse or --terms activations",
    )
}

/// Collects statistics with a decoder.
///
/// # Errors
/// Damaged weights, a loss that is not finite, or no memory.
pub fn collected(
    decoder: &Decoder,
    model_digest: Digest,
    wanted: &Wanted<'_>,
    cuts: PassCuts,
    progress: &dyn Progress,
) -> Result<StatsBank> {
    let options = CollectOptions {
        terms: wanted.terms,
        batch: wanted.batch,
        cuts,
        model_digest,
        calibration_digest: wanted.calibration_digest,
        seed: wanted.seed,
    };
    Ok(collect(decoder, wanted.samples, &options, &|done, all| {
        progress.at("statistics", done as u64, all as u64);
    })?)
}

/// Collects statistics of a model that is read block by block, in at most `memory`
/// bytes.
///
/// # Errors
/// Those of [`cut`] and [`collected`].
pub fn collect_streamed(
    checkpoint: &Checkpoint,
    placement: &Placement,
    wanted: &Wanted<'_>,
    memory: u64,
    progress: &dyn Progress,
) -> Result<(StatsBank, Cut)> {
    let cut = cut(checkpoint, wanted, streamed(checkpoint, placement), memory)?;
    tracing::debug!(
        "statistics: {:?}, at most {} bytes ({})",
        cut.cuts,
        cut.footprint.total(),
        cut.footprint
    );
    let decoder = Decoder::load(checkpoint, placement, Residency::Streamed)?;
    let bank = collected(&decoder, checkpoint.digest()?, wanted, cut.cuts, progress)?;
    Ok((bank, cut))
}
