//! [`Template`]: text with fields of a record, without computation.
//!
//! | written | is |
//! |---|---|
//! | `{goal}`, `{question.stem}` | a string, number or truth value of the record |
//! | `{endings[]}`, `{choices[].text}` | of every element of an array; only in templates of lists |
//! | `{ctx_b\|capitalise}` | the field changed by a [`Filter`], several one after the other |
//! | `{{`, `}}` | a brace |

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::pystr;

/// Bytes of a template, at most.
const LONGEST: usize = 16 << 10;
/// Fields of a template, at most.
const FIELDS: usize = 64;
/// Names that an error lists at most.
const LISTED: usize = 8;

/// Text with fields in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    /// As written, for messages.
    name: String,
    /// Names before `[]`, or all where there is none.
    path: Vec<String>,
    /// Names behind `[]`.
    each: Option<Vec<String>>,
    filters: Vec<Filter>,
}

/// A change of a field's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// White space at both ends goes.
    Strip,
    /// First letter up, the rest down.
    Capitalise,
    /// What stands before the first `_`.
    BeforeBlank,
    /// What stands after the first `_`.
    AfterBlank,
}

impl Filter {
    const ALL: [(&'static str, Self); 4] = [
        ("strip", Self::Strip),
        ("capitalise", Self::Capitalise),
        ("before-blank", Self::BeforeBlank),
        ("after-blank", Self::AfterBlank),
    ];

    fn apply(self, text: &str) -> Result<String, String> {
        let blank = || text.split_once('_').ok_or_else(|| "no blank (\"_\") in it".to_owned());
        Ok(match self {
            Self::Strip => pystr::strip(text).to_owned(),
            Self::Capitalise => pystr::capitalise(text),
            Self::BeforeBlank => blank()?.0.to_owned(),
            Self::AfterBlank => blank()?.1.to_owned(),
        })
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, filter)| *filter).ok_or_else(|| {
            let known = Self::ALL.map(|(name, _)| name).join(", ");
            format!("unknown filter {name:?}; there are {known}")
        })
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(source: &str) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("{} bytes, expected at most {LONGEST}", source.len()));
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                text.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let inside = rest.strip_prefix('{').ok_or("a \"}\" without its \"{\"")?;
            let (inside, after) = inside.split_once('}').ok_or("a \"{\" without its \"}\"")?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Field(inside.parse()?));
            if parts.len() > FIELDS {
                return Err(format!("more than {FIELDS} parts"));
            }
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { source: source.to_owned(), parts })
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(inside: &str) -> Result<Self, String> {
        let mut pieces = inside.split('|');
        let name = pieces.next().unwrap_or_default();
        let filters = pieces.map(str::parse).collect::<Result<_, String>>()?;
        let names = |path: &str| -> Result<Vec<String>, String> {
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            let odd = |c: char| c.is_whitespace() || "[]{}".contains(c);
            if names.iter().any(|name| name.is_empty() || name.contains(odd)) {
                return Err(format!("{{{inside}}} is not a field: expected names joined by dots"));
            }
            Ok(names)
        };
        let (path, each) = match name.split_once("[]") {
            None => (names(name)?, None),
            Some((path, "")) => (names(path)?, Some(Vec::new())),
            Some((path, behind)) => {
                let behind = behind.strip_prefix('.').unwrap_or("[");
                (names(path)?, Some(names(behind)?))
            }
        };
        Ok(Self { name: name.to_owned(), path, each, filters })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        source.parse().map_err(|e| D::Error::custom(format!("template {source:?}: {e}")))
    }
}

impl Template {
    /// Whether it has exactly one field with `[]`, and so gives a list; an
    /// error if it has several.
    pub(super) fn is_list(&self) -> Result<bool, String> {
        match self.fields().filter(|field| field.each.is_some()).count() {
            0 => Ok(false),
            1 => Ok(true),
            many => Err(format!("template {:?}: {many} lists, expected one", self.source)),
        }
    }

