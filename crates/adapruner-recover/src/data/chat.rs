//! Conversations by the model's own chat template, and which parts of them are
//! learned.

use std::ops::Range;

use adapruner_checkpoint::tokenizer::chat::{ChatTemplate, Message};

/// A rendered conversation and the parts of it that the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of it that are learned, in order.
    pub learned: Vec<Range<usize>>,
}

/// Renders a conversation. What the assistant says begins where the rendering
/// of the turns before it, with its generation prompt, ends, and goes to the end
/// of the rendering with it.
///
/// # Errors
/// A conversation that the template refuses, or a template that renders the
/// beginning of a conversation otherwise than alone; in words.
pub fn render(template: &ChatTemplate, messages: &[Message]) -> Result<Rendered, String> {
    let text = |turns, generation| {
        template
            .render(turns, generation)
            .map_err(|error: adapruner_checkpoint::Error| error.to_string())
    };
    let whole = text(messages, false)?;
    let mut learned = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message.role != "assistant" || message.content.is_empty() {
            continue;
        }
        let prompt = text(&messages[..at], true)?;
        let answered = text(&messages[..=at], false)?;
        if !whole.starts_with(&answered) || !answered.starts_with(&prompt) {
            return Err(format!(
                "turn {at}: the template does not render the turns before it as it renders them \
                 alone, so that the answer cannot be told from its prompt"
            ));
        }
        learned.push(prompt.len()..answered.len());
    }
    Ok(Rendered { text: whole, learned })
}
