//! JSON: records with a text field (one after another, or in one array), and
//! arrays of token ids.
//!
//! Only what is needed is kept; other fields are skipped without being built.

use std::{fmt, path::Path};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::Content;
use crate::error::{Error, Result};

/// Field names that an error lists at the most.
const LISTED: usize = 8;

/// The content of a JSON or JSONL file.
///
/// # Errors
/// Malformed JSON, a record without the field or with another thing than a
/// string in it, an id that is no number from 0 to 4294967295; each with file,
/// line and column.
pub(super) fn content(
    path: &Path,
    text: &str,
    field: &str,
    joiner: &'static str,
) -> Result<Content> {
    let mut json = serde_json::Deserializer::from_str(text);
    let fail = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let place = format!(" at line {line} column {column}");
        let message = message.strip_suffix(&place).unwrap_or(&message);
        Error::format(path, format!("line {line}, column {column}: {message}"))
    };
    if text.trim_start().starts_with('[') {
        let array = json.deserialize_seq(Array { field }).map_err(fail)?;
        json.end().map_err(fail)?;
        return Ok(match array {
            Elements::Documents(documents) => Content::Documents { documents, joiner },
            Elements::Row(row) => Content::Ids(vec![row]),
            Elements::Rows(rows) => Content::Ids(rows),
        });
    }
    let mut documents = Vec::new();
    while json.end().is_err() {
        documents.push(json.deserialize_map(Record { field }).map_err(fail)?);
    }
    Ok(Content::Documents { documents, joiner })
}

/// What an array consists of; its first element decides.
enum Elements {
    Documents(Vec<String>),
    Row(Vec<u32>),
    Rows(Vec<Vec<u32>>),
}

/// One element of the outer array.
enum Element {
    Document(String),
    Id(u32),
    Row(Vec<u32>),
}

/// Reads an array of records, of ids, or of arrays of ids.
struct Array<'a> {
    field: &'a str,
}

impl<'de> Visitor<'de> for Array<'_> {
    type Value = Elements;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Elements, A::Error> {
        let field = self.field;
        let mut elements = match array.next_element_seed(AnyElement { field })? {
            None => return Ok(Elements::Documents(Vec::new())),
            Some(Element::Document(document)) => Elements::Documents(vec![document]),
            Some(Element::Id(id)) => Elements::Row(vec![id]),
            Some(Element::Row(row)) => Elements::Rows(vec![row]),
        };
        while let Some(element) = array.next_element_seed(AnyElement { field })? {
            match (&mut elements, element) {
                (Elements::Documents(documents), Element::Document(d)) => documents.push(d),
                (Elements::Row(row), Element::Id(id)) => row.push(id),
                (Elements::Rows(rows), Element::Row(row)) => rows.push(row),
                (
                    Elements::Documents(_) | Elements::Row(_) | Elements::Rows(_),
                    Element::Document(_) | Element::Id(_) | Element::Row(_),
                ) => {
                    let message = "records, ids and arrays of ids do not mix in one array";
                    return Err(A::Error::custom(message));
                }
            }
        }
        Ok(elements)
    }
}

struct AnyElement<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for AnyElement<'_> {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, element: D) -> Result<Element, D::Error> {
        element.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyElement<'_> {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record, a token id (0 to 4294967295) or an array of token ids")
    }

    fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Element, E> {
        Id.visit_u64(id).map(Element::Id)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Element, A::Error> {
        let mut row = Vec::new();
        while let Some(id) = array.next_element_seed(Id)? {
            row.push(id);
        }
        Ok(Element::Row(row))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
        Record { field: self.field }.visit_map(map).map(Element::Document)
    }
}

/// Reads one token id.
struct Id;

impl<'de> DeserializeSeed<'de> for Id {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, id: D) -> Result<u32, D::Error> {
        id.deserialize_u64(self)
    }
}

impl Visitor<'_> for Id {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id (0 to 4294967295)")
    }

    fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<u32, E> {
        u32::try_from(id).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(id), &self))
    }
}

/// Reads the text of one record.
struct Record<'a> {
    field: &'a str,
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record with a field {:?}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let field = self.field;
        let mut document = None;
        let mut others = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == field {
                document = Some(map.next_value_seed(FieldText { field })?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if document.is_none() && others.len() < LISTED {
                others.push(format!("{key:?}"));
            }
        }
        document.ok_or_else(|| {
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            A::Error::custom(format!("no field {field:?} in the record; its fields: {others}"))
        })
    }
}

/// Reads the string of the text field.
struct FieldText<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for FieldText<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<String, D::Error> {
        value.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldText<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string in field {:?}", self.field)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}
