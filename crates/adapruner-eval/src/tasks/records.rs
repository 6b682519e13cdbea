//! Records of a data set: JSON, one a line, with labels from a file of their
//! own where the data set has them there.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{Digest, mapped::MappedFile};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Bytes of a record, at most.
const LONGEST: usize = 4 << 20;
/// Bytes of a file, at most.
const LARGEST: usize = 1 << 30;
/// Field that a label becomes.
const LABEL: &str = "label";

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Where it stands.
    pub file: PathBuf,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// Reads the records of `path`, each with its label of `labels` in the field
/// `label`, and hands them to `each`, numbered from 0; returns what `each` made
/// of them and the files.
///
/// # Errors
/// A file that cannot be read or is absurdly large; what is no record, with its
/// line; more or fewer labels than records; what `each` refuses, with its line.
pub(super) fn read<T>(
    path: &Path,
    labels: Option<&Path>,
    mut each: impl FnMut(usize, &Value) -> Result<T, String>,
) -> Result<(Vec<T>, Vec<DataFile>)> {
    let (file, mut files) = open(path)?;
    let labels = match labels {
        None => None,
        Some(path) => {
            let (file, data) = open(path)?;
            files.extend(data);
            let lines = lines(path, &file)?.into_iter().map(|(_, text)| text.to_owned());
            Some((path, lines.collect::<Vec<_>>()))
        }
    };
    let lines = lines(path, &file)?;
    if let Some((labels_path, labels)) = labels.as_ref().filter(|(_, l)| l.len() != lines.len()) {
        let message =
            format!("{} labels, but {} has {} records", labels.len(), path.display(), lines.len());
        return Err(Error::Data { path: labels_path.to_path_buf(), message });
    }
    let mut out = Vec::with_capacity(lines.len());
    for (index, (line, text)) in lines.into_iter().enumerate() {
        let refuse = |message: String| Error::Record { path: path.into(), line, message };
        let mut record: Value = serde_json::from_str(text).map_err(|e| {
            let (column, message) = (e.column(), e.to_string());
            let message = message.split(" at line ").next().unwrap_or_default();
            refuse(format!("column {column}: no JSON: {message}"))
        })?;
        let Value::Object(fields) = &mut record else {
            return Err(refuse("expected a record, found another JSON value".into()));
        };
        if let Some((labels_path, labels)) = &labels {
            let label = Value::String(labels[index].trim().to_owned());
            if fields.insert(LABEL.to_owned(), label).is_some() {
                let labels = labels_path.display();
                return Err(refuse(format!("has a field {LABEL:?}, and so does {labels}")));
            }
        }
        out.push(each(index, &record).map_err(refuse)?);
    }
    if out.is_empty() {
        return Err(Error::Data { path: path.into(), message: "no records".into() });
    }
    Ok((out, files))
}

/// Maps a file.
pub(super) fn open(path: &Path) -> Result<(MappedFile, Vec<DataFile>)> {
    let file = MappedFile::open(path)?;
    if file.len() > LARGEST {
        let message = format!("{} bytes, expected at most {LARGEST}", file.len());
        return Err(Error::Data { path: path.into(), message });
    }
    let data = DataFile { file: path.into(), digest: Digest::of_bytes(&file) };
    Ok((file, vec![data]))
}

/// The lines that are not blank, with their numbers from 1.
fn lines<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(usize, &'a str)>> {
    let mut out = Vec::new();
    for (index, bytes) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = index + 1;
        let refuse = |message: String| Error::Record { path: path.into(), line, message };
        if bytes.len() > LONGEST {
            let found = bytes.len();
            return Err(refuse(format!("a record of {found} bytes, expected at most {LONGEST}")));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| refuse(format!("not UTF-8 at offset {}", e.valid_up_to())))?;
        if !text.trim().is_empty() {
            out.push((line, text));
        }
    }
    Ok(out)
}
