//! Records of training data files.
//!
//! | a record with | is |
//! |---|---|
//! | `messages` | a conversation: a list of `{role, content}`, perhaps with `tool_calls` and `weight` |
//! | `instruction`, `output`, perhaps `input` | an instruction, as in Alpaca |
//! | the text field (`text` unless another is named) | plain text |
//!
//! `tools`, `documents` and `chat_template_kwargs` beside `messages` are passed to the chat
//! template, as in transformers and TRL. An unsupported field that would change a record's
//! meaning (`history` beside `instruction`) is refused. Other fields are ignored, whatever they
//! hold: NaN and halves of surrogate pairs, which Python writes, do no harm there.
//!
//! `*.json` holds one array of records, `*.jsonl` and `*.ndjson` one record per line;
//! everything else is plain text, read like all texts of this program. One record of a file is
//! read at a time; plain text stays in the file until it is tokenised.

use std::{
    borrow::Cow,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use adapruner_checkpoint::{
    text::{self, DEFAULT_FIELD, JsonRecord, Passage, TextOptions},
    tokenizer::chat::Message,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::chat::{Conversation, Turn};
use crate::error::{Error, Result};

/// Field names that an error lists at most.
const LISTED: usize = 8;

/// Fields beside `messages` that are not read and change what is learned.
const NOT_OF_CHAT: [&str; 5] = ["system", "history", "functions", "function_call", "weight"];
/// Fields beside `instruction` that are not read and change what is learned.
const NOT_OF_INSTRUCTION: [&str; 6] =
    ["system", "system_prompt", "history", "tools", "functions", "weight"];
/// Fields of a turn that are not read and change what is learned.
const NOT_OF_TURN: [&str; 6] =
    ["function_call", "train", "training", "loss", "loss_weight", "prefix"];
/// Fields that are passed to the chat template.
const VARIABLES: [&str; 2] = ["tools", "documents"];
/// The field whose own fields are passed to the chat template.
const KWARGS: &str = "chat_template_kwargs";

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An instruction with its answer.
    Instruction {
        /// What is to be done.
        instruction: String,
        /// What it is to be done with; may be empty.
        input: String,
        /// The answer.
        output: String,
    },
    /// A conversation.
    Chat(Conversation),
    /// Text without a prompt.
    Text(String),
    /// The same, in a file.
    Passage(Passage),
    /// Token ids as they were given.
    Ids(Vec<u32>),
}

/// The records of a file.
#[derive(Debug, Clone)]
pub struct Records {
    /// The file's name, or that of the set.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// Each with its place for messages (`line 3`, `record 7`).
    pub records: Vec<(String, Record)>,
}

/// Reads a file of records, or a text.
///
/// # Errors
/// A file that is missing or malformed, with line or record and field.
pub fn read(spec: impl AsRef<OsStr>, options: &TextOptions) -> Result<Records> {
    let path = Path::new(spec.as_ref());
    if !text::records::is_json(path) || !path.exists() {
        return plain(spec.as_ref(), options);
    }
    let field = options.field.as_deref().unwrap_or(DEFAULT_FIELD);
    let mut records = Vec::new();
    text::records::read(path, |found| -> Result<()> {
        let JsonRecord { place, json } = found;
        let json = without_nan(&json);
        let value = serde_json::from_str::<&RawValue>(&json).map_err(|e| short(&e));
        match value.and_then(|value| record(value, field)) {
            Ok(record) => records.push((place, record)),
            Err(message) => return Err(Error::Record { path: path.into(), place, message }),
        }
        Ok(())
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Records { name, path: path.to_path_buf(), records })
}

/// Everything that holds no JSON records.
fn plain(spec: &OsStr, options: &TextOptions) -> Result<Records> {
    let text = text::read(spec, options)?;
    let place = |(at, passage)| (format!("document {at}"), Record::Passage(passage));
    let records = text.passages().enumerate().map(place).collect();
    Ok(Records { name: text.name, path: spec.into(), records })
}

/// JSON as Python writes it, with a number that is out of any range in place of
/// its NaN and infinities: refused where it is read, and nowhere else.
fn without_nan(json: &str) -> Cow<'_, str> {
    const NAMES: [&str; 2] = ["NaN", "Infinity"];
    const STANDS_FOR: &str = "1e999";
    if !NAMES.iter().any(|name| json.contains(name)) {
        return json.into();
    }
    let (mut out, mut rest) = (String::with_capacity(json.len()), json);
    let (mut quoted, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        let name = NAMES.iter().find(|name| !quoted && rest.starts_with(**name));
        if let Some(name) = name {
            out.push_str(STANDS_FOR);
            rest = &rest[name.len()..];
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out.into()
}

/// The message of a JSON error without its place.
fn short(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        Some(_) | None => "a number",
    }
}

/// Whether a value says nothing.
fn is_empty(value: &RawValue) -> bool {
    let text = value.get();
    let inner = text.strip_prefix(['"', '[', '{']).and_then(|t| t.strip_suffix(['"', ']', '}']));
    text == "null" || inner.is_some_and(|inner| inner.trim().is_empty())
}

/// The fields of an object in their order, each with its original text.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }

        object.deserialize_map(Reader)
    }
}

impl<'a> Fields<'a> {
    fn of(value: &'a RawValue) -> Result<Self, String> {
        if kind(value) != "an object" {
            return Err(format!("an object expected, {} found", kind(value)));
        }
        serde_json::from_str(value.get()).map_err(|e| short(&e))
    }

