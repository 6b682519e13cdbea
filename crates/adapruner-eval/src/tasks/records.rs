//! Records of a data set: JSON, one per line, or rows of a parquet file, with labels from a
//! separate file if the data set has one.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{
    Digest,
    dataset::{self, HubFile},
    input,
    mapped::MappedFile,
};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Bytes of a record, at most.
const LONGEST: usize = 4 << 20;
/// Records of a file, at most.
const MOST: usize = 1 << 20;
/// Field that a label becomes.
const LABEL: &str = "label";

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Where it stands.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub file: PathBuf,
    /// Digest of its bytes.
    pub digest: Digest,
    /// What it is on the hub, where it came from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubFile>,
}

/// Where records stand.
pub(super) struct Source<'a> {
    /// The file.
    pub path: PathBuf,
    /// The file of their labels, which become the field `label`.
    pub labels: Option<PathBuf>,
    /// The fields that are read.
    pub columns: Vec<&'a str>,
    /// What the file is on the hub, where it came from there.
    pub hub: Option<HubFile>,
}

/// Reads records and hands them to `each`, numbered from 0; returns what `each`
/// made of them and the files.
///
/// # Errors
/// A file that cannot be read or is absurdly large; what is no record, with its
/// line; more or fewer labels than records; what `each` refuses, with its line
/// or row.
pub(super) fn read<T>(
    source: &Source<'_>,
    mut each: impl FnMut(usize, &Value) -> Result<T, String>,
) -> Result<(Vec<T>, Vec<DataFile>)> {
    let path = source.path.as_path();
    let (file, mut data) = open(path)?;
    data.hub.clone_from(&source.hub);
    let labels = source.labels.as_deref().map(Labels::read).transpose()?;
    let files: Vec<DataFile> =
        [data].into_iter().chain(labels.iter().map(|labels| labels.file.clone())).collect();
    let mut out = Vec::new();
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let given = |column: &&str| labels.is_none() || *column != LABEL;
        let columns: Vec<&str> = source.columns.iter().copied().filter(given).collect();
        let records = dataset::records(path, &columns)?;
        labels.as_ref().map_or(Ok(()), |labels| labels.check(records.len(), path))?;
        for (row, mut record) in records.into_iter().enumerate() {
            let refuse = |message: String| Error::Row { path: path.into(), row, message };
            labels.as_ref().map_or(Ok(()), |l| l.join(row, &mut record)).map_err(refuse)?;
            out.push(each(row, &record).map_err(refuse)?);
        }
    } else {
        let lines = lines(path, &file)?;
        labels.as_ref().map_or(Ok(()), |labels| labels.check(lines.len(), path))?;
        for (index, (line, text)) in lines.into_iter().enumerate() {
            let refuse = |message: String| Error::Record { path: path.into(), line, message };
            let mut record: Value = serde_json::from_str(text).map_err(|e| {
                let (column, message) = (e.column(), e.to_string());
                let message = message.split(" at line ").next().unwrap_or_default();
                refuse(format!("column {column}: no JSON: {message}"))
            })?;
            if !record.is_object() {
                return Err(refuse("expected a record, found another JSON value".into()));
            }
            labels.as_ref().map_or(Ok(()), |l| l.join(index, &mut record)).map_err(refuse)?;
            out.push(each(index, &record).map_err(refuse)?);
        }
    }
    if out.is_empty() {
        return Err(Error::Data { path: path.into(), message: "no records".into() });
    }
    Ok((out, files))
}

/// Labels that stand in a file of their own, one a line.
struct Labels {
    file: DataFile,
    labels: Vec<String>,
}

impl Labels {
    fn read(path: &Path) -> Result<Self> {
        let (bytes, file) = open(path)?;
        let labels = lines(path, &bytes)?.into_iter().map(|(_, text)| text.trim().to_owned());
        Ok(Self { file, labels: labels.collect() })
    }

    /// Whether there are as many as there are records.
    fn check(&self, records: usize, path: &Path) -> Result<()> {
        let found = self.labels.len();
        if found == records {
            return Ok(());
        }
        let message = format!("{found} labels, but {} has {records} records", path.display());
        Err(Error::Data { path: self.file.file.clone(), message })
    }

    /// Gives a record its label.
    fn join(&self, index: usize, record: &mut Value) -> Result<(), String> {
        let Value::Object(fields) = record else {
            return Err("expected a record".to_owned());
        };
        let label = Value::String(self.labels[index].clone());
        match fields.insert(LABEL.to_owned(), label) {
            None => Ok(()),
            Some(_) => {
                let labels = self.file.file.display();
                Err(format!("has a field {LABEL:?}, and so does {labels}"))
            }
        }
    }
}

/// Maps a file.
pub(super) fn open(path: &Path) -> Result<(MappedFile, DataFile)> {
    let file = MappedFile::open_capped(path, input::TASK_DATA)?;
    let data = DataFile { file: path.into(), digest: file.digest(), hub: None };
    Ok((file, data))
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
            if out.len() == MOST {
                return Err(refuse(format!("more than {MOST} records")));
            }
            out.push((line, text));
        }
    }
    Ok(out)
}
