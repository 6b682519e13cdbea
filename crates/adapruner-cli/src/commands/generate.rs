//! `generate`: text that continues a prompt.

use std::{
    io::{IsTerminal, Read, stdin},
    path::{Path, PathBuf},
};

use adapruner::{
    VERSION,
    generate::{Answer, Ended, GenerateSettings, Prompt, generate, prompt},
    settings::RunSettings,
};
use adapruner_checkpoint::{Digest, atomic::Files, input};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::{args::RunArgs, combine::Combine, failure::advised};

/// Largest prompt in bytes.
const MAX_PROMPT: u64 = 16 << 20;

/// Continue a prompt, or answer it if the model has a chat template.
///
/// The text is printed as it is generated. It ends with the model's end-of-text token, after
/// --max-tokens, or at the end of the context. Without --temperature decoding is greedy.
///
/// Example: adapruner generate MODEL --prompt "What is a llama?"
///
/// Example: adapruner generate MODEL --raw --temperature 0.8 --top-p 0.95 --samples 3 < beginning.txt
#[derive(Debug, Args)]
pub struct GenerateCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// Prompt to answer or continue [default: read from stdin]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the prompt from this file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt verbatim, without the chat template
    #[arg(long)]
    raw: bool,
    /// Maximum tokens per answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Number of answers
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: usize,
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample only from the K most likely tokens
    #[arg(long, value_name = "K", requires = "temperature")]
    top_k: Option<usize>,
    /// Sample only from the most likely tokens whose probabilities sum to P
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f64>,
    /// Seed of sampling
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    answers: Vec<Answer>,
    prompt: &'a Prompt,
    prompt_tokens: usize,
    model: String,
    model_digest: Digest,
    settings: &'a GenerateSettings,
    run: &'a RunSettings,
    version: &'static str,
}

impl Perform for GenerateCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let prompt = self.prompt_file.iter();
        Ok(prompt.fold(self.common.files(), |files, path| files.read("--prompt-file", path)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &GenerateCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let run = args.run.over(&file.run).resolve()?;
    let settings = GenerateSettings {
        prompt: said(args)?,
        system: args.system.clone(),
        raw: args.raw,
        max_tokens: args.max_tokens,
        samples: args.samples,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let checkpoint = args.common.open(session)?;
    let placement = run.placement([&checkpoint])?;
    let prompt = prompt(&checkpoint, &settings)?;
    let printer = args.common.printer();
    let mut last = 0;
    let answers = generate(&checkpoint, &prompt, &settings, &placement, &mut |answer, piece| {
        for next in last + 1..=answer {
            printer.piece(&format!("\n\n--- {} of {}\n", next + 1, settings.samples))?;
        }
        last = answer;
        Ok(printer.piece(piece)?)
    })?;
    for (at, answer) in answers.iter().enumerate() {
        match answer.ended {
            Ended::Eos => {}
            Ended::MaxTokens => {
                tracing::info!("answer {}: {} tokens, its most", at + 1, answer.tokens.len());
            }
            Ended::Context => {
                tracing::warn!("answer {}: cut at the end of the model's context", at + 1);
            }
        }
    }
    let report = Report {
        answers,
        prompt_tokens: prompt.ids.len(),
        prompt: &prompt,
        model: args.common.model.display().to_string(),
        model_digest: checkpoint.digest()?,
        settings: &settings,
        run: &run,
        version: VERSION,
    };
    // As text, all is said already but the end of the last line.
    printer.result(&report, |_| String::new())
}

/// The prompt: from the command line, a file or stdin, without its final line break.
fn said(args: &GenerateCommand) -> Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    let mut text = match &args.prompt_file {
        Some(path) => bounded(input::open(path)?, path)?,
        None if stdin().is_terminal() => {
            let hint = "give it: --prompt TEXT, or on stdin";
            return Err(advised("prompt: missing", hint));
        }
        None => bounded(stdin().lock(), Path::new("stdin"))?,
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn bounded(source: impl Read, name: &Path) -> Result<String> {
    let name = name.display();
    let mut bytes = Vec::new();
    source
        .take(MAX_PROMPT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{name}: cannot read"))?;
    if bytes.len() as u64 > MAX_PROMPT {
        bail!("{name}: at most {MAX_PROMPT} bytes expected, more found");
    }
    String::from_utf8(bytes).with_context(|| format!("{name}: not UTF-8"))
}
