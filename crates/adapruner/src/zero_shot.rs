//! Zero-shot tasks: which tasks, which questions, and the results.

use std::{path::PathBuf, time::Instant};

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_eval::{
    batch_tokens, harness,
    requests::{Encoder, sequences},
    score::rows,
    tasks::{
        DataFile, QuestionSet, Task,
        wikitext::{self, Page},
    },
    zero_shot::{
        Answer, Mean, RollingResult, Run, Selection, TaskResult, literature_mean, norm_mean,
    },
};
use adapruner_model::{Decoder, Placement};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    advice::advised,
    error::{Result, ensure},
    memory,
    pipeline::residency,
    progress::Progress,
};

/// Which tasks to evaluate and how.
#[derive(Debug, Clone, Serialize)]
pub struct TaskSettings {
    /// Names of tasks that come with the program.
    pub tasks: Vec<String>,
    /// Definitions of others.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub task_files: Vec<PathBuf>,
    /// Folder in which their data is looked for.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub data_dir: Option<PathBuf>,
    /// Which questions of each task.
    pub selection: Selection,
    /// Tokens that run together; `None` to choose from memory.
    pub batch_tokens: Option<usize>,
}

/// Tasks with their questions, read before any model is loaded.
pub struct Questions {
    tasks: Vec<(Task, QuestionSet)>,
    pages: Option<(Vec<Page>, Vec<DataFile>)>,
}

impl Questions {
    /// Reads the questions of every task.
    ///
    /// # Errors
    /// An unknown task, one that is given twice, data that is not there or
    /// malformed.
    pub fn read(settings: &TaskSettings) -> Result<Self> {
        let data_dir = settings.data_dir.as_deref();
        let (mut tasks, mut pages) = (Vec::new(), None);
        for name in &settings.tasks {
            if name == wikitext::NAME {
                ensure!(pages.is_none(), "task {name}: given twice");
                pages = Some(wikitext::pages(data_dir)?);
            } else {
                tasks.push(Task::named(name)?);
            }
        }
        for path in &settings.task_files {
            tasks.push(Task::from_file(path)?);
        }
        for (at, task) in tasks.iter().enumerate() {
            let twice = tasks[..at].iter().any(|other| other.name == task.name);
            ensure!(!twice && task.name != wikitext::NAME, "task {}: given twice", task.name);
        }
        let read = |task: Task| {
            let set = task.questions(data_dir)?;
            Ok((task, set))
        };
        Ok(Self { tasks: tasks.into_iter().map(read).collect::<Result<_>>()?, pages })
    }

    /// The inputs of answers besides the model: every task with its version, metrics, number of
    /// questions and the digests of its files, and which questions are asked.
    ///
    /// # Errors
    /// None that is known.
    pub fn identity(&self, selection: Selection) -> Result<Value> {
        let tasks = self.tasks.iter().map(|(task, set)| {
            let files: Vec<&Digest> = set.files.iter().map(|file| &file.digest).collect();
            json!({
                "task": task.name,
                "version": task.version,
                "metrics": task.metrics,
                "questions": set.questions.len(),
                "files": files,
            })
        });
        let tasks: Vec<Value> = tasks.collect();
        Ok(json!({ "tasks": tasks, "selection": serde_json::to_value(selection)? }))
    }

    /// Tokens that the selected questions of every task run through a model.
    ///
    /// # Errors
    /// A question that does not fit this model.
    pub fn tokens(
        &self,
        checkpoint: &Checkpoint,
        selection: Selection,
    ) -> Result<Vec<(String, u64)>> {
        let positions = checkpoint.config.longest();
        let encoder = Encoder::new(&checkpoint.tokenizer, positions);
        let of = |(task, set): &(Task, QuestionSet)| {
            let chosen = selection.of(set.questions.len());
            let chosen: Vec<_> = chosen.into_iter().map(|at| set.questions[at].clone()).collect();
            Ok((task.name.clone(), rows(&sequences(&task.name, &chosen, &encoder)?)))
        };
        self.tasks.iter().map(of).collect()
    }
}

/// A model's results on the tasks, and how they were measured.
#[derive(Debug, Clone)]
pub struct ZeroShot {
    /// Every multiple-choice task.
    pub tasks: Vec<TaskResult>,
    /// The articles of `wikitext`.
    pub rolling: Option<RollingResult>,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Parameters of the model.
    pub parameters: u64,
    /// Type of the weights while the model ran.
    pub dtype: String,
    /// Tokens that ran together.
    pub batch_tokens: usize,
    /// Wall-clock seconds of the passes, loading not included.
    pub seconds: f64,
}

