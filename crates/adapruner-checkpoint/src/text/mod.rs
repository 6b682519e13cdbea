//! Text files and named sets as token windows.
//!
//! [`read`] turns a path or the name of a set into a [`Text`]: documents with
//! the string that joins them, or token ids as another program wrote them. A
//! [`TokenSet`] is cut from it, either by [`TokenSet::windows`] (perplexity) or
//! by [`TokenSet::samples`] (calibration).
//!
//! | what is read | documents | joined by |
//! |---|---|---|
//! | any other file | the file, as one | |
//! | `*.raw`, `wiki.*.tokens` | lines; a blank one is empty, the others keep their `\n` | `\n\n` |
//! | `ptb.*.txt` | lines, stripped | `\n\n` |
//! | `*.jsonl`, `*.ndjson`, `*.json` | one field of every record | `\n\n` |
//! | `*.parquet` | one column of strings | `\n\n` |
//! | any of these but parquet, `.gz` or `.zst` after its name | as without | as without |
//! | `*.json` that holds integers | none: token ids, one row a document | |
//! | `wikitext2`, `ptb`, `c4` | see [`SETS`] | `\n\n`; `c4` by a space |
//!
//! The WikiText and PTB forms give the rows that the Hugging Face data sets
//! hold, so that the joined text is the one of the literature.

mod json;
mod lines;
mod named;
mod overlap;
mod parquet;
mod sample;
mod tokens;
mod unpack;

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

pub use named::SETS;
pub use tokens::{Cut, Source, TokenSet};
pub use unpack::{Bytes, unpacked_name};

use crate::{
    digest::Digest,
    error::{Error, Result},
};

/// The field or column that holds the text, unless another is named.
pub const DEFAULT_FIELD: &str = "text";
/// What is read whole at the most: more is no calibration or evaluation text.
const MAX_BYTES: u64 = 4 << 30;

/// A part of a named set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The part that models are trained on.
    Train,
    /// The part for choices made during development.
    Validation,
    /// The part for the figures that are reported.
    Test,
}

impl Split {
    /// The name that Hugging Face data sets use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The name in the original WikiText and PTB files.
    fn short_name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "valid",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "train" => Ok(Self::Train),
            "validation" | "valid" => Ok(Self::Validation),
            "test" => Ok(Self::Test),
            _ => Err(format!("unknown split {name:?}: expected train, validation or test")),
        }
    }
}

/// How a text is to be read.
#[derive(Debug, Clone, Default)]
pub struct TextOptions {
    /// The field of JSON records or the parquet column that holds the text;
    /// [`DEFAULT_FIELD`] unless given. Other formats have no fields.
    pub field: Option<String>,
    /// The folder in which named sets are looked for before the hub is asked.
    pub data_dir: Option<PathBuf>,
    /// The split of a named set; a suffix of the name (`ptb:test`) says the same.
    pub split: Option<Split>,
}

/// A text as read, before any tokenizer.
#[derive(Debug, Clone)]
pub struct Text {
    /// The file's name, or set and split (`wikitext2:test`).
    pub name: String,
    /// The files it was read from.
    pub files: Vec<PathBuf>,
    /// What was read.
    pub content: Content,
    /// The digest of the content as read; the same content under another file
    /// name, or in another container, has the same digest.
    pub digest: Digest,
    /// Only so many documents make the text of perplexity; `None` for all.
    pub(crate) head: Option<usize>,
}

/// What a text consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Documents in order.
    Documents {
        /// The documents; some may be empty.
        documents: Vec<String>,
        /// What stands between two documents where they are made one text.
        joiner: &'static str,
    },
    /// Token ids as they were given, a document a row.
    Ids(Vec<Vec<u32>>),
}

impl Content {
    fn digest(&self) -> Digest {
        match self {
            Self::Documents { documents, joiner } => {
                let documents = documents.iter().map(|d| ("document", d.as_bytes()));
                Digest::of_parts([("joiner", joiner.as_bytes())].into_iter().chain(documents))
            }
            Self::Ids(rows) => tokens::digest(rows),
        }
    }

    /// Whether there is nothing in it but white space.
    fn is_blank(&self) -> bool {
        match self {
            Self::Documents { documents, .. } => documents.iter().all(|d| d.trim().is_empty()),
            Self::Ids(rows) => rows.iter().all(Vec::is_empty),
        }
    }
}

