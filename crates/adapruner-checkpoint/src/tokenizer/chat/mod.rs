//! Conversations as the text a model was trained on, by its own chat template.
//!
//! A template is Jinja as transformers runs it: blocks swallow the line end behind them and the
//! indentation before them, strings have Python's methods and its `%`, `raise_exception`
//! refuses a conversation, `tojson` is Python's, and the named tokens are available as
//! `bos_token`, `eos_token`, `pad_token` and `unk_token`. `strftime_now` always returns 26 July
//! 2024, so the same data give the same tokens tomorrow.
//!
//! Templates are untrusted files: their values are bounded in depth and size, and so is their
//! work.
//!
//! | module | content |
//! |---|---|
//! | `guarded` | the template with a bound around all that grows |
//! | `bounds` | how deep and how large values may be |
//! | `python` | `%`, methods of strings, the date |
//! | `tojson` | Python's `json.dumps` |

mod bounds;
mod guarded;
mod python;
mod tojson;

use std::{
    path::{Path, PathBuf},
    thread,
};

use minijinja::{
    Environment, Value,
    machinery::{Token, tokenize},
    syntax::SyntaxConfig,
};

use crate::error::{Error, Result};

/// Largest template in bytes; those of published models have up to some 20 000.
const MAX_TEMPLATE: usize = 1 << 16;

/// Stack that a template is compiled on. The compiler goes down a level for
/// every operator of a chain, which a hostile template may have one of for each
/// byte.
const STACK: usize = 1 << 28;

/// Instructions that a template may run; those of published models take some
/// hundred a message. What it makes counts by its size, 64 bytes an instruction.
const FUEL: u64 = 2_000_000;

/// Levels of macros and recursive loops.
const MAX_RECURSION: usize = 200;

/// Characters of a message that is passed on from a template.
const MAX_MESSAGE: usize = 1000;

/// Name of the template in messages.
const NAME: &str = "chat template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or what else a template knows.
    pub role: String,
    /// What is said; `None` where a turn says nothing but calls tools.
    pub content: Option<String>,
    /// What else the turn holds (`tool_calls`), as JSON by name.
    pub fields: Vec<(String, String)>,
}

impl Message {
    /// What `role` says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), fields: Vec::new() }
    }
}

/// A compiled chat template, from
/// [`TextTokenizer::chat`](super::TextTokenizer::chat).
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    path: PathBuf,
}

impl ChatTemplate {
    /// Compiles `source`; `path` is for messages, `tokens` are the named tokens
    /// with their texts.
    ///
    /// # Errors
    /// A template that is no valid Jinja or too large.
    pub fn new(
        path: &Path,
        source: &str,
        tokens: impl Iterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        if source.len() > MAX_TEMPLATE {
            let found = source.len();
            let message = format!("{NAME}: at most {MAX_TEMPLATE} bytes expected, {found} found");
            return Err(Error::Tokenizer { path: path.into(), message });
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        bounds::install(&mut environment);
        python::install(&mut environment);
        for (name, text) in tokens {
            environment.add_global(name, text);
        }
        compile(&mut environment, source, path)?;
        Ok(Self { environment, source: source.to_owned(), path: path.into() })
    }

    /// The text of a conversation; with `add_generation_prompt`, what begins
    /// the assistant's answer stands behind it.
    ///
    /// The text holds the tokens that open and close it, so its ids are those
    /// of [`encode_plain`](super::TextTokenizer::encode_plain). The text of a
    /// conversation that goes on begins with that of its first messages in most
    /// templates, but not in all.
    ///
    /// # Errors
    /// A conversation that the template refuses (roles that do not alternate,
    /// a system message where it has no place), or a template that fails or
    /// does not come to an end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &[], add_generation_prompt)
    }

