//! Parquet columns of strings.

use std::{fs::File, path::Path, sync::Arc};

use adapruner_checkpoint::{
    Result,
    text::{Text, TextOptions, read},
};
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, Int32Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use super::{Files, documents, expected, message, read_path};

/// Writes a file of one column `text`; a list of row groups of optional values.
pub fn write(path: &Path, groups: &[Vec<Option<&str>>], compression: Compression) {
    let schema = parse_message_type("message m { optional binary text (UTF8); }").unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(700)
        .build();
    let file = File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = rows.iter().map(|r| i16::from(r.is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|&r| r.into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes an empty file of another schema.
fn write_schema(path: &Path, schema: &str) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(path).unwrap();
    SerializedFileWriter::new(file, schema, Arc::default()).unwrap().close().unwrap();
}

fn read_field(path: &Path, field: &str) -> Result<Text> {
    let options = TextOptions { field: Some(field.to_owned()), ..TextOptions::default() };
    read(path, &options)
}

#[test]
fn rows_come_in_order_from_all_groups_and_pages() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let rows: Vec<String> = (0..5000)
        .map(|i| if i % 7 == 0 { String::new() } else { format!("row {i}\n é") })
        .collect();
    let (first, second) = rows.split_at(3100);
    let optional = |rows: &'static [String]| -> Vec<Option<&'static str>> {
        rows.iter().map(|r| Some(r.as_str())).collect()
    };
    let (first, second) = (first.to_vec().leak(), second.to_vec().leak());
    let groups = [optional(first), vec![], optional(second)];
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd] {
        write(&path, &groups, compression);
        let text = read_path(&path).unwrap();
        let all: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert_eq!(documents(&text), expected(&all, "\n\n"), "{compression}");
    }
}

#[test]
fn a_required_column_among_others_is_found() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let schema = "message m { required int32 id; required binary sentence (STRING); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[1, 2], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = [ByteArray::from("a"), ByteArray::from("b")];
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();

    assert_eq!(documents(&read_field(&path, "sentence").unwrap()).0, ["a", "b"]);
    assert_eq!(message(read_path(&path)), "no column \"text\"; its columns: \"id\", \"sentence\"");
    assert_eq!(
        message(read_field(&path, "id")),
        "column \"id\" is of type INT32; expected strings"
    );
}

#[test]
fn a_row_without_a_value_is_named() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let groups = [vec![Some("a"); 1500], vec![Some("b"), None, Some("c"), None]];
    write(&path, &groups, Compression::UNCOMPRESSED);
    assert_eq!(message(read_path(&path)), "row 1501: column \"text\" has no value");
}

#[test]
fn nested_and_foreign_columns_are_refused_by_name() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let nested = "column \"text\" is nested; expected a plain column of strings";
    for (schema, expected) in [
        ("message m { repeated binary text (UTF8); }", nested),
        ("message m { optional group text { optional binary text (UTF8); } }", nested),
        (
            "message m { optional group text (LIST) { repeated group list { \
             optional binary element (UTF8); } } }",
            nested,
        ),
        (
            "message m { optional binary text (JSON); }",
            "column \"text\" is of type BYTE_ARRAY as Json; expected strings",
        ),
        (
            "message m { optional fixed_len_byte_array(4) text; }",
            "column \"text\" is of type FIXED_LEN_BYTE_ARRAY; expected strings",
        ),
    ] {
        write_schema(&path, schema);
        assert_eq!(message(read_path(&path)), expected, "{schema}");
    }
}

#[test]
fn what_is_no_parquet_file_is_refused() {
    let files = Files::new();
    for content in ["", "PAR1", "not a parquet file at all", "PAR1....PAR1"] {
        let found = message(read_path(&files.write("a.parquet", content)));
        assert!(found.starts_with("parquet: "), "{content:?}: {found}");
    }
}

#[test]
fn what_is_not_utf8_is_named_by_row() {
    let files = Files::new();
    let path = files.path("a.parquet");
    write(&path, &[vec![Some("good"), Some("b@d")]], Compression::UNCOMPRESSED);
    let mut bytes = std::fs::read(&path).unwrap();
    // Values stand in the dictionary page, before the statistics.
    let at = bytes.windows(3).position(|w| w == b"b@d").unwrap();
    bytes[at + 1] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(message(read_path(&path)), "row 1: column \"text\" is not UTF-8 at offset 1");
}

/// One long string in the dictionary and many references to it: little to
/// store, much to unpack.
#[test]
fn a_file_that_unpacks_out_of_proportion_is_refused() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let long = "x".repeat(400_000);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    write(&path, &[vec![Some(long.as_str()); 1000]], zstd);
    assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
    let found = message(read_path(&path));
    assert!(found.starts_with("column \"text\" unpacks to too much text, by row 16"), "{found}");
}

/// One value whose page alone is more than the file may unpack to.
#[test]
fn a_page_out_of_proportion_is_not_unpacked() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let long = " ".repeat(65 << 20);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    write(&path, &[vec![Some("a")], vec![Some(long.as_str())]], zstd);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 40_000);
    let most = 64 << 20;
    let expected = format!(
        "parquet: column \"text\": unpacks to more than {most} bytes, with those before it; the file \
         has {bytes}"
    );
    assert_eq!(message(read_path(&path)), expected);
}
