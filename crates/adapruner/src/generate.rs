//! Text generation, streamed.

use std::time::Instant;

use adapruner_checkpoint::{
    Checkpoint,
    tokenizer::{TextTokenizer, chat::Message},
};
use adapruner_model::{
    Decoder, Placement,
    generate::{Sampling, stream},
};
use serde::Serialize;

use crate::{
    advice::advised,
    error::{Result, ensure},
    pipeline::residency,
};

/// The prompt and how to sample answers.
#[derive(Debug, Clone, Serialize)]
pub struct GenerateSettings {
    /// The prompt.
    pub prompt: String,
    /// The system message.
    pub system: Option<String>,
    /// Whether to continue the prompt verbatim, without the model's chat template.
    pub raw: bool,
    /// Maximum tokens per answer.
    pub max_tokens: usize,
    /// Number of answers.
    pub samples: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Number of most likely tokens to sample from; `None` for all.
    pub top_k: Option<usize>,
    /// Cumulative probability of the tokens to sample from; `None` for all.
    pub top_p: Option<f64>,
    /// Seed of the draws; each answer has a stream of its own.
    pub seed: u64,
}

impl GenerateSettings {
    /// Refuses invalid settings.
    fn check(&self) -> Result<()> {
        let Self { max_tokens, samples, temperature, top_k, top_p, .. } = *self;
        ensure!(max_tokens > 0, "max-tokens: at least 1 expected, 0 found");
        ensure!(samples > 0, "samples: at least 1 expected, 0 found");
        ensure!(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature: a number of at least 0 expected, {temperature} found"
        );
        ensure!(top_k != Some(0), "top-k: at least 1 expected, 0 found");
        if let Some(p) = top_p {
            ensure!(p > 0.0 && p <= 1.0, "top-p: a number above 0, at most 1 expected, {p} found");
        }
        if temperature == 0.0 && samples > 1 {
            let message = format!("samples: {samples} answers at temperature 0 would be the same");
            return Err(advised(message, "sample them: --temperature 0.8"));
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By a token that ends a text.
    Eos,
    /// At the maximum number of tokens.
    MaxTokens,
    /// At the end of the model's context.
    Context,
}

/// An answer.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Its text, without special tokens.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub ended: Ended,
    /// Wall-clock seconds, the prompt's pass included.
    pub seconds: f64,
}

/// A rendered prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Prompt {
    /// Its text; for a conversation, as rendered by the chat template.
    pub text: String,
    /// Whether a chat template wrote it.
    pub chat: bool,
    /// Its tokens.
    #[serde(skip)]
    pub ids: Vec<u32>,
}

/// The prompt of `settings` for a model: a conversation if the model has a chat template,
/// otherwise the text itself.
///
/// # Errors
/// A template that fails or refuses a system message; a system message without
/// a template; an empty prompt.
pub fn prompt(checkpoint: &Checkpoint, settings: &GenerateSettings) -> Result<Prompt> {
    let tokenizer = &checkpoint.tokenizer;
    let template = if settings.raw { None } else { tokenizer.chat()? };
    let prompt = match (template, &settings.system) {
        (Some(template), system) => {
            let system = system.iter().map(|text| Message::new("system", text));
            let user = Message::new("user", &settings.prompt);
            let messages: Vec<Message> = system.chain([user]).collect();
            let text = template.render(&messages, true)?;
            Prompt { ids: tokenizer.encode_plain(&text)?, text, chat: true }
        }
        (None, Some(_)) if settings.raw => {
            return Err(advised("system: not used by a raw prompt", "leave out --raw"));
        }
        (None, Some(_)) => {
            let message =
                format!("{}: the model has no chat template", checkpoint.origin.display());
            return Err(advised(message, "put the system message into the prompt"));
        }
        (None, None) => {
            let text = settings.prompt.clone();
            Prompt { ids: tokenizer.encode(&text)?, text, chat: false }
        }
    };
    if prompt.ids.is_empty() {
        return Err(advised("prompt: empty", "give a text: --prompt TEXT"));
    }
    Ok(prompt)
}

