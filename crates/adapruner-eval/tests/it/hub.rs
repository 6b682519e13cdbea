//! Tasks whose data come from the hub.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{Digest, dataset::HubData};
use adapruner_eval::{
    Result,
    tasks::{self, QuestionSet, Task, wikitext},
};
use tempfile::TempDir;

use crate::fixture;

/// The hub's copies of the made-up records.
fn hub(data: &HubData) -> Result<PathBuf, String> {
    let set = fixture("tasks_hub").join(data.dataset());
    let found = data.files().iter().map(|file| set.join(file)).find(|path| path.is_file());
    found
        .ok_or_else(|| format!("the hub's {} has no {}", data.dataset(), data.files().join(" or ")))
}

fn no_hub(data: &HubData) -> Result<PathBuf, String> {
    Err(format!("the hub cannot be reached for {}", data.dataset()))
}

fn own(folder: &TempDir, definition: &str) -> Result<Task> {
    let path = folder.path().join("own.toml");
    std::fs::write(&path, definition).unwrap();
    Task::from_file(&path)
}

#[test]
fn the_hub_s_records_ask_the_questions_of_the_original_files() {
    // Data set, configuration and split as the harness has them.
    let sets = [
        ("boolq", "aps/super_glue", "boolq/validation/0000.parquet"),
        ("piqa", "baber/piqa", "default/validation/0000.parquet"),
        ("hellaswag", "Rowan/hellaswag", "default/validation/0000.parquet"),
        ("winogrande", "allenai/winogrande", "winogrande_xl/validation/0000.parquet"),
        ("arc_easy", "allenai/ai2_arc", "ARC-Easy/test/0000.parquet"),
        ("arc_challenge", "allenai/ai2_arc", "ARC-Challenge/test/0000.parquet"),
        ("openbookqa", "allenai/openbookqa", "main/test/0000.parquet"),
    ];
    assert!(tasks::names().eq(sets.map(|(name, _, _)| name)));
    for (name, dataset, file) in sets {
        let task = Task::named(name).unwrap();
        let local = task.questions_with(Some(&fixture("tasks")), &no_hub).unwrap();
        let empty = TempDir::new().unwrap();
        for folder in [None, Some(empty.path())] {
            let QuestionSet { questions, files } = task.questions_with(folder, &hub).unwrap();
            assert_eq!(questions, local.questions, "{name}");
            let [found] = files.as_slice() else { panic!("{name}: {files:?}") };
            assert_eq!(found.digest, Digest::of_bytes(&std::fs::read(&found.file).unwrap()));
            let hub = found.hub.as_ref().unwrap();
            assert_eq!((hub.dataset.as_str(), hub.file.as_str()), (dataset, file));
            assert_eq!(hub.revision, "refs/convert/parquet");
        }
        assert!(local.files.iter().all(|file| file.hub.is_none()), "{name}");
    }
}

#[test]
fn the_hub_s_rows_are_the_articles_of_the_original_file() {
    let (local, _) = wikitext::pages_with(Some(&fixture("tasks")), &no_hub).unwrap();
    assert!(local.len() > 1);
    let empty = TempDir::new().unwrap();
    for folder in [None, Some(empty.path())] {
        let (pages, files) = wikitext::pages_with(folder, &hub).unwrap();
        assert_eq!(pages, local);
        let origin = files[0].hub.as_ref().unwrap();
        assert_eq!(origin.dataset, "Salesforce/wikitext");
        let error = wikitext::pages_with(folder, &no_hub).unwrap_err().to_string();
        let reason = ", and the hub cannot be reached for Salesforce/wikitext";
        assert!(error.starts_with("task wikitext: no data") && error.ends_with(reason), "{error}");
    }
}

#[test]
fn where_there_is_neither_both_places_are_told() {
    let folder = TempDir::new().unwrap();
    let task = Task::named("boolq").unwrap();
    let error = task.questions_with(Some(folder.path()), &no_hub).unwrap_err();
    let dir = folder.path().display();
    let expected = format!(
        "task boolq: no data: there is no {dir}/boolq/dev.jsonl, no {dir}/dev.jsonl, \
         and the hub cannot be reached for aps/super_glue"
    );
    assert_eq!(error.to_string(), expected);
    let hint = "name the folder of the data sets: --data-dir DIR, or connect to the hub";
    assert_eq!(error.hint(), Some(hint));
    let error = task.questions_with(None, &no_hub).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task boolq: no data folder was given in which to look for boolq/dev.jsonl or dev.jsonl, \
         and the hub cannot be reached for aps/super_glue"
    );
}

