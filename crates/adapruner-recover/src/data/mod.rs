//! Training data: records → tokens with a loss mask.
//!
//! The prompt of an instruction, and everything in a conversation that is not from the
//! assistant, does not count in the loss unless requested. Instructions end with EOS as in
//! alpaca-lora; a conversation ends as its template defines; a document of plain text ends with
//! EOS and is cut into windows.
//!
//! | module | content |
//! |---|---|
//! | [`records`] | records of files |
//! | [`prompt`] | Alpaca's prompts |
//! | [`chat`] | the model's chat template |
//! | [`batches`] | which sequences form a step |

pub mod batches;
pub mod chat;
pub mod prompt;
pub mod records;

use std::{
    collections::BTreeSet,
    fmt,
    ops::{ControlFlow, Range},
    path::Path,
    str::FromStr,
};

use adapruner_checkpoint::{
    Checkpoint, Digest,
    digest::Parts,
    text::Passage,
    tokenizer::{TextTokenizer, chat::ChatTemplate},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use chat::Conversation;
use records::{Record, Records};

/// How much of the records is kept for validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Validation {
    /// A share of the records, from 0 to below 1.
    Share(f64),
    /// So many records.
    Count(usize),
}

impl FromStr for Validation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("expected a share below 1 (0.05) or a number of records (200), found {text:?}")
        };
        if let Ok(count) = text.parse::<usize>() {
            return Ok(Self::Count(count));
        }
        match text.parse::<f64>() {
            Ok(share) if (0.0..1.0).contains(&share) => Ok(Self::Share(share)),
            Ok(_) | Err(_) => Err(refused()),
        }
    }
}

impl Serialize for Validation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share:?}"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

/// How records become sequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DataOptions {
    /// Most tokens of a sequence, at least 2.
    pub cutoff: usize,
    /// Whether prompts count in the loss too.
    pub train_on_prompt: bool,
    /// What is kept for validation.
    pub validation: Validation,
    /// Seed of the split.
    pub seed: u64,
}

/// A sequence and its loss mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at least two.
    pub ids: Vec<u32>,
    /// Whether the token at each position is a target; never the first.
    pub learned: Vec<bool>,
}

impl Example {
    /// An example with `learned` for all positions; the first is cleared.
    pub fn new(ids: Vec<u32>, mut learned: Vec<bool>) -> Self {
        learned.resize(ids.len(), false);
        if let Some(first) = learned.first_mut() {
            *first = false;
        }
        Self { ids, learned }
    }

    /// Number of target tokens.
    pub fn targets(&self) -> usize {
        self.learned.iter().filter(|learned| **learned).count()
    }

    fn bytes(&self) -> Vec<u8> {
        let places = self.ids.iter().zip(&self.learned);
        places
            .flat_map(|(id, learned)| {
                let [a, b, c, d] = id.to_le_bytes();
                [a, b, c, d, u8::from(*learned)]
            })
            .collect()
    }
}

/// Counts of records by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records that were read.
    pub records: usize,
    /// Of these without an answer, left out.
    pub empty: usize,
    /// Of these with nothing left to learn after the cut, left out.
    pub nothing_to_learn: usize,
    /// Sequences that were longer than the cutoff.
    pub cut: usize,
    /// Tokens that were cut off.
    pub tokens_cut: usize,
    /// Sequences that are trained on.
    pub sequences: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Of these learned.
    pub learned: usize,
    /// Sequences that are validated on.
    pub validation_sequences: usize,
    /// Tokens of theirs that are predicted.
    pub validation_learned: usize,
    /// Learned turns of which the chat template leaves something out.
    #[serde(default)]
    pub partial_turns: usize,
    /// Turns of the assistant that are not learned because the chat template
    /// renders them otherwise once the conversation goes on.
    #[serde(default)]
    pub changed_turns: usize,
    /// Whether no token is known to end a text, so that no end is learned.
    #[serde(default)]
    pub endless: bool,
}

impl Counts {
    /// What a reader of the outputs should know.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.partial_turns > 0 {
            warnings.push(format!(
                "the chat template leaves out a part of {} learned turns (reasoning, as a rule): \
                 that part is not learned",
                self.partial_turns
            ));
        }
        if self.changed_turns > 0 {
            warnings.push(format!(
                "{} turns of the assistant are not learned: the chat template renders them \
                 otherwise once the conversation goes on",
                self.changed_turns
            ));
        }
        if self.endless {
            warnings.push(
                "no file of the model names the token that ends a text: no end is learned".into(),
            );
        }
        warnings
    }
}

