//! The sets that the literature measures on, by name: from a local folder under
//! their original file names or the Hugging Face ones, else from the hub.

use std::path::{Path, PathBuf};

use super::{Collector, DEFAULT_FIELD, Split, Text, TextOptions, read_file};
use crate::error::{Error, Result};

const PLACES_HINT: &str = "give --data-dir (or ADAPRUNER_DATA), the folder with the original \
                           files, or connect to the hub";

/// A named set.
///
/// In file names `{hf}` stands for the split as Hugging Face calls it, `{short}`
/// for the same with `valid`; one `*` stands for anything.
#[derive(Debug)]
pub struct Set {
    /// Its name on the command line.
    pub name: &'static str,
    /// The split that the literature reports.
    pub default_split: Split,
    /// The splits it has.
    pub splits: &'static [Split],
    /// The data set on the hub.
    pub hub: &'static str,
    /// The revision that has parquet files.
    pub revision: &'static str,
    /// The files of a split on the hub, the first that is there.
    remote: &'static [&'static str],
    /// Folders of the data folder that belong to the set.
    folders: &'static [&'static str],
    /// Original names, looked for in the data folder itself too.
    originals: &'static [&'static str],
    /// Names that say nothing outside the set's own folders.
    generic: &'static [&'static str],
    /// Public excerpts of a split, taken where the split itself is missing.
    excerpts: &'static [(Split, &'static str)],
    /// The column of its parquet files, the field of its records.
    field: &'static str,
    joiner: &'static str,
    /// Whether the first file stands for a split of many.
    first_file: bool,
    /// See [`Text::head`].
    head: Option<usize>,
    suggestion: &'static str,
}

const ALL: &[Split] = &[Split::Train, Split::Validation, Split::Test];
const PARQUET: &[&str] = &["{hf}-*.parquet", "{hf}/*.parquet"];

/// The named sets.
///
/// - `wikitext2`: WikiText-2 raw; the test split unless said otherwise.
/// - `ptb`: Penn Treebank in Mikolov's form; the validation split.
/// - `c4`: the first file of C4's English validation split. Its first 1100
///   documents, joined by spaces, are the text of perplexity (as in GPTQ and its
///   successors); calibration draws from all of the file.
pub static SETS: [Set; 3] = [
    Set {
        name: "wikitext2",
        default_split: Split::Test,
        splits: ALL,
        hub: "Salesforce/wikitext",
        revision: "main",
        remote: &["wikitext-2-raw-v1/{hf}-00000-of-00001.parquet"],
        folders: &[
            "wikitext2_raw",
            "wikitext-2-raw",
            "wikitext-2-raw-v1",
            "wikitext/wikitext-2-raw-v1",
            "wikitext2",
            "wikitext-2",
        ],
        originals: &["wiki.{short}.raw"],
        generic: PARQUET,
        excerpts: &[],
        field: DEFAULT_FIELD,
        joiner: "\n\n",
        first_file: false,
        head: None,
        suggestion: "did you mean wikitext2?",
    },
    Set {
        name: "ptb",
        default_split: Split::Validation,
        splits: ALL,
        hub: "ptb-text-only/ptb_text_only",
        revision: "refs/convert/parquet",
        remote: &["penn_treebank/{hf}/0000.parquet"],
        folders: &["ptb", "penn_treebank", "ptb_text_only/penn_treebank", "simple-examples/data"],
        originals: &["ptb.{short}.txt"],
        generic: PARQUET,
        excerpts: &[],
        field: "sentence",
        joiner: "\n\n",
        first_file: false,
        head: None,
        suggestion: "did you mean ptb?",
    },
    Set {
        name: "c4",
        default_split: Split::Validation,
        splits: &[Split::Train, Split::Validation],
        hub: "allenai/c4",
        revision: "refs/convert/parquet",
        remote: &["en/{hf}/0000.parquet", "en/partial-{hf}/0000.parquet"],
        folders: &["c4", "c4/en", "en"],
        originals: &["c4-{hf}.*.json", "c4-{hf}.json", "c4-{hf}.*.json.gz"],
        generic: PARQUET,
        excerpts: &[(Split::Validation, "c4_pf_decoding.jsonl"), (Split::Train, "c4_demo.jsonl")],
        field: DEFAULT_FIELD,
        joiner: " ",
        first_file: true,
        head: Some(1100),
        suggestion: "did you mean c4?",
    },
];

/// The set and split that `spec` names; `None` where it names no set.
pub(super) fn find(spec: &str, given: Option<Split>) -> Result<Option<(&'static Set, Split)>> {
    let (name, suffix) = match spec.split_once(':') {
        Some((name, suffix)) => (name, Some(suffix)),
        None => (spec, None),
    };
    let Some(set) = SETS.iter().find(|set| set.name == name) else { return Ok(None) };
    let fail = |message| Error::NotFound { name: spec.to_owned(), message };
    let suffix =
        suffix.map(str::parse::<Split>).transpose().map_err(|unknown| fail(unknown.to_string()))?;
    let split = match (suffix, given) {
        (Some(suffix), Some(given)) if suffix != given => {
            return Err(fail(format!("the name says {suffix}, the split is given as {given}")));
        }
        (suffix, given) => suffix.or(given).unwrap_or(set.default_split),
    };
    if !set.splits.contains(&split) {
        let splits: Vec<&str> = set.splits.iter().map(|s| s.name()).collect();
        return Err(fail(format!("{name} has no {split} split; it has {}", splits.join(", "))));
    }
    Ok(Some((set, split)))
}

