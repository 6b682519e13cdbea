//! Damaged files: read or refused, never a panic.

use std::{path::Path, sync::LazyLock};

use adapruner_checkpoint::text::TextOptions;
use parquet::basic::{Compression, ZstdLevel};
use proptest::prelude::*;

use super::{Files, formats::packed, parquet::write, read_path};

/// Good parquet files of each compression.
static PARQUET: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let files = Files::new();
    let path = files.path("a.parquet");
    let rows = vec![
        vec![Some("one"), Some(""), Some("two two two two two"), Some("one")],
        vec![Some("three"); 40],
    ];
    let zstd = Compression::ZSTD(ZstdLevel::default());
    [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd]
        .into_iter()
        .map(|compression| {
            write(&path, &rows, compression);
            std::fs::read(&path).unwrap()
        })
        .collect()
});

const JSON: [&str; 4] = [
    "{\"text\": \"a\\u00e9\\n\", \"x\": [1, {\"y\": null}]}\n{\"text\": \"b\"}\n",
    "[{\"text\": \"a\"}, {\"z\": 1.5e3, \"text\": \"\\\"\"}]",
    "[[1, 2, 3], [4294967295], []]",
    "[1, 2, 65536]",
];

/// Changes some bytes of a file and perhaps cuts it.
fn damage(
    bytes: &mut Vec<u8>,
    edits: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) {
    for (at, value) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len() + 1));
    }
}

/// Reads a file of those bytes; that it returns is the test.
fn survive(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    let _ = read_path(path);
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_parquet_is_no_panic(
        file in 0usize..3,
        edits in edits(),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let files = Files::new();
        let mut bytes = PARQUET[file].clone();
        damage(&mut bytes, &edits, cut);
        survive(&files.path("a.parquet"), &bytes);
    }

    #[test]
    fn damaged_json_is_no_panic(
        file in 0usize..4,
        edits in edits(),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let files = Files::new();
        let mut bytes = JSON[file].as_bytes().to_vec();
        damage(&mut bytes, &edits, cut);
        survive(&files.path("a.json"), &bytes);
    }

    #[test]
    fn damaged_packed_text_is_no_panic(
        file in 0usize..4,
        zstd: bool,
        edits in edits(),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let files = Files::new();
        let path = packed(&files, if zstd { "a.json.zst" } else { "a.json.gz" }, JSON[file].as_bytes());
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes, &edits, cut);
        survive(&path, &bytes);
    }

    #[test]
    fn any_bytes_are_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        name in prop::sample::select(vec![
            "a.json", "a.parquet", "a.raw", "a.csv", "a.tsv", "ptb.a.txt", "a.txt", "a.txt.gz", "a.json.zst",
        ]),
    ) {
        let files = Files::new();
        survive(&files.path(name), &bytes);
    }
}

#[test]
fn deep_nesting_is_no_overflow_of_the_stack() {
    for content in ["[".repeat(200_000), "{\"a\":".repeat(200_000)] {
        let files = Files::new();
        let path = files.write("a.json", content);
        let options = TextOptions::default();
        assert!(adapruner_checkpoint::text::read(path, &options).is_err());
    }
}
