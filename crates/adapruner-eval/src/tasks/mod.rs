//! Multiple-choice tasks as lm-evaluation-harness 0.4.13 asks them: what a task
//! is stands in a definition, not in code, so that a user's own task is one
//! more TOML file.
//!
//! | key | is |
//! |---|---|
//! | `name`, `version` | as the harness has them |
//! | `files` | where the records may stand, relative to the data folder; the first that is there is read |
//! | `label-files` | the same for labels that stand in a file of their own |
//! | `context`, `choices` | what is asked ([`Template`]), and what may follow: a list of templates, or one that gives a list |
//! | `contexts`, `continuation` | instead of those: one context for each choice, and what follows each of them |
//! | `clean` | what is done to contexts and choices ([`Clean`]) |
//! | `delimiter` | what stands before a continuation, `" "` unless given |
//! | `gold` | which choice is right: its index, or its label where there are `gold-labels` |
//! | `metrics` | `acc`, `acc_norm`, `acc_bytes` |

mod pystr;
mod records;
pub mod template;
pub mod wikitext;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

pub(crate) use self::pystr::strip_end;
pub use self::{records::DataFile, template::Template};
use crate::{
    error::{Error, Result},
    metrics::Metric,
};

/// The definitions that come with the program, in the literature's order.
const BUILT_IN: [(&str, &str); 7] = [
    ("boolq", include_str!("definitions/boolq.toml")),
    ("piqa", include_str!("definitions/piqa.toml")),
    ("hellaswag", include_str!("definitions/hellaswag.toml")),
    ("winogrande", include_str!("definitions/winogrande.toml")),
    ("arc_easy", include_str!("definitions/arc_easy.toml")),
    ("arc_challenge", include_str!("definitions/arc_challenge.toml")),
    ("openbookqa", include_str!("definitions/openbookqa.toml")),
];

/// Bytes of a definition, at most.
const LARGEST: u64 = 1 << 20;

/// Names of the tasks that come with the program; `wikitext` is another kind.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// A multiple-choice task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Version of its definition.
    pub version: f64,
    /// What is measured.
    pub metrics: Vec<Metric>,
    files: Vec<PathBuf>,
    label_files: Vec<PathBuf>,
    prompt: Prompt,
    clean: Option<Clean>,
    delimiter: String,
    gold: Template,
    gold_labels: Option<List>,
    /// Folder of the definition, where it was read from a file.
    folder: Option<PathBuf>,
}

/// Where the choices stand.
#[derive(Debug, Clone, PartialEq)]
enum Prompt {
    /// One context, the choices follow it.
    Following { context: Template, choices: List },
    /// The choices stand in the contexts, the same follows each.
    Within { contexts: List, continuation: Template },
}

/// What is done to contexts and choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// HellaSwag's marks of WikiHow: white space at the ends goes, ` [title]`
    /// becomes `. `, other `[…]` go, two spaces become one (once).
    Wikihow,
}

impl Clean {
    fn apply(self, text: &str) -> String {
        match self {
            Self::Wikihow => {
                let text = pystr::strip(text).replace(" [title]", ". ");
                without_brackets(&text).replace("  ", " ")
            }
        }
    }
}

/// Without every `[…]` that ends on its line.
fn without_brackets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let inside = &rest[at..];
        out.push_str(&rest[..at]);
        match inside.find([']', '\n']) {
            Some(end) if inside[end..].starts_with(']') => rest = &inside[end + 1..],
            Some(_) | None => {
                out.push('[');
                rest = &inside[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A list of texts of a record.
#[derive(Debug, Clone, PartialEq)]
enum List {
    /// One template each.
    Each(Vec<Template>),
    /// One template for all elements of an array.
    Array(Template),
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a template or an array of templates")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<List, E> {
        Template::deserialize(text.into_deserializer()).map(List::Array)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<List, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(array)).map(List::Each)
    }
}

impl List {
    fn render(&self, record: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Each(templates) => templates.iter().map(|t| t.render(record)).collect(),
            Self::Array(template) => template.render_list(record),
        }
    }

    fn check(&self, key: &str) -> Result<(), String> {
        match self {
            Self::Each(templates) => templates.iter().try_for_each(|t| scalar(t, key)),
            Self::Array(template) if template.is_list()? => Ok(()),
            Self::Array(template) => Err(format!(
                "{key}: \"{template}\" gives one text; expected a list of templates, or a field with []"
            )),
        }
    }
}

fn scalar(template: &Template, key: &str) -> Result<(), String> {
    if template.is_list()? {
        return Err(format!("{key}: \"{template}\" gives a list, expected one text"));
    }
    Ok(())
}

