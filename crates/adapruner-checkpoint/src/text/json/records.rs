//! Records of JSON files, one at a time.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::scan::Scanner;
use crate::{
    error::{Error, Result},
    text::pieces::{Pieces, unpacked_name},
};

/// Bytes of a record, at most.
const LARGEST: usize = 64 << 20;

/// A value of a file of records.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonRecord {
    /// Where it stands, for messages: `line 3`, or `record 7` of an array.
    pub place: String,
    /// The value. Fields of it that JSON cannot hold are null.
    pub value: Value,
    /// Why these fields cannot be read: a number that is none (`NaN`), half of
    /// a character. Who does not read them need not care.
    pub unreadable: BTreeMap<String, String>,
}

/// Whether a file is one of JSON records, by its name.
pub fn is_json(path: &Path) -> bool {
    let name = unpacked_name(path);
    matches!(name.rsplit_once('.'), Some((_, "json" | "jsonl" | "ndjson")))
}

/// Reads the values of a file, one after another or the elements of one array,
/// and hands each to `each`; it may be packed (`.gz`, `.zst`). One record is
/// held at a time.
///
/// # Errors
/// A file that cannot be read, malformed JSON, a record of more than 64 MiB,
/// each with its line; what `each` refuses.
pub fn read<E: From<Error>>(
    path: &Path,
    mut each: impl FnMut(JsonRecord) -> Result<(), E>,
) -> Result<(), E> {
    let lines = matches!(unpacked_name(path).rsplit_once('.'), Some((_, "jsonl" | "ndjson")));
    let mut json = Scanner::new(Pieces::open(path)?)?;
    let mut number = 0;
    let mut next = |json: &mut Scanner| {
        let place = match lines {
            true => format!("line {}", json.line()),
            false => format!("record {number}"),
        };
        number += 1;
        each(value(json, place)?)
    };
    if !lines && json.skip_space()? == Some(b'[') {
        let mut refused = None;
        let read = json.elements(|json| {
            next(json).map_err(|error| {
                refused = Some(error);
                // Only to stop; the error itself is handed on.
                Error::format(path, "")
            })
        });
        if let Some(error) = refused {
            return Err(error);
        }
        read?;
        return match json.skip_space()? {
            Some(_) => Err(json.expected("the end of the file").into()),
            None => Ok(()),
        };
    }
    while json.skip_space()?.is_some() {
        let line = json.line();
        next(&mut json)?;
        if lines && json.skip_space()?.is_some() && json.line() == line {
            return Err(json.expected("the end of the line").into());
        }
    }
    Ok(())
}

/// One value.
fn value(json: &mut Scanner, place: String) -> Result<JsonRecord> {
    let mut unreadable = BTreeMap::new();
    if json.peek()? != Some(b'{') {
        let line = json.line();
        let text = json.keep(LARGEST, Scanner::skip)?;
        let value = serde_json::from_str(&text).map_err(|e| {
            let message = format!("line {line}: {}", without_place(&e));
            Error::format(json.path(), message)
        })?;
        return Ok(JsonRecord { place, value, unreadable });
    }
    let (mut fields, mut left) = (Map::new(), LARGEST);
    json.members(|json, key| {
        let text = json.keep(left, Scanner::skip)?;
        left = left.saturating_sub(text.len() + key.len());
        unreadable.remove(key);
        let value = serde_json::from_str(&text).unwrap_or_else(|e| {
            unreadable.insert(key.to_owned(), without_place(&e));
            Value::Null
        });
        fields.insert(key.to_owned(), value);
        Ok(())
    })?;
    Ok(JsonRecord { place, value: Value::Object(fields), unreadable })
}

/// The message of a JSON error without its place, which is within the value.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}
