//! The harness's `wikitext` task: log-likelihood of whole articles, over words and bytes of the
//! original article.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::dataset::HubData;
use serde::Serialize;

use super::{
    DataFile, pystr,
    records::{self, Source},
};
use crate::error::{Error, Result};

/// Name of the task.
pub const NAME: &str = "wikitext";
/// Version of the task.
pub const VERSION: f64 = 2.0;
/// Where the test split may stand in the data folder.
const FILES: [&str; 3] =
    ["wikitext2_raw/wiki.test.raw", "wikitext-2-raw/wiki.test.raw", "wiki.test.raw"];

/// The hub's copy, whose rows are the lines of the original.
const DATASET: &str = "Salesforce/wikitext";
/// Its file of the test split.
const ROWS: &str = "wikitext-2-raw-v1/test-00000-of-00001.parquet";
/// Its only column.
const COLUMN: &str = "text";

/// An article.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// What is scored: the article in ordinary spelling.
    pub text: String,
    /// Words of the original article.
    pub words: u64,
    /// Bytes of the original article.
    pub bytes: u64,
}

impl Page {
    fn of(page: &str) -> Self {
        Self { text: detokenised(page), words: words(page), bytes: page.len() as u64 }
    }
}

/// Reads the articles of the test split: its original file in the folder, else
/// the rows of the hub's copy.
///
/// # Errors
/// Neither of them; a file that is no text.
pub fn pages(data_dir: Option<&Path>) -> Result<(Vec<Page>, Vec<DataFile>)> {
    pages_with(data_dir, &HubData::fetch)
}

/// As [`pages`], with another way to fetch what is on the hub.
///
/// # Errors
/// As [`pages`]; where `fetch` gives a reason, it is in the message.
pub fn pages_with(
    data_dir: Option<&Path>,
    fetch: &dyn Fn(&HubData) -> Result<PathBuf, String>,
) -> Result<(Vec<Page>, Vec<DataFile>)> {
    let (text, files) = match original(data_dir) {
        Ok(path) => {
            let (file, data) = records::open(&path)?;
            let text = std::str::from_utf8(&file).map_err(|e| Error::Data {
                path: path.clone(),
                message: format!("not UTF-8 at offset {}", e.valid_up_to()),
            })?;
            (text.to_owned(), vec![data])
        }
        Err(absent) => hub_copy(&absent, fetch)?,
    };
    Ok((articles(&text).iter().map(|page| Page::of(page)).collect(), files))
}

/// The original file; else what was looked for.
fn original(data_dir: Option<&Path>) -> Result<PathBuf, String> {
    let Some(folder) = data_dir else {
        return Err(format!("no data folder was given in which to look for {}", FILES[0]));
    };
    FILES.iter().map(|file| folder.join(file)).find(|path| path.is_file()).ok_or_else(|| {
        format!("no data: there is no {} in {}", FILES.join(", no "), folder.display())
    })
}

/// The hub's rows, a line each, as the text of the original file.
fn hub_copy(
    absent: &str,
    fetch: &dyn Fn(&HubData) -> Result<PathBuf, String>,
) -> Result<(String, Vec<DataFile>)> {
    let fail = |message| Error::Task { task: NAME.into(), message };
    let data = HubData::new(DATASET, "main", &[ROWS.to_owned()]).map_err(fail)?;
    let path = fetch(&data).map_err(|reason| fail(format!("{absent}, and {reason}")))?;
    let hub = Some(data.origin(&path));
    let source = Source { path, labels: None, columns: vec![COLUMN], hub };
    let (lines, files) = records::read(&source, |_, row| match row[COLUMN].as_str() {
        // The copy has taken the space of blank lines away.
        Some("") => Ok(" \n".to_owned()),
        Some(line) => Ok(line.to_owned()),
        None => Err(format!("{COLUMN}: expected text, found none")),
    })?;
    Ok((lines.concat(), files))
}

/// Cuts a split into articles, which begin with ` = Title = `.
pub fn articles(text: &str) -> Vec<String> {
    // As Python reads text.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut pages = Vec::new();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        let heading = line.replace("= = =", "===").replace("= =", "==");
        let heading = pystr::strip(&heading);
        if heading.starts_with("= ") && heading.ends_with(" =") {
            let page = lines.join("\n");
            if !pystr::strip(&page).is_empty() {
                pages.push(page);
            }
            lines.clear();
        }
        lines.push(line);
    }
    pages.push(lines.join("\n"));
    pages
}

/// Pieces between runs of white space, empty ones at the ends among them.
fn words(page: &str) -> u64 {
    let (mut words, mut within) = (1, true);
    for c in page.chars() {
        let space = pystr::is_space(c);
        words += u64::from(space && within);
        within = !space;
    }
    words
}

/// The text without the marks of WikiText's tokenisation, as the harness takes
/// them away (its odd cases among them).
pub fn detokenised(page: &str) -> String {
    let mut text = page.replace("s '", "s'");
    text = quoted_digits(&text);
    for (from, to) in [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ] {
        text = text.replace(from, to);
    }
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        text = tightened(&text, open, close);
    }
    for (from, to) in [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// `/' 5/` becomes the harness's literal `/'[0-9]/`.
fn quoted_digits(text: &str) -> String {
    const OPEN: &str = "/' ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut behind = rest[OPEN.len()..].chars();
        let digit = behind.next().is_some_and(|c| c.is_ascii_digit());
        if digit && behind.next() == Some('/') {
            out.push_str("/'[0-9]/");
            rest = &rest[OPEN.len() + 2..];
        } else {
            out.push('/');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Without white space behind `open` and before the `close` that follows it.
fn tightened(text: &str, open: char, close: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once(open) {
        let Some((within, after)) = inside.split_once(close) else { break };
        out.push_str(before);
        out.push(open);
        out.push_str(pystr::strip(within));
        out.push(close);
        rest = after;
    }
    out.push_str(rest);
    out
}
