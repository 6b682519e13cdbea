//! Parquet files that promise more than they hold.

use std::{fs::File, path::Path, sync::Arc, time::Instant};

use adapruner_checkpoint::dataset::records;
use parquet::{
    basic::Encoding,
    data_type::{ByteArray, ByteArrayType},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter},
        properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};

use super::{Files, documents, message, read_path};

/// Bytes behind the metadata: their size, and the magic.
const TAIL: usize = 8;

/// Writes a file of one required column `text`, without a dictionary.
fn write(path: &Path, rows: &[&str], properties: WriterPropertiesBuilder) {
    let schema =
        Arc::new(parse_message_type("message m { required binary text (UTF8); }").unwrap());
    let properties = Arc::new(properties.set_dictionary_enabled(false).build());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = rows.iter().map(|&row| row.into()).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// Pages and metadata of a file.
fn split(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let mut pages = std::fs::read(path).unwrap();
    let size = pages[pages.len() - TAIL..].first_chunk().map(|size| u32::from_le_bytes(*size));
    pages.truncate(pages.len() - TAIL);
    let metadata = pages.split_off(pages.len() - size.unwrap() as usize);
    (pages, metadata)
}

fn join(path: &Path, mut pages: Vec<u8>, metadata: &[u8]) {
    pages.extend(metadata);
    pages.extend((metadata.len() as u32).to_le_bytes());
    pages.extend(b"PAR1");
    std::fs::write(path, pages).unwrap();
}

/// Writes the metadata of a file anew.
fn edit(path: &Path, edit: impl FnOnce(ParquetMetaData) -> ParquetMetaData) {
    let (pages, _) = split(path);
    let found = ParquetMetaDataReader::new().parse_and_finish(&File::open(path).unwrap()).unwrap();
    let mut whole = pages;
    ParquetMetaDataWriter::new(&mut whole, &edit(found)).finish().unwrap();
    std::fs::write(path, whole).unwrap();
}

/// What both readers say of a file, within seconds.
#[track_caller]
fn refused(path: &Path) -> String {
    let start = Instant::now();
    let text = message(read_path(path));
    let records = records(path, &["text"]).unwrap_err().to_string();
    let records = records.split_once(": ").unwrap().1;
    assert_eq!(records, text);
    assert!(start.elapsed().as_secs() < 10, "{:?}: {text}", start.elapsed());
    text
}

/// Each list takes nine bytes of the file, and would take the parquet crate two
/// billion steps.
#[test]
fn lists_of_truth_values_in_the_metadata_are_refused() {
    let files = Files::new();
    let path = files.path("a.parquet");
    write(&path, &["a", "b"], WriterProperties::builder());
    let (pages, mut metadata) = split(&path);
    // The end of the struct.
    assert_eq!(metadata.pop(), Some(0));
    for id in 100_u8..160 {
        // A field of type list by its number, and a list of 2³¹ - 1 truth values.
        metadata.extend([0x09, id << 1 | 0x80, id >> 6, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07]);
    }
    metadata.push(0);
    join(&path, pages.clone(), &metadata);
    assert_eq!(refused(&path), "parquet: truth values listed in the metadata");

    // The same in the header of a page, of which one field more is read over.
    write(&path, &["a", "b"], WriterProperties::builder());
    let (pages, metadata) = split(&path);
    let mut edited = b"PAR1".to_vec();
    edited.extend([0x09, 0x80 | 50 << 1, 0, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0]);
    edited.resize(pages.len(), 0);
    join(&path, edited, &metadata);
    let expected = "parquet: column \"text\": truth values listed in the metadata";
    assert_eq!(refused(&path), expected);
}

#[test]
fn schemas_that_nest_or_promise_too_much_are_refused() {
    let files = Files::new();
    let path = files.path("a.parquet");
    // version 1, and the schema: a list of structs, whose number has five bytes.
    let schema = |elements: u32, element: &[u8]| {
        let mut metadata = vec![0x15, 0x02, 0x19, 0xfc];
        let varint = |shift: u32| (elements >> shift & 0x7f) as u8 | u8::from(shift < 28) << 7;
        metadata.extend([0, 7, 14, 21, 28].map(varint));
        metadata.extend(element.repeat(elements as usize));
        metadata.extend([0x16, 0x02, 0x19, 0x0c, 0]);
        metadata
    };
    // An optional group "g" with one child, a thousand within each other.
    let element = [0x35, 0x02, 0x18, 1, b'g', 0x15, 0x02, 0];
    join(&path, b"PAR1".to_vec(), &schema(100_000, &element));
    assert_eq!(refused(&path), "parquet: schema: nested more than 32 deep");
    // With 2³¹ - 1 children.
    let element = [0x35, 0x02, 0x18, 1, b'g', 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0];
    join(&path, b"PAR1".to_vec(), &schema(2, &element));
    let expected = "parquet: schema: an element with 2147483647 children, 1 follow";
    assert_eq!(refused(&path), expected);
    // More elements than there are bytes.
    let mut metadata = schema(2, &[0]);
    metadata[4..9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x07]);
    join(&path, b"PAR1".to_vec(), &metadata);
    let found = refused(&path);
    assert!(found.starts_with("parquet: a list of 2147483647 elements in "), "{found}");
}

