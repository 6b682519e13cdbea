//! JSON: records with a text field (one after another, or in one array), and
//! arrays of token ids.
//!
//! Only needed fields are kept; others are skipped. A record may have any length: its text goes
//! to the store part by part.

pub mod records;
mod scan;

use self::scan::{Lone, Scanner};
use super::{Collector, pieces::Pieces, store::Writer};
use crate::error::{Error, Result};

/// Field names that an error lists at most.
const LISTED: usize = 8;
/// What the elements of the outer array may be.
const ELEMENT: &str = "a record, a token id (0 to 4294967295) or an array of token ids";

/// The content of a JSON or JSONL file.
///
/// # Errors
/// Malformed JSON, a record without the field or with another thing than a
/// string in it, an id that is no number from 0 to 4294967295; each with file,
/// line and column.
pub(super) fn content(
    pieces: Pieces,
    field: &str,
    joiner: &'static str,
    to: &mut Collector,
) -> Result<()> {
    let mut json = Scanner::new(pieces)?;
    match json.skip_space()? {
        Some(b'[') => {
            array(&mut json, field, joiner, to)?;
            match json.skip_space()? {
                Some(_) => Err(json.expected("the end of the file")),
                None => Ok(()),
            }
        }
        _ => {
            let to = to.documents(joiner);
            while json.skip_space()?.is_some() {
                record(&mut json, field, to)?;
            }
            Ok(())
        }
    }
}

/// What an array consists of; its first element decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elements {
    Documents,
    Ids,
    Rows,
}

/// An array of records, of ids, or of arrays of ids.
fn array(json: &mut Scanner, field: &str, joiner: &'static str, to: &mut Collector) -> Result<()> {
    let mut kind = None;
    json.elements(|json| {
        let found = match json.peek()? {
            Some(b'{') => Elements::Documents,
            Some(b'[') => Elements::Rows,
            Some(b'-' | b'0'..=b'9') => Elements::Ids,
            _ => return Err(json.expected(ELEMENT)),
        };
        if *kind.get_or_insert(found) != found {
            return Err(json.refuse("records, ids and arrays of ids do not mix in one array"));
        }
        match found {
            Elements::Documents => record(json, field, to.documents(joiner)),
            Elements::Ids => {
                let id = id(json, ELEMENT)?;
                to.ids()?.push_id(id)
            }
            Elements::Rows => {
                let to = to.ids()?;
                json.elements(|json| to.push_id(id(json, "a token id (0 to 4294967295)")?))?;
                to.end()
            }
        }
    })?;
    match kind {
        Some(Elements::Ids) => to.ids()?.end(),
        Some(Elements::Documents | Elements::Rows) => Ok(()),
        None => {
            to.documents(joiner);
            Ok(())
        }
    }
}

/// One token id.
fn id(json: &mut Scanner, expected: &str) -> Result<u32> {
    if !matches!(json.peek()?, Some(b'-' | b'0'..=b'9')) {
        return Err(json.expected(expected));
    }
    let place = json.place();
    let digits = json.number()?;
    digits.parse().map_err(|_| {
        let message = format!("{place}: expected {expected}, found the number {digits}");
        Error::format(json.path(), message)
    })
}

/// The text of one record.
fn record(json: &mut Scanner, field: &str, to: &mut Writer) -> Result<()> {
    if json.peek()? != Some(b'{') {
        return Err(json.expected(format!("a record with a field {field:?}")));
    }
    let (mut found, mut others) = (false, Vec::new());
    json.members(|json, key| {
        if key != field {
            if !found && others.len() < LISTED {
                others.push(format!("{key:?}"));
            }
            return json.skip();
        }
        // Of several the last one counts.
        to.clear();
        found = true;
        if json.peek()? != Some(b'"') {
            return Err(json.expected(format!("a string in field {field:?}")));
        }
        let read = json.string(Lone::Refused, &mut |part| to.push(part));
        read.map_err(|error| in_field(error, field))
    })?;
    if !found {
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let message = format!("no field {field:?} in the record; its fields: {others}");
        return Err(json.refuse(message).advise("name the field that holds the text"));
    }
    to.end()
}

/// The same error with the name of the field.
fn in_field(error: Error, field: &str) -> Error {
    if let Error::Format { path, message } = error {
        return Error::Format { path, message: format!("{message}, in field {field:?}") };
    }
    error
}
