//! JSON records and token ids.

use adapruner_checkpoint::{
    Result,
    text::{Text, TextOptions, read},
};

use super::{Files, documents, ids, message, read_as};

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
            assert_eq!(documents(&text), (vec!["a\né", ""], "\n\n"), "{name}: {content}");
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
            "line 3, column 22: no field \"text\" in the record; its fields: \"body\", \"id\"",
        ),
        ("{}", "line 3, column 2: no field \"text\" in the record; its fields: none"),
        (
            r#"{"text": 5}"#,
            "line 3, column 10: invalid type: integer `5`, expected a string in field \"text\"",
        ),
        (
            r#"{"text": null}"#,
            "line 3, column 13: invalid type: null, expected a string in field \"text\"",
        ),
        (
            r#"{"text": ["a"]}"#,
            "line 3, column 9: invalid type: sequence, expected a string in field \"text\"",
        ),
        (
            r#""a""#,
            "line 3, column 3: invalid type: string \"a\", expected a record with a field \"text\"",
        ),
        (r#"{"text": "a"#, "line 3, column 11: EOF while parsing a string"),
        ("nonsense", "line 3, column 2: expected ident"),
    ] {
        let found = message(read_as("a.jsonl", format!("{good}\n\n{bad}")));
        assert_eq!(found, expected, "{bad}");
    }
    let found = message(read_as("a.json", "[{\"text\": \"a\"},\n {\"body\": \"b\"}]"));
    assert_eq!(found, "line 2, column 14: no field \"text\" in the record; its fields: \"body\"");
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
        ("[[1, -2]]", format!("column 7: invalid type: integer `-2`, {id}")),
        ("[1, -2]", format!("column 6: invalid type: integer `-2`, {element}")),
        ("[[4294967296]]", format!("column 12: invalid value: integer `4294967296`, {id}")),
        ("[4294967296]", format!("column 11: invalid value: integer `4294967296`, {id}")),
        ("[[1.0]]", format!("column 5: invalid type: floating point `1.0`, {id}")),
        ("[[1, \"a\"]]", format!("column 8: invalid type: string \"a\", {id}")),
        ("[[[1]]]", format!("column 2: invalid type: sequence, {id}")),
        ("[true]", format!("column 5: invalid type: boolean `true`, {element}")),
        ("[[1], 2]", format!("column 8: {mixed}")),
        ("[1, {\"text\": \"a\"}]", format!("column 18: {mixed}")),
        ("[[1]", "column 4: EOF while parsing a list".to_owned()),
        ("[[1]] [2]", "column 7: trailing characters".to_owned()),
    ] {
        let found = message(read_as("ids.json", json));
        assert_eq!(found, format!("line 1, {expected}"), "{json}");
    }
}