#[test]
fn pages_of_several_row_groups_are_refused() {
    let files = Files::new();
    let path = files.path("a.parquet");
    write(&path, &["a"; 1000], WriterProperties::builder());
    edit(&path, |metadata| {
        let group = metadata.row_group(0).clone();
        metadata.into_builder().add_row_group(group).build()
    });
    let found = refused(&path);
    let expected = "parquet: column \"text\": its pages are those of other columns, too";
    assert_eq!(found, expected);
}

#[test]
fn columns_beyond_the_file_are_refused() {
    let files = Files::new();
    let path = files.path("a.parquet");
    for (start, bytes) in [(4, 1 << 40), (1 << 40, 4), (i64::MAX, i64::MAX), (-4, 40), (4, -1)] {
        write(&path, &["a"], WriterProperties::builder());
        edit(&path, |metadata| {
            let mut builder = metadata.into_builder();
            let group = builder.take_row_groups().remove(0).into_builder();
            let mut group = group.build().unwrap().into_builder();
            let column = group.take_columns().remove(0).into_builder();
            let column = column.set_data_page_offset(start).set_total_compressed_size(bytes);
            let group = group.add_column_metadata(column.build().unwrap()).build().unwrap();
            builder.add_row_group(group).build()
        });
        let expected = "parquet: column \"text\": pages beyond the end of the file";
        assert_eq!(refused(&path), expected, "{start} {bytes}");
    }
}

#[test]
fn delta_lengths_are_read_and_held_against_the_values() {
    let files = Files::new();
    let path = files.path("a.parquet");
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties = || {
            let properties = WriterProperties::builder().set_writer_version(version);
            properties.set_encoding(Encoding::DELTA_LENGTH_BYTE_ARRAY)
        };
        write(&path, &["first", "é", ""], properties());
        assert_eq!(documents(&read_path(&path).unwrap()).0, ["first", "é", ""]);
        // Blocks of 128 in 4 parts, 3 lengths in all.
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|bytes| bytes == [0x80, 0x01, 4, 3]).unwrap();
        bytes[at + 3] = 100;
        std::fs::write(&path, &bytes).unwrap();
        let found = refused(&path);
        assert_eq!(found, "parquet: column \"text\": Parquet error: 100 lengths for 3 values");
    }
    let properties = WriterProperties::builder().set_encoding(Encoding::DELTA_BYTE_ARRAY);
    write(&path, &["first", "firstly"], properties);
    let found = refused(&path);
    let expected = "encoded by DELTA_BYTE_ARRAY, which this build does not read";
    assert!(found.ends_with(expected), "{found}");
}

/// Runs of one value, which take no bytes: a small file has few values.
#[test]
fn values_are_in_proportion_to_the_file() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let properties = WriterProperties::builder().set_data_page_row_count_limit(1 << 20);
    write(&path, &["a"; 10], properties);
    edit(&path, |metadata| {
        let mut builder = metadata.into_builder();
        let group = builder.take_row_groups().remove(0).into_builder();
        builder.add_row_group(group.set_num_rows(100_000).build().unwrap()).build()
    });
    let bytes = path.metadata().unwrap().len();
    let most = 65_536 + 8 * bytes;
    let found = records(&path, &["text"]).unwrap_err().to_string();
    let expected =
        format!("row group 0 has 100000 rows; a file of {bytes} bytes may have {most} values");
    assert!(found.ends_with(&expected), "{found}");
}
