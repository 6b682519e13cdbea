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
//! | `*.csv`, `*.tsv` | one column, named by the header | `\n\n` |
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
//!
//! # Memory
//!
//! A text is read and tokenised piece by piece; neither a line nor a document
//! nor the file is ever held whole. What is held, whatever the text's size:
//!
//! | | bytes |
//! |---|---|
//! | reading and tokenising | some tens of MiB (see [`TextTokenizer::encode_pieces`]) |
//! | content of up to 16 MiB | itself, once |
//! | content beyond | none: plain text stays in its file, other content goes to a temporary file without a name, as large as the text |
//! | of a document, or a paragraph where samples are drawn | 12, of at most 2²⁴ |
//! | of a token in a window or sample that is kept | 4 |
//! | of a token while samples or spread windows are chosen | 4, of at most 2²³ tokens; texts of more are tokenised twice |
//! | of a parquet file | the page that is read: about 1 MiB as it is usually written, at most 2 GiB (the format) and what the file may unpack to |
//!
//! The whole text is read for its digest and to see that it is well formed; it is
//! tokenised no further than the last window that is kept.

mod json;
mod lines;
mod named;
mod overlap;
mod parquet;
mod passage;
mod pieces;
mod sample;
mod store;
mod table;
mod tokens;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use json::records::{self, JsonRecord};
pub use named::SETS;
pub use passage::Passage;
pub use pieces::unpacked_name;
pub use tokens::{Cut, Source, TokenSet};

use self::{
    pieces::Pieces,
    store::{Form, Store, Writer},
};
#[cfg(doc)]
use crate::tokenizer::TextTokenizer;
use crate::{
    digest::Digest,
    error::{Error, Result},
};

/// The field or column that holds the text, unless another is named.
pub const DEFAULT_FIELD: &str = "text";

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
    /// The name in the original WikiText and PTB files.
    fn short_name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "valid",
            Self::Test => "test",
        }
    }
}

adapruner_choice::choice!(Split, "split", {
    Train => "train",
    Validation => "validation" | "valid",
    Test => "test",
});

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

/// A text as read, before any tokenizer: documents in order, or rows of token
/// ids as they were given. Clones share the content.
#[derive(Debug, Clone)]
pub struct Text {
    /// The file's name, or set and split (`wikitext2:test`).
    pub name: String,
    /// The files it was read from.
    pub files: Vec<PathBuf>,
    /// The digest of the content as read; the same content under another file
    /// name, or in another container, has the same digest.
    pub digest: Digest,
    store: Arc<Store>,
    /// Only so many documents make the text of perplexity; `None` for all.
    head: Option<usize>,
    /// What every window cut of it begins with.
    opening: Option<u32>,
}

impl Text {
    fn new(name: String, files: Vec<PathBuf>, store: Store, head: Option<usize>) -> Result<Self> {
        let text =
            Self { digest: store.digest, name, files, store: Arc::new(store), head, opening: None };
        if (0..text.len()).all(|document| text.store.is_blank(document)) {
            return Err(text.error("the text is empty"));
        }
        Ok(text)
    }

    /// The same text, cut into windows that each begin with `token` in place of their first
    /// own one; the tokenizer's special tokens then stand nowhere else. Given ids stay as they
    /// are.
    ///
    /// For models that were never run without BOS (`Family::opens_with_bos`).
    #[must_use]
    pub fn opened_by(self, token: Option<u32>) -> Self {
        let opening = token.filter(|_| self.store.form == Form::Text);
        Self { opening, ..self }
    }

    /// How many of a window's tokens are the text's own.
    fn own(&self, tokens: usize) -> usize {
        tokens.saturating_sub(usize::from(self.opening.is_some()))
    }

    /// Number of documents, or of rows of ids.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are none, which no text that was read is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands between two documents where they are made one text; `None`
    /// for token ids.
    pub fn joiner(&self) -> Option<&'static str> {
        match self.store.form {
            Form::Text => Some(self.store.joiner),
            Form::Ids => None,
        }
    }

    /// The documents; rows of ids are such too.
    pub fn passages(&self) -> impl Iterator<Item = Passage> {
        (0..self.len()).map(|document| self.passage(document))
    }

    fn passage(&self, document: usize) -> Passage {
        let blank = self.store.is_blank(document);
        Passage::new(&self.store, self.store.range(document), blank).special(self.opening.is_none())
    }

    /// A paragraph of plain text, by its first and last byte.
    fn paragraph(&self, (first, last): (u32, u32)) -> Passage {
        Passage::new(&self.store, first as usize..last as usize + 1, false)
            .special(self.opening.is_none())
    }

    /// All documents, joined.
    pub fn all(&self) -> Passage {
        Passage::new(&self.store, self.store.joined(self.len()), false)
            .special(self.opening.is_none())
    }

    /// Documents joined to the text of the perplexity protocol.
    fn joined(&self) -> Passage {
        let documents = match self.len() {
            1 => 1,
            all => self.head.unwrap_or(all).min(all),
        };
        Passage::new(&self.store, self.store.joined(documents), false)
            .special(self.opening.is_none())
    }

    /// An [`Error::Text`] for this text.
    fn error(&self, message: impl Into<String>) -> Error {
        let path = match self.files.as_slice() {
            [file] => file.clone(),
            _ => PathBuf::from(&self.name),
        };
        Error::Text { path, message: message.into() }
    }
}