/// Reads a split of a set from wherever it is.
pub(super) fn read(set: &Set, split: Split, options: &TextOptions) -> Result<Text> {
    read_by(set, split, options, fetch)
}

#[cfg(feature = "hub")]
fn fetch(set: &Set, files: &[String]) -> Result<PathBuf, String> {
    crate::hub::data_file(set.hub, set.revision, files)
}

#[cfg(not(feature = "hub"))]
fn fetch(set: &Set, _files: &[String]) -> Result<PathBuf, String> {
    Err(format!("this build cannot fetch {} from the hub", set.hub))
}

fn read_by(
    set: &Set,
    split: Split,
    options: &TextOptions,
    fetch: impl Fn(&Set, &[String]) -> Result<PathBuf, String>,
) -> Result<Text> {
    let mut name = format!("{}:{split}", set.name);
    let local = options.data_dir.as_deref().map(|dir| local(set, split, dir)).transpose()?;
    let (local, looked_for) = local.map_or_else(
        || (None, "no data folder was given".to_owned()),
        |(files, looked_for)| (files, looked_for),
    );
    let files = match local {
        Some(Local::Split(files)) => files,
        Some(Local::Excerpt(file)) => {
            let excerpt = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tracing::warn!("{name}: the split is missing; using {excerpt}, an excerpt");
            name = format!("{name} (excerpt {excerpt})");
            vec![file]
        }
        None => {
            let remote: Vec<String> = set.remote.iter().map(|p| fill(p, split)).collect();
            let file = fetch(set, &remote).map_err(|reason| {
                let message = format!("{looked_for}, and {reason}");
                Error::NotFound { name: name.clone(), message }.advise(PLACES_HINT)
            })?;
            vec![file]
        }
    };
    let field = options.field.as_deref().unwrap_or(set.field);
    let mut collector = Collector::of_set(set.joiner, &name);
    for file in &files {
        read_file(file, field, &mut collector)?;
    }
    Text::new(name, files, collector.finish()?, set.head)
}

/// A file name with the split filled in.
fn fill(pattern: &str, split: Split) -> String {
    pattern.replace("{hf}", split.name()).replace("{short}", split.short_name())
}

/// What the data folder has of a split.
enum Local {
    Split(Vec<PathBuf>),
    Excerpt(PathBuf),
}

/// Looks for a split in the data folder; what was looked for, for the error.
fn local(set: &Set, split: Split, dir: &Path) -> Result<(Option<Local>, String)> {
    std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let own = set.folders.iter().map(|folder| dir.join(folder));
    let places: Vec<PathBuf> = own.chain([dir.to_path_buf()]).collect();
    let originals = set.originals.iter().map(|pattern| (pattern, places.as_slice()));
    let generic = set.generic.iter().map(|pattern| (pattern, &places[..set.folders.len()]));
    for (pattern, places) in originals.chain(generic) {
        for place in places {
            let mut files = matching(place, &fill(pattern, split))?;
            if set.first_file {
                files.truncate(1);
            }
            if !files.is_empty() {
                return Ok((Some(Local::Split(files)), String::new()));
            }
        }
    }
    for (_, name) in set.excerpts.iter().filter(|(of, _)| *of == split) {
        if let Some(file) = places.iter().map(|place| place.join(name)).find(|f| f.is_file()) {
            return Ok((Some(Local::Excerpt(file)), String::new()));
        }
    }
    let names: Vec<String> =
        set.originals.iter().chain(set.generic).map(|pattern| fill(pattern, split)).collect();
    let looked_for = format!(
        "{} has no {} (also not in {})",
        dir.display(),
        names.join(", "),
        set.folders.join(", ")
    );
    Ok((None, looked_for))
}

/// The files of a folder whose names fit a pattern with at most one `*`, sorted.
fn matching(place: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let (folder, pattern) = match pattern.rsplit_once('/') {
        Some((folder, pattern)) => (place.join(folder), pattern),
        None => (place.to_path_buf(), pattern),
    };
    let Some((start, end)) = pattern.split_once('*') else {
        let file = folder.join(pattern);
        return Ok(if file.is_file() { vec![file] } else { Vec::new() });
    };
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&folder, "read"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        if middle.is_some() && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The error for what is neither a file nor a set.
pub(super) fn unknown(spec: &str) -> Error {
    let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
    let message = format!("no such file, and no known set; the sets: {}", names.join(", "));
    let error = Error::NotFound { name: spec.to_owned(), message };
    match nearest(spec) {
        Some(set) => error.advise(set.suggestion),
        None => error,
    }
}

/// The set that was meant, if the name is near to one.
fn nearest(spec: &str) -> Option<&'static Set> {
    let name = spec.split(':').next().unwrap_or_default();
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).take(32).collect::<String>();
    let name = name.to_ascii_lowercase();
    let far = |set: &&Set| distance(&name, set.name);
    let set = SETS.iter().min_by_key(far)?;
    (distance(&name, set.name) <= set.name.len() / 3).then_some(set)
}

/// The edit distance of two short ASCII words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