/// A definition as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Definition {
    name: String,
    #[serde(default)]
    version: f64,
    files: Vec<PathBuf>,
    #[serde(default)]
    label_files: Vec<PathBuf>,
    context: Option<Template>,
    choices: Option<List>,
    contexts: Option<List>,
    continuation: Option<Template>,
    clean: Option<Clean>,
    #[serde(default = "space")]
    delimiter: String,
    gold: Template,
    gold_labels: Option<List>,
    metrics: Vec<Metric>,
}

fn space() -> String {
    " ".to_owned()
}

/// One question: a context and a continuation for each choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its place in the data set, from 0.
    pub id: usize,
    /// What is run, one for each choice.
    pub requests: Vec<Request>,
    /// The choices themselves, by whose lengths log-likelihoods are divided.
    pub choices: Vec<String>,
    /// Which choice is right.
    pub gold: usize,
}

/// A text and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is given.
    pub context: String,
    /// What is scored.
    pub continuation: String,
}

/// The questions of a task and where they stood.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionSet {
    /// All questions, in order.
    pub questions: Vec<Question>,
    /// The files that were read.
    pub files: Vec<DataFile>,
}

impl Task {
    /// A task that comes with the program.
    ///
    /// # Errors
    /// A name that no task has; the message suggests the nearest.
    pub fn named(name: &str) -> Result<Self> {
        let Some((_, definition)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(name));
        };
        Self::parse(definition).map_err(|message| Error::Task { task: name.into(), message })
    }

    /// A task from a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, has keys that no task has or
    /// lacks some, or whose templates are none.
    pub fn from_file(path: &Path) -> Result<Self> {
        let fail = |message: String| Error::Data { path: path.into(), message };
        let read = |e: std::io::Error| fail(format!("cannot read: {e}"));
        let size = std::fs::metadata(path).map_err(read)?.len();
        if size > LARGEST {
            return Err(fail(format!("{size} bytes, expected at most {LARGEST}")));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mut task = Self::parse(&text).map_err(fail)?;
        task.folder = path.parent().map(Path::to_path_buf);
        Ok(task)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let definition: Definition =
            toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        let prompt = match definition {
            Definition {
                context: Some(ref context),
                choices: Some(ref choices),
                contexts: None,
                continuation: None,
                ..
            } => {
                scalar(context, "context")?;
                choices.check("choices")?;
                Prompt::Following { context: context.clone(), choices: choices.clone() }
            }
            Definition {
                contexts: Some(ref contexts),
                continuation: Some(ref continuation),
                context: None,
                choices: None,
                ..
            } => {
                contexts.check("contexts")?;
                scalar(continuation, "continuation")?;
                Prompt::Within { contexts: contexts.clone(), continuation: continuation.clone() }
            }
            Definition { .. } => {
                return Err("expected context and choices, or contexts and continuation".into());
            }
        };
        scalar(&definition.gold, "gold")?;
        definition.gold_labels.as_ref().map_or(Ok(()), |labels| labels.check("gold-labels"))?;
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
        if definition.name.is_empty() || definition.name.contains(odd) {
            return Err(format!(
                "name: expected letters, digits, _, - and ., found {:?}",
                definition.name
            ));
        }
        if definition.files.is_empty() {
            return Err("files: expected at least one".into());
        }
        if definition.metrics.is_empty() {
            return Err("metrics: expected at least one of acc, acc_norm and acc_bytes".into());
        }
        Ok(Self {
            name: definition.name,
            version: definition.version,
            metrics: definition.metrics,
            files: definition.files,
            label_files: definition.label_files,
            prompt,
            clean: definition.clean,
            delimiter: definition.delimiter,
            gold: definition.gold,
            gold_labels: definition.gold_labels,
            folder: None,
        })
    }

    /// Reads the questions, from `data_dir` or from beside the definition.
    ///
    /// # Errors
    /// No file in either place; a malformed record, a field that is missing, a
    /// choice that is empty or a gold answer that is none of them, with file,
    /// line and field.
    pub fn questions(&self, data_dir: Option<&Path>) -> Result<QuestionSet> {
        let records = self.find(data_dir, &self.files)?;
        let labels = match self.label_files.as_slice() {
            [] => None,
            files => Some(self.find(data_dir, files)?),
        };
        let (questions, files) =
            records::read(&records, labels.as_deref(), |id, record| self.question(id, record))?;
        Ok(QuestionSet { questions, files })
    }

    /// The first of `files` that is there.
    fn find(&self, data_dir: Option<&Path>, files: &[PathBuf]) -> Result<PathBuf> {
        let folders: Vec<&Path> = data_dir.into_iter().chain(self.folder.as_deref()).collect();
        let places = || folders.iter().flat_map(|folder| files.iter().map(|f| folder.join(f)));
        places().find(|place| place.is_file()).ok_or_else(|| {
            let tried: Vec<String> = places().map(|place| place.display().to_string()).collect();
            let message = if tried.is_empty() {
                let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
                format!("no data folder was given in which to look for {}", files.join(" or "))
            } else {
                format!("no data: there is no {}", tried.join(", no "))
            };
            Error::Task { task: self.name.clone(), message }
        })
    }

    /// One record as a question.
    fn question(&self, id: usize, record: &Value) -> Result<Question, String> {
        let clean = |text: String| self.clean.map_or(text.clone(), |clean| clean.apply(&text));
        let (contexts, choices, continuations) = match &self.prompt {
            Prompt::Following { context, choices } => {
                let context = clean(context.render(record)?);
                let choices: Vec<String> = choices.render(record)?.into_iter().map(clean).collect();
                (vec![context; choices.len()], choices.clone(), choices)
            }
            Prompt::Within { contexts, continuation } => {
                let contexts: Vec<String> =
                    contexts.render(record)?.into_iter().map(clean).collect();
                let follows = clean(continuation.render(record)?);
                (contexts.clone(), contexts.clone(), vec![follows; contexts.len()])
            }
        };
        if choices.len() < 2 {
            return Err(format!("expected at least 2 choices, found {}", choices.len()));
        }
        if let Some(empty) = choices.iter().position(String::is_empty) {
            return Err(format!("choice {empty} is empty"));
        }
        if continuations.iter().any(String::is_empty) {
            return Err("nothing follows the contexts".into());
        }
        let gold = self.gold(record, choices.len())?;
        let requests = contexts.into_iter().zip(continuations).map(|(context, follows)| Request {
            context,
            continuation: format!("{}{follows}", self.delimiter),
        });
        Ok(Question { id, requests: requests.collect(), choices, gold })
    }

    /// Which of the choices is right.
    fn gold(&self, record: &Value, choices: usize) -> Result<usize, String> {
        let found = self.gold.render(record)?;
        let gold = &self.gold;
        let index = match &self.gold_labels {
            Some(labels) => {
                let labels = labels.render(record)?;
                labels.iter().position(|label| *label == found).ok_or_else(|| {
                    format!("gold {gold}: expected one of {}, found {found:?}", labels.join(", "))
                })?
            }
            None => found
                .parse::<usize>()
                .map_err(|_| format!("gold {gold}: expected an index, found {found:?}"))?,
        };
        if index >= choices {
            return Err(format!(
                "gold {gold}: {found} is out of range, there are {choices} choices"
            ));
        }
        Ok(index)
    }
}