/// Reads the text that `spec` names: one of [`SETS`], with or without a split
/// (`wikitext2`, `wikitext2:validation`), or else a file. A file or folder that
/// is called as a set is meant by `./ptb`.
///
/// # Errors
/// Neither a set nor a file; a file that is empty, too large, not UTF-8 (a byte
/// order mark is left out) or not in the format its name promises; a pipe or a
/// device; a split with a file; a set that is in neither place.
pub fn read(spec: impl AsRef<OsStr>, options: &TextOptions) -> Result<Text> {
    let spec = spec.as_ref();
    if let Some(name) = spec.to_str()
        && let Some((set, split)) = named::find(name, options.split)?
    {
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
            let field = options.field.as_deref().unwrap_or(DEFAULT_FIELD);
            let store = match Format::of(path)? {
                Format::Plain if !pieces::is_packed(path) => Store::of_file(path)?,
                Format::Plain
                | Format::WikiText
                | Format::Stripped
                | Format::Json
                | Format::Table { .. }
                | Format::Parquet => {
                    let mut collector = Collector::default();
                    read_file(path, field, &mut collector)?;
                    collector.finish()?
                }
            };
            let name = path.file_name().unwrap_or(spec).to_string_lossy().into_owned();
            Text::new(name, vec![path.into()], store, None)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(named::unknown(&spec.to_string_lossy()))
        }
        Err(e) => Err(Error::io(path, "open")(e)),
    }
}

/// What stands between the rows of a file.
const ROWS: &str = "\n\n";

/// What a file's name says of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    WikiText,
    Stripped,
    Json,
    Table { delimiter: u8 },
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        let name = unpacked_name(path);
        let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
        let wiki = stem.starts_with("wiki.") || stem.starts_with("wiki-");
        Ok(match extension {
            "bz2" | "xz" => {
                let error = Error::unsupported(path, format!("compressed text (.{extension})"));
                return Err(error.advise("unpack it first"));
            }
            "parquet" => Self::Parquet,
            "jsonl" | "ndjson" | "json" => Self::Json,
            "csv" => Self::Table { delimiter: b',' },
            "tsv" => Self::Table { delimiter: b'\t' },
            "raw" => Self::WikiText,
            "tokens" if wiki => Self::WikiText,
            "txt" if stem.starts_with("ptb.") => Self::Stripped,
            _ => Self::Plain,
        })
    }
}

/// Takes a file's content, in the format that its name says.
fn read_file(path: &Path, field: &str, to: &mut Collector) -> Result<()> {
    to.path = path.to_path_buf();
    match Format::of(path)? {
        Format::Parquet => parquet::documents(path, field, to.documents(ROWS)),
        Format::Json => json::content(Pieces::open(path)?, field, ROWS, to),
        Format::Table { delimiter } => {
            table::column(Pieces::open(path)?, delimiter, field, to.documents(ROWS))
        }
        Format::WikiText => lines::wikitext(Pieces::open(path)?, to.documents(ROWS)),
        Format::Stripped => lines::stripped(Pieces::open(path)?, to.documents(ROWS)),
        Format::Plain => {
            let (mut pieces, to) = (Pieces::open(path)?, to.documents(""));
            while pieces.load()? {
                to.push(pieces.piece())?;
            }
            to.end()
        }
    }
}

/// Takes the documents of one file or several.
#[derive(Default)]
struct Collector {
    path: PathBuf,
    /// Of a named set: what joins its documents, and its name.
    set: Option<(&'static str, String)>,
    writer: Option<Writer>,
}

impl Collector {
    /// Takes the documents of a named set.
    fn of_set(joiner: &'static str, name: &str) -> Self {
        Self { set: Some((joiner, name.to_owned())), ..Self::default() }
    }

    /// Where documents go, which are joined by `joiner` unless a set says
    /// otherwise.
    fn documents(&mut self, joiner: &'static str) -> &mut Writer {
        let joiner = self.set.as_ref().map_or(joiner, |(joiner, _)| joiner);
        let new = || Writer::new(&self.path, Form::Text, joiner);
        let writer = self.writer.get_or_insert_with(new);
        writer.now(&self.path);
        writer
    }

    /// Where token ids go.
    fn ids(&mut self) -> Result<&mut Writer> {
        if let Some((_, name)) = &self.set {
            let message = format!("token ids; expected the text of {name}");
            return Err(Error::format(&self.path, message));
        }
        Ok(self.writer.get_or_insert_with(|| Writer::new(&self.path, Form::Ids, "")))
    }

    fn finish(self) -> Result<Store> {
        let empty = Writer::new(&self.path, Form::Text, ROWS);
        self.writer.unwrap_or(empty).finish()
    }
}
