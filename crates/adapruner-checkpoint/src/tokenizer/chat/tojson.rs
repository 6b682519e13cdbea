//! `tojson` as transformers defines it: Python's `json.dumps` with
//! `ensure_ascii`, `indent`, `separators` and `sort_keys`.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

/// Largest text that is written.
const MAX_BYTES: usize = 32 << 20;
/// Largest indentation of a level.
const MAX_INDENT: usize = 1 << 10;

/// How a value is written.
struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    between: String,
    behind_key: String,
    sorted: bool,
}

/// The filter.
///
/// # Errors
/// Values that are no JSON, or too much text.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let option = |name: &str| options.get::<Option<Value>>(name);
    let ascii = ensure_ascii.or(option("ensure_ascii")?);
    let indent = match option("indent")? {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(value) if value.kind() != ValueKind::None => {
            let spaces =
                i64::try_from(value).map_err(|_| refused("indent: a number or string expected"))?;
            Some(" ".repeat(usize::try_from(spaces).unwrap_or(0).min(MAX_INDENT + 1)))
        }
        Some(_) | None => None,
    };
    if indent.as_ref().is_some_and(|indent| indent.len() > MAX_INDENT) {
        return Err(refused(&format!("indent: at most {MAX_INDENT} expected")));
    }
    let separators = option("separators")?.filter(|value| value.kind() != ValueKind::None);
    let (between, behind_key) = match separators {
        Some(pair) => {
            let parts: Vec<Value> = pair.try_iter()?.take(3).collect();
            match parts.as_slice() {
                [a, b] => (text_of(a)?, text_of(b)?),
                _ => return Err(refused("separators: two strings expected")),
            }
        }
        // As Python: no space at the end of a line.
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let sorted = option("sort_keys")?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;
    let ascii = ascii.is_some_and(|value| value.is_true());
    let mut writer = Writer { out: String::new(), ascii, indent, between, behind_key, sorted };
    writer.value(value, 0)?;
    // Writing costs more than the copy that is charged for the result.
    state.consume_fuel((writer.out.len() / 8) as u64)?;
    Ok(Value::from(writer.out))
}

impl Writer {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum")]
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if self.out.len() > MAX_BYTES {
            return Err(refused(&format!("tojson: more than {MAX_BYTES} bytes")));
        }
        if let Some(text) = value.as_str() {
            self.string(text);
            return Ok(());
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::Seq => self.items(value, depth)?,
            ValueKind::Map => self.entries(value, depth)?,
            kind => {
                let message = format!("tojson: a value of type {kind} is no JSON");
                return Err(refused(&message));
            }
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => self.out.push_str(&python_float(float)),
            Ok(_) | Err(_) => {
                let _ = write!(self.out, "{value}");
            }
        }
    }

    fn items(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in list.try_iter()? {
            self.next(&mut empty, depth + 1);
            self.value(&item, depth + 1)?;
        }
        self.close(']', empty, depth);
        Ok(())
    }

    fn entries(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let object = map.as_object();
        let pairs = object.and_then(|object| object.try_iter_pairs());
        let mut pairs: Vec<(String, Value)> = pairs
            .into_iter()
            .flatten()
            .map(|(key, value)| Ok((key_of(&key)?, value)))
            .collect::<Result<_, Error>>()?;
        if self.sorted {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        let mut empty = true;
        for (key, value) in &pairs {
            self.next(&mut empty, depth + 1);
            self.string(key);
            self.out.push_str(&self.behind_key);
            self.value(value, depth + 1)?;
        }
        self.close('}', empty, depth);
        Ok(())
    }

    fn next(&mut self, first: &mut bool, depth: usize) {
        if !*first {
            self.out.push_str(&self.between);
        }
        *first = false;
        self.line(depth);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as Python writes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum")]
fn key_of(key: &Value) -> Result<String, Error> {
    if let Some(text) = key.as_str() {
        return Ok(text.to_owned());
    }
    match key.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => {
            let mut writer = Writer {
                out: String::new(),
                ascii: false,
                indent: None,
                between: String::new(),
                behind_key: String::new(),
                sorted: false,
            };
            writer.number(key);
            Ok(writer.out)
        }
        kind => Err(refused(&format!("tojson: a key of type {kind} is no JSON"))),
    }
}

/// A float as Python's `repr` has it.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value:?}")
}

fn text_of(value: &Value) -> Result<String, Error> {
    let text = value.as_str().filter(|text| text.len() <= MAX_INDENT);
    text.map(str::to_owned).ok_or_else(|| refused("separators: two short strings expected"))
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}
