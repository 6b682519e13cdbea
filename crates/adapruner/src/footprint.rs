//! How much a model takes: where it is stored, as it would be written, and in its cache.

use std::fmt;

use adapruner_checkpoint::{Checkpoint, ModelConfig, names};
use serde::Serialize;

use crate::{
    caution::Caution,
    error::Result,
    outputs::{Format, Stored},
    target::Target,
};

/// Bytes of a number of the key-value cache, in 16 bits as llama.cpp and transformers keep it.
const CACHED: u64 = 2;

/// Bytes of a model's tensors as they are stored, those beside a language model with them.
pub fn stored_bytes(checkpoint: &Checkpoint) -> u64 {
    let expected = names::expected_tensors(&checkpoint.config);
    let metas = expected.iter().filter_map(|e| checkpoint.tensors.meta(&e.name));
    let others = checkpoint.pass_through.as_ref().map_or(0, |passed| passed.bytes());
    metas.map(|meta| meta.bytes).sum::<u64>() + others
}

/// Bytes that the key-value cache of a model takes for each token: `Σ over layers 2·K·D`
/// numbers of 16 bits.
pub fn cache_bytes(config: &ModelConfig) -> u64 {
    let heads: usize = config.layers.iter().map(|widths| widths.kv_heads).sum();
    2 * CACHED * (heads * config.head_dim) as u64
}

/// A model in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FormatBytes {
    /// The format.
    pub format: Format,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What a pruned model takes, and what the model took that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Bytes of the original's tensors as they are stored.
    pub source_bytes: u64,
    /// The pruned model as it is written, or would be.
    pub files: Vec<FormatBytes>,
    /// Bytes of the key-value cache for each token, in 16 bits, before.
    pub cache_bytes_before: u64,
    /// The same after.
    pub cache_bytes_after: u64,
}

impl Footprint {
    /// What a model takes that was made of `original`.
    ///
    /// # Errors
    /// A format that cannot hold it.
    pub fn of(original: &Checkpoint, pruned: &Checkpoint, stored: &Stored) -> Result<Self> {
        let files = stored
            .formats
            .iter()
            .map(|&format| Ok(FormatBytes { format, bytes: stored.bytes_in(format, pruned)? }));
        Ok(Self {
            source_bytes: stored_bytes(original),
            files: files.collect::<Result<_>>()?,
            cache_bytes_before: cache_bytes(&original.config),
            cache_bytes_after: cache_bytes(&pruned.config),
        })
    }

    /// Says where the model is larger than it was to be.
    pub fn missed(&self, target: &Target) -> Option<Caution> {
        let format = target.stored.format();
        let found = self.files.iter().find(|of| of.format == format)?.bytes;
        (found > target.bytes).then(|| Caution {
            message: format!("target-size: {} bytes asked, {found} reached", target.bytes),
            hint: "masks that layers share freely, or a fit with biases, changed the size: leave \
                   them out, or ask for a little less"
                .into(),
        })
    }
}

/// Bytes with a unit of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut units) = (self.0 as f64, ["B", "kB", "MB", "GB", "TB"].into_iter());
        let mut unit = units.next().unwrap_or_default();
        for next in units {
            if value < 1000.0 {
                break;
            }
            (value, unit) = (value / 1000.0, next);
        }
        if unit == "B" { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} before", Bytes(self.source_bytes))?;
        for FormatBytes { format, bytes } in &self.files {
            write!(f, ", {} as {format}", Bytes(*bytes))?;
        }
        let (before, after) = (self.cache_bytes_before, self.cache_bytes_after);
        write!(f, "; key-value cache {} → {} a token (16 bits)", Bytes(before), Bytes(after))
    }
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};

    use super::*;

    #[test]
    fn a_cache_holds_keys_and_values_of_every_layer_with_attention() {
        let layers = [(9, 3, 7), (0, 0, 7), (4, 4, 7)]
            .map(|(query_heads, kv_heads, ffn)| LayerWidths { query_heads, kv_heads, ffn });
        let config = ModelConfig::new(Architecture::Llama, 24, 4, 50, layers.to_vec());
        assert_eq!(cache_bytes(&config), 2 * 2 * (3 + 4) * 4);
    }

    #[test]
    fn a_footprint_is_one_line() {
        let files = vec![
            FormatBytes { format: Format::Hf, bytes: 215_400_000 },
            FormatBytes { format: Format::Gguf, bytes: 999 },
        ];
        let footprint = Footprint {
            source_bytes: 97_320_000,
            files,
            cache_bytes_before: 23_040,
            cache_bytes_after: 19_200,
        };
        assert_eq!(
            footprint.to_string(),
            "97.3 MB before, 215.4 MB as hf, 999 B as gguf; key-value cache 23.0 kB → 19.2 kB a \
             token (16 bits)"
        );
    }
}
