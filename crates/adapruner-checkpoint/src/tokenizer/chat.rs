//! Conversations as the text a model was trained on, by its own chat template.
//!
//! A template is Jinja as transformers runs it: blocks swallow the line end
//! behind them and the indentation before them, strings have Python's methods,
//! `raise_exception` refuses a conversation, and the named tokens are at hand
//! as `bos_token`, `eos_token`, `pad_token` and `unk_token`. Absent are what
//! depends on more than the conversation (`strftime_now`) and what only serves
//! tools (`tojson`); templates that ask first whether they are defined do
//! without.

use std::{
    path::{Path, PathBuf},
    thread,
};

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};

use crate::error::{Error, Result};

/// Largest template in bytes; those of published models have up to some 20 000.
const MAX_TEMPLATE: usize = 1 << 16;

/// Stack that a template is compiled on. minijinja goes down a level for every
/// operator of a chain, which a hostile template may have one of for each byte.
const STACK: usize = 1 << 28;

/// Instructions that a template may run; those of published models take some
/// twenty a message. What it makes of strings counts by their bytes.
const FUEL: u64 = 20_000_000;

/// Name of the template in messages.
const NAME: &str = "chat template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What `role` says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template, from
/// [`TextTokenizer::chat`](super::TextTokenizer::chat).
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
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
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed(path, &e))?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, text) in tokens {
            environment.add_global(name, text);
        }
        compile(&mut environment, without_generation_tags(source), path)?;
        Ok(Self { environment, path: path.into() })
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
        let turn = |Message { role, content }: &Message| {
            context! { role => role.as_str(), content => content.as_str() }
        };
        let context = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt,
        };
        let rendered = self.environment.get_template(NAME).and_then(|t| t.render(context));
        rendered.map_err(|e| failed(&self.path, &e))
    }
}

/// Compiles the template on a stack that is deep enough for any of its size.
fn compile(environment: &mut Environment<'static>, source: String, path: &Path) -> Result<()> {
    let compiled = thread::scope(|scope| {
        let work = || environment.add_template_owned(NAME, source);
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
    Error::Tokenizer { path: path.into(), message: format!("{NAME}{line}: {what}") }
}

/// The template with transformers' `generation` blocks, which mark what is
/// trained on and print what is in them, as blocks that are known here.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let inside = &rest[at + 2..];
        let signless = inside.strip_prefix(['-', '+']).unwrap_or(inside);
        let name = signless.trim_start();
        let start = rest.len() - name.len();
        let length = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        out.push_str(&rest[..start]);
        out.push_str(match &name[..length] {
            "generation" => "if true",
            "endgeneration" => "endif",
            other => other,
        });
        rest = &name[length..];
    }
    out + rest
}
