//! Readers of tasks and of the search's space. The whole settings file is the
//! program's own, and mutated in its tests (`config_file.rs`).

use adapruner::search::GivenSpace;
use adapruner_eval::tasks::Task;

use crate::room::{folder, seed};

/// The definition of a task, with two records.
pub(crate) fn task(bytes: &[u8]) {
    ask("task", bytes, seed!("task_records/own.jsonl"));
}

/// The records of a task.
pub(crate) fn task_records(bytes: &[u8]) {
    ask("task_records", seed!("task/own.toml"), bytes);
}

fn ask(target: &str, definition: &[u8], records: &[u8]) {
    let files = [("own.toml", definition), ("own.jsonl", records)];
    let Ok(task) = Task::from_file(&folder(target, &files).join("own.toml")) else { return };
    // Nothing is fetched.
    let _ = task.questions_with(None, &|_| Err("no hub here".to_owned()));
}

/// The table `[space]`.
pub(crate) fn space(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = toml::from_str::<GivenSpace>(text);
}
