//! The pages of a column chunk: their headers, before the parquet crate reads
//! them, and what they hold, before it decodes them.

use std::{
    fs::File,
    io::{BufReader, Seek, SeekFrom},
};

use parquet::{
    basic::Encoding,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    schema::types::ColumnDescriptor,
};

use super::thrift::{Fault, Input, Kind, Shape, Tag, field, tagged, walk};

/// Bytes of the smallest entry of a dictionary.
const ENTRY: i64 = 4;
/// Bytes before repetition or definition levels in run-length encoding that
/// state how many bytes these have.
const LEVEL_LENGTH: usize = 4;

// Page types.
const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_V2: i64 = 3;

static DATA_HEADER: Shape = Shape::of(&[
    tagged(1, Kind::I32, Tag::ValuesV1),
    field(2, Kind::I32),
    field(3, Kind::I32),
    field(4, Kind::I32),
]);

static DICTIONARY_HEADER: Shape =
    Shape::of(&[tagged(1, Kind::I32, Tag::Entries), field(2, Kind::I32), field(3, Kind::Bool)]);

static DATA_HEADER_V2: Shape = Shape::of(&[
    tagged(1, Kind::I32, Tag::ValuesV2),
    field(2, Kind::I32),
    field(3, Kind::I32),
    field(4, Kind::I32),
    field(5, Kind::I32),
    field(6, Kind::I32),
    field(7, Kind::Bool),
]);

/// The crate skips statistics, and so does [`walk`].
static PAGE_HEADER: Shape = Shape::of(&[
    tagged(1, Kind::I32, Tag::PageType),
    tagged(2, Kind::I32, Tag::Unpacked),
    tagged(3, Kind::I32, Tag::Packed),
    field(4, Kind::I32),
    field(5, Kind::Struct(&DATA_HEADER)),
    field(6, Kind::Struct(&Shape::of(&[]))),
    field(7, Kind::Struct(&DICTIONARY_HEADER)),
    field(8, Kind::Struct(&DATA_HEADER_V2)),
]);

/// What the header of a page promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    /// Bytes once unpacked.
    pub bytes: u64,
    /// Values or entries of the dictionary.
    pub values: u64,
}

