//! How much a model takes: where it is stored, as it would be written, and in its cache.

use std::fmt;

use adapruner_checkpoint::{Checkpoint, names};
use serde::Serialize;

use crate::{
    caution::Caution,
    error::Result,
    kv_cache::bytes_per_token,
    outputs::{Format, Stored},
    target::SizeTarget,
};

/// Bytes of a model's tensors as they are stored, those beside a language model with them.
pub fn stored_bytes(checkpoint: &Checkpoint) -> u64 {
    let expected = names::expected_tensors(&checkpoint.config);
    let metas = expected.iter().filter_map(|e| checkpoint.tensors.meta(&e.name));
    let others = checkpoint.pass_through.as_ref().map_or(0, |passed| passed.bytes());
    metas.map(|meta| meta.bytes).sum::<u64>() + others
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
    /// Tokens that the key-value cache is counted at, which matters for layers with a window.
    pub cache_context: usize,
    /// Bytes of the key-value cache for each token of that context, in 16 bits, before.
    pub cache_bytes_before: u64,
    /// The same after.
    pub cache_bytes_after: u64,
}

impl Footprint {
    /// What a model takes that was made of `original`; its cache at the original's full context
    /// unless another is named.
    ///
    /// # Errors
    /// A format that cannot hold it.
    pub fn of(
        original: &Checkpoint,
        pruned: &Checkpoint,
        stored: &Stored,
        context: Option<usize>,
    ) -> Result<Self> {
        let context = context.unwrap_or(original.config.max_position_embeddings);
        let files = stored
            .formats
            .iter()
            .map(|&format| Ok(FormatBytes { format, bytes: stored.bytes_in(format, pruned)? }));
        Ok(Self {
            source_bytes: stored_bytes(original),
            files: files.collect::<Result<_>>()?,
            cache_context: context,
            cache_bytes_before: bytes_per_token(&original.config, context),
            cache_bytes_after: bytes_per_token(&pruned.config, context),
        })
    }

    /// Says where the model is larger than it was to be.
    pub fn missed(&self, target: &SizeTarget) -> Option<Caution> {
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
        write!(
            f,
            "; key-value cache {} → {} a token (16 bits, {} tokens)",
            Bytes(before),
            Bytes(after),
            self.cache_context
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footprint_is_one_line() {
        let files = vec![
            FormatBytes { format: Format::Hf, bytes: 215_400_000 },
            FormatBytes { format: Format::Gguf, bytes: 999 },
        ];
        let footprint = Footprint {
            source_bytes: 97_320_000,
            files,
            cache_context: 8192,
            cache_bytes_before: 23_040,
            cache_bytes_after: 19_200,
        };
        assert_eq!(
            footprint.to_string(),
            "97.3 MB before, 215.4 MB as hf, 999 B as gguf; key-value cache 23.0 kB → 19.2 kB a \
             token (16 bits, 8192 tokens)"
        );
    }
}
