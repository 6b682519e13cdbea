//! What of Python templates rely on: `%`, the methods of strings, the date.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    formatting::{FormatStyle, format},
    value::{Kwargs, Rest, Tuple, ValueKind},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::{bounds::Size, guarded::PERCENT, tojson::tojson};

/// Largest text that formatting makes.
const MAX_FORMATTED: usize = 8 << 20;
/// Digits of a width or precision.
const MAX_DIGITS: usize = 4;

/// Adds the functions and filters that transformers' environment has, and
/// those that the guarded source calls.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format));
    environment.add_filter("tojson", tojson);
    environment.add_filter(PERCENT, percent);
    environment.add_filter("format", |text: &str, values: Rest<Value>| {
        formatted(FormatStyle::Printf, text, &values)
    });
    environment.set_unknown_method_callback(method);
}

/// The methods of strings, lists and maps. Those that write values out or
/// repeat a text do so within bounds.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "format") => formatted(FormatStyle::StrFormat, text, arguments),
        (Some(text), "removeprefix" | "removesuffix") => {
            let [part] = arguments else {
                return Err(refused(format!("{name}: one argument expected")));
            };
            let part =
                part.as_str().ok_or_else(|| refused(format!("{name}: a string expected")))?;
            let cut = match name {
                "removeprefix" => text.strip_prefix(part),
                _ => text.strip_suffix(part),
            };
            Ok(Value::from(cut.unwrap_or(text)))
        }
        _ => {
            let mut size = Size::default();
            arguments.iter().try_for_each(|argument| size.add(argument, 0))?;
            unknown_method_callback(state, value, name, arguments)
        }
    }
}

/// Python's `%`: formatting for strings, the remainder with the divisor's sign
/// for numbers.
fn percent(left: &Value, right: Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        let values = match right.downcast_object_ref::<Tuple>() {
            Some(tuple) => tuple.iter().cloned().collect(),
            None if right.kind() == ValueKind::Map && text.contains("%(") => {
                let object = right.as_object();
                let pairs = object.and_then(|object| object.try_iter_pairs());
                let pairs = pairs.into_iter().flatten();
                let named = pairs.filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v)));
                vec![Value::from(named.collect::<Kwargs>())]
            }
            None => vec![right],
        };
        return formatted(FormatStyle::Printf, text, &values);
    }
    let zero = || refused("% by zero".into());
    if left.is_integer() && right.is_integer() {
        let a = i128::try_from(left.clone())?;
        let b = i128::try_from(right)?;
        let remainder = a.checked_rem(b).ok_or_else(zero)?;
        let other_sign = remainder != 0 && (remainder < 0) != (b < 0);
        return Ok(Value::from(if other_sign { remainder + b } else { remainder }));
    }
    if left.kind() != ValueKind::Number || right.kind() != ValueKind::Number {
        let message = format!("% of {} and {}", left.kind(), right.kind());
        return Err(refused(message));
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right)?);
    if b == 0.0 {
        return Err(zero());
    }
    let remainder = a % b;
    let other_sign = remainder != 0.0 && (remainder < 0.0) != (b < 0.0);
    Ok(Value::from(if other_sign { remainder + b } else { remainder }))
}

/// A formatted text, refused beforehand where it could become too large: a
/// format may name one value as often as it likes.
fn formatted(style: FormatStyle, text: &str, values: &[Value]) -> Result<Value, Error> {
    let mut size = Size::default();
    values.iter().try_for_each(|value| size.add(value, 0))?;
    let mark = match style {
        FormatStyle::Printf => '%',
        FormatStyle::StrFormat => '{',
    };
    let longest = values.iter().map(|value| value.to_string().len()).max().unwrap_or(0);
    let fields = text.matches(mark).count();
    if text.len().saturating_add(fields.saturating_mul(longest)) > MAX_FORMATTED {
        return Err(refused(format!("a formatted text of more than {MAX_FORMATTED} bytes")));
    }
    for field in text.split(mark).skip(1) {
        let field = match style {
            FormatStyle::Printf if field.starts_with('(') => {
                field.split_once(')').map_or("", |(_, rest)| rest)
            }
            FormatStyle::Printf | FormatStyle::StrFormat => field,
        };
        let end = match style {
            FormatStyle::Printf => field.find(|c: char| c.is_alphabetic()),
            FormatStyle::StrFormat => field.find('}'),
        };
        let layout = &field[..end.unwrap_or(field.len())];
        let longest = layout.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
        if longest.unwrap_or(0) > MAX_DIGITS {
            return Err(refused(format!("a width of more than {MAX_DIGITS} digits in a format")));
        }
        // A width that is a value of its own is not looked through.
        if layout.contains('*') || (layout.ends_with(':') && end.is_none()) {
            return Err(refused("a width that is a value of its own in a format".into()));
        }
    }
    format(style, text, values).map(Value::from)
}

/// `strftime_now`: the day that templates name where they are told none, 26
/// July 2024, at midnight. Today's date would make other tokens of the same
/// data tomorrow.
fn strftime(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (padded, directive) = match rest.next() {
            Some('-') => (false, rest.next()),
            other => (true, other),
        };
        let text = match directive {
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('C') => "20",
            Some('d' | 'e') => "26",
            Some('D' | 'x') => "07/26/24",
            Some('F') => "2024-07-26",
            Some('G' | 'Y') => "2024",
            Some('H' | 'M' | 'S') => {
                if padded {
                    "00"
                } else {
                    "0"
                }
            }
            Some('I') => "12",
            Some('j') => "208",
            Some('m') => {
                if padded {
                    "07"
                } else {
                    "7"
                }
            }
            Some('p') => "AM",
            Some('R') => "00:00",
            Some('T' | 'X') => "00:00:00",
            Some('u' | 'w') => "5",
            Some('y' | 'g') => "24",
            Some('f') => "000000",
            Some('z' | 'Z') => "",
            Some('%') => "%",
            other => {
                let name = other.map(String::from).unwrap_or_default();
                return Err(refused(format!("strftime_now: the directive %{name} is not known")));
            }
        };
        out.push_str(text);
    }
    Ok(out)
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