    /// The fields of a record in which the fields of the template lie.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.fields().filter_map(|field| field.path.first().map(String::as_str))
    }

    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Text(_) => None,
        })
    }

    /// The text for a record.
    ///
    /// # Errors
    /// A field that is missing or holds no text, by name.
    pub fn render(&self, record: &Value) -> Result<String, String> {
        self.render_with(record, None)
    }

    /// The texts for a record, one for each element of the array.
    ///
    /// # Errors
    /// A field that is missing, no array or holds no text, by name.
    pub fn render_list(&self, record: &Value) -> Result<Vec<String>, String> {
        let Some(field) = self.fields().find(|field| field.each.is_some()) else {
            return Ok(vec![self.render(record)?]);
        };
        let found = field.find(record, &field.path)?;
        let Value::Array(elements) = found else {
            let kind = kind(found);
            return Err(format!("field {:?}: expected an array, found {kind}", field.name));
        };
        elements.iter().map(|element| self.render_with(record, Some(element))).collect()
    }

    fn render_with(&self, record: &Value, element: Option<&Value>) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(field) => out.push_str(&field.text(record, element)?),
            }
        }
        Ok(out)
    }
}

impl Field {
    fn text(&self, record: &Value, element: Option<&Value>) -> Result<String, String> {
        let found = match (&self.each, element) {
            (Some(path), Some(element)) => self.find(element, path)?,
            (Some(_), None) | (None, _) => self.find(record, &self.path)?,
        };
        let mut text = match found {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let kind = kind(found);
                return Err(format!("field {:?}: expected text, found {kind}", self.name));
            }
        };
        for filter in &self.filters {
            text = filter.apply(&text).map_err(|e| format!("field {:?}: {e}", self.name))?;
        }
        Ok(text)
    }

    fn find<'a>(&self, record: &'a Value, path: &[String]) -> Result<&'a Value, String> {
        path.iter().try_fold(record, |value, name| {
            let Value::Object(fields) = value else {
                let kind = kind(value);
                return Err(format!(
                    "field {:?}: expected a record with {name:?}, found {kind}",
                    self.name
                ));
            };
            fields.get(name).ok_or_else(|| {
                let names = fields.keys().take(LISTED).map(|name| format!("{name:?}"));
                let names = match names.collect::<Vec<_>>().join(", ") {
                    names if names.is_empty() => "none".to_owned(),
                    names => names,
                };
                format!("field {:?}: missing; there are {names}", self.name)
            })
        })
    }
}

/// What a value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "a record",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, record: &Value) -> Result<String, String> {
        source.parse::<Template>()?.render(record)
    }

    #[test]
    fn fields_are_filled_in() {
        let record = json!({"a": {"b": "x y"}, "n": 3, "t": true, "s": "one _  two "});
        assert_eq!(render("{{{a.b}}}-{n}{t}", &record).unwrap(), "{x y}-3true");
        assert_eq!(render("{a.b|capitalise}", &record).unwrap(), "X y");
        assert_eq!(render("{s|before-blank}|", &record).unwrap(), "one |");
        assert_eq!(render("{s|after-blank|strip}", &record).unwrap(), "two");
        let list: Template = "<{l[].x}{n}>".parse().unwrap();
        let record = json!({"l": [{"x": "a"}, {"x": "b"}], "n": 1});
        assert_eq!(list.render_list(&record).unwrap(), ["<a1>", "<b1>"]);
        assert!(list.is_list().unwrap());
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for source in [
            "{",
            "}",
            "{}",
            "{a b}",
            "{a..b}",
            "{a[]b}",
            "{a[].}",
            "{[]}",
            "{a|shout}",
            "{a[].b[]}",
        ] {
            assert!(source.parse::<Template>().is_err(), "{source}");
        }
        assert!("x".repeat(LONGEST + 1).parse::<Template>().is_err());
        assert!("{a}".repeat(FIELDS + 1).parse::<Template>().is_err());
        assert!("{a[]}{b[]}".parse::<Template>().unwrap().is_list().is_err());
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        let record = json!({"a": {"b": null}, "c": [1]});
        let refused = |source| render(source, &record).unwrap_err();
        assert_eq!(refused("{q}"), "field \"q\": missing; there are \"a\", \"c\"");
        assert_eq!(refused("{a.b}"), "field \"a.b\": expected text, found null");
        assert_eq!(refused("{c}"), "field \"c\": expected text, found an array");
        assert!(refused("{c.d}").contains("expected a record with \"d\""));
    }
}
