//! Parquet files, read in proportion to their bytes.
//!
//! The parquet crate trusts a file's numbers: lists, schemas, pages and encodings can cost it
//! time or memory out of proportion to the file, and some damaged pages end in a failed
//! assertion. Every parquet file is therefore read through [`read`], which
//!
//! - checks the footer ([`footer`]) and the headers of a column's pages
//!   ([`pages`]) before the crate decodes them;
//! - takes no byte of the file for two columns, and bounds values and unpacked
//!   bytes by the file's size;
//! - turns a panic of the crate into an error.
//!
//! | of a file of `n` bytes | at most |
//! |---|---|
//! | bytes of the columns that are read | `n` |
//! | values, missing ones and dictionaries' entries counted | 2¹⁶ + 8`n` |
//! | unpacked bytes | 1000`n`, but 64 MiB in any case, and the kind's cap |

mod footer;
mod pages;
mod thrift;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use parquet::{
    basic::Compression,
    column::reader::{ColumnReader, get_column_reader},
    errors::ParquetError,
    file::{
        metadata::ColumnChunkMetaData, reader::FileReader, serialized_reader::SerializedFileReader,
    },
    schema::types::SchemaDescriptor,
};

use self::{
    pages::{Checked, Promise, promises},
    thrift::Fault,
};
use crate::{
    error::{Error, Result},
    fence::fenced,
    input::{self, Cap},
};

/// Bytes of a footer's metadata, at most.
const METADATA: u64 = 32 << 20;
/// Bytes at the end of a file: the size of the metadata, and [`MAGIC`].
const TAIL: u64 = 8;
const MAGIC: &[u8] = b"PAR1";
/// A file may unpack to this many times its size, and always to [`ALWAYS`].
const EXPANSION: u64 = 1000;
/// Bytes that even the smallest file may unpack to.
const ALWAYS: u64 = 64 << 20;
/// Values for each byte of a file, at most, beside [`FEW_VALUES`].
const VALUES_PER_BYTE: u64 = 8;
/// Values that even the smallest file may have.
const FEW_VALUES: u64 = 1 << 16;

/// What `work` makes of the parquet file at `path`, of which it reads up to
/// `most_values` values.
///
/// # Errors
/// A file that cannot be read, is larger than `cap`, is no parquet file or
/// damaged, or promises more than its size explains; what `work` refuses.
pub(crate) fn read<T>(
    path: &Path,
    cap: Cap,
    most_values: u64,
    work: impl FnOnce(ParquetFile<'_>) -> Result<T>,
) -> Result<T> {
    let (file, bytes) = input::open_capped(path, cap)?;
    let values = bytes.saturating_mul(VALUES_PER_BYTE).saturating_add(FEW_VALUES);
    let most = Amount {
        packed: bytes,
        unpacked: bytes.saturating_mul(EXPANSION).clamp(ALWAYS, cap.bytes()),
        values: values.min(most_values),
    };
    // Nothing that the crate had in hand is used after a panic.
    fenced(|| work(ParquetFile::open(path, file, most)?))
        .unwrap_or_else(|_| Err(Error::format(path, "parquet: damaged file")))
}

/// A parquet file whose footer has been checked.
pub(crate) struct ParquetFile<'p> {
    path: &'p Path,
    file: File,
    reader: SerializedFileReader<File>,
    most: Amount,
    /// What may still come.
    left: Amount,
}

/// How much is read of a file.
#[derive(Debug, Clone, Copy)]
struct Amount {
    /// Bytes of columns; of all of them, those of the file.
    packed: u64,
    /// Bytes of columns once unpacked.
    unpacked: u64,
    values: u64,
}

impl<'p> ParquetFile<'p> {
    fn open(path: &'p Path, mut file: File, most: Amount) -> Result<Self> {
        let malformed = |message: String| Error::format(path, format!("parquet: {message}"));
        let metadata = metadata(&mut file, most.packed).map_err(malformed)?;
        footer::check(&metadata).map_err(malformed)?;
        drop(metadata);
        let copy = file.try_clone().map_err(Error::io(path, "read"))?;
        let reader = SerializedFileReader::new(copy).map_err(|e| malformed(e.to_string()))?;
        Ok(Self { path, file, reader, most, left: most })
    }

    /// The columns.
    pub(crate) fn schema(&self) -> Arc<SchemaDescriptor> {
        self.reader.metadata().file_metadata().schema_descr_ptr()
    }

    /// Number of row groups.
    pub(crate) fn groups(&self) -> usize {
        self.reader.num_row_groups()
    }

