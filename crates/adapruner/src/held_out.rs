//! Calibration samples on which no choice was made. A pruned model is measured on them if no
//! evaluation text is given.

use std::collections::HashSet;

use adapruner_checkpoint::{Checkpoint, text::TokenSet};

use crate::{error::Result, pipeline, room::room, settings::CalibrationSettings};

/// Number of samples: enough to distinguish a perplexity from twice as much.
pub const SAMPLES: usize = 16;

/// At most [`SAMPLES`] samples of the calibration text that share no passage with `seen`;
/// `None` where the text has none.
///
/// # Errors
/// A text that cannot be read.
pub fn samples(
    checkpoint: &Checkpoint,
    settings: &CalibrationSettings,
    seen: &[&TokenSet],
) -> Result<Option<TokenSet>> {
    // Draws with one seed have a common prefix, so samples beyond the seen ones are new.
    let most = seen.iter().map(|set| set.windows.len()).max().unwrap_or(0);
    let given = room(checkpoint, &settings.text, settings.sample_tokens, most + SAMPLES)?;
    let wanted = CalibrationSettings { samples: given.samples, ..settings.clone() };
    if given.samples == 0 || given.tokens < settings.sample_tokens {
        return Ok(None);
    }
    let drawn = pipeline::calibration_tokens(checkpoint, &wanted)?;
    let known: HashSet<&Vec<u32>> = seen.iter().flat_map(|set| &set.windows).collect();
    let one =
        |window: &Vec<u32>| TokenSet::of_rows(&drawn.name, drawn.text_digest, vec![window.clone()]);
    let new = drawn.windows.iter().rev().filter(|window| {
        !known.contains(window) && seen.iter().all(|set| one(window).overlap(set) == 0)
    });
    let windows: Vec<Vec<u32>> = new.take(SAMPLES).cloned().collect();
    if windows.is_empty() {
        return Ok(None);
    }
    Ok(Some(TokenSet::of_rows(&drawn.name, drawn.text_digest, windows)))
}