/// Reads the headers of all pages of a column chunk of `bytes` bytes that begins
/// at `start`, and hands on what each promises.
///
/// # Errors
/// A header that is damaged or that the crate would read in another way, a page
/// that does not fit the chunk or that no column has; what `visit` refuses.
pub(super) fn promises(
    file: &File,
    start: u64,
    bytes: u64,
    mut visit: impl FnMut(Promise) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let io = |e: std::io::Error| format!("pages: {e}");
    let mut file = BufReader::new(file.try_clone().map_err(io)?);
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut left = bytes;
    while left > 0 {
        let mut header = Header::default();
        let mut input = Input::new(&mut file, left);
        walk(&mut input, &PAGE_HEADER, &mut |tag, value| header.see(tag, value))?;
        left = input.left();
        let packed = header.packed.and_then(|packed| u64::try_from(packed).ok());
        let packed =
            packed.filter(|packed| *packed <= left).ok_or("a page ends beyond its column")?;
        left -= packed;
        file.seek_relative(packed.cast_signed()).map_err(io)?;
        visit(header.promise()?)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Header {
    kind: Option<i64>,
    unpacked: Option<i64>,
    packed: Option<i64>,
    values: Option<i64>,
    values_v2: Option<i64>,
    entries: Option<i64>,
}

impl Header {
    fn see(&mut self, tag: Tag, value: i64) -> Result<(), Fault> {
        match tag {
            Tag::PageType => self.kind = Some(value),
            Tag::Unpacked => self.unpacked = Some(value),
            Tag::Packed => self.packed = Some(value),
            Tag::ValuesV1 => self.values = Some(value),
            Tag::ValuesV2 => self.values_v2 = Some(value),
            Tag::Entries => self.entries = Some(value),
            Tag::Elements | Tag::NameBytes | Tag::Children | Tag::ElementEnd => {}
        }
        Ok(())
    }

    fn promise(&self) -> Result<Promise, Fault> {
        let (kind, values) = match self.kind {
            Some(DATA) => ("data page", self.values),
            Some(DATA_V2) => ("data page", self.values_v2),
            Some(DICTIONARY) => ("dictionary", self.entries),
            Some(kind) => return Err(format!("a page of type {kind}")),
            None => return Err("a page without a type".into()),
        };
        let count = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
        let (Some(bytes), Some(promised)) = (count(self.unpacked), count(values)) else {
            return Err(format!("a {kind} without a size"));
        };
        if self.kind == Some(DICTIONARY) && promised > bytes / ENTRY.unsigned_abs() {
            return Err(format!("a dictionary of {promised} entries in {bytes} bytes"));
        }
        Ok(Promise { bytes, values: promised })
    }
}

/// Pages whose encodings the crate decodes in proportion to what they promise.
pub(super) struct Checked {
    pages: Box<dyn PageReader>,
    /// Highest repetition and definition levels.
    levels: [i16; 2],
}

impl Checked {
    pub fn new(pages: Box<dyn PageReader>, column: &ColumnDescriptor) -> Self {
        Self { pages, levels: [column.max_rep_level(), column.max_def_level()] }
    }

    fn check(&self, page: &Page) -> Result<()> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        match page.encoding() {
            Encoding::PLAIN
            | Encoding::PLAIN_DICTIONARY
            | Encoding::RLE_DICTIONARY
            | Encoding::RLE
            | Encoding::DELTA_BINARY_PACKED
            | Encoding::BYTE_STREAM_SPLIT => Ok(()),
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                let (found, most) = (self.lengths(page), page.num_values());
                match found {
                    Some(found) if found <= u64::from(most) => Ok(()),
                    Some(found) => Err(general(format!("{found} lengths for {most} values"))),
                    None => Err(general("a page ends early".into())),
                }
            }
            // DELTA_BYTE_ARRAY among them, by which every value may repeat a long
            // one before it: the crate would hold the square of a page's size.
            other => Err(general(format!("encoded by {other}, which this build does not read"))),
        }
    }

    /// How many lengths a page of `DELTA_LENGTH_BYTE_ARRAY` states. The crate sets
    /// memory aside for all of them.
    fn lengths(&self, page: &Page) -> Option<u64> {
        let mut bytes = page.buffer().get(self.values_start(page)?..)?;
        // The size of a block, blocks in it, lengths in all.
        let (_, _) = (varint(&mut bytes)?, varint(&mut bytes)?);
        varint(&mut bytes)
    }

    /// Where the values begin, behind the levels.
    fn values_start(&self, page: &Page) -> Option<usize> {
        match page {
            Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
                let mut start = 0;
                let encodings = [rep_level_encoding, def_level_encoding];
                for (most, encoding) in self.levels.into_iter().zip(encodings) {
                    if most > 0 {
                        start += level_bytes(most, *num_values, *encoding, buf.get(start..)?)?;
                    }
                }
                Some(start)
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                usize::try_from(def_levels_byte_len.checked_add(*rep_levels_byte_len)?).ok()
            }
            Page::DictionaryPage { .. } => Some(0),
        }
    }
}

/// Bytes of the levels at the start of `bytes`, in a data page of version 1.
fn level_bytes(most: i16, values: u32, encoding: Encoding, bytes: &[u8]) -> Option<usize> {
    if encoding == Encoding::RLE {
        let length = bytes.first_chunk::<LEVEL_LENGTH>()?;
        return usize::try_from(u32::from_le_bytes(*length)).ok()?.checked_add(LEVEL_LENGTH);
    }
    // The deprecated packing of bits; the crate refuses every other one.
    let bits = u16::BITS - most.leading_zeros();
    usize::try_from((u64::from(values) * u64::from(bits)).div_ceil(8)).ok()
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn general(message: String) -> ParquetError {
    ParquetError::General(message)
}

impl Iterator for Checked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}