    /// Rows of a row group.
    ///
    /// # Errors
    /// More rows than values may still come.
    pub(crate) fn rows(&self, group: usize) -> Result<usize> {
        let rows = self.reader.metadata().row_group(group).num_rows();
        let few = u64::try_from(rows).ok().filter(|rows| *rows <= self.left.values);
        few.and_then(|rows| usize::try_from(rows).ok()).ok_or_else(|| {
            let (most, bytes) = (self.most.values, self.most.packed);
            let message = format!(
                "row group {group} has {rows} rows; a file of {bytes} bytes may have {most} values"
            );
            Error::format(self.path, format!("parquet: {message}"))
        })
    }

    /// Bytes of text that may come of the file: of a dictionary's entry that many
    /// values refer to, each of these counts.
    pub(crate) fn most_text(&self) -> u64 {
        self.most.unpacked
    }

    /// The values of column `index` in row group `group`, which are read once.
    ///
    /// # Errors
    /// A column that is damaged, compressed in a way that this build does not
    /// read, or promises more than the file's size explains.
    pub(crate) fn column(&mut self, group: usize, index: usize) -> Result<ColumnReader> {
        let (path, schema) = (self.path, self.schema());
        let name = schema.column(index).path().string();
        let malformed =
            |message: String| Error::format(path, format!("parquet: column {name:?}: {message}"));
        let crate_said = |e: ParquetError| malformed(e.to_string());
        let row_group = self.reader.get_row_group(group).map_err(crate_said)?;
        let column = row_group.metadata().columns().get(index);
        let column = column.ok_or_else(|| malformed("a row group without it".into()))?;
        if !is_readable(column.compression()) {
            let codec = column.compression();
            let message = format!(
                "column {name:?} is compressed by {codec}; expected snappy, zstd or nothing"
            );
            return Err(Error::unsupported(path, message).advise("write it again with snappy"));
        }
        let (start, bytes) = range(column)
            .filter(|(start, bytes)| {
                start.checked_add(*bytes).is_some_and(|end| end <= self.most.packed)
            })
            .ok_or_else(|| malformed("pages beyond the end of the file".into()))?;
        let (most, left) = (self.most, &mut self.left);
        left.packed = left
            .packed
            .checked_sub(bytes)
            .ok_or_else(|| malformed("its pages are those of other columns, too".into()))?;
        let take = |promise| left.take(promise, most);
        promises(&self.file, start, bytes, take).map_err(malformed)?;
        let pages = row_group.get_column_page_reader(index).map_err(crate_said)?;
        let descriptor = schema.column(index);
        let pages = Checked::new(pages, &descriptor);
        Ok(get_column_reader(descriptor, Box::new(pages)))
    }
}

impl Amount {
    /// Takes away what a page promises; `most` was there at first.
    fn take(&mut self, promise: Promise, most: Self) -> Result<(), Fault> {
        let Self { packed, unpacked, values } = most;
        self.unpacked = self.unpacked.checked_sub(promise.bytes).ok_or_else(|| {
            format!(
                "unpacks to more than {unpacked} bytes, with those before it; the file has {packed}"
            )
        })?;
        self.values = self.values.checked_sub(promise.values).ok_or_else(|| {
            format!("more than {values} values, with those before it; the file has {packed} bytes")
        })?;
        Ok(())
    }
}

/// The metadata of the footer.
fn metadata(file: &mut File, bytes: u64) -> Result<Vec<u8>, String> {
    let io = |e: std::io::Error| e.to_string();
    let before = bytes.checked_sub(TAIL).ok_or("a file of less than 8 bytes")?;
    file.seek(SeekFrom::Start(before)).map_err(io)?;
    let mut tail = [0; TAIL as usize];
    file.read_exact(&mut tail).map_err(io)?;
    let (size, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err("no PAR1 at its end".into());
    }
    let size = size.first_chunk().map_or(0, |size| u64::from(u32::from_le_bytes(*size)));
    let start = before.checked_sub(size).ok_or("metadata of more bytes than the file has")?;
    if size > METADATA {
        return Err(format!("metadata of {size} bytes, expected at most {METADATA}"));
    }
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut metadata = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact(&mut metadata).map_err(io)?;
    Ok(metadata)
}

/// Where the pages of a column begin, and how many bytes they have.
fn range(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    Some((u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?))
}

/// Whether this build reads a compression.
fn is_readable(codec: Compression) -> bool {
    matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_))
}