/// Sequences to train and validate on.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The file's or set's name.
    pub name: String,
    /// Trained on.
    pub train: Vec<Example>,
    /// Validated on; may be empty.
    pub validation: Vec<Example>,
    /// Counts of records by outcome.
    pub counts: Counts,
    /// Digest of all ids, masks and the split.
    pub digest: Digest,
}

impl Dataset {
    /// Tokenises records and splits them.
    ///
    /// # Errors
    /// A conversation without a chat template or one that it refuses, ids
    /// beyond the vocabulary, nothing left to learn, a validation set that
    /// takes everything.
    pub fn new(
        records: &Records,
        tokenizer: &TextTokenizer,
        options: &DataOptions,
    ) -> Result<Self> {
        Self::of(records, tokenizer, tokenizer.eos_id(), options)
    }

    /// The same for a model: where its tokenizer names no token that ends a
    /// text, the first of `generation_config.json` or `config.json` does, at
    /// which generation stops.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn for_model(
        records: &Records,
        checkpoint: &Checkpoint,
        options: &DataOptions,
    ) -> Result<Self> {
        let tokenizer = &checkpoint.tokenizer;
        let end = tokenizer.eos_id().or_else(|| end_of_model(checkpoint));
        Self::of(records, tokenizer, end, options)
    }

    fn of(
        records: &Records,
        tokenizer: &TextTokenizer,
        end: Option<u32>,
        options: &DataOptions,
    ) -> Result<Self> {
        if options.cutoff < 2 {
            let message = format!("at least 2 tokens expected, {} found", options.cutoff);
            return Err(Error::option("cutoff", message));
        }
        let reader = Reader { tokenizer, end, options, template: template(records, tokenizer)? };
        let read: Vec<Tokenised> = records
            .records
            .par_iter()
            .map(|(place, record)| reader.read(record).map_err(|e| e.at(&records.path, place)))
            .collect::<Result<_>>()?;
        let ends = |(_, record): &(String, Record)| match record {
            Record::Instruction { .. } | Record::Text(_) => true,
            Record::Passage(passage) => !passage.is_ids(),
            Record::Chat(_) | Record::Ids(_) => false,
        };
        let endless = end.is_none() && records.records.iter().any(ends);
        let mut counts = Counts { records: read.len(), endless, ..Counts::default() };
        let mut units = Vec::new();
        for one in read {
            counts.empty += usize::from(one.empty);
            counts.nothing_to_learn += usize::from(!one.empty && one.examples.is_empty());
            counts.cut += usize::from(one.tokens_cut > 0);
            counts.tokens_cut += one.tokens_cut;
            counts.partial_turns += one.partial;
            counts.changed_turns += one.changed;
            if !one.examples.is_empty() {
                units.push(one.examples);
            }
        }
        if let [only] = units.as_mut_slice() {
            // One document: its windows are split.
            units = std::mem::take(only).into_iter().map(|example| vec![example]).collect();
        }
        if units.is_empty() {
            let message = format!(
                "no sequence to learn from: {} records, {} without an answer, {} with nothing \
                 left after a cutoff of {} tokens",
                counts.records, counts.empty, counts.nothing_to_learn, options.cutoff
            );
            return Err(Error::data(&records.path, message));
        }
        let kept = validation_units(units.len(), options, &records.path)?;
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        for (at, unit) in units.into_iter().enumerate() {
            if kept.contains(&at) { validation.extend(unit) } else { train.extend(unit) }
        }
        counts.sequences = train.len();
        counts.tokens = train.iter().map(|e| e.ids.len()).sum();
        counts.learned = train.iter().map(Example::targets).sum();
        counts.validation_sequences = validation.len();
        counts.validation_learned = validation.iter().map(Example::targets).sum();
        let mut digest = Parts::default();
        train.iter().for_each(|example| digest.add("train", &example.bytes()));
        validation.iter().for_each(|example| digest.add("validation", &example.bytes()));
        let digest = digest.finish();
        Ok(Self { name: records.name.clone(), train, validation, counts, digest })
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        let all = self.train.iter().chain(&self.validation);
        all.map(|e| e.ids.len()).max().unwrap_or(0)
    }
}