/// The inputs of a task's figures.
#[derive(Serialize)]
struct Data<'a> {
    files: &'a [DataFile],
    truncated_requests: usize,
}

/// The means, by what they are.
#[derive(Serialize)]
struct Means {
    /// acc of BoolQ, PIQA, WinoGrande and ARC-e, acc_norm of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    literature: Option<Mean>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acc_norm_where_defined: Option<Mean>,
}

impl ZeroShot {
    /// The literature's seven-task mean, if all seven were evaluated.
    pub fn literature_mean(&self) -> Option<Mean> {
        literature_mean(&self.tasks)
    }

    /// The mean of `acc_norm`, or of `acc` for tasks without it.
    pub fn norm_mean(&self) -> Option<Mean> {
        norm_mean(&self.tasks)
    }

    /// Every answer.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.tasks.iter().flat_map(|task| &task.answers)
    }

    /// As JSON: the harness's keys first, then their inputs.
    ///
    /// # Errors
    /// None for figures that are finite.
    pub fn to_json(&self) -> Result<Map<String, Value>> {
        let mut out = harness::layout(&self.tasks, self.rolling.as_ref());
        let data =
            |files, truncated_requests| serde_json::to_value(Data { files, truncated_requests });
        let mut sources = Map::new();
        for task in &self.tasks {
            sources.insert(task.task.clone(), data(&task.files, task.truncated)?);
        }
        if let Some(rolling) = &self.rolling {
            sources.insert(wikitext::NAME.into(), data(&rolling.files, 0)?);
        }
        let means =
            Means { literature: self.literature_mean(), acc_norm_where_defined: self.norm_mean() };
        for (key, value) in [
            ("means", serde_json::to_value(means)?),
            ("data", Value::Object(sources)),
            ("model_digest", serde_json::to_value(self.model_digest)?),
            ("parameters", self.parameters.into()),
            ("dtype", self.dtype.as_str().into()),
            ("batch_tokens", self.batch_tokens.into()),
            ("seconds", self.seconds.into()),
        ] {
            out.insert(key.to_owned(), value);
        }
        Ok(out)
    }
}

/// Evaluates a model on the questions.
///
/// # Errors
/// A question that cannot be asked of this model, a log-likelihood that is not
/// finite, damaged weights, or no memory.
pub fn zero_shot(
    checkpoint: &Checkpoint,
    questions: &Questions,
    settings: &TaskSettings,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<ZeroShot> {
    let config = &checkpoint.config;
    if questions.tasks.is_empty() && questions.pages.is_none() {
        return Err(advised("tasks: none given", "give some: --tasks boolq,piqa"));
    }
    let model_digest = checkpoint.digest()?;
    let decoder = Decoder::load(checkpoint, placement, residency(checkpoint, placement))?;
    let batch_rows =
        settings.batch_tokens.unwrap_or_else(|| batch_tokens(config, 1, memory::available() / 4));
    let run = Run {
        decoder: &decoder,
        encoder: Encoder::new(&checkpoint.tokenizer, config.longest()),
        batch_rows,
    };
    let at = |done, all| progress.at("zero-shot", done, all);
    let start = Instant::now();
    let mut tasks = Vec::with_capacity(questions.tasks.len());
    for (task, set) in &questions.tasks {
        progress.note(&task.name);
        let result = run.ask(task, set, settings.selection, &at)?;
        if result.truncated > 0 {
            tracing::warn!(
                "task {}: {} requests are longer than the model's {} positions and lost their \
                 beginning",
                task.name,
                result.truncated,
                config.longest()
            );
        }
        tasks.push(result);
    }
    let rolling = match &questions.pages {
        None => None,
        Some((pages, files)) => {
            progress.note(wikitext::NAME);
            Some(run.read_pages(pages, files.clone(), settings.selection, &at)?)
        }
    };
    Ok(ZeroShot {
        tasks,
        rolling,
        model_digest,
        parameters: config.parameters(),
        dtype: placement.dtype.as_str().to_owned(),
        batch_tokens: batch_rows,
        seconds: start.elapsed().as_secs_f64(),
    })
}