    /// The last of that name, as in Python.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(other, _)| other == name).map(|(_, value)| *value)
    }

    fn string(&self, name: &str, may_lack: bool) -> Result<String, String> {
        match self.get(name) {
            Some(value) if kind(value) == "null" => Ok(String::new()),
            Some(value) => text_of(name, value),
            None if may_lack => Ok(String::new()),
            None => Err(format!("field {name:?}: missing")),
        }
    }

    /// Refuses fields that are not supported and would change the training.
    fn refuse(&self, names: &[&str], beside: &str) -> Result<(), String> {
        for (name, value) in &self.0 {
            let neutral = is_empty(value) || (name == "weight" && number(value) == Some(1.0));
            if names.contains(&name.as_str()) && !neutral {
                return Err(format!("field {name:?}: not supported {beside}"));
            }
        }
        Ok(())
    }
}

fn number(value: &RawValue) -> Option<f64> {
    serde_json::from_str(value.get()).ok()
}

fn text_of(name: &str, value: &RawValue) -> Result<String, String> {
    if kind(value) != "a string" {
        return Err(format!("field {name:?}: a string expected, {} found", kind(value)));
    }
    serde_json::from_str(value.get()).map_err(|e| format!("field {name:?}: {}", short(&e)))
}

/// What a record is, by its fields.
fn record(value: &RawValue, field: &str) -> Result<Record, String> {
    if kind(value) == "an array" {
        let ids: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(|e| short(&e))?;
        return ids.into_iter().map(id).collect::<Result<_, _>>().map(Record::Ids);
    }
    let fields = Fields::of(value)?;
    if let Some(messages) = fields.get("messages") {
        fields.refuse(&NOT_OF_CHAT, "beside \"messages\"")?;
        let variables = variables(&fields)?;
        return Ok(Record::Chat(Conversation { turns: turns(messages)?, variables }));
    }
    if fields.get("instruction").is_some() {
        let beside = "beside \"instruction\"; a conversation (\"messages\") can hold it";
        fields.refuse(&NOT_OF_INSTRUCTION, beside)?;
        return Ok(Record::Instruction {
            instruction: fields.string("instruction", false)?,
            input: fields.string("input", true)?,
            output: fields.string("output", false)?,
        });
    }
    if fields.get(field).is_some() {
        fields.refuse(&["weight"], "beside a text")?;
        return fields.string(field, false).map(Record::Text);
    }
    let names = fields.0.iter();
    let mut found: Vec<String> = names.take(LISTED).map(|(name, _)| format!("{name:?}")).collect();
    if fields.0.len() > LISTED {
        found.push("…".into());
    }
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    Err(format!(
        "fields \"messages\", or \"instruction\" and \"output\", or {field:?} expected, found: {found}"
    ))
}

fn id(value: &RawValue) -> Result<u32, String> {
    let refused = |_| format!("a token id (0 to 4294967295) expected, {value} found");
    serde_json::from_str(value.get()).map_err(refused)
}

/// Variables of the chat template besides the turns.
fn variables(fields: &Fields<'_>) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for name in VARIABLES {
        let Some(value) = fields.get(name).filter(|value| !is_empty(value)) else { continue };
        // Data sets keep what is no column as JSON in a string.
        let json = match kind(value) {
            "a string" => text_of(name, value)?,
            _ => value.get().to_owned(),
        };
        if json.trim() == "[]" {
            continue;
        }
        if !json.trim_start().starts_with('[') {
            return Err(format!("field {name:?}: an array expected, {} found", kind(value)));
        }
        out.push((name.to_owned(), json));
    }
    if let Some(kwargs) = fields.get(KWARGS).filter(|value| !is_empty(value)) {
        let kwargs = Fields::of(kwargs).map_err(|e| format!("field {KWARGS:?}: {e}"))?;
        out.extend(kwargs.0.into_iter().map(|(name, value)| (name, value.get().to_owned())));
    }
    Ok(out)
}

fn turns(value: &RawValue) -> Result<Vec<Turn>, String> {
    if kind(value) != "an array" {
        return Err(format!("field \"messages\": an array expected, {} found", kind(value)));
    }
    let turns: Vec<&RawValue> = serde_json::from_str(value.get())
        .map_err(|e| format!("field \"messages\": {}", short(&e)))?;
    let numbered = turns.into_iter().enumerate();
    numbered
        .map(|(at, value)| turn(value).map_err(|e| format!("field \"messages\", turn {at}: {e}")))
        .collect()
}

fn turn(value: &RawValue) -> Result<Turn, String> {
    let mut fields = Fields::of(value)?;
    fields.refuse(&NOT_OF_TURN, "in a turn")?;
    let role = fields.get("role").ok_or("field \"role\": missing")?;
    let role = text_of("role", role)?;
    let calls = fields.get("tool_calls").is_some_and(|calls| !is_empty(calls));
    let content = match fields.get("content") {
        Some(value) if kind(value) == "null" && calls => None,
        Some(value) => Some(text_of("content", value)?),
        None if calls => None,
        None => return Err("field \"content\": missing".into()),
    };
    let learned = match fields.get("weight").map(|weight| (weight, number(weight))) {
        None => true,
        Some((weight, _)) if kind(weight) == "null" => true,
        Some((_, Some(0.0))) => false,
        Some((_, Some(1.0))) if role == "assistant" => true,
        Some((weight, _)) => {
            return Err(format!(
                "field \"weight\": 0, or 1 for a turn of the assistant, expected, {weight} found"
            ));
        }
    };
    fields.0.retain(|(name, value)| {
        !matches!(name.as_str(), "role" | "content" | "weight") && !is_empty(value)
    });
    let fields = fields.0.into_iter().map(|(name, value)| (name, value.get().to_owned()));
    Ok(Turn { message: Message { role, content, fields: fields.collect() }, learned })
}
