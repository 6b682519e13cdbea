//! A column of strings of a parquet file.

use std::{fs::File, panic::AssertUnwindSafe, path::Path};

use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        reader::{FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    schema::types::SchemaDescriptor,
};

use super::store::Writer;
use crate::{
    dataset::is_readable,
    error::{Error, Result},
    input,
};

/// Column names that an error lists at the most.
const LISTED: usize = 8;
/// Rows that are decoded at a time.
const BATCH: usize = 1024;
/// A file may unpack to so many times its size, and to [`ALWAYS`] in any case.
const EXPANSION: u64 = 1000;
/// Bytes that even the smallest file may unpack to.
const ALWAYS: u64 = 256 << 20;

/// The strings of the column `field`, in order, a page of them at a time.
///
/// # Errors
/// A file that is no parquet file or damaged, that has no such column, or one
/// that is nested or holds other things than strings; a row without a value; a
/// compression this build does not read; more text than its size can explain.
pub(super) fn documents(path: &Path, field: &str, to: &mut Writer) -> Result<()> {
    let (file, bytes) = input::open_capped(path, input::TEXT)?;
    // The parquet crate checks much, but not all: some damaged pages end in a
    // failed assertion or a slice out of bounds. Nothing it had in hand is used
    // after that.
    std::panic::catch_unwind(AssertUnwindSafe(|| column(path, file, bytes, field, to)))
        .unwrap_or_else(|_| Err(Error::format(path, "parquet: damaged file")))
}

fn column(path: &Path, file: File, bytes: u64, field: &str, to: &mut Writer) -> Result<()> {
    let malformed = |e: ParquetError| Error::format(path, format!("parquet: {e}"));
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let index = string_column(path, schema, field)?;
    let mut strings = Strings {
        path,
        field,
        first: to.documents(),
        to,
        left: bytes.saturating_mul(EXPANSION).clamp(ALWAYS, input::TEXT.bytes()),
    };
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(malformed)?;
        strings.read(group.as_ref(), index)?;
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

    fn read(&mut self, group: &dyn RowGroupReader, index: usize) -> Result<()> {
        let (path, field) = (self.path, self.field);
        let malformed =
            |e: ParquetError| Error::format(path, format!("parquet: column {field:?}: {e}"));
        if index >= group.num_columns() {
            return Err(Error::format(path, format!("parquet: a row group without {field:?}")));
        }
        let codec = group.metadata().column(index).compression();
        if !is_readable(codec) {
            let message = format!(
                "column {field:?} is compressed by {codec}; expected snappy, zstd or nothing"
            );
            return Err(Error::unsupported(path, message).advise("write it again with snappy"));
        }
        // What it says of itself, before any page of it is unpacked.
        let unpacked = group.metadata().column(index).uncompressed_size();
        if u64::try_from(unpacked).is_ok_and(|bytes| bytes > self.left) {
            return Err(self.too_much());
        }
        let column = group.get_column_reader(index).map_err(malformed)?;
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
