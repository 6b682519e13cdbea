//! `pool.jsonl`: the samples of a pool in readable form, with all that another model needs to
//! use them.

use std::path::Path;

use adapruner_checkpoint::{
    Checkpoint, Digest, input,
    text::{Cut, TokenSet},
};
use serde::{Deserialize, Serialize};

use super::{SearchRecord, StudyFolder};

use crate::error::{Context, Result, ensure};

/// A sample of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSample {
    /// Index in the pool.
    pub index: usize,
    /// Where it comes from: file or set, document, first token.
    pub source: String,
    /// Its text.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
}

/// The samples of a pool.
///
/// # Errors
/// Ids that the tokenizer does not know.
pub fn samples(checkpoint: &Checkpoint, pool: &TokenSet) -> Result<Vec<PoolSample>> {
    let rows = pool.windows.iter().zip(&pool.sources).enumerate();
    rows.map(|(index, (ids, source))| {
        let unit = match pool.cut {
            Cut::Joined => "text",
            Cut::Documents => "document",
            Cut::Rows => "row",
        };
        Ok(PoolSample {
            index,
            source: format!("{}, {unit} {}, token {}", pool.name, source.document, source.start),
            text: checkpoint.tokenizer.decode(ids, false)?,
            ids: ids.clone(),
        })
    })
    .collect()
}

/// The file's bytes.
///
/// # Errors
/// Those of [`samples`].
pub(super) fn lines(checkpoint: &Checkpoint, pool: &TokenSet) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for sample in samples(checkpoint, pool)? {
        serde_json::to_writer(&mut out, &sample)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Reads the file.
///
/// # Errors
/// A file that is missing, was changed since it was written, or is damaged
/// (which line).
pub fn read(folder: &StudyFolder, record: &SearchRecord) -> Result<Vec<PoolSample>> {
    let path = &folder.pool();
    let text = input::read_text(path, input::LOG)?;
    if let Some(expected) = record.pool_file {
        let found = Digest::of_bytes(text.as_bytes());
        ensure!(
            found == expected,
            "{}: damaged: content of digest {expected} expected, {found} found",
            path.display()
        );
    }
    parse(path, &text)
}

/// The samples in the text of the file; `path` is for messages.
///
/// # Errors
/// A line that is no sample (which).
pub fn parse(path: &Path, text: &str) -> Result<Vec<PoolSample>> {
    let lines = text.lines().enumerate();
    lines
        .map(|(at, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}:{}: not a sample", path.display(), at + 1))
        })
        .collect()
}

/// The pool as windows, checked against the study's record.
///
/// # Errors
/// Those of [`read`]; other samples than the study's.
pub fn tokens(folder: &StudyFolder, record: &SearchRecord) -> Result<TokenSet> {
    let samples = read(folder, record)?;
    let windows: Vec<Vec<u32>> = samples.into_iter().map(|sample| sample.ids).collect();
    let (path, record) = (folder.pool(), &record.pool);
    let pool = TokenSet::of_rows(&record.text, record.text_digest, windows);
    ensure!(
        pool.digest == record.tokens_digest,
        "{}: expected samples of digest {}, found {}",
        path.display(),
        record.tokens_digest,
        pool.digest
    );
    Ok(pool)
}
