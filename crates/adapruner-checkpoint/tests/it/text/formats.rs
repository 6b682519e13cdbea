//! Plain text, WikiText and PTB files.

use std::{fs::File, io::Write, path::PathBuf};

use adapruner_checkpoint::text::{Split, TextOptions, read};

use super::{Files, documents, expected, message, read_as, read_path};

const WIKI: &str = " \n = Title = \n \n One <unk> line . \n Two , 2 @.@ 5 . \n \n";

#[test]
fn a_plain_file_is_one_document_as_it_is() {
    let content = " \n = Title = \r\n\n\nend \n";
    for name in ["a.txt", "README", "wiki.train.first1MB.txt", "ptb.md", "rows.tokens"] {
        let text = read_as(name, content).unwrap();
        assert_eq!(documents(&text), expected(&[content], ""), "{name}");
        assert_eq!(text.name, name);
    }
}

#[test]
fn raw_wikitext_gives_the_rows_of_the_data_set() {
    let rows = ["", " = Title = \n", "", " One <unk> line . \n", " Two , 2 @.@ 5 . \n", ""];
    for name in ["wiki.test.raw", "some.RAW", "wiki.valid.tokens"] {
        assert_eq!(documents(&read_as(name, WIKI).unwrap()), expected(&rows, "\n\n"), "{name}");
    }
    let with_cr = WIKI.replace('\n', "\r\n");
    assert_eq!(documents(&read_as("a.raw", with_cr).unwrap()), expected(&rows, "\n\n"));
}

#[test]
fn ptb_gives_stripped_lines() {
    let text = read_as("ptb.valid.txt", " no it was n't <unk> \n mr. N \n").unwrap();
    assert_eq!(documents(&text), expected(&["no it was n't <unk>", "mr. N"], "\n\n"));
}

#[test]
fn the_digest_is_of_the_content_and_not_of_the_name() {
    let digest = |name, content: &str| read_as(name, content).unwrap().digest;
    assert_eq!(digest("a.txt", "abc"), digest("b.md", "abc"));
    assert_ne!(digest("a.txt", "abc"), digest("a.txt", "abd"));
    // The rows of WikiText are the same in another container.
    let json = r#"[{"text": ""}, {"text": " = A = \n"}, {"text": ""}]"#;
    assert_eq!(digest("w.raw", " \n = A = \n\n"), digest("w.json", json));
    // Where a document ends is part of the content.
    assert_ne!(
        digest("a.json", r#"[{"text": "ab"}, {"text": "c"}]"#),
        digest("a.json", r#"[{"text": "a"}, {"text": "bc"}]"#)
    );
}

#[test]
fn a_byte_order_mark_is_left_out() {
    let text = read_as("a.txt", "\u{feff}abc").unwrap();
    assert_eq!(documents(&text).0, ["abc"]);
    let text = read_as("a.jsonl", "\u{feff}{\"text\": \"abc\"}").unwrap();
    assert_eq!(documents(&text).0, ["abc"]);
}

#[test]
fn what_is_not_utf8_is_refused_with_its_place() {
    for name in ["a.txt", "a.raw", "ptb.x.txt", "a.json"] {
        let found = message(read_as(name, b"\xef\xbb\xbfab\xffc"));
        assert_eq!(found, "not UTF-8: byte 0xff at offset 5", "{name}");
    }
    assert_eq!(message(read_as("a.txt", b"ab\xe2\x82")), "not UTF-8: byte 0xe2 at offset 2");
    assert_eq!(message(read_as("a.txt", b"\xff\xfea\0")), "UTF-16 text");
}

#[test]
fn nothing_is_no_text() {
    assert_eq!(message(read_as("a.txt", "")), "empty file");
    assert_eq!(message(read_as("a.txt", " \n\t\n")), "the text is empty");
    assert_eq!(message(read_as("a.raw", " \n \n")), "the text is empty");
    assert_eq!(message(read_as("a.jsonl", "\n \n")), "the text is empty");
    for json in ["[]", "[[], []]", r#"[{"text": ""}, {"text": " "}]"#] {
        assert_eq!(message(read_as("a.json", json)), "the text is empty", "{json}");
    }
}

#[test]
fn what_is_too_large_is_not_read() {
    let files = Files::new();
    for name in ["a.txt", "a.parquet"] {
        let path = files.path(name);
        let file = File::create(&path).unwrap();
        file.set_len((4 << 30) + 1).unwrap();
        assert_eq!(message(read_path(&path)), "4294967297 bytes: a text has at most 4294967296");
    }
}

#[test]
fn folders_compressed_files_and_splits_of_files_are_refused() {
    let files = Files::new();
    let error = read_path(files.0.path()).unwrap_err();
    assert!(error.to_string().ends_with(": a folder, not a text"), "{error}");

    let error = read_path(&files.write("c4.json.xz", "x")).unwrap_err();
    assert!(error.to_string().ends_with("c4.json.xz: compressed text (.xz)"), "{error}");
    assert_eq!(error.hint(), Some("unpack it first"));

    let path = files.write("a.txt", "abc");
    let options = TextOptions { split: Some(Split::Test), ..TextOptions::default() };
    assert_eq!(message(read(path.to_str().unwrap(), &options)), "a file has no splits");
}

/// A file of these bytes, packed under another name.
pub fn packed(files: &Files, name: &str, bytes: &[u8]) -> PathBuf {
    let path = files.path(name);
    let to = File::create(&path).unwrap();
    if name.ends_with(".gz") {
        let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::default());
        to.write_all(bytes).unwrap();
        to.finish().unwrap();
    } else {
        zstd::stream::copy_encode(bytes, to, 3).unwrap();
    }
    path
}

#[test]
fn packed_texts_are_what_they_unpack_to() {
    let files = Files::new();
    for (name, text) in [
        ("c4.json", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n"),
        ("wiki.test.raw", " = One = \n\n two \n"),
        ("plain.txt", "some words"),
        ("ids.json", "[[1, 2], [3]]"),
    ] {
        let plain = read_path(&files.write(name, text)).unwrap();
        for end in ["gz", "zst"] {
            let name = format!("{name}.{end}");
            let path = packed(&files, &name, text.as_bytes());
            let found = read_path(&path).unwrap();
            assert_eq!(found.digest, plain.digest, "{name}");
            assert_eq!((found.joiner(), found.len()), (plain.joiner(), plain.len()), "{name}");
            // Several members or frames follow each other, as in files that were joined.
            let twice = [std::fs::read(&path).unwrap(), std::fs::read(&path).unwrap()].concat();
            if name.starts_with("plain") {
                let path = files.path(&format!("twice-{name}"));
                std::fs::write(&path, &twice).unwrap();
                let found = read_path(&path).unwrap();
                assert_eq!(documents(&found), expected(&["some wordssome words"], ""));
            }
            // What is cut off is no text.
            std::fs::write(&path, &twice[..twice.len() / 2 - 3]).unwrap();
            let error = read_path(&path).unwrap_err();
            assert!(error.to_string().contains("damaged or cut off"), "{name}: {error}");
        }
    }
}

#[test]
fn what_unpacks_to_far_more_than_text_does_is_refused() {
    let files = Files::new();
    let zeros = vec![b' '; 40 << 20];
    for name in ["bomb.txt.gz", "bomb.txt.zst"] {
        let refused = message(read_path(&packed(&files, name, &zeros)));
        assert!(refused.contains("unpacks to more than 16777216 bytes"), "{refused}");
    }
}
