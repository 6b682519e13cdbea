//! Records of a parquet file, including nested columns.

use std::path::Path;

use parquet::{
    basic::{ConvertedType, LogicalType},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    schema::types::ColumnDescriptor,
};
use serde_json::{Number, Value};

use super::nesting::{Step, put, steps};
use crate::{
    error::{Error, Result},
    input,
    parquet_file::{self, ParquetFile},
};

/// Rows of a file, at most.
const ROWS: usize = 1 << 20;
/// Values of all columns that are read, missing ones counted, at most.
const VALUES: u64 = 1 << 23;
/// Names on the way to a value, at most.
const DEEPEST: usize = 16;
/// Column names that an error lists at most.
const LISTED: usize = 12;

/// The records of a parquet file, of each only the fields `fields`: truth
/// values, integers, floating-point numbers and text, alone, in records and in
/// lists.
///
/// # Errors
/// A file that is no parquet file or damaged, that has no such column, or one
/// of another type or with lists in lists; a compression this build does not
/// read; more rows or text than the data of a task can have.
pub fn records(path: &Path, fields: &[&str]) -> Result<Vec<Value>> {
    parquet_file::read(path, input::TASK_DATA, VALUES, |file| read(path, file, fields))
}

fn read(path: &Path, mut file: ParquetFile<'_>, fields: &[&str]) -> Result<Vec<Value>> {
    let schema = file.schema();
    let names = || schema.root_schema().get_fields().iter().map(|field| field.name());
    if let Some(missing) = fields.iter().find(|field| !names().any(|name| name == **field)) {
        let names: Vec<String> = names().take(LISTED).map(|name| format!("{name:?}")).collect();
        let message = format!("no column {missing:?}; its columns: {}", names.join(", "));
        return Err(Error::format(path, message));
    }
    let mut columns = Vec::new();
    for (index, descriptor) in schema.columns().iter().enumerate() {
        let parts = descriptor.path().parts();
        if parts.first().is_some_and(|top| fields.contains(&top.as_str())) {
            let column = Column { path, name: parts.join("."), index, descriptor, steps: vec![] };
            let found = steps(schema.root_schema(), parts);
            columns.push(column.with(found.unwrap_or_default())?);
        }
    }
    let mut left = file.most_text();
    let mut records: Vec<Value> = Vec::new();
    for group in 0..file.groups() {
        let rows = file.rows(group)?;
        let start = records.len();
        if rows > ROWS - start {
            return Err(Error::format(path, format!("more than {ROWS} rows")));
        }
        records.resize(start + rows, Value::Null);
        for column in &columns {
            let reader = file.column(group, column.index)?;
            column.read(reader, &mut records, start, &mut left)?;
        }
    }
    Ok(records)
}

/// A column that is read.
struct Column<'a> {
    path: &'a Path,
    name: String,
    index: usize,
    descriptor: &'a ColumnDescriptor,
    steps: Vec<Step>,
}

/// The levels and values of a column in a row group.
struct Cells<T> {
    defined: Vec<i16>,
    repeated: Vec<i16>,
    values: Vec<T>,
}

impl Column<'_> {
    /// With the steps down to it, if it can be read by them.
    fn with(self, steps: Vec<Step>) -> Result<Self> {
        let lists = steps.iter().filter(|step| **step == Step::Each).count();
        let levels = steps.iter().filter(|step| !matches!(step, Step::Field(_))).count();
        let names = steps.len() - levels;
        let deep = !(1..=DEEPEST).contains(&names) || lists > 1;
        let descriptor = self.descriptor;
        let fits = usize::try_from(descriptor.max_def_level()) == Ok(levels)
            && usize::try_from(descriptor.max_rep_level()) == Ok(lists);
        if deep || !fits {
            let message =
                format!("column {:?} is nested; expected at most a list of records", self.name);
            return Err(Error::unsupported(self.path, message));
        }
        let logical = descriptor.logical_type_ref();
        let known = match descriptor.physical_type() {
            parquet::basic::Type::BOOLEAN
            | parquet::basic::Type::FLOAT
            | parquet::basic::Type::DOUBLE => true,
            parquet::basic::Type::INT32 | parquet::basic::Type::INT64 => match logical {
                Some(logical) => matches!(logical, LogicalType::Integer(_)),
                None => !matches!(
                    descriptor.converted_type(),
                    ConvertedType::DATE
                        | ConvertedType::DECIMAL
                        | ConvertedType::TIME_MILLIS
                        | ConvertedType::TIME_MICROS
                        | ConvertedType::TIMESTAMP_MILLIS
                        | ConvertedType::TIMESTAMP_MICROS
                ),
            },
            parquet::basic::Type::BYTE_ARRAY => match logical {
                Some(logical) => *logical == LogicalType::String,
                None => {
                    matches!(descriptor.converted_type(), ConvertedType::UTF8 | ConvertedType::NONE)
                }
            },
            parquet::basic::Type::INT96 | parquet::basic::Type::FIXED_LEN_BYTE_ARRAY => false,
        };
        if !known {
            let found = descriptor.physical_type();
            let found = logical.map_or_else(|| found.to_string(), |l| format!("{found} as {l:?}"));
            let message = format!(
                "column {:?} is of type {found}; expected text, numbers or truth values",
                self.name
            );
            return Err(Error::unsupported(self.path, message));
        }
        Ok(Self { steps, ..self })
    }

    fn malformed(&self, e: impl std::fmt::Display) -> Error {
        Error::format(self.path, format!("parquet: column {:?}: {e}", self.name))
    }

    /// Reads the column of a row group into the records from `start` on; `left`
    /// bytes of text may still come.
    fn read(
        &self,
        reader: ColumnReader,
        records: &mut [Value],
        start: usize,
        left: &mut u64,
    ) -> Result<()> {
        let mut place = Placement { column: self, records, start, left };
        let signed = !is_unsigned(self.descriptor);
        match reader {
            ColumnReader::BoolColumnReader(reader) => place.all(reader, |v, _| Ok(v.into())),
            ColumnReader::Int32ColumnReader(reader) => place
                .all(reader, |v, _| Ok(if signed { v.into() } else { v.cast_unsigned().into() })),
            ColumnReader::Int64ColumnReader(reader) => place
                .all(reader, |v, _| Ok(if signed { v.into() } else { v.cast_unsigned().into() })),
            ColumnReader::FloatColumnReader(reader) => {
                place.all(reader, |v, _| Ok(number(f64::from(v))))
            }
            ColumnReader::DoubleColumnReader(reader) => place.all(reader, |v, _| Ok(number(v))),
            ColumnReader::ByteArrayColumnReader(reader) => {
                place.all(reader, |v: ByteArray, left| text(&v, left))
            }
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                Err(self.malformed("its pages are of another type"))
            }
        }
    }
}

