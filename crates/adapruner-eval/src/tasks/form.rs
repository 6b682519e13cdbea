//! How a record becomes a question: the templates of a task.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

use super::{Clean, Question, Request, Template};

/// The templates of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Form {
    prompt: Prompt,
    gold: Template,
    gold_labels: Option<List>,
}

/// Where the choices stand.
#[derive(Debug, Clone, PartialEq)]
enum Prompt {
    /// One context, the choices follow it.
    Following { context: Template, choices: List },
    /// The choices stand in the contexts, the same follows each.
    Within { contexts: List, continuation: Template },
}

/// The templates as they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    pub context: Option<Template>,
    pub choices: Option<List>,
    pub contexts: Option<List>,
    pub continuation: Option<Template>,
    pub gold: Option<Template>,
    pub gold_labels: Option<List>,
}

impl Parts {
    /// These, and what they lack from `others`; a `gold` stands for itself and
    /// its labels.
    pub fn or(self, others: Self) -> Self {
        let gold_labels = match self.gold {
            Some(_) => self.gold_labels,
            None => self.gold_labels.or(others.gold_labels),
        };
        Self {
            context: self.context.or(others.context),
            choices: self.choices.or(others.choices),
            contexts: self.contexts.or(others.contexts),
            continuation: self.continuation.or(others.continuation),
            gold: self.gold.or(others.gold),
            gold_labels,
        }
    }
}

impl Form {
    /// The form that these templates make.
    ///
    /// # Errors
    /// Templates that lack some or contradict each other; a list where one text
    /// is expected, or the other way round.
    pub fn new(parts: Parts) -> Result<Self, String> {
        let Parts { context, choices, contexts, continuation, gold, gold_labels } = parts;
        let prompt = match (context, choices, contexts, continuation) {
            (Some(context), Some(choices), None, None) => {
                scalar(&context, "context")?;
                choices.check("choices")?;
                Prompt::Following { context, choices }
            }
            (None, None, Some(contexts), Some(continuation)) => {
                contexts.check("contexts")?;
                scalar(&continuation, "continuation")?;
                Prompt::Within { contexts, continuation }
            }
            (_, _, _, _) => {
                return Err("expected context and choices, or contexts and continuation".into());
            }
        };
        let gold = gold.ok_or("expected gold")?;
        scalar(&gold, "gold")?;
        gold_labels.as_ref().map_or(Ok(()), |labels| labels.check("gold-labels"))?;
        Ok(Self { prompt, gold, gold_labels })
    }

    /// The fields of a record that are read, each once.
    pub fn columns(&self) -> Vec<&str> {
        let mut templates = vec![&self.gold];
        let lists = match &self.prompt {
            Prompt::Following { context, choices } => {
                templates.push(context);
                choices
            }
            Prompt::Within { contexts, continuation } => {
                templates.push(continuation);
                contexts
            }
        };
        for list in [Some(lists), self.gold_labels.as_ref()].into_iter().flatten() {
            match list {
                List::Each(each) => templates.extend(each),
                List::Array(template) => templates.push(template),
            }
        }
        let mut columns: Vec<&str> = templates.into_iter().flat_map(Template::columns).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// One record as a question.
    pub fn question(
        &self,
        id: usize,
        record: &Value,
        clean: Option<Clean>,
        delimiter: &str,
    ) -> Result<Question, String> {
        let clean = |text: String| clean.map_or(text.clone(), |clean| clean.apply(&text));
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
            continuation: format!("{delimiter}{follows}"),
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

/// A list of texts of a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum List {
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
