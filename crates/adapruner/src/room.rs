//! How many samples a text has room for.

use std::ops::ControlFlow;

use adapruner_checkpoint::{Checkpoint, text};

use crate::{error::Result, settings::TextSettings};

/// A number of samples and of tokens per sample that a text has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Samples, at most the requested number.
    pub samples: usize,
    /// Tokens per sample, at most the requested number.
    pub tokens: usize,
}

/// How many samples of `tokens` tokens a text has room for, up to `most`. Samples are no longer
/// than the model's context; rows of token ids are samples as they are.
///
/// # Errors
/// A text that cannot be read.
pub fn room(
    checkpoint: &Checkpoint,
    text: &TextSettings,
    tokens: usize,
    most: usize,
) -> Result<Room> {
    let tokens = tokens.min(checkpoint.config.max_position_embeddings);
    let text = text::read(&text.text, &text.options())?;
    if text.joiner().is_none() {
        let samples = most.min(text.len());
        let mut least = tokens;
        for row in text.passages().take(samples) {
            let mut length = 0;
            row.encode(&checkpoint.tokenizer, |ids| -> Result<_> {
                length += ids.len();
                Ok(if length < least { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            least = least.min(length);
        }
        return Ok(Room { samples, tokens: least });
    }
    let (enough, mut found) = (most.saturating_mul(tokens), 0_usize);
    for document in text.passages() {
        let mut length = 0;
        document.encode(&checkpoint.tokenizer, |ids| -> Result<_> {
            length += ids.len();
            let more = found + length <= enough;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        // The token that opens a document is not there where documents are joined.
        found += length.saturating_sub(1);
        if found >= enough {
            break;
        }
    }
    Ok(Room { samples: most.min(found / tokens.max(1)), tokens })
}
