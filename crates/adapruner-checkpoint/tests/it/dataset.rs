//! Records of parquet files.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use adapruner_checkpoint::dataset::records;
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A data set as pyarrow writes it (`fixtures/generate/hub_tasks.py`).
const EXAM: &str = "allenai/ai2_arc/ARC-Easy/test";

fn fixture(set: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tasks_hub");
    fixtures.join(set).join("0000.parquet")
}

/// Writes one row group; `columns` writes the columns in their order.
fn write(path: &Path, schema: &str, columns: &mut dyn FnMut(usize, SerializedColumnWriter<'_>)) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties))
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut number = 0;
    while let Some(column) = group.next_column().unwrap() {
        columns(number, column);
        number += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn texts(texts: &[&str]) -> Vec<ByteArray> {
    texts.iter().map(|&text| text.into()).collect()
}

/// What is said of a file, without its path.
fn said(path: &Path, fields: &[&str]) -> String {
    let error = records(path, fields).unwrap_err().to_string();
    error.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

#[test]
fn records_with_lists_are_those_that_pyarrow_wrote() {
    let found = records(&fixture(EXAM), &["question", "choices", "answerKey"]).unwrap();
    let original =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tasks/arc/ARC-Easy-Test.jsonl");
    let original = std::fs::read_to_string(original).unwrap();
    let expected: Vec<Value> = original
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            let choices = record["question"]["choices"].as_array().unwrap();
            let all = |key: &str| choices.iter().map(|c| c[key].clone()).collect::<Vec<_>>();
            json!({
                "question": record["question"]["stem"],
                "choices": {"text": all("text"), "label": all("label")},
                "answerKey": record["answerKey"],
            })
        })
        .collect();
    assert_eq!(found, expected);
    let found = records(&fixture("Rowan/hellaswag/default/validation"), &["ind", "endings"]);
    assert_eq!(found.unwrap()[1]["ind"], 1);
    // A field is asked for by its name.
    let found = said(&fixture(EXAM), &["question", "stem"]);
    let names = "\"id\", \"question\", \"choices\", \"answerKey\"";
    assert_eq!(found, format!("no column \"stem\"; its columns: {names}"));
}

#[test]
fn every_kind_of_value_and_of_list_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = "message m {
        required boolean truth;
        optional int32 small (INTEGER(32, false));
        required int64 large;
        optional double real;
        optional group record { required group inner { optional binary text (UTF8); } }
        required group old (LIST) { repeated int32 array; }
        optional group pairs (LIST) { repeated group list { optional group element {
            required binary text (UTF8);
            optional boolean right;
        } } }
        repeated binary bare (UTF8);
    }";
    write(&path, schema, &mut |number, mut column| {
        match number {
            0 => column.typed::<BoolType>().write_batch(&[true, false, true], None, None),
            1 => column.typed::<Int32Type>().write_batch(&[-1, 7], Some(&[1, 0, 1]), None),
            2 => column.typed::<Int64Type>().write_batch(&[i64::MIN, 0, 5], None, None),
            3 => {
                let values = [f64::NAN, 1.5];
                column.typed::<DoubleType>().write_batch(&values, Some(&[1, 1, 0]), None)
            }
            4 => {
                let values = texts(&["é"]);
                column.typed::<ByteArrayType>().write_batch(&values, Some(&[2, 1, 0]), None)
            }
            5 => {
                let (defined, repeated) = ([1, 1, 0, 1], [0, 1, 0, 0]);
                let writer = column.typed::<Int32Type>();
                writer.write_batch(&[1, 2, 3], Some(&defined), Some(&repeated))
            }
            6 => {
                let (defined, repeated) = ([3, 3, 0, 1], [0, 1, 0, 0]);
                let writer = column.typed::<ByteArrayType>();
                writer.write_batch(&texts(&["x", "y"]), Some(&defined), Some(&repeated))
            }
            7 => {
                let (defined, repeated) = ([4, 3, 0, 1], [0, 1, 0, 0]);
                let writer = column.typed::<BoolType>();
                writer.write_batch(&[true], Some(&defined), Some(&repeated))
            }
            _ => {
                let (defined, repeated) = ([0, 1, 1, 1], [0, 0, 1, 0]);
                let writer = column.typed::<ByteArrayType>();
                writer.write_batch(&texts(&["p", "q", ""]), Some(&defined), Some(&repeated))
            }
        }
        .unwrap();
        column.close().unwrap();
    });
    let fields = ["truth", "small", "large", "real", "record", "old", "pairs", "bare"];
    let found = records(&path, &fields).unwrap();
    let expected = [
        json!({
            "truth": true, "small": 4_294_967_295_u32, "large": i64::MIN, "real": null,
            "record": {"inner": {"text": "é"}}, "old": [1, 2],
            "pairs": [{"text": "x", "right": true}, {"text": "y", "right": null}], "bare": [],
        }),
        json!({
            "truth": false, "small": null, "large": 0, "real": 1.5,
            "record": {"inner": {"text": null}}, "old": [], "pairs": null, "bare": ["p", "q"],
        }),
        json!({
            "truth": true, "small": 7, "large": 5, "real": null,
            "record": null, "old": [3], "pairs": [], "bare": [""],
        }),
    ];
    assert_eq!(found, expected);
}

