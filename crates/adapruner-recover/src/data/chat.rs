//! Renders conversations with the model's chat template, and finds the parts that count in the
//! loss.

use std::ops::Range;

use adapruner_checkpoint::tokenizer::chat::{ChatTemplate, Message};
use serde_json::Value;

/// Fields of a turn or a record that say something, so that a template that
/// does not name them would lose it.
const MEANT: [&str; 8] = [
    "tool_calls",
    "tools",
    "documents",
    "reasoning_content",
    "reasoning",
    "thinking",
    "audio",
    "refusal",
];

/// Fields of a turn that hold text.
const SAID: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// An answer that begins like nothing that a prompt opens.
const OTHER: &str = "\u{e000}";

/// A turn, and whether it is learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The text and its role.
    pub message: Message,
    /// Whether it is learned where the assistant says it (`"weight": 1`, or no
    /// weight).
    pub learned: bool,
}

/// A conversation as a record holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Its turns, in order.
    pub turns: Vec<Turn>,
    /// Further variables of the template (`tools`), as JSON by name.
    pub variables: Vec<(String, String)>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        let turns = messages.into_iter().map(|message| Turn { message, learned: true });
        Self { turns: turns.collect(), variables: Vec::new() }
    }
}

/// A rendered conversation and the parts of it that the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of it that are learned, in order.
    pub learned: Vec<Range<usize>>,
    /// Bytes of it that the assistant says and that are not to be learned.
    pub withheld: Vec<Range<usize>>,
    /// Learned turns of which the template leaves something out.
    pub partial: usize,
    /// Turns that are not learned because the template renders them otherwise
    /// once the conversation goes on (without their reasoning).
    pub changed: usize,
}

/// Renders a conversation. What the assistant says begins where the rendering
/// of the turns before it, with its generation prompt, ends, and goes to the end
/// of the rendering with it. Where the generation prompt opens what the answer
/// does not hold (`<think>`), it begins where the two part.
///
/// # Errors
/// A conversation that the template refuses, what the template does not use, or
/// a template that renders no turn of the assistant so that it can be told from
/// its prompt; in words.
pub fn render(template: &ChatTemplate, conversation: &Conversation) -> Result<Rendered, String> {
    let Conversation { turns, variables } = conversation;
    let variables = used(template, variables)?;
    let messages = turns
        .iter()
        .enumerate()
        .map(|(at, turn)| {
            let Message { role, content, fields } = &turn.message;
            let fields = used(template, fields).map_err(|e| format!("turn {at}: {e}"))?;
            Ok(Message { role: role.clone(), content: content.clone(), fields })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let text = |turns: &[Message], generation| {
        let rendered = template.render_with(turns, &variables, generation);
        rendered.map_err(|error: adapruner_checkpoint::Error| error.to_string())
    };
    let whole = text(&messages, false)?;
    let mut rendered =
        Rendered { text: whole, learned: Vec::new(), withheld: Vec::new(), partial: 0, changed: 0 };
    let mut why = None;
    for (at, message) in messages.iter().enumerate() {
        if message.role != "assistant" || says_nothing(message) {
            continue;
        }
        let before = &messages[..at];
        let answered = text(&messages[..=at], false)?;
        let prompt = text(before, true)?;
        let start = if answered.starts_with(&prompt) {
            Some(prompt.len())
        } else if before.is_empty() {
            None
        } else {
            let other = [before, &[Message::new("assistant", OTHER)]].concat();
            let other = text(&other, false).and_then(|other| Ok((other, text(before, false)?)));
            other.ok().and_then(|(other, before)| parting(&answered, &prompt, &other, &before))
        };
        let Some(start) = start.filter(|_| rendered.text.starts_with(&answered)) else {
            why.get_or_insert(at);
            rendered.changed += usize::from(turns[at].learned);
            continue;
        };
        let span = start..answered.len();
        if !turns[at].learned {
            rendered.withheld.push(span);
            continue;
        }
        let said = &rendered.text[span.clone()];
        if let Some(name) = calls(message).into_iter().find(|name| !said.contains(name.as_str())) {
            return Err(format!(
                "turn {at}: tool_calls: the chat template leaves out the call of {name:?}"
            ));
        }
        // The prompt may open what the answer begins with.
        let opened = || {
            let before = text(before, false).ok().filter(|before| answered.starts_with(before));
            &answered[before.map_or(start, |before| before.len().min(start))..]
        };
        rendered.partial += usize::from(!holds(said, message) && !holds(opened(), message));
        rendered.learned.push(span);
    }
    match why {
        Some(at) if rendered.learned.is_empty() && rendered.changed > 0 => Err(format!(
            "turn {at}: the template does not render the turns before it as it renders them \
             alone, so that the answer cannot be told from its prompt"
        )),
        Some(_) | None => Ok(rendered),
    }
}

/// How far the prompt opens an answer: to where it and the rendering of another
/// answer part. `None` where the answer cannot be told from its prompt.
fn parting(answered: &str, prompt: &str, other: &str, before: &str) -> Option<usize> {
    let equal = other.chars().zip(prompt.chars()).take_while(|(a, b)| a == b);
    let shared: usize = equal.map(|(a, _)| a.len_utf8()).sum();
    // Something must open the answer in both.
    let opens = shared > before.len() && prompt.starts_with(before);
    (opens && answered.starts_with(&prompt[..shared])).then_some(shared)
}

fn says_nothing(message: &Message) -> bool {
    message.content.as_deref().is_none_or(str::is_empty)
        && !message.fields.iter().any(|(name, _)| name == "tool_calls" || SAID.contains(&&**name))
}

/// The fields that the template names.
fn used(
    template: &ChatTemplate,
    fields: &[(String, String)],
) -> Result<Vec<(String, String)>, String> {
    let mut kept = Vec::new();
    for (name, json) in fields {
        if template.mentions(name) {
            kept.push((name.clone(), json.clone()));
        } else if MEANT.contains(&name.as_str()) {
            return Err(format!("{name}: the model's chat template does not use it"));
        }
    }
    Ok(kept)
}

/// Names of the functions that a turn calls.
fn calls(message: &Message) -> Vec<String> {
    let calls = message.fields.iter().find(|(name, _)| name == "tool_calls");
    let calls = calls.and_then(|(_, json)| serde_json::from_str::<Value>(json).ok());
    let name = |call: &Value| {
        call["function"]["name"].as_str().or_else(|| call["name"].as_str()).map(str::to_owned)
    };
    calls.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(name).collect()
}

/// Whether a text holds all that a turn says.
fn holds(text: &str, message: &Message) -> bool {
    let content = message.content.as_deref().unwrap_or_default();
    let fields = message.fields.iter().filter(|(name, _)| SAID.contains(&name.as_str()));
    text.contains(content.trim())
        && fields
            .filter_map(|(_, json)| serde_json::from_str::<String>(json).ok())
            .all(|said| text.contains(said.trim()))
}
