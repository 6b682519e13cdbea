//! Tables of comma- and tab-separated values.

use adapruner_checkpoint::{
    Result,
    text::{Text, TextOptions, read},
};

use super::{Files, documents, expected, formats::packed, message, read_as};

fn read_field(content: &str, field: &str) -> Result<Text> {
    let path = Files::new();
    let path = path.write("a.csv", content);
    read(path, &TextOptions { field: Some(field.to_owned()), ..TextOptions::default() })
}

const TABLE: &str = "\u{feff}id,text,note\r\n1,\"a, \"\"b\"\"\né\",x\r\n\r\n2,,\"\"\n3,c d,y";

#[test]
fn a_column_is_found_by_its_name() {
    assert_eq!(
        documents(&read_as("a.csv", TABLE).unwrap()),
        expected(&["a, \"b\"\né", "", "c d"], "\n\n")
    );
    assert_eq!(documents(&read_field(TABLE, "note").unwrap()), expected(&["x", "", "y"], "\n\n"));
    let tabs = "text\tid\na, b\t1\n\"c\td\"\t2\n";
    assert_eq!(documents(&read_as("A.TSV", tabs).unwrap()), expected(&["a, b", "c\td"], "\n\n"));
    let files = Files::new();
    let path = packed(&files, "a.csv.gz", TABLE.as_bytes());
    let found = read(path, &TextOptions::default()).unwrap();
    assert_eq!(found.digest, read_as("a.csv", TABLE).unwrap().digest);
}

/// Cells that end where a piece of the file does, and are longer than one.
#[test]
fn cells_of_any_length_are_whole() {
    for length in [262_100, 262_130, 262_144, 600_001] {
        let (plain, quoted) = ("é".repeat(length / 2), "€\"\"".repeat(length / 5));
        let table = format!("id,text\n1,{plain}\n2,\"{quoted}\"\n3,end\n");
        let text = read_as("a.csv", &table).unwrap();
        let quoted = quoted.replace("\"\"", "\"");
        assert!(documents(&text) == expected(&[&plain, &quoted, "end"], "\n\n"), "{length}");
    }
}

#[test]
fn what_is_no_such_table_is_refused_by_its_line() {
    for (table, refusal) in [
        ("id,body\n1,a\n", "line 1: no column \"text\"; its columns: \"id\", \"body\""),
        ("id,text\n1,a\n\"2\n\",b\n3\n", "line 5: 1 cells, the header has 2"),
        ("id,text\n1,a\n2,b,c\n", "line 3: 3 cells, the header has 2"),
        ("id,text\n1,a,b,c\n", "line 2: 3 cells or more, the header has 2"),
        ("\n\n", "line 1: no header"),
        ("id,text\n", "the text is empty"),
        ("id,text\n1, \n", "the text is empty"),
    ] {
        assert_eq!(message(read_as("a.csv", table)), refusal, "{table:?}");
    }
    let error = read_field("a\n1\n", "b").unwrap_err();
    assert_eq!(error.hint(), Some("name the column that holds the text"));
}
