//! A column of strings of a parquet file.

use std::path::Path;

use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    schema::types::SchemaDescriptor,
};

use super::store::Writer;
use crate::{
    error::{Error, Result},
    input,
    parquet_file::{self, ParquetFile},
};

/// Column names that an error lists at most.
const LISTED: usize = 8;
/// Rows that are decoded at a time.
const BATCH: usize = 1024;
/// The strings of the column `field`, in order, a page of them at a time.
///
/// # Errors
/// A file that is no parquet file or damaged, that has no such column, or one
/// that is nested or holds other things than strings; a row without a value; a
/// compression this build does not read; more text than its size can explain.
pub(super) fn documents(path: &Path, field: &str, to: &mut Writer) -> Result<()> {
    parquet_file::read(path, input::TEXT, u64::MAX, |file| column(path, file, field, to))
}

fn column(path: &Path, mut file: ParquetFile<'_>, field: &str, to: &mut Writer) -> Result<()> {
    let index = string_column(path, &file.schema(), field)?;
    let left = file.most_text();
    let mut strings = Strings { path, field, first: to.documents(), to, left };
    for group in 0..file.groups() {
        strings.read(file.column(group, index)?)?;
    }
    Ok(())
}

/// The place of the column `field` among the leaf columns.
fn string_column(path: &Path, schema: &SchemaDescriptor, field: &str) -> Result<usize> {
    let Some(top) = schema.root_schema().get_fields().iter().find(|f| f.name() == field) else {
        let names = schema.root_schema().get_fields().iter().map(|f| format!("{:?}", f.name()));
        let names = names.take(LISTED).collect::<Vec<_>>().join(", ");
        let message = format!("no column {field:?}; its columns: {names}");
        return Err(Error::format(path, message).advise("name the column that holds the text"));
    };
    let place = schema.columns().iter().position(|c| c.path().parts() == [field]);
    let column = place.map(|place| (place, schema.column(place)));
    let Some((place, column)) = column.filter(|(_, c)| c.max_rep_level() == 0 && !top.is_group())
    else {
        let message = format!("column {field:?} is nested; expected a plain column of strings");
        return Err(Error::unsupported(path, message));
    };
    let logical = column.logical_type_ref();
    let is_text = match logical {
        None => matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::NONE),
        Some(logical) => *logical == LogicalType::String,
    };
    if column.physical_type() != Type::BYTE_ARRAY || !is_text {
        let found = column.physical_type();
        let found = logical.map_or_else(|| found.to_string(), |l| format!("{found} as {l:?}"));
        let message = format!("column {field:?} is of type {found}; expected strings");
        return Err(Error::unsupported(path, message));
    }
    Ok(place)
}

/// What has been read of the column.
struct Strings<'a> {
    path: &'a Path,
    field: &'a str,
    to: &'a mut Writer,
    /// Documents of the files before.
    first: usize,
    /// Bytes that may still come.
    left: u64,
}

impl Strings<'_> {
    /// The row that comes next.
    fn row(&self) -> usize {
        self.to.documents() - self.first
    }

    fn read(&mut self, column: ColumnReader) -> Result<()> {
        let (path, field) = (self.path, self.field);
        let malformed =
            |e: ParquetError| Error::format(path, format!("parquet: column {field:?}: {e}"));
        let ColumnReader::ByteArrayColumnReader(mut column) = column else {
            return Err(Error::format(path, format!("column {field:?} holds no strings")));
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let (rows, found, _) = column
                .read_records(BATCH, Some(&mut levels), None, &mut values)
                .map_err(malformed)?;
            if rows == 0 {
                return Ok(());
            }
            if found < rows {
                let missing = levels.iter().position(|level| *level == 0).unwrap_or(0);
                let row = self.row() + missing;
                let message = format!("row {row}: column {field:?} has no value");
                return Err(Error::format(path, message));
            }
            for value in &values {
                self.push(value)?;
            }
        }
    }

    fn too_much(&self) -> Error {
        let (field, row) = (self.field, self.row());
        let message = format!("column {field:?} unpacks to too much text, by row {row}");
        Error::Text { path: self.path.into(), message }.advise("give a part of it")
    }

    fn push(&mut self, value: &ByteArray) -> Result<()> {
        let (field, row) = (self.field, self.row());
        let document = std::str::from_utf8(value.data()).map_err(|e| {
            let at = e.valid_up_to();
            let message = format!("row {row}: column {field:?} is not UTF-8 at offset {at}");
            Error::format(self.path, message)
        })?;
        let bytes = (document.len() + size_of::<String>()) as u64;
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.too_much())?;
        self.to.push(document)?;
        self.to.end()
    }
}
