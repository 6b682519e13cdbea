//! Records of training data, as they stand in files.
//!
//! | a record with | is |
//! |---|---|
//! | `messages` | a conversation: a list of `{role, content}` |
//! | `instruction`, `output`, perhaps `input` | an instruction, as in Alpaca |
//! | the text field (`text` unless another is named) | plain text |
//!
//! `*.json` holds one array of records, `*.jsonl` and `*.ndjson` one record a
//! line; everything else is plain text, read as every text of this program is.
//! Of a file one record is read at a time; plain text stays where it is until it
//! is tokenised.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use adapruner_checkpoint::{
    text::{self, DEFAULT_FIELD, JsonRecord, Passage, TextOptions},
    tokenizer::chat::Message,
};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Field names that an error lists at the most.
const LISTED: usize = 8;

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
    Chat(Vec<Message>),
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
        let JsonRecord { place, value, unreadable } = found;
        let read = readable(&value, &unreadable, field).and_then(|()| record(value, field));
        let fail = |message| Error::Record { path: path.into(), place: place.clone(), message };
        let record = read.map_err(fail)?;
        records.push((place, record));
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

/// Refuses a record of which a field is used that JSON cannot hold.
fn readable(
    value: &Value,
    unreadable: &BTreeMap<String, String>,
    field: &str,
) -> Result<(), String> {
    let used: &[&str] = if value.get("messages").is_some() {
        &["messages"]
    } else if value.get("instruction").is_some() {
        &["instruction", "input", "output"]
    } else {
        &[field]
    };
    match unreadable.iter().find(|(name, _)| used.contains(&name.as_str())) {
        Some((name, why)) => Err(format!("field {name:?}: {why}")),
        None => Ok(()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What a record is, by its fields.
fn record(value: Value, field: &str) -> Result<Record, String> {
    let mut fields = match value {
        Value::Object(fields) => fields,
        Value::Array(ids) => {
            return ids.into_iter().map(id).collect::<Result<_, _>>().map(Record::Ids);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(format!("an object expected, {} found", kind(&value)));
        }
    };
    if let Some(messages) = fields.remove("messages") {
        return messages_of(messages).map(Record::Chat);
    }
    if fields.contains_key("instruction") {
        return Ok(Record::Instruction {
            instruction: string(&mut fields, "instruction", false)?,
            input: string(&mut fields, "input", true)?,
            output: string(&mut fields, "output", false)?,
        });
    }
    if fields.contains_key(field) {
        return string(&mut fields, field, false).map(Record::Text);
    }
    let mut found: Vec<String> = fields.keys().take(LISTED).map(|k| format!("{k:?}")).collect();
    if fields.len() > LISTED {
        found.push("…".into());
    }
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    Err(format!(
        "fields \"messages\", or \"instruction\" and \"output\", or {field:?} expected, found: {found}"
    ))
}

fn id(value: Value) -> Result<u32, String> {
    let refused = || format!("a token id (0 to 4294967295) expected, {value} found");
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(refused)
}

fn string(fields: &mut Map<String, Value>, name: &str, may_lack: bool) -> Result<String, String> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None if !may_lack => Err(format!("field {name:?}: missing")),
        None | Some(Value::Null) => Ok(String::new()),
        Some(other) => Err(format!("field {name:?}: a string expected, {} found", kind(&other))),
    }
}

fn messages_of(value: Value) -> Result<Vec<Message>, String> {
    let Value::Array(turns) = value else {
        return Err(format!("field \"messages\": an array expected, {} found", kind(&value)));
    };
    let turn = |(at, turn): (usize, Value)| {
        let Value::Object(mut fields) = turn else {
            let found = kind(&turn);
            return Err(format!(
                "field \"messages\", turn {at}: an object expected, {found} found"
            ));
        };
        let within = |e: String| format!("field \"messages\", turn {at}: {e}");
        Ok(Message {
            role: string(&mut fields, "role", false).map_err(within)?,
            content: string(&mut fields, "content", false).map_err(within)?,
        })
    };
    turns.into_iter().enumerate().map(turn).collect()
}
