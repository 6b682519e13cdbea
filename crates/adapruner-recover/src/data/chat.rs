//! Conversations by the model's own chat template, as transformers renders it:
//! Jinja with trimmed blocks, `raise_exception`, and Python's methods of
//! strings and dictionaries. The date is not given to a template, so that what
//! it renders does not change from day to day.

use minijinja::{
    Environment, Error as JinjaError, ErrorKind, State, UndefinedBehavior,
    value::{Value, ValueKind, from_args},
};

use super::records::Message;

/// Instructions that a rendering may take, so that no template runs for ever.
const FUEL: u64 = 10_000_000;
/// Characters that a rendering may have: more is no conversation.
const LONGEST: usize = 1 << 24;
/// Name of the one template.
const NAME: &str = "chat template";

/// A chat template, ready to render.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// A rendered conversation and the parts of it that the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of it that are learned, in order.
    pub learned: Vec<std::ops::Range<usize>>,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of the tokens.
    ///
    /// # Errors
    /// Jinja that cannot be read, in words.
    pub fn new(template: &str, bos: String, eos: String) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(python_method);
        environment.add_template_owned(NAME, template.to_owned()).map_err(|e| said(&e))?;
        Ok(Self { environment, bos, eos })
    }

    /// The text of some turns.
    fn text(&self, messages: &[Message], generation: bool) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|e| said(&e))?;
        let text = template
            .render(minijinja::context! {
                messages => messages,
                add_generation_prompt => generation,
                bos_token => self.bos,
                eos_token => self.eos,
            })
            .map_err(|e| said(&e))?;
        if text.len() > LONGEST {
            return Err(format!("{} bytes rendered, at most {LONGEST} expected", text.len()));
        }
        Ok(text)
    }

    /// Renders a conversation. What the assistant says begins where the
    /// rendering of the turns before it, with its generation prompt, ends, and
    /// goes to the end of the rendering with it.
    ///
    /// # Errors
    /// A conversation that the template refuses, or a template that renders the
    /// beginning of a conversation otherwise than alone.
    pub fn render(&self, messages: &[Message]) -> Result<Rendered, String> {
        let whole = self.text(messages, false)?;
        let mut learned = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            if message.role != "assistant" || message.content.is_empty() {
                continue;
            }
            let prompt = self.text(&messages[..at], true)?;
            let answered = self.text(&messages[..=at], false)?;
            if !whole.starts_with(&answered) || !answered.starts_with(&prompt) {
                return Err(format!(
                    "turn {at}: the template does not render the turns before it as it renders \
                     them alone, so that the answer cannot be told from its prompt"
                ));
            }
            learned.push(prompt.len()..answered.len());
        }
        Ok(Rendered { text: whole, learned })
    }
}

/// An error and its causes on one line.
fn said(error: &JinjaError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// The methods of Python that templates call.
fn python_method(
    _: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, JinjaError> {
    let unknown = || JinjaError::new(ErrorKind::UnknownMethod, format!("no method {method}"));
    if value.kind() == ValueKind::Map {
        return of_map(value, method, args)?.ok_or_else(unknown);
    }
    let Some(text) = value.as_str() else { return Err(unknown()) };
    let cut = |c: char, set: Option<&str>| set.map_or(c.is_whitespace(), |set| set.contains(c));
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let cut = |c| cut(c, set);
            Value::from(match method {
                "lstrip" => text.trim_start_matches(cut),
                "rstrip" => text.trim_end_matches(cut),
                _ => text.trim_matches(cut),
            })
        }
        "startswith" | "endswith" => {
            let (part,): (&str,) = from_args(args)?;
            let begins = method == "startswith";
            Value::from(if begins { text.starts_with(part) } else { text.ends_with(part) })
        }
        "split" => {
            let (separator,): (Option<&str>,) = from_args(args)?;
            match separator {
                Some("") => {
                    return Err(JinjaError::new(ErrorKind::InvalidOperation, "empty separator"));
                }
                Some(separator) => {
                    text.split(separator).map(Value::from).collect::<Vec<_>>().into()
                }
                None => text.split_whitespace().map(Value::from).collect::<Vec<_>>().into(),
            }
        }
        "replace" => {
            let (old, new): (&str, &str) = from_args(args)?;
            Value::from(text.replace(old, new))
        }
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        _ => return Err(unknown()),
    })
}

fn of_map(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, JinjaError> {
    Ok(match method {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            let none = || default.unwrap_or_else(|| Value::from(()));
            Some(if found.is_undefined() { none() } else { found })
        }
        "keys" => Some(value.try_iter()?.collect::<Vec<_>>().into()),
        "items" => {
            let pair = |key: Value| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]));
            let pairs: Result<Vec<Value>, JinjaError> = value.try_iter()?.map(pair).collect();
            Some(pairs?.into())
        }
        _ => None,
    })
}