    /// The same with more variables (`tools`, `enable_thinking`), as JSON by
    /// name.
    ///
    /// # Errors
    /// Those of [`render`](Self::render); a variable or field that is no JSON.
    pub fn render_with(
        &self,
        messages: &[Message],
        variables: &[(String, String)],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let failed = |e: &minijinja::Error| failed(&self.path, e);
        let turns =
            messages.iter().map(|message| self.turn(message)).collect::<Result<Vec<_>>>()?;
        // As transformers: there in any case.
        let mut context: Vec<(&str, Value)> =
            vec![("tools", Value::from(())), ("documents", Value::from(()))];
        context.push(("messages", Value::from(turns)));
        context.push(("add_generation_prompt", add_generation_prompt.into()));
        for (name, json) in variables {
            context.retain(|(other, _)| other != name);
            context.push((name, self.json(name, json)?));
        }
        let context = Value::from_pairs(context);
        bounds::Size::default().add(&context, 0).map_err(|e| failed(&e))?;
        let template = self.environment.get_template(NAME).map_err(|e| failed(&e))?;
        template.render(context).map_err(|e| failed(&e))
    }

    /// Whether the template's source has this word: what it does not name it
    /// cannot use.
    pub fn mentions(&self, word: &str) -> bool {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        self.source.split(|c: char| !part(c)).any(|found| found == word)
    }

    fn turn(&self, message: &Message) -> Result<Value> {
        let mut fields: Vec<(&str, Value)> = vec![("role", Value::from(message.role.as_str()))];
        fields.push(("content", Value::from(message.content.as_deref())));
        for (name, json) in &message.fields {
            fields.push((name, self.json(name, json)?));
        }
        Ok(Value::from_pairs(fields))
    }

    fn json(&self, name: &str, json: &str) -> Result<Value> {
        serde_json::from_str(json).map_err(|e| {
            let message = format!("{NAME}: {name}: {e}");
            Error::Tokenizer { path: self.path.clone(), message }
        })
    }
}

/// Compiles the template on a stack that is deep enough for any of its size.
fn compile(environment: &mut Environment<'static>, source: &str, path: &Path) -> Result<()> {
    let compiled = thread::scope(|scope| {
        let work = || {
            let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
            let source = without_generation_tags(source, syntax.clone());
            let guarded = guarded::guarded(NAME, &source, syntax)?;
            environment.add_template_owned(NAME, guarded)
        };
        let builder = thread::Builder::new().stack_size(STACK);
        builder.spawn_scoped(scope, work).map(thread::ScopedJoinHandle::join)
    });
    let broken = |message: String| Error::Tokenizer { path: path.into(), message };
    match compiled {
        Ok(Ok(compiled)) => compiled.map_err(|e| failed(path, &e)),
        Ok(Err(_)) => Err(broken(format!("{NAME}: cannot be compiled"))),
        Err(error) => Err(broken(format!("{NAME}: no thread to compile it on: {error}"))),
    }
}

fn failed(path: &Path, error: &minijinja::Error) -> Error {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error.line().map_or_else(String::new, |line| format!(", line {line}"));
    let what: String = what.chars().take(MAX_MESSAGE).collect();
    Error::Tokenizer { path: path.into(), message: format!("{NAME}{line}: {what}") }
}

/// The template with transformers' `generation` blocks, which mark what is
/// trained on and print what is in them, as blocks that are known here.
fn without_generation_tags(source: &str, syntax: SyntaxConfig) -> String {
    let mut out = String::with_capacity(source.len());
    let (mut copied, mut opens) = (0, false);
    // A source that is no template is refused when it is parsed.
    for (token, span) in tokenize(source, false, syntax).map_while(std::result::Result::ok) {
        let name = if opens && matches!(token, Token::Ident("generation")) {
            "with"
        } else if opens && matches!(token, Token::Ident("endgeneration")) {
            "endwith"
        } else {
            ""
        };
        opens = matches!(token, Token::BlockStart);
        if !name.is_empty() {
            out.push_str(&source[copied..span.start_offset as usize]);
            out.push_str(name);
            copied = span.end_offset as usize;
        }
    }
    out + &source[copied..]
}
