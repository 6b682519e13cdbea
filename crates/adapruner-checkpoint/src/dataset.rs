//! Data sets of the hub: fetches a file once, and reads its records.

mod nesting;
mod rows;

use std::path::{Component, Path, PathBuf};

use serde::Serialize;

pub use self::rows::records;
use crate::open::is_hub_id;

/// Characters of a revision or of a file name, at most.
const LONGEST: usize = 256;

/// A file of a data set on the hub: the first of `files` that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubData {
    dataset: String,
    revision: String,
    files: Vec<String>,
}

/// A file that came from the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HubFile {
    /// The data set, `owner/name`.
    pub dataset: String,
    /// Its revision.
    pub revision: String,
    /// The file in it.
    pub file: String,
}

impl HubData {
    /// Names a file of data set `dataset`.
    ///
    /// # Errors
    /// A name that is no hub id, a revision or file that is no plain relative
    /// path, no file at all.
    pub fn new(dataset: &str, revision: &str, files: &[String]) -> Result<Self, String> {
        if !is_hub_id(dataset) {
            return Err(format!("dataset: expected owner/name, found {dataset:?}"));
        }
        if !is_plain(revision) {
            return Err(format!("revision: expected a branch or commit, found {revision:?}"));
        }
        if files.is_empty() {
            return Err("files: expected at least one".to_owned());
        }
        if let Some(odd) = files.iter().find(|file| !is_plain(file)) {
            return Err(format!("files: expected files of the data set, found {odd:?}"));
        }
        Ok(Self {
            dataset: dataset.to_owned(),
            revision: revision.to_owned(),
            files: files.to_vec(),
        })
    }

    /// The data set, `owner/name`.
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// The files, of which the first that is there is meant.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Fetches the file, or finds it in the hub's cache.
    ///
    /// # Errors
    /// The reason why there is none, for the caller's message.
    #[cfg(feature = "hub")]
    pub fn fetch(&self) -> Result<PathBuf, String> {
        crate::hub::data_file(&self.dataset, &self.revision, &self.files)
    }

    /// Fetches the file, or finds it in the hub's cache.
    ///
    /// # Errors
    /// Always: this build has no access to the hub.
    #[cfg(not(feature = "hub"))]
    pub fn fetch(&self) -> Result<PathBuf, String> {
        Err(format!("this build cannot fetch {} from the hub", self.dataset))
    }

    /// What `path`, which was fetched, is on the hub.
    pub fn origin(&self, path: &Path) -> HubFile {
        let file = self.files.iter().find(|file| path.ends_with(file)).unwrap_or(&self.files[0]);
        HubFile {
            dataset: self.dataset.clone(),
            revision: self.revision.clone(),
            file: file.clone(),
        }
    }
}

/// Whether a name leads nowhere but down, in the cache as on the hub.
fn is_plain(name: &str) -> bool {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "_-.+=/".contains(c));
    let down = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.is_empty()
        && name.len() <= LONGEST
        && !name.contains(odd)
        && !name.ends_with('/')
        && Path::new(name).components().all(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let set = |dataset: &str, revision: &str, file: &str| {
            HubData::new(dataset, revision, &[file.to_owned()])
        };
        let good = set("a/b", "refs/convert/parquet", "c/test/0000.parquet").unwrap();
        let found = good.origin(Path::new("cache/snapshots/1/c/test/0000.parquet"));
        assert_eq!((found.dataset.as_str(), found.file.as_str()), ("a/b", "c/test/0000.parquet"));
        for (dataset, revision, file, expected) in [
            ("b", "main", "f", "dataset: "),
            ("../b", "main", "f", "dataset: "),
            ("a/b", "", "f", "revision: "),
            ("a/b", "../../x", "f", "revision: "),
            ("a/b", "main", "/etc/passwd", "files: "),
            ("a/b", "main", "c/../../f", "files: "),
            ("a/b", "main", "f?x", "files: "),
            ("a/b", "main", "f/", "files: "),
        ] {
            let error = set(dataset, revision, file).unwrap_err();
            assert!(error.starts_with(expected), "{dataset} {revision} {file}: {error}");
        }
        assert!(HubData::new("a/b", "main", &[]).is_err());
    }
}
