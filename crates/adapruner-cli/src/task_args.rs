//! Arguments of zero-shot tasks, also a table of the configuration file.

use std::path::PathBuf;

use adapruner::zero_shot::TaskSettings;
use adapruner_checkpoint::atomic::Files;
use adapruner_eval::zero_shot::Selection;
use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{args::EvalArgs, combine::combine};

/// Zero-shot tasks.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Tasks")]
pub struct TaskArgs {
    /// Tasks to evaluate: boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge,
    /// openbookqa, wikitext. Data come from the original files in --data-dir, otherwise from
    /// their copies on the hub; --limit N takes the first N questions of each
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tasks: Option<Vec<String>>,
    /// Custom task, defined in a TOML file; repeatable
    #[arg(long, value_name = "FILE")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub task_file: Option<Vec<PathBuf>>,
    /// Take N random questions of each task, drawn by --seed
    #[arg(long, value_name = "N", conflicts_with = "limit")]
    pub sample: Option<usize>,
    /// Seed of --sample [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write every answer to this JSONL file
    #[arg(long, value_name = "FILE")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub log_samples: Option<PathBuf>,
    /// Replace that file if it exists
    #[arg(long)]
    pub force: Option<bool>,
}

combine!(TaskArgs { tasks, task_file, sample, seed, log_samples, force });

/// Seed where none is given.
const SEED: u64 = 42;

impl TaskArgs {
    /// What is read and written.
    pub fn files(&self, files: Files) -> Files {
        let tasks = self.task_file.iter().flatten();
        let files = tasks.fold(files, |files, task| files.read("--task-file", task));
        let log = self.log_samples.iter();
        let force = self.force.unwrap_or(false);
        log.fold(files, |files, log| files.file("--log-samples", log, force))
    }

    /// Fills in the defaults; `None` if no task is given.
    ///
    /// # Errors
    /// A file that says both how many questions come first and how many are
    /// drawn.
    pub fn resolve(&self, eval: &EvalArgs) -> Result<Option<TaskSettings>> {
        let (tasks, task_files) =
            (self.tasks.clone().unwrap_or_default(), self.task_file.clone().unwrap_or_default());
        if tasks.is_empty() && task_files.is_empty() {
            return Ok(None);
        }
        let seed = self.seed.unwrap_or(SEED);
        let selection = match (self.sample, eval.limit) {
            (Some(questions), None) => Selection::Sample { questions, seed },
            (None, Some(questions)) => Selection::First(questions),
            (None, None) => Selection::All,
            (Some(sample), Some(limit)) => bail!(
                "sample: {sample} questions drawn and limit: the first {limit} exclude each other"
            ),
        };
        Ok(Some(TaskSettings {
            tasks,
            task_files,
            data_dir: eval.data_dir.clone(),
            selection,
            batch_tokens: eval.batch_tokens,
        }))
    }
}