/// An unknown name, with the nearest ones.
fn unknown(name: &str) -> Error {
    let plain = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let all = || names().chain([wikitext::NAME]);
    let mut near: Vec<(usize, &str)> =
        all().map(|known| (distance(&plain(name), known), known)).collect();
    near.sort_by_key(|(distance, _)| *distance);
    let close = |&(distance, known): &(usize, &str)| {
        distance <= 1 + known.len() / 3 || known.starts_with(&plain(name))
    };
    let near: Vec<&str> = near.iter().filter(|n| close(n)).map(|(_, name)| *name).collect();
    let message = match near.as_slice() {
        [] => format!("no such task; there are {}", all().collect::<Vec<_>>().join(", ")),
        near => format!("no such task; did you mean {}?", near.join(" or ")),
    };
    // A name of any length may have been typed.
    Error::Task { task: name.chars().take(64).collect(), message }
}

/// Characters to insert, delete or replace (Levenshtein), of the first 64.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_one() {
        for name in names() {
            assert_eq!(Task::named(name).unwrap().name, name);
        }
    }

    #[test]
    fn near_names_are_suggested() {
        let said = |name: &str| Task::named(name).unwrap_err().to_string();
        assert_eq!(said("Hella-Swag"), "task Hella-Swag: no such task; did you mean hellaswag?");
        assert!(said("arc").contains("arc_easy or arc_challenge"), "{}", said("arc"));
        assert!(said("mmlu").contains("there are boolq, piqa"), "{}", said("mmlu"));
    }

    // Expected values: `preprocess` of the harness.
    #[test]
    fn wikihow_marks_go_as_the_harness_takes_them() {
        let clean = |text: &str| Clean::Wikihow.apply(text);
        assert_eq!(clean(" Bake: [header] How to [title] Heat. "), "Bake: How to. Heat.");
        assert_eq!(clean("a [b\nc] d [e] [f"), "a [b\nc] d [f");
        assert_eq!(clean("a [[b] c]   d"), "a c]  d");
    }
}
