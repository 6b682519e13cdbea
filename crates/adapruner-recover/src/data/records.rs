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

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{
    Error as FileError,
    text::{self, Content, DEFAULT_FIELD, TextOptions},
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
pub fn read(spec: &str, options: &TextOptions) -> Result<Records> {
    let path = Path::new(spec);
    let unpacked = text::unpacked_name(path);
    let extension = unpacked.rsplit_once('.').map(|(_, extension)| extension);
    let field = options.field.as_deref().unwrap_or(DEFAULT_FIELD);
    let records = match extension {
        Some("jsonl" | "ndjson") if path.exists() => lines(path, field)?,
        Some("json") if path.exists() => {
            let file = text::Bytes::open(path)?;
            let whole = utf8(path, &file)?;
            if whole.trim_start().starts_with('[') {
                array(path, whole, field)?
            } else {
                one_after_another(path, whole, field)?
            }
        }
        Some(_) | None => return plain(spec, options),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Records { name, path: path.to_path_buf(), records })
}

/// Everything that holds no JSON records.
fn plain(spec: &str, options: &TextOptions) -> Result<Records> {
    let text = text::read(spec, options)?;
    let records = match text.content {
        Content::Documents { documents, .. } => {
            documents.into_iter().map(Record::Text).collect::<Vec<_>>()
        }
        Content::Ids(rows) => rows.into_iter().map(Record::Ids).collect(),
    };
    let places = (0..).map(|at| format!("document {at}"));
    Ok(Records { name: text.name, path: spec.into(), records: places.zip(records).collect() })
}

fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let message = format!("not UTF-8 at offset {}", e.valid_up_to());
        Error::from(FileError::format(path, message).advise("convert it to UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn lines(path: &Path, field: &str) -> Result<Vec<(String, Record)>> {
    let file = text::Bytes::open(path)?;
    let mut out = Vec::new();
    for (at, line) in utf8(path, &file)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("line {}", at + 1);
        let fail = |message| Error::Record { path: path.into(), place: place.clone(), message };
        let value = serde_json::from_str(line).map_err(|e| fail(short(&e)))?;
        let record = record(value, field).map_err(fail)?;
        out.push((place, record));
    }
    Ok(out)
}

fn array(path: &Path, whole: &str, field: &str) -> Result<Vec<(String, Record)>> {
    let values: Vec<Value> = serde_json::from_str(whole).map_err(|e| Error::Record {
        path: path.into(),
        place: format!("line {}, column {}", e.line(), e.column()),
        message: short(&e),
    })?;
    let numbered = values.into_iter().enumerate();
    numbered.map(|(at, value)| placed(path, at, value, field)).collect()
}

fn one_after_another(path: &Path, whole: &str, field: &str) -> Result<Vec<(String, Record)>> {
    let stream = serde_json::Deserializer::from_str(whole).into_iter::<Value>().enumerate();
    stream
        .map(|(at, value)| {
            let value = value.map_err(|e| Error::Record {
                path: path.into(),
                place: format!("line {}, column {}", e.line(), e.column()),
                message: short(&e),
            })?;
            placed(path, at, value, field)
        })
        .collect()
}

fn placed(path: &Path, at: usize, value: Value, field: &str) -> Result<(String, Record)> {
    let place = format!("record {at}");
    match record(value, field) {
        Ok(record) => Ok((place, record)),
        Err(message) => Err(Error::Record { path: path.into(), place, message }),
    }
}

/// The message of a JSON error without its place.
fn short(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
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