/// Generates the answers that `settings` ask for. `sink` receives the text of answer `n` piece
/// by piece, as soon as it is final; the pieces together are the answer's text.
///
/// # Errors
/// Invalid settings, a prompt as long as the model's context, damaged weights, and the errors
/// of `sink`.
pub fn generate(
    checkpoint: &Checkpoint,
    prompt: &Prompt,
    settings: &GenerateSettings,
    placement: &Placement,
    sink: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<Answer>> {
    settings.check()?;
    let config = &checkpoint.config;
    let (taken, context) = (prompt.ids.len(), config.longest());
    ensure!(
        taken < context,
        "prompt: {taken} tokens, but the model's context of {context} must also hold an answer"
    );
    // The last token of an answer needs no position: nothing comes after it.
    let room = context - taken + 1;
    let mut ends = config.eos_token_ids.clone();
    ends.extend(checkpoint.tokenizer.eos_id());
    let banned = checkpoint.tokenizer.unassigned_ids(config.vocab_size);
    let decoder = Decoder::load(checkpoint, placement, residency(checkpoint, placement))?;
    let mut answers = Vec::with_capacity(settings.samples.min(1024));
    for sample in 0..settings.samples {
        let sampling = Sampling {
            temperature: settings.temperature,
            top_k: settings.top_k,
            top_p: settings.top_p,
            seed: settings.seed,
            first_stream: sample,
            // Rows of the embedding that stand for no token.
            banned: banned.clone(),
        };
        let start = Instant::now();
        let mut text = TextStream::new(&checkpoint.tokenizer);
        let most = settings.max_tokens.min(room);
        let eos = stream(&decoder, &prompt.ids, most, &sampling, &ends, &mut |token| {
            text.push(token)?.map_or(Ok(()), |piece| sink(sample, &piece))
        })?;
        let piece = text.rest()?;
        if !piece.is_empty() {
            sink(sample, &piece)?;
        }
        answers.push(Answer {
            text: text.said,
            tokens: text.ids,
            ended: match eos {
                true => Ended::Eos,
                false if settings.max_tokens <= room => Ended::MaxTokens,
                false => Ended::Context,
            },
            seconds: start.elapsed().as_secs_f64(),
        });
    }
    Ok(answers)
}

/// Decodes tokens piece by piece, and holds a piece back while its last character may be
/// incomplete.
struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    said: String,
    /// Start of the tokens that are decoded with the next piece, because a tokenizer may treat
    /// the first token of a text differently.
    from: usize,
    /// Start of the tokens that are not output yet.
    unsaid: usize,
}

impl<'a> TextStream<'a> {
    fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), said: String::new(), from: 0, unsaid: 0 }
    }

    /// The text that one more token makes final.
    fn push(&mut self, token: u32) -> Result<Option<String>> {
        self.ids.push(token);
        let piece = self.unsaid()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(None);
        }
        self.from = self.unsaid;
        self.unsaid = self.ids.len();
        self.said.push_str(&piece);
        Ok(Some(piece))
    }

    /// The text that was held back, at the end.
    fn rest(&mut self) -> Result<String> {
        let piece = self.unsaid()?;
        self.unsaid = self.ids.len();
        self.said.push_str(&piece);
        Ok(piece)
    }

    fn unsaid(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.from..self.unsaid], true)?;
        let mut all = self.tokenizer.decode(&self.ids[self.from..], true)?;
        let at = (before.len()..=all.len()).find(|&at| all.is_char_boundary(at));
        Ok(all.split_off(at.unwrap_or(all.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Texts whose characters take several tokens each.
    #[test]
    fn pieces_are_whole_characters_and_together_the_text() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers");
        for family in ["smollm", "llama-spm", "llama-spm-no-prefix", "qwen2", "gpt-2"] {
            let tokenizer = TextTokenizer::from_hf_folder(&folder.join(family)).unwrap();
            for text in ["hello  world", "emoji 😀😃 👨‍👩‍👧‍👦 中文字符 ไทย", "a\u{fffd}b\u{fffd}", " "]
            {
                let ids = tokenizer.encode_plain(text).unwrap();
                // Cut in the middle of a character, too.
                for length in 0..=ids.len() {
                    let mut stream = TextStream::new(&tokenizer);
                    let mut pieces = String::new();
                    for &id in &ids[..length] {
                        if let Some(piece) = stream.push(id).unwrap() {
                            assert!(!piece.ends_with('\u{fffd}'), "{family} {text:?}");
                            pieces.push_str(&piece);
                        }
                    }
                    pieces.push_str(&stream.rest().unwrap());
                    let expected = tokenizer.decode(&ids[..length], true).unwrap();
                    // Of a character cut off at the end, tokenizers that fall back to
                    // bytes make as many marks as its whole run has bytes.
                    if length == ids.len() || !expected.ends_with('\u{fffd}') {
                        assert_eq!(pieces, expected, "{family} {text:?} {length}");
                    }
                    assert_eq!(stream.said, pieces);
                }
            }
        }
    }
}
