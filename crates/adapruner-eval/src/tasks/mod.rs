//! Multiple-choice tasks as in lm-evaluation-harness 0.4.13. A task is a definition, not code,
//! so a custom task is one more TOML file.
//!
//! | key | meaning |
//! |---|---|
//! | `name`, `version` | as the harness has them |
//! | `files` | candidate files of records (JSON, one per line, or `*.parquet`), relative to the data folder; the first that exists is read |
//! | `label-files` | the same for labels in a separate file |
//! | `context`, `choices` | the context ([`Template`]) and its continuations: a list of templates, or one that gives a list |
//! | `contexts`, `continuation` | instead of those: one context for each choice, and the continuation of each |
//! | `clean` | clean-up of contexts and choices ([`Clean`]) |
//! | `delimiter` | text before a continuation, `" "` by default |
//! | `gold` | the correct choice: its index, or its label if there are `gold-labels` |
//! | `metrics` | `acc`, `acc_norm`, `acc_bytes` |
//! | `hub` | the data's location on the hub, a table |
//!
//! | key of `hub` | meaning |
//! |---|---|
//! | `dataset`, `config`, `split` | the data set, its configuration (default: `default`) and split |
//! | `revision` | default: `refs/convert/parquet`, where the hub keeps every set as parquet |
//! | `files` | candidate parquet files, of which the first that exists is read; default: `{config}/{split}/0000.parquet` |
//! | `context`, `choices`, `contexts`, `continuation` | instead of the task's, if the hub's records have another shape |
//! | `gold`, `gold-labels` | the same; a `gold` takes the place of both |

mod definition;
mod form;
mod pystr;
mod records;
pub mod template;
pub mod wikitext;

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{dataset::HubData, input};
use serde::Deserialize;

pub(crate) use self::pystr::strip_end;
use self::{form::Form, records::Source};
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
    form: Form,
    clean: Option<Clean>,
    delimiter: String,
    hub: Option<Hub>,
    /// Folder of the definition, where it was read from a file.
    folder: Option<PathBuf>,
}

/// Where a task's data stand on the hub, and how their records are asked.
#[derive(Debug, Clone, PartialEq)]
struct Hub {
    data: HubData,
    form: Form,
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
        definition::parse(definition).map_err(|message| Error::Task { task: name.into(), message })
    }

    /// A task from a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, has keys that no task has or
    /// lacks some, or whose templates are none.
    pub fn from_file(path: &Path) -> Result<Self> {
        let fail = |message: String| Error::Data { path: path.into(), message };
        let text = input::read_text(path, input::TASK)?;
        let mut task = definition::parse(&text).map_err(fail)?;
        task.folder = path.parent().map(Path::to_path_buf);
        Ok(task)
    }

    /// Reads the questions: from `data_dir` or from beside the definition, else
    /// from the hub, where the task names a data set there.
    ///
    /// # Errors
    /// Data in none of these places; a malformed record, a field that is
    /// missing, a choice that is empty or a gold answer that is none of them,
    /// with file, line or row, and field.
    pub fn questions(&self, data_dir: Option<&Path>) -> Result<QuestionSet> {
        self.questions_with(data_dir, &HubData::fetch)
    }

    /// As [`Self::questions`], with another way to fetch what is on the hub.
    ///
    /// # Errors
    /// As [`Self::questions`]; where `fetch` gives a reason, it is in the message.
    pub fn questions_with(
        &self,
        data_dir: Option<&Path>,
        fetch: &dyn Fn(&HubData) -> Result<PathBuf, String>,
    ) -> Result<QuestionSet> {
        let fail = |message| Error::Task { task: self.name.clone(), message };
        let (source, form) = match (self.local(data_dir), &self.hub) {
            (Ok((path, labels)), _) => {
                let columns = self.form.columns();
                (Source { path, labels, columns, hub: None }, &self.form)
            }
            (Err(absent), None) => return Err(fail(absent)),
            (Err(absent), Some(Hub { data, form })) => {
                let path = fetch(data).map_err(|reason| fail(format!("{absent}, and {reason}")))?;
                let hub = Some(data.origin(&path));
                (Source { path, labels: None, columns: form.columns(), hub }, form)
            }
        };
        let (questions, files) = records::read(&source, |id, record| {
            form.question(id, record, self.clean, &self.delimiter)
        })?;
        Ok(QuestionSet { questions, files })
    }

    /// The local files of records and of labels; else what was looked for.
    fn local(&self, data_dir: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>), String> {
        let records = self.find(data_dir, &self.files)?;
        let labels = match self.label_files.as_slice() {
            [] => None,
            files => Some(self.find(data_dir, files)?),
        };
        Ok((records, labels))
    }

    /// The first of `files` that is there; else what was looked for.
    fn find(&self, data_dir: Option<&Path>, files: &[PathBuf]) -> Result<PathBuf, String> {
        let folders: Vec<&Path> = data_dir.into_iter().chain(self.folder.as_deref()).collect();
        let places = || folders.iter().flat_map(|folder| files.iter().map(|f| folder.join(f)));
        places().find(|place| place.is_file()).ok_or_else(|| {
            let listed = |paths: &mut dyn Iterator<Item = PathBuf>, between: &str| {
                paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(between)
            };
            match (files, folders.as_slice()) {
                ([], _) => "no data: the task names no local file".to_owned(),
                (_, []) => {
                    let files = listed(&mut files.iter().cloned(), " or ");
                    format!("no data folder was given in which to look for {files}")
                }
                (_, [..]) => format!("no data: there is no {}", listed(&mut places(), ", no ")),
            }
        })
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
