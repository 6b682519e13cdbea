//! JSON records and token ids.

use adapruner_checkpoint::{
    Result,
    text::{Text, TextOptions, read},
};

use super::{Files, documents, expected, ids, message, read_as};

fn read_field(content: &str, field: &str) -> Result<Text> {
    let files = Files::new();
    let path = files.write("a.jsonl", content);
    let options = TextOptions { field: Some(field.to_owned()), ..TextOptions::default() };
    read(path.to_str().unwrap(), &options)
}

#[test]
fn records_stand_in_lines_or_in_an_array() {
    let lines = "{\"text\": \"a\\n\\u00e9\", \"n\": [1, {\"text\": 2}]}\n\n {\"id\": 7, \"text\": \"\"}\r\n";
    let array = r#"[{"text": "a\né", "x": null}, {"text": ""}]"#;
    for name in ["a.jsonl", "a.ndjson", "a.json", "A.JSONL"] {
        for content in [lines, array] {
            let text = read_as(name, content).unwrap();
            assert_eq!(documents(&text), expected(&["a\né", ""], "\n\n"), "{name}: {content}");
        }
    }
}

#[test]
fn another_field_can_hold_the_text() {
    let text = read_field(r#"{"text": 1, "body": "b"}"#, "body").unwrap();
    assert_eq!(documents(&text).0, ["b"]);
}

#[test]
fn bad_records_are_named_by_line_and_field() {
    let good = r#"{"text": "a"}"#;
    for (bad, expected) in [
        (
            r#"{"body": "b", "id": 3}"#,
            "line 3, column 23: no field \"text\" in the record; its fields: \"body\", \"id\"",
        ),
        ("{}", "line 3, column 3: no field \"text\" in the record; its fields: none"),
        (
            r#"{"text": 5}"#,
            "line 3, column 10: expected a string in field \"text\", found the number 5",
        ),
        (r#"{"text": null}"#, "line 3, column 10: expected a string in field \"text\", found null"),
        (
            r#"{"text": NaN}"#,
            "line 3, column 10: expected a string in field \"text\", found NaN or Infinity",
        ),
        (
            r#"{"text": ["a"]}"#,
            "line 3, column 10: expected a string in field \"text\", found an array",
        ),
        (
            r#"{"text": "a\ud83d!"}"#,
            "line 3, column 18: the lone surrogate \\ud83d, half of a character, in field \"text\"",
        ),
        (r#""a""#, "line 3, column 1: expected a record with a field \"text\", found a string"),
        (r#"{"text": "a"#, "line 3, column 12: the file ends within a string, in field \"text\""),
        (r#"{"text" "a"}"#, "line 3, column 9: expected ':', found a string"),
        (r#"{"text": "a",}"#, "line 3, column 14: expected a key in quotes, found '}'"),
        ("nonsense", "line 3, column 1: expected a record with a field \"text\", found null"),
    ] {
        let found = message(read_as("a.jsonl", format!("{good}\n\n{bad}")));
        assert_eq!(found, expected, "{bad}");
    }
    let found = message(read_as("a.json", "[{\"text\": \"a\"},\n {\"body\": \"b\"}]"));
    assert_eq!(found, "line 2, column 15: no field \"text\" in the record; its fields: \"body\"");
}

#[test]
fn arrays_of_integers_are_token_ids() {
    let text = read_as("ids.json", "[[1, 2, 3],\n [4294967295, 0], []]").unwrap();
    assert_eq!(ids(&text), [vec![1, 2, 3], vec![u32::MAX, 0], vec![]]);
    let text = read_as("ids.json", "[5, 6]").unwrap();
    assert_eq!(ids(&text), [vec![5, 6]]);
    // Rows are part of the content, the file's layout is not.
    let digest = |json: &str| read_as("ids.json", json).unwrap().digest;
    assert_eq!(digest("[[1,2],[3]]"), digest("[ [1, 2], [3] ]"));
    assert_ne!(digest("[[1,2],[3]]"), digest("[[1],[2,3]]"));
}

#[test]
fn bad_ids_are_named_by_their_place() {
    let id = "expected a token id (0 to 4294967295)";
    let element = "expected a record, a token id (0 to 4294967295) or an array of token ids";
    let mixed = "records, ids and arrays of ids do not mix in one array";
    for (json, expected) in [
        ("[[1, -2]]", format!("column 6: {id}, found the number -2")),
        ("[1, -2]", format!("column 5: {element}, found the number -2")),
        ("[[4294967296]]", format!("column 3: {id}, found the number 4294967296")),
        ("[4294967296]", format!("column 2: {element}, found the number 4294967296")),
        ("[[1.0]]", format!("column 3: {id}, found the number 1.0")),
        ("[[1, \"a\"]]", format!("column 6: {id}, found a string")),
        ("[[[1]]]", format!("column 3: {id}, found an array")),
        ("[true]", format!("column 2: {element}, found a boolean")),
        ("[[1], 2]", format!("column 7: {mixed}")),
        ("[1, {\"text\": \"a\"}]", format!("column 5: {mixed}")),
        ("[[1]", "column 5: expected ',' or ']', found the end of the file".to_owned()),
        ("[[1]] [2]", "column 7: expected the end of the file, found an array".to_owned()),
    ] {
        let found = message(read_as("ids.json", json));
        assert_eq!(found, format!("line 1, {expected}"), "{json}");
    }
}

/// What other programs write and JSON does not have, in fields that are not read.
#[test]
fn fields_that_are_not_read_may_hold_what_json_cannot() {
    let others = r#""a": [NaN, -Infinity, {"b": Infinity}], "c": "\ud800", "\udc00": "\ud800\n""#;
    let line = format!("{{{others}, \"text\": \"\\ud83d\\ude00 \\u00e9\", \"n\": -1.5e+30}}");
    let text = read_as("a.jsonl", format!("{line}\n{line}\n")).unwrap();
    assert_eq!(documents(&text), expected(&["😀 é"; 2], "\n\n"));
    for (bad, expected) in [
        (r#"{"a": nul, "text": ""}"#, "column 10: expected null"),
        (r#"{"a": 1., "text": ""}"#, "column 9: a number without digits"),
        (r#"{"a": "\x", "text": ""}"#, "column 9: an escape that JSON does not have"),
        (
            r#"{"a": "\u12g4", "text": ""}"#,
            "column 12: expected four digits of base 16 after \\u, found 'g'",
        ),
        ("{\"a\": \"\t\"}", "column 8: a control character 0x09 within a string"),
    ] {
        assert_eq!(message(read_as("a.jsonl", bad)), format!("line 1, {expected}"), "{bad}");
    }
}

#[test]
fn of_a_field_that_comes_twice_the_last_one_counts() {
    let text = read_as("a.jsonl", r#"{"text": "first one", "text": " ", "x": 1}{"text": "b"}"#);
    assert_eq!(documents(&text.unwrap()), expected(&[" ", "b"], "\n\n"));
}