/// Where the values of a column go.
struct Placement<'a, 'b> {
    column: &'a Column<'b>,
    records: &'a mut [Value],
    start: usize,
    /// Bytes of text that may still come.
    left: &'a mut u64,
}

impl Placement<'_, '_> {
    fn all<T: DataType>(
        &mut self,
        mut reader: ColumnReaderImpl<T>,
        convert: impl Fn(T::T, &mut u64) -> Result<Value, String>,
    ) -> Result<()> {
        let column = self.column;
        let rows = self.records.len() - self.start;
        let mut cells = Cells { defined: vec![], repeated: vec![], values: vec![] };
        let mut found = 0;
        while found < rows {
            let (more, _, _) = reader
                .read_records(
                    rows - found,
                    Some(&mut cells.defined),
                    Some(&mut cells.repeated),
                    &mut cells.values,
                )
                .map_err(|e| column.malformed(e))?;
            if more == 0 {
                return Err(column.malformed(format!("{found} rows, expected {rows}")));
            }
            found += more;
        }
        self.place(cells, convert)
    }

    fn place<T>(
        &mut self,
        cells: Cells<T>,
        convert: impl Fn(T, &mut u64) -> Result<Value, String>,
    ) -> Result<()> {
        let column = self.column;
        let (most, lists) =
            (column.descriptor.max_def_level(), column.descriptor.max_rep_level() > 0);
        let count = match (most, lists) {
            (0, _) => cells.values.len(),
            (_, _) => cells.defined.len(),
        };
        if lists && cells.repeated.len() != count {
            return Err(column.malformed("levels that do not fit each other"));
        }
        let mut values = cells.values.into_iter();
        let (mut row, mut slot) = (None, 0);
        for at in 0..count {
            (row, slot) = match row {
                Some(row) if lists && cells.repeated[at] > 0 => (Some(row), slot + 1),
                Some(row) => (Some(row + 1), 0),
                None => (Some(self.start), 0),
            };
            let number = row.unwrap_or(self.start);
            let refuse = |message: &str| {
                let name = &column.name;
                Error::format(column.path, format!("row {number}: column {name:?} {message}"))
            };
            let defined = cells.defined.get(at).copied().unwrap_or(most);
            let value = if defined == most { values.next() } else { None };
            let value = value.map(|value| convert(value, self.left)).transpose();
            let value = value.map_err(|message| refuse(&message))?;
            let target = self.records.get_mut(number).ok_or_else(|| refuse("is one too many"))?;
            put(target, &column.steps, defined, slot, value).map_err(refuse)?;
        }
        let found = row.map_or(0, |row| row + 1 - self.start);
        let rows = self.records.len() - self.start;
        if found != rows {
            return Err(column.malformed(format!("{found} rows, expected {rows}")));
        }
        Ok(())
    }
}

fn is_unsigned(descriptor: &ColumnDescriptor) -> bool {
    match descriptor.logical_type_ref() {
        Some(LogicalType::Integer(kind)) => !kind.is_signed,
        Some(_) | None => matches!(
            descriptor.converted_type(),
            ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64
        ),
    }
}

/// A number; JSON has none that is not finite.
fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn text(value: &ByteArray, left: &mut u64) -> Result<Value, String> {
    let text = std::str::from_utf8(value.data())
        .map_err(|e| format!("is not UTF-8 at offset {}", e.valid_up_to()))?;
    *left = left
        .checked_sub(text.len() as u64)
        .ok_or("unpacks to more text than its file's size can explain")?;
    Ok(Value::String(text.to_owned()))
}
