//! Records of JSON files, one at a time.

use std::path::Path;

use super::scan::Scanner;
use crate::{
    error::{Error, Result},
    text::pieces::{Pieces, unpacked_name},
};

/// Bytes of a record, at most.
const LARGEST: usize = 64 << 20;

/// A value of a file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonRecord {
    /// Where it stands, for messages: `line 3`, or `record 7` of an array.
    pub place: String,
    /// The value as it stands in the file: well formed, but for numbers that are
    /// none (`NaN`) and halves of surrogate pairs, which Python writes.
    pub json: String,
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
        each(JsonRecord { place, json: json.keep(LARGEST, Scanner::skip)? })
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