impl Text {
    fn new(
        name: String,
        files: Vec<PathBuf>,
        content: Content,
        head: Option<usize>,
    ) -> Result<Self> {
        let text = Self { digest: content.digest(), name, files, content, head };
        if text.content.is_blank() {
            return Err(text.error("the text is empty"));
        }
        Ok(text)
    }

    /// An [`Error::Text`] for this text.
    fn error(&self, message: impl Into<String>) -> Error {
        let path = match self.files.as_slice() {
            [file] => file.clone(),
            _ => PathBuf::from(&self.name),
        };
        Error::Text { path, message: message.into() }
    }

    /// Documents joined to the text of the perplexity protocol.
    fn joined<'a>(&self, documents: &'a [String], joiner: &str) -> Cow<'a, str> {
        let head = self.head.unwrap_or(documents.len()).min(documents.len());
        match documents {
            [document] => Cow::Borrowed(document),
            documents => Cow::Owned(documents[..head].join(joiner)),
        }
    }
}

/// Reads the text that `spec` names: one of [`SETS`], with or without a split
/// (`wikitext2`, `wikitext2:validation`), or else a file. A file or folder that
/// is called as a set is meant by `./ptb`.
///
/// # Errors
/// Neither a set nor a file; a file that is empty, too large, not UTF-8 (a byte
/// order mark is left out) or not in the format its name promises; a split
/// with a file; a set that is in neither place.
pub fn read(spec: &str, options: &TextOptions) -> Result<Text> {
    if let Some((set, split)) = named::find(spec, options.split)? {
        return named::read(set, split, options);
    }
    let path = Path::new(spec);
    match std::fs::metadata(path) {
        Ok(_) if options.split.is_some() => {
            let message = "a file has no splits".to_owned();
            let error = Error::Text { path: path.into(), message };
            Err(error.advise("give the file of that split, or the name of a set"))
        }
        Ok(metadata) if metadata.is_dir() => {
            let error = Error::Text { path: path.into(), message: "a folder, not a text".into() };
            Err(error.advise("give a file in it, or a set's name with the folder as --data-dir"))
        }
        Ok(_) => {
            let content = read_file(path, options.field.as_deref().unwrap_or(DEFAULT_FIELD))?;
            let name = path.file_name().map_or_else(|| spec.into(), |n| n.to_string_lossy());
            Text::new(name.into_owned(), vec![path.into()], content, None)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(named::unknown(spec)),
        Err(e) => Err(Error::io(path, "open")(e)),
    }
}

/// A file's content, in the format that its name says.
fn read_file(path: &Path, field: &str) -> Result<Content> {
    const ROWS: &str = "\n\n";
    let name = unpacked_name(path);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
    if extension == "bz2" || extension == "xz" {
        let error = Error::unsupported(path, format!("compressed text (.{extension})"));
        return Err(error.advise("unpack it first"));
    }
    if extension == "parquet" {
        let documents = parquet::documents(path, field)?;
        return Ok(Content::Documents { documents, joiner: ROWS });
    }
    let bytes = Bytes::open(path)?;
    let text = utf8(path, &bytes)?;
    let wiki = stem.starts_with("wiki.") || stem.starts_with("wiki-");
    let ptb = stem.starts_with("ptb.") && extension == "txt";
    Ok(match extension {
        "jsonl" | "ndjson" | "json" => json::content(path, text, field, ROWS)?,
        "raw" => Content::Documents { documents: lines::wikitext(text), joiner: ROWS },
        "tokens" if wiki => Content::Documents { documents: lines::wikitext(text), joiner: ROWS },
        _ if ptb => Content::Documents { documents: lines::stripped(text), joiner: ROWS },
        _ => Content::Documents { documents: vec![text.to_owned()], joiner: "" },
    })
}

fn check_size(path: &Path) -> Result<()> {
    let bytes = std::fs::metadata(path).map_err(Error::io(path, "open"))?.len();
    if bytes > MAX_BYTES {
        let message = format!("{bytes} bytes: at most {MAX_BYTES} are read as one text");
        let error = Error::Text { path: path.into(), message };
        return Err(error.advise("give a part of it"));
    }
    Ok(())
}

/// The text of a file, without a byte order mark.
fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::format(path, "UTF-16 text").advise("convert it to UTF-8"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let message = format!("not UTF-8: byte {:#04x} at offset {at}", bytes[at]);
        Error::format(path, message).advise("convert it to UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