/// The token at which a model stops, where it is one of its tokenizer's.
fn end_of_model(checkpoint: &Checkpoint) -> Option<u32> {
    let named = checkpoint.generation_config.as_ref().map(|json| &json["eos_token_id"]);
    let named = named.and_then(|id| id.as_array().map_or(Some(id), |ids| ids.first())?.as_u64());
    let named = named.and_then(|id| u32::try_from(id).ok());
    let end = named.or_else(|| checkpoint.config.eos_token_ids.first().copied())?;
    ((end as usize) < checkpoint.tokenizer.vocab_size()).then_some(end)
}

/// The units that are kept for validation.
fn validation_units(units: usize, options: &DataOptions, path: &Path) -> Result<BTreeSet<usize>> {
    let count = match options.validation {
        Validation::Count(count) => count,
        Validation::Share(0.0) => 0,
        Validation::Share(share) => ((units as f64 * share).round() as usize).max(1),
    };
    if count >= units {
        let message = format!(
            "validation takes {count} of {units} records that can be learned, nothing is left"
        );
        return Err(
            Error::data(path, message).advise("give more records, or a smaller --validation")
        );
    }
    let order = batches::shuffled(units, options.seed, batches::Stream::Split);
    Ok(order.into_iter().take(count).collect())
}

/// The chat template, where a record needs it.
fn template(records: &Records, tokenizer: &TextTokenizer) -> Result<Option<ChatTemplate>> {
    if !records.records.iter().any(|(_, record)| matches!(record, Record::Chat(_))) {
        return Ok(None);
    }
    let Some(template) = tokenizer.chat()? else {
        let message = "has conversations (\"messages\"), but the model has no chat template";
        return Err(Error::data(&records.path, message)
            .advise("give instructions (\"instruction\", \"output\") or plain text"));
    };
    Ok(Some(template))
}

/// Sequences of one record.
#[derive(Default)]
struct Tokenised {
    examples: Vec<Example>,
    empty: bool,
    tokens_cut: usize,
    partial: usize,
    changed: usize,
}

/// Why a record could not be tokenised.
enum Refused {
    Message(String),
    Error(adapruner_checkpoint::Error),
}

impl From<adapruner_checkpoint::Error> for Refused {
    fn from(error: adapruner_checkpoint::Error) -> Self {
        Self::Error(error)
    }
}

impl Refused {
    fn at(self, path: &Path, place: &str) -> Error {
        match self {
            Self::Message(message) => {
                Error::Record { path: path.into(), place: place.to_owned(), message }
            }
            Self::Error(error) => error.into(),
        }
    }
}

struct Reader<'a> {
    tokenizer: &'a TextTokenizer,
    /// The token that ends a text.
    end: Option<u32>,
    options: &'a DataOptions,
    template: Option<ChatTemplate>,
}

