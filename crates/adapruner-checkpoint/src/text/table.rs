//! A column of a table: comma- or tab-separated values with a header (RFC 4180).
//!
//! A cell may be of any length; it goes to the store part by part.

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

use super::{
    pieces::{PIECE, Pieces, whole_characters},
    store::Writer,
};
use crate::error::{Error, Result};

/// Column names that an error lists at most.
const LISTED: usize = 8;
/// Bytes of the header, at most.
const HEADER: usize = 1 << 20;

/// The cells of the column `field`, in order.
///
/// # Errors
/// A header without the column; a row with more or fewer cells than the header,
/// by its line.
pub(super) fn column(
    mut pieces: Pieces,
    delimiter: u8,
    field: &str,
    to: &mut Writer,
) -> Result<()> {
    let mut table = Table {
        field,
        reader: ReaderBuilder::new().delimiter(delimiter).build(),
        header: Vec::new(),
        name: String::new(),
        wanted: None,
        at: 0,
        line: 1,
        cut: Vec::new(),
    };
    let mut out = vec![0; PIECE];
    loop {
        let more = pieces.load()?;
        let mut input = pieces.piece().as_bytes();
        loop {
            let (result, read, written) = table.reader.read_field(input, &mut out);
            input = &input[read..];
            table.part(&pieces, &out[..written], to)?;
            match result {
                ReadFieldResult::InputEmpty if more => break,
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::Field { record_end } => table.end_cell(&pieces, record_end, to)?,
                ReadFieldResult::End => return table.end(&pieces),
            }
        }
    }
}

/// A table while it is read.
struct Table<'a> {
    field: &'a str,
    reader: Reader,
    /// Names of columns, to list them.
    header: Vec<String>,
    /// The name that is read.
    name: String,
    /// Place of the column, and number of columns, once the header is read.
    wanted: Option<(usize, usize)>,
    /// Place of the cell that is read.
    at: usize,
    /// The line in which its row begins.
    line: u64,
    /// The first bytes of a character whose other bytes come next.
    cut: Vec<u8>,
}

impl Table<'_> {
    fn refuse(&self, pieces: &Pieces, message: String) -> Error {
        Error::format(pieces.path(), format!("line {}: {message}", self.line))
    }

    /// A part of a cell.
    fn part(&mut self, pieces: &Pieces, bytes: &[u8], to: &mut Writer) -> Result<()> {
        let Some((wanted, _)) = self.wanted else {
            self.cut.extend_from_slice(bytes);
            if self.name.len() + self.cut.len() > HEADER {
                return Err(self.refuse(pieces, format!("a header of more than {HEADER} bytes")));
            }
            return Ok(());
        };
        if self.at != wanted {
            return Ok(());
        }
        self.cut.extend_from_slice(bytes);
        let whole = whole_characters(&self.cut);
        let text = std::str::from_utf8(&self.cut[..whole]);
        // The file is UTF-8, and cells are cut at single characters of ASCII.
        let text = text.map_err(|_| self.refuse(pieces, "not UTF-8".into()))?;
        to.push(text)?;
        self.cut.drain(..whole);
        Ok(())
    }

    fn end_cell(&mut self, pieces: &Pieces, last: bool, to: &mut Writer) -> Result<()> {
        self.at += 1;
        match self.wanted {
            None => {
                let name = String::from_utf8_lossy(&self.cut).into_owned();
                self.name.push_str(&name);
                self.cut.clear();
                self.header.push(name);
            }
            Some((_, columns)) if self.at > columns || (last && self.at < columns) => {
                let found = self.at;
                let more = if last { "" } else { " or more" };
                let message = format!("{found} cells{more}, the header has {columns}");
                return Err(self.refuse(pieces, message));
            }
            Some(_) => {}
        }
        if last {
            match self.wanted {
                None => self.end_header(pieces)?,
                Some(_) => to.end()?,
            }
            self.at = 0;
            self.line = self.reader.line();
        }
        Ok(())
    }

    fn end_header(&mut self, pieces: &Pieces) -> Result<()> {
        let field = self.field;
        let place = self.header.iter().position(|name| name.trim() == field);
        let columns = self.header.len();
        let Some(place) = place else {
            let names = self.header.iter().take(LISTED).map(|name| format!("{name:?}"));
            let names = names.collect::<Vec<_>>().join(", ");
            let error = self.refuse(pieces, format!("no column {field:?}; its columns: {names}"));
            return Err(error.advise("name the column that holds the text"));
        };
        self.wanted = Some((place, columns));
        Ok(())
    }

    fn end(&self, pieces: &Pieces) -> Result<()> {
        if self.wanted.is_none() {
            return Err(self.refuse(pieces, "no header".into()));
        }
        Ok(())
    }
}