#[test]
fn a_damaged_file_of_the_hub_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("0000.parquet");
    let whole = std::fs::read(fixture("tasks_hub/baber/piqa/default/validation/0000.parquet"));
    let whole = whole.unwrap();
    let fetch = |_: &HubData| Ok(path.clone());
    let said = |task: &str, bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Task::named(task).unwrap().questions_with(None, &fetch).unwrap_err();
        error.to_string()
    };
    let found = said("piqa", &whole[..whole.len() - 100]);
    assert!(found.starts_with(&format!("{}: parquet: ", path.display())), "{found}");
    let found = said("winogrande", &whole);
    assert!(found.contains("0000.parquet: no column \"answer\"; its columns: \"goal\""), "{found}");
}

/// A task over the hub's copy of ARC, with a place for more.
const ARC: &str = "name = \"own\"\ncontext = \"{question}\"\nchoices = \"{choices.text[]}\"\n\
                   gold = \"{answerKey}\"\nmetrics = [\"acc\"]\n";
const ON_HUB: &str =
    "[hub]\ndataset = \"allenai/ai2_arc\"\nconfig = \"ARC-Easy\"\nsplit = \"test\"\n";

#[test]
fn a_task_of_one_s_own_may_name_a_data_set() {
    let folder = TempDir::new().unwrap();
    let labels = "gold-labels = \"{choices.label[]}\"\n";
    let task = own(&folder, &format!("{ARC}{labels}{ON_HUB}")).unwrap();
    let set = task.questions_with(None, &hub).unwrap();
    let original = Task::named("arc_easy").unwrap();
    let original = original.questions_with(Some(&fixture("tasks")), &no_hub).unwrap();
    let gold = |set: &QuestionSet| set.questions.iter().map(|q| q.gold).collect::<Vec<_>>();
    assert_eq!(gold(&set), gold(&original));
    let error = task.questions_with(None, &no_hub).unwrap_err().to_string();
    assert!(error.starts_with("task own: no data: the task names no local file, and"), "{error}");

    // What is refused names the row.
    let task = own(&folder, &format!("{ARC}{ON_HUB}")).unwrap();
    let error = task.questions_with(None, &hub).unwrap_err().to_string();
    let expected = "0000.parquet: row 0: gold {answerKey}: expected an index, found \"A\"";
    assert!(error.ends_with(expected), "{error}");

    // A parquet file may lie beside the definition as well.
    let file = Path::new("allenai/ai2_arc/ARC-Easy/test/0000.parquet");
    std::fs::copy(fixture("tasks_hub").join(file), folder.path().join("mine.parquet")).unwrap();
    let task = own(&folder, &format!("{ARC}{labels}files = [\"mine.parquet\"]\n")).unwrap();
    let beside = task.questions_with(None, &no_hub).unwrap();
    assert_eq!(beside.questions, set.questions);
    assert_eq!(beside.files[0].digest, set.files[0].digest);
}

#[test]
fn hub_tables_that_are_none_are_refused() {
    let folder = TempDir::new().unwrap();
    for (from, to, expected) in [
        ("allenai/ai2_arc", "ai2_arc", "hub: dataset: expected owner/name"),
        ("split = \"test\"", "", "missing field `split`"),
        ("split = \"test\"", "split = \"../../x\"", "hub: files: expected files of the data set"),
        ("config =", "name =", "unknown field `name`"),
        ("split =", "files = []\nsplit =", "hub: files: expected at least one"),
        ("split =", "revision = \"/\"\nsplit =", "hub: revision: expected a branch or commit"),
        ("split =", "contexts = [\"x\"]\nsplit =", "hub: expected context and choices"),
        ("split =", "gold = \"{x[]}\"\nsplit =", "hub: gold: \"{x[]}\" gives a list"),
    ] {
        let text = format!("{ARC}{}", ON_HUB.replacen(from, to, 1));
        let error = own(&folder, &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = own(&folder, ARC).unwrap_err().to_string();
    assert!(error.contains("files: expected at least one, or a hub table"), "{error}");
}
