//! `trials`: the trials of a search as rows.

use std::{collections::BTreeMap, path::PathBuf};

use adapruner::search::{StoredStudy, StudyFolder};
use adapruner_checkpoint::atomic::Files;
use adapruner_study::{Choice, Distribution, ParamValue, Trial, TrialState};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Perform, Session};
use crate::printer::Printer;

/// List the trials of a study: state, loss, seconds and parameters of each.
///
/// Prints a table from the best trial to the worst; with --json, rows for a data frame, by
/// number.
///
/// Example: adapruner trials STUDY --json
#[derive(Debug, Args)]
pub struct TrialsCommand {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Redis URL of the trials, as given to search
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
    /// Name of the study, if the folder holds several [default: the one with the best trial]
    #[arg(long, value_name = "NAME")]
    study_name: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    study: String,
    trials: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    number: u64,
    /// running, complete, pruned, failed or waiting.
    state: &'static str,
    /// Whether the cut was infeasible or its loss not finite.
    infeasible: bool,
    /// Nats per predicted token of the search-evaluation text.
    loss: Option<f64>,
    /// Of several objectives, whether it is a point of the front.
    #[serde(skip_serializing_if = "Option::is_none")]
    front: Option<bool>,
    /// Of several objectives, parameters that are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Windows that were measured.
    chunks: usize,
    seconds: Option<f64>,
    parameters: BTreeMap<String, Value>,
}

impl Perform for TrialsCommand {
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        Ok(Files::new().read("STUDY", &self.study))
    }

    fn run(&self, _: &Session) -> Result<()> {
        let folder = StudyFolder::open(&self.study)?;
        let studies = StoredStudy::all(&folder, self.storage.as_deref())?;
        let study = StoredStudy::pick(studies, self.study_name.as_deref())?;
        let front: Vec<u64> = match study.is_front() {
            true => study.front()?.iter().map(|point| point.trial).collect(),
            false => Vec::new(),
        };
        let shown = study.losses();
        let mut trials: Vec<Row> = shown.iter().map(|trial| row(trial)).collect();
        if study.is_front() {
            for row in &mut trials {
                row.front = Some(front.contains(&row.number));
            }
        }
        Printer::new(self.json).result(&Report { study: study.name, trials }, text)
    }
}

fn row(trial: &Trial) -> Row {
    let parameters = trial.params.iter();
    Row {
        number: trial.number,
        state: match trial.state {
            TrialState::Running => "running",
            TrialState::Complete => "complete",
            TrialState::Pruned => "pruned",
            TrialState::Failed => "failed",
            TrialState::Waiting => "waiting",
        },
        infeasible: trial.is_infeasible(),
        loss: trial.value(),
        front: None,
        size: trial.user_attrs.get("parameters").and_then(Value::as_u64),
        chunks: trial.intermediate.len(),
        seconds: trial.started_ms.zip(trial.ended_ms).map(|(a, b)| (b - a) as f64 / 1000.0),
        parameters: parameters
            .map(|(name, (of, value))| (name.clone(), plain(of, value)))
            .collect(),
    }
}

/// A parameter's value as JSON has it.
fn plain(distribution: &Distribution, value: &ParamValue) -> Value {
    match value {
        ParamValue::Float(number) => json!(number),
        ParamValue::Int(number) => json!(number),
        ParamValue::Subset(samples) => json!(samples),
        ParamValue::Category(at) => match distribution {
            Distribution::Categorical { choices } => match choices.get(*at) {
                Some(Choice::None) | None => Value::Null,
                Some(Choice::Bool(choice)) => json!(choice),
                Some(Choice::Int(choice)) => json!(choice),
                Some(Choice::Float(choice)) => json!(choice),
                Some(Choice::Text(choice)) => json!(choice),
            },
            Distribution::Float { .. } | Distribution::Int { .. } | Distribution::Subset { .. } => {
                json!(at)
            }
        },
    }
}

fn text(report: &Report) -> String {
    let mut trials: Vec<&Row> = report.trials.iter().collect();
    let last = |row: &&Row| (row.state != "complete", row.loss.unwrap_or(f64::INFINITY));
    trials.sort_by(|a, b| last(a).partial_cmp(&last(b)).unwrap_or(std::cmp::Ordering::Equal));
    let mut out = format!("{}\n\n", report.study);
    out.push_str(&format!(
        "{:>6}  {:<9} {:>9} {:>7} {:>8}  parameters\n",
        "trial", "state", "loss", "chunks", "seconds"
    ));
    for row in trials {
        let number = |value: Option<f64>, digits| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let state = match (row.infeasible, row.front) {
            (true, _) => "infeasible",
            (false, Some(true)) => "front",
            (false, Some(false) | None) => row.state,
        };
        let size = row.size.map(|size| format!("left={size}"));
        let shown = row.parameters.iter().map(|(name, value)| match value {
            Value::Array(items) => format!("{name}={} of them", items.len()),
            Value::Number(number) if number.is_f64() => {
                format!("{name}={:.4}", number.as_f64().unwrap_or(f64::NAN))
            }
            Value::String(text) => format!("{name}={text}"),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                format!("{name}={value}")
            }
        });
        out.push_str(&format!(
            "{:>6}  {:<9} {:>9} {:>7} {:>8}  {}\n",
            row.number,
            state,
            number(row.loss, 4),
            row.chunks,
            number(row.seconds, 1),
            size.into_iter().chain(shown).collect::<Vec<_>>().join(" ")
        ));
    }
    out
}
