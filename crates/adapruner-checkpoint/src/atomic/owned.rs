//! Which files of a folder this program wrote: only those are replaced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    digest::Digest,
    error::{Error, Result},
    provenance::Provenance,
};

/// The file by which a folder is known to be an output of this program.
pub const MANIFEST: &str = "manifest.json";

/// What a training logs; manifests of version 0.1 do not name it.
const UNLISTED: &str = "training.jsonl";

/// Files that are named in an error.
const NAMED: usize = 5;

/// Refuses a folder that holds anything but what its manifest names, as it was
/// written.
///
/// # Errors
/// No manifest in a folder that is not empty, files that it does not name,
/// files that were changed since.
pub(super) fn check(folder: &Path) -> Result<()> {
    let mut found = Vec::new();
    list(folder, Path::new(""), &mut found).map_err(Error::io(folder, "read"))?;
    if found.is_empty() {
        return Ok(());
    }
    let refuse = |message: String| {
        Error::unsupported(folder, message)
            .advise("give another --out, or remove or move the folder yourself")
    };
    let Some(record) = Provenance::read(folder)? else {
        return Err(refuse(
            "has no manifest.json: not an output of this program, and not replaced".to_owned(),
        ));
    };
    let ours: BTreeMap<PathBuf, Digest> =
        record.files.iter().map(|file| (PathBuf::from(&file.name), file.digest)).collect();
    let foreign: Vec<&PathBuf> = found
        .iter()
        .filter(|path| {
            !ours.contains_key(*path)
                && path.as_path() != Path::new(MANIFEST)
                && path.as_path() != Path::new(UNLISTED)
        })
        .collect();
    if !foreign.is_empty() {
        let message = format!(
            "holds what its manifest.json does not name, and is not replaced: {}",
            named(&foreign)
        );
        return Err(refuse(message));
    }
    let mut changed = Vec::new();
    for path in found.iter().filter(|path| ours.contains_key(*path)) {
        // The threads of this process are not set up yet.
        if Digest::of_file_alone(&folder.join(path))? != ours[path] {
            changed.push(path);
        }
    }
    if !changed.is_empty() {
        let message =
            format!("was changed since it was written, and is not replaced: {}", named(&changed));
        return Err(refuse(message));
    }
    Ok(())
}

fn named(paths: &[&PathBuf]) -> String {
    let shown: Vec<String> =
        paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    match paths.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        Some(0) | None => shown.join(", "),
    }
}

/// Everything below `folder` but folders that hold something, by path in it.
fn list(folder: &Path, below: &Path, to: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            let before = to.len();
            list(folder, &path, to)?;
            if to.len() > before {
                continue;
            }
        }
        to.push(path);
    }
    Ok(())
}
