//! Text as token windows: formats, named sets, windows, samples.

mod formats;
mod hostile;
mod json;
mod named;
mod overlap;
mod parquet;
mod parquet_hostile;
mod samples;
mod table;
mod windows;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use adapruner_checkpoint::{
    Error, Result,
    text::{Passage, Text, TextOptions, read},
    tokenizer::TextTokenizer,
};
use tempfile::TempDir;

/// A folder for the files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, with the folders above it.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// Reads a file with the options' defaults.
fn read_path(path: &Path) -> Result<Text> {
    read(path, &TextOptions::default())
}

/// What a file of that name and content is read as.
fn read_as(name: &str, content: impl AsRef<[u8]>) -> Result<Text> {
    let files = Files::new();
    read_path(&files.write(name, content))
}

/// An error's message after the path of the file.
#[track_caller]
fn message(result: Result<Text>) -> String {
    after_path(&result.unwrap_err())
}

fn after_path(error: &Error) -> String {
    let text = error.to_string();
    text.split_once(": ").map_or(text.clone(), |(_, message)| message.to_owned())
}

/// Documents and joiner of a text.
#[track_caller]
fn documents(text: &Text) -> (Vec<String>, &'static str) {
    let joiner = text.joiner().expect("documents, not ids");
    (text.passages().map(|passage| passage.to_text().unwrap()).collect(), joiner)
}

/// Documents and joiner, to compare with.
fn expected(documents: &[&str], joiner: &'static str) -> (Vec<String>, &'static str) {
    (documents.iter().map(|&document| document.to_owned()).collect(), joiner)
}

#[track_caller]
fn ids(text: &Text) -> Vec<Vec<u32>> {
    assert_eq!(text.joiner(), None, "ids, not documents");
    let row = |passage: Passage| {
        let mut row = Vec::new();
        let each = |ids: &[u32]| -> Result<_> {
            row.extend_from_slice(ids);
            Ok(ControlFlow::Continue(()))
        };
        passage.encode(&tokenizer(), each).unwrap();
        row
    };
    text.passages().map(row).collect()
}

/// The tokenizer of the small model: 512 ids, byte-level, no special tokens
/// around a text.
fn tokenizer() -> TextTokenizer {
    TextTokenizer::from_hf_folder(&crate::readers::fixture("models/tiny")).unwrap()
}

/// The small model's evaluation text.
fn tales() -> Text {
    read_path(&crate::readers::fixture("models/tiny/text.txt")).unwrap()
}