impl Reader<'_> {
    fn read(&self, record: &Record) -> Result<Tokenised, Refused> {
        match record {
            Record::Instruction { instruction, input, output } => {
                self.instruction(instruction, input, output)
            }
            Record::Chat(conversation) => self.chat(conversation),
            Record::Text(text) => self.text(text),
            Record::Passage(passage) => self.passage(passage),
            Record::Ids(ids) => self.ids(ids),
        }
    }

    fn instruction(
        &self,
        instruction: &str,
        input: &str,
        output: &str,
    ) -> Result<Tokenised, Refused> {
        if output.trim().is_empty() {
            return Ok(Tokenised { empty: true, ..Tokenised::default() });
        }
        let prompt = prompt::alpaca(instruction, input);
        let mut ids = self.tokenizer.encode(&format!("{prompt}{output}"))?;
        // As alpaca-lora: the prompt's own number of tokens is masked, and EOS
        // stands at the end of what was not cut.
        let masked = match self.options.train_on_prompt {
            true => 0,
            false => {
                let own = self.tokenizer.encode(&prompt)?.len();
                own - usize::from(self.tokenizer.adds_eos())
            }
        };
        if let Some(eos) = self.end
            && ids.last() != Some(&eos)
            && ids.len() < self.options.cutoff
        {
            ids.push(eos);
        }
        let learned = (0..ids.len()).map(|at| at >= masked).collect();
        Ok(self.cut(ids, learned))
    }

    fn chat(&self, conversation: &Conversation) -> Result<Tokenised, Refused> {
        let Some(template) = &self.template else {
            return Err(Refused::Message("the model has no chat template".into()));
        };
        let rendered = chat::render(template, conversation).map_err(Refused::Message)?;
        if rendered.learned.is_empty() {
            return Ok(Tokenised { empty: true, ..Tokenised::default() });
        }
        let tokens = self.tokenizer.encode_with_offsets(&rendered.text)?;
        // A token of white space alone may be said to stand for no bytes, at the
        // end of its own: that of a prompt must not count for the answer.
        let within = |bytes: &Range<usize>, part: &Range<usize>| {
            part.contains(&bytes.start) && bytes.end > part.start
        };
        let among = |bytes: &Range<usize>, parts: &[Range<usize>]| {
            parts.iter().any(|part| within(bytes, part))
        };
        let said = |bytes: &Range<usize>| match self.options.train_on_prompt {
            true => !among(bytes, &rendered.withheld),
            false => among(bytes, &rendered.learned),
        };
        let (ids, learned) = tokens.iter().map(|(id, bytes)| (*id, said(bytes))).unzip();
        let chat::Rendered { partial, changed, .. } = rendered;
        Ok(Tokenised { partial, changed, ..self.cut(ids, learned) })
    }

    fn text(&self, text: &str) -> Result<Tokenised, Refused> {
        if text.trim().is_empty() {
            return Ok(Tokenised { empty: true, ..Tokenised::default() });
        }
        let mut ids = self.tokenizer.encode(text)?;
        if let Some(eos) = self.end
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        Ok(self.windows(&ids))
    }

    /// Text or ids in a file, which are never held whole.
    fn passage(&self, passage: &Passage) -> Result<Tokenised, Refused> {
        if passage.is_blank() && !passage.is_ids() {
            return Ok(Tokenised { empty: true, ..Tokenised::default() });
        }
        let mut tokenised = Tokenised::default();
        let (mut open, mut last, mut before) = (Vec::new(), None, 0);
        passage.encode(self.tokenizer, |ids| -> Result<_, Refused> {
            if passage.is_ids() {
                self.check_ids(ids, before)?;
            }
            before += ids.len();
            last = ids.last().copied().or(last);
            open.extend_from_slice(ids);
            let whole = open.len() / self.options.cutoff * self.options.cutoff;
            tokenised.examples.append(&mut self.windows(&open[..whole]).examples);
            open.drain(..whole);
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(eos) = self.end
            && last != Some(eos)
            && !passage.is_ids()
        {
            open.push(eos);
        }
        tokenised.examples.append(&mut self.windows(&open).examples);
        Ok(tokenised)
    }

    fn ids(&self, ids: &[u32]) -> Result<Tokenised, Refused> {
        self.check_ids(ids, 0)?;
        Ok(self.windows(ids))
    }

    /// Refuses ids that the model does not have; `before` are those before them.
    fn check_ids(&self, ids: &[u32], before: usize) -> Result<(), Refused> {
        let vocabulary = self.tokenizer.vocab_size();
        if let Some(at) = ids.iter().position(|id| *id as usize >= vocabulary) {
            let (place, id) = (before + at, ids[at]);
            let message =
                format!("place {place}: id {id} is beyond the vocabulary of {vocabulary} tokens");
            return Err(Refused::Message(message));
        }
        Ok(())
    }

    /// Windows of the cutoff's length; a last one of a single token, which
    /// predicts nothing, is left out.
    fn windows(&self, ids: &[u32]) -> Tokenised {
        let windows = ids.chunks(self.options.cutoff).filter(|window| window.len() > 1);
        let examples = windows.map(|w| Example::new(w.to_vec(), vec![true; w.len()]));
        Tokenised { examples: examples.collect(), ..Tokenised::default() }
    }

    fn cut(&self, mut ids: Vec<u32>, mut learned: Vec<bool>) -> Tokenised {
        let tokens_cut = ids.len().saturating_sub(self.options.cutoff);
        ids.truncate(self.options.cutoff);
        learned.truncate(self.options.cutoff);
        let example = Example::new(ids, learned);
        let examples = if example.targets() > 0 { vec![example] } else { Vec::new() };
        Tokenised { examples, tokens_cut, ..Tokenised::default() }
    }
}