#[test]
fn columns_that_no_task_has_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    for (column, expected) in [
        (
            "optional group a (LIST) { repeated group list { optional group element (LIST) {
                repeated group list { optional int32 element; } } } }",
            "column \"a.list.element.list.element\" is nested; expected at most a list of records",
        ),
        (
            "required int64 a (TIMESTAMP(MILLIS,true));",
            "column \"a\" is of type INT64 as Timestamp",
        ),
        ("required fixed_len_byte_array(4) a;", "column \"a\" is of type FIXED_LEN_BYTE_ARRAY"),
        ("required int32 a (DATE);", "column \"a\" is of type INT32 as Date"),
    ] {
        let schema = Arc::new(
            parse_message_type(&format!("message m {{ {column} required int32 b; }}")).unwrap(),
        );
        let file = File::create(&path).unwrap();
        SerializedFileWriter::new(file, schema, Arc::default()).unwrap().close().unwrap();
        let found = said(&path, &["a"]);
        assert!(found.starts_with(expected), "{found}");
        // Nobody asked for it.
        assert_eq!(records(&path, &["b"]).unwrap(), Vec::<Value>::new());
    }
    write(&path, "message m { required binary a; }", &mut |_, mut column| {
        let values = [ByteArray::from("x"), ByteArray::from(vec![b'y', 0xff])];
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    });
    assert_eq!(said(&path, &["a"]), "row 1: column \"a\" is not UTF-8 at offset 1");
}

#[test]
fn small_files_that_unpack_to_much_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let long = "a".repeat(500_000);
    write(&path, "message m { required binary a (UTF8); }", &mut |_, mut column| {
        let values = vec![ByteArray::from(long.as_str()); 200];
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    });
    assert!(path.metadata().unwrap().len() < 10_000);
    let found = said(&path, &["a"]);
    let expected = "row 134: column \"a\" unpacks to more text than its file's size can explain";
    assert_eq!(found, expected);

    let list = "message m { optional group a (LIST) { repeated group list {
        optional int32 element; } } }";
    write(&path, list, &mut |_, mut column| {
        let most = 1 << 20;
        let (mut defined, mut repeated) = (vec![2_i16; most], vec![0_i16]);
        repeated.resize(most, 1);
        for _ in 0..8 {
            column.typed::<Int32Type>().write_batch(&[], Some(&defined), Some(&repeated)).unwrap();
        }
        defined.truncate(1);
        repeated.truncate(1);
        column.typed::<Int32Type>().write_batch(&[], Some(&defined), Some(&repeated)).unwrap();
        column.close().unwrap();
    });
    let bytes = path.metadata().unwrap().len();
    assert!(bytes < 100_000);
    let found = said(&path, &["a"]);
    let expected = format!("column \"a.list.element\": more than {} values", 65_536 + 8 * bytes);
    assert!(found.contains(&expected), "{found}");
}

#[test]
fn what_is_no_parquet_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let whole = std::fs::read(fixture(EXAM)).unwrap();
    for bytes in [&b""[..], b"PAR1", b"<html>404</html>", &whole[..whole.len() / 2]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(said(&path, &["a"]).starts_with("parquet: "), "{}", said(&path, &["a"]));
    }
    assert!(records(folder.path(), &["a"]).unwrap_err().to_string().contains("not a regular file"));
    assert!(
        records(&folder.path().join("b"), &[]).unwrap_err().to_string().contains("cannot open")
    );
}

static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    [EXAM, "Rowan/hellaswag/default/validation"]
        .map(|set| std::fs::read(fixture(set)).unwrap())
        .into()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_files_are_no_panic(
        file in 0_usize..2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = FILES[file].clone();
        for (place, value) in &edits {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, bytes).unwrap();
        let _ = records(&path, &[["choices", "question"], ["endings", "ind"]][file]);
    }
}
