//! Named sets in a data folder.

use std::{io::Write, path::Path};

use adapruner_checkpoint::{
    Error, Result,
    text::{SETS, Split, Text, TextOptions, read},
};
use parquet::basic::Compression;

use super::{Files, documents, expected, parquet::write};

fn named(spec: &str, dir: &Path) -> Result<Text> {
    let options = TextOptions { data_dir: Some(dir.to_owned()), ..TextOptions::default() };
    read(spec, &options)
}

/// A data folder with all three sets under their original names.
fn originals() -> Files {
    let files = Files::new();
    files.write("wikitext2_raw/wiki.test.raw", " \n = Test = \n");
    files.write("wikitext2_raw/wiki.valid.raw", " \n = Valid = \n");
    files.write("ptb/ptb.test.txt", " test <unk> \n");
    files.write("ptb/ptb.valid.txt", " valid <unk> \n valid two \n");
    files.write("ptb/ptb.train.txt", " train \n");
    files.write("c4/c4-validation.00001-of-00008.json", "{\"text\": \"second\"}\n");
    files.write("c4/c4-validation.00000-of-00008.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    files
}

#[test]
fn original_files_are_found_with_the_splits_of_the_literature() {
    let files = originals();
    for (spec, name, (rows, joiner)) in [
        ("wikitext2", "wikitext2:test", (&["", " = Test = \n"][..], "\n\n")),
        ("wikitext2:validation", "wikitext2:validation", (&["", " = Valid = \n"][..], "\n\n")),
        ("ptb", "ptb:validation", (&["valid <unk>", "valid two"][..], "\n\n")),
        ("ptb:valid", "ptb:validation", (&["valid <unk>", "valid two"][..], "\n\n")),
        ("ptb:test", "ptb:test", (&["test <unk>"][..], "\n\n")),
        ("c4", "c4:validation", (&["a", "b"][..], " ")),
    ] {
        let text = named(spec, files.0.path()).unwrap();
        assert_eq!(text.name, name);
        assert_eq!(documents(&text), expected(rows, joiner), "{spec}");
        assert_eq!(text.files.len(), 1, "{spec}");
    }
    let options = TextOptions {
        data_dir: Some(files.0.path().to_owned()),
        split: Some(Split::Train),
        ..TextOptions::default()
    };
    assert_eq!(documents(&read("ptb", &options).unwrap()).0, ["train"]);
}

#[test]
fn the_data_folder_may_be_the_folder_of_the_set() {
    let files = originals();
    let text = named("wikitext2", &files.path("wikitext2_raw")).unwrap();
    assert_eq!(documents(&text).0, ["", " = Test = \n"]);
}

#[test]
fn the_parquet_files_of_the_hub_hold_the_same_text() {
    let files = originals();
    let hub = Files::new();
    for folder in ["wikitext-2-raw-v1", "penn_treebank/validation", "c4/en"] {
        std::fs::create_dir_all(hub.path(folder)).unwrap();
    }
    let snappy = Compression::SNAPPY;
    let rows = |rows: &[&'static str]| vec![rows.iter().map(|&r| Some(r)).collect::<Vec<_>>()];
    // A split in two files is read in the order of their names.
    let part = |n| hub.path(&format!("wikitext-2-raw-v1/test-0000{n}-of-00002.parquet"));
    write(&part(1), &rows(&[" = Test = \n"]), snappy);
    write(&part(0), &rows(&[""]), snappy);
    write(&hub.path("c4/en/validation-00000-of-00001.parquet"), &rows(&["a", "b"]), snappy);
    for spec in ["wikitext2", "c4"] {
        let ours = named(spec, hub.0.path()).unwrap();
        assert_eq!(ours.digest, named(spec, files.0.path()).unwrap().digest, "{spec}");
    }
    // The column of PTB is called otherwise.
    let path = hub.path("penn_treebank/validation/0000.parquet");
    write(&path, &rows(&["valid <unk>", "valid two"]), snappy);
    let error = named("ptb", hub.0.path()).unwrap_err().to_string();
    assert!(error.ends_with("no column \"sentence\"; its columns: \"text\""), "{error}");
    let options = TextOptions {
        data_dir: Some(hub.0.path().to_owned()),
        field: Some("text".into()),
        split: None,
    };
    let digest = read("ptb", &options).unwrap().digest;
    assert_eq!(digest, named("ptb", files.0.path()).unwrap().digest);
}

#[test]
fn an_excerpt_stands_for_a_missing_split_and_says_so() {
    let files = Files::new();
    files.write("c4/c4_pf_decoding.jsonl", "{\"text\": \"excerpt\"}");
    files.write("c4/c4_demo.jsonl", "{\"text\": \"demo\"}");
    let text = named("c4", files.0.path()).unwrap();
    assert_eq!(text.name, "c4:validation (excerpt c4_pf_decoding.jsonl)");
    assert_eq!(documents(&text), expected(&["excerpt"], " "));
    let text = named("c4:train", files.0.path()).unwrap();
    assert_eq!(text.name, "c4:train (excerpt c4_demo.jsonl)");
    files.write("c4/en/c4-validation.json", "{\"text\": \"whole\"}");
    assert_eq!(named("c4", files.0.path()).unwrap().name, "c4:validation");
}

#[test]
fn compressed_files_are_found() {
    let files = Files::new();
    let path = files.write("en/c4-validation.00000-of-00008.json.gz", "");
    let to = std::fs::File::create(path).unwrap();
    let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
    to.write_all(b"{\"text\": \"one\"}\n").unwrap();
    to.finish().unwrap();
    let text = named("c4", files.0.path()).unwrap();
    assert_eq!((text.name.as_str(), documents(&text).0), ("c4:validation", vec!["one".to_owned()]));
}

#[test]
fn a_file_of_a_sets_name_is_meant_by_its_path() {
    let files = originals();
    let path = files.write("ptb2/ptb", "a file");
    let text = read(path, &TextOptions::default()).unwrap();
    assert_eq!((text.name.as_str(), documents(&text).0), ("ptb", vec!["a file".to_owned()]));
}

#[test]
fn unknown_names_and_splits_are_told_what_there_is() {
    let dir = originals();
    let fail = |spec: &str| -> Error { named(spec, dir.0.path()).unwrap_err() };
    let sets = "no such file, and no known set; the sets: wikitext2, ptb, c4";
    for (spec, hint) in [
        ("wikitext", Some("did you mean wikitext2?")),
        ("WikiText-2", Some("did you mean wikitext2?")),
        ("PTB:test", Some("did you mean ptb?")),
        ("C4", Some("did you mean c4?")),
        ("no/such/file.txt", None),
    ] {
        let error = fail(spec);
        assert_eq!(error.to_string(), format!("{spec}: {sets}"));
        assert_eq!(error.hint(), hint, "{spec}");
    }
    assert_eq!(
        fail("ptb:dev").to_string(),
        "ptb:dev: unknown split \"dev\", expected train, validation or test"
    );
    assert_eq!(
        fail("c4:test").to_string(),
        "c4:test: c4 has no test split; it has train, validation"
    );
    let options = TextOptions { split: Some(Split::Train), ..TextOptions::default() };
    assert_eq!(
        read("ptb:test", &options).unwrap_err().to_string(),
        "ptb:test: the name says test, the split is given as train"
    );
    let error = named("ptb", &dir.path("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere: cannot read: "), "{error}");
}

#[test]
fn every_set_has_its_default_split() {
    for set in &SETS {
        assert!(set.splits.contains(&set.default_split), "{}", set.name);
    }
}
