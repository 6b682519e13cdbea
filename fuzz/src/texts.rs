//! Readers of texts, by the name of the file.

use adapruner_checkpoint::{
    dataset,
    text::{self, TextOptions},
};

use crate::room::file;

fn read(target: &str, name: &str, bytes: &[u8]) {
    let path = file(target, name, bytes);
    let _ = text::read(path.to_str().expect("UTF-8"), &TextOptions::default());
}

/// A text file.
pub(crate) fn plain(bytes: &[u8]) {
    read("text_plain", "text.txt", bytes);
}

/// JSONL with a field `text`.
pub(crate) fn jsonl(bytes: &[u8]) {
    read("text_jsonl", "text.jsonl", bytes);
}

/// Rows of token ids.
pub(crate) fn ids(bytes: &[u8]) {
    read("text_ids", "ids.json", bytes);
}

/// Gzip.
pub(crate) fn gzip(bytes: &[u8]) {
    read("text_gzip", "text.jsonl.gz", bytes);
}

/// Zstandard.
pub(crate) fn zstd(bytes: &[u8]) {
    read("text_zstd", "text.jsonl.zst", bytes);
}

/// Parquet with a column `text`.
pub(crate) fn parquet(bytes: &[u8]) {
    read("text_parquet", "text.parquet", bytes);
}

/// Parquet with the columns of tasks.
pub(crate) fn records_parquet(bytes: &[u8]) {
    let path = file("records_parquet", "records.parquet", bytes);
    let _ = dataset::records(&path, &["goal", "sol1", "sol2", "label"]);
    let _ = dataset::records(&path, &["question", "choices", "answerKey"]);
}
