//! JSON as Python reads and writes it: with bare `NaN`, `Infinity`, `-Infinity`.

use std::fmt::Write;

use serde_json::Value;

/// Stands in a parsed value for the bare words, which [`Value`] cannot hold.
const NAN: &str = "\0NaN";
const INFINITY: &str = "\0Infinity";
const MINUS_INFINITY: &str = "\0-Infinity";

/// Parses one document. Bare words become texts that only [`number`] and
/// [`plain`] understand.
pub(crate) fn parse(text: &[u8]) -> Result<Value, String> {
    let strict = serde_json::from_slice(text);
    match strict {
        Ok(value) => Ok(value),
        Err(error) => match quoted(text) {
            Some(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            None => Err(error.to_string()),
        },
    }
}

/// The text with its bare words quoted; `None` where there are none.
fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut found = false;
    let mut within = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let word = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|word| text[at..].starts_with(word.as_bytes()));
        if let (false, Some(word)) = (within, word) {
            out.extend_from_slice(b"\"\\u0000");
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
            at += word.len();
            found = true;
            continue;
        }
        out.push(byte);
        at += 1;
        match (within, byte) {
            (true, b'\\') => {
                out.extend(text.get(at));
                at += 1;
            }
            (within_text, b'"') => within = !within_text,
            (true | false, _) => {}
        }
    }
    found.then_some(out)
}

/// The number a value is.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(NAN) => Some(f64::NAN),
        Some(INFINITY) => Some(f64::INFINITY),
        Some(MINUS_INFINITY) => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// The value as others may see it: `null` for numbers that JSON does not know.
pub(crate) fn plain(value: Value) -> Value {
    match value {
        Value::String(text) if [NAN, INFINITY, MINUS_INFINITY].contains(&text.as_str()) => {
            Value::Null
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// A number as Python writes it.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        let text = format!("{value:?}");
        match text.split_once('e') {
            None => text,
            // Two digits at least, and always a sign.
            Some((digits, exponent)) => {
                let (sign, exponent) =
                    exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
                format!("{digits}e{sign}{exponent:0>2}")
            }
        }
    }
}

/// A text, quoted.
pub(crate) fn text(value: &str) -> String {
    Value::from(value).to_string()
}

/// An object under construction.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self("{".into())
    }

    /// Adds a field whose value is JSON already.
    pub(crate) fn field(mut self, key: &str, json: impl std::fmt::Display) -> Self {
        let comma = if self.0.len() > 1 { "," } else { "" };
        write!(self.0, "{comma}{}:{json}", text(key)).expect("writing to a string cannot fail");
        self
    }

    pub(crate) fn fields<K: AsRef<str>, J: std::fmt::Display>(
        self,
        fields: impl IntoIterator<Item = (K, J)>,
    ) -> Self {
        fields.into_iter().fold(self, |object, (key, json)| object.field(key.as_ref(), json))
    }

    pub(crate) fn close(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{float, number, parse, plain};

    #[test]
    fn bare_words() {
        let value =
            parse(br#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN \" Infinity"}"#).unwrap();
        assert!(number(&value["a"]).unwrap().is_nan());
        assert_eq!(number(&value["b"][0]), Some(f64::NEG_INFINITY));
        assert_eq!(number(&value["c"]), None);
        assert_eq!(plain(value), json!({"a": null, "b": [null, null], "c": "NaN \" Infinity"}));
        assert!(parse(b"{\"a\": Nan}").is_err());
        assert!(parse(b"NaN\"\\").is_err());
    }

    #[test]
    fn numbers_are_json() {
        for value in
            [0.0, -0.0, 1.0, 0.1, 1e-300, 5e-324, f64::MAX, 1e16, 123_456_789.125, f64::INFINITY]
        {
            let read = number(&parse(float(value).as_bytes()).unwrap()).unwrap();
            assert_eq!(read.to_bits(), value.to_bits(), "{value}");
        }
        for (value, text) in
            [(1e-5, "1e-05"), (1e16, "1e+16"), (-2.5e-101, "-2.5e-101"), (1.0, "1.0")]
        {
            assert_eq!(float(value), text);
        }
    }
}
