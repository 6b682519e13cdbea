//! Definitions and records that are none.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{Checkpoint, dataset::HubData};
use adapruner_eval::{
    requests::Encoder,
    tasks::{Request, Task, wikitext},
};
use tempfile::TempDir;

use crate::fixture;

const OWN: &str = "name = \"own\"\nfiles = [\"own.jsonl\"]\ncontext = \"{ask}\"\n\
                   choices = \"{may[]}\"\ngold = \"{is}\"\nmetrics = [\"acc\"]\n";

fn write(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// No test may depend on the network.
fn no_hub(_: &HubData) -> Result<PathBuf, String> {
    Err("the hub cannot be reached".to_owned())
}

/// What is said of a task with these records.
fn said(task: &str, file: &str, records: impl AsRef<[u8]>) -> String {
    let folder = TempDir::new().unwrap();
    write(&folder, file, records);
    let error = Task::named(task).unwrap().questions(Some(folder.path())).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

fn own(definition: &str) -> Result<Task, String> {
    let folder = TempDir::new().unwrap();
    write(&folder, "own.toml", definition);
    Task::from_file(&folder.path().join("own.toml")).map_err(|e| e.to_string())
}

#[test]
fn bad_records_are_named_by_file_line_and_field() {
    let good = r#"{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"}"#;
    let winogrande =
        |bad: &str| said("winogrande", "winogrande/dev.jsonl", format!("{good}\n\n{bad}\n"));
    for (bad, expected) in [
        ("{\"sentence\": \"a _ b\"", "column 20: no JSON: EOF while parsing an object"),
        ("[1]", "expected a record, found another JSON value"),
        ("{}", "field \"sentence\": missing; there are none"),
        (
            r#"{"sentence": 1, "option1": "x", "option2": "y", "answer": "1"}"#,
            "field \"sentence\": no blank (\"_\") in it",
        ),
        (
            r#"{"sentence": "a _ b", "option1": ["x"], "option2": "y", "answer": "1"}"#,
            "field \"option1\": expected text, found an array",
        ),
        (
            r#"{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "3"}"#,
            "gold {answer}: expected one of 1, 2, found \"3\"",
        ),
        (
            r#"{"sentence": "a _ ", "option1": "x", "option2": "y", "answer": "1"}"#,
            "nothing follows the contexts",
        ),
    ] {
        assert_eq!(winogrande(bad), format!("winogrande/dev.jsonl: line 3: {expected}"), "{bad}");
    }
    let deep = "[".repeat(100_000);
    assert!(winogrande(&deep).contains("recursion limit exceeded"), "{}", winogrande(&deep));
    let bytes = [good.as_bytes(), b"\n\"\xff\""].concat();
    let found = said("winogrande", "winogrande/dev.jsonl", bytes);
    assert_eq!(found, "winogrande/dev.jsonl: line 2: not UTF-8 at offset 1");
    let long = format!("{good}\n{{\"sentence\": \"{}\"}}", "x".repeat(5 << 20));
    let found = said("winogrande", "winogrande/dev.jsonl", long);
    assert!(found.contains("line 2: a record of 5242896 bytes"), "{found}");
    assert!(said("winogrande", "winogrande/dev.jsonl", "\n \n").ends_with("no records"));
    assert!(said("winogrande", "winogrande/dev.jsonl", "").ends_with("empty file"));
}

#[test]
fn choices_and_answers_must_be_there() {
    let ask = |choices: &str, gold: &str| {
        let record = format!(
            r#"{{"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": {choices}, "label": {gold}}}"#
        );
        said("hellaswag", "hellaswag/hellaswag_val.jsonl", record)
    };
    let place = "hellaswag/hellaswag_val.jsonl: line 1: ";
    for (choices, gold, expected) in [
        ("[]", "0", "expected at least 2 choices, found 0"),
        (r#"["x"]"#, "0", "expected at least 2 choices, found 1"),
        (r#"["x", "[step]"]"#, "0", "choice 1 is empty"),
        (r#"["x", null]"#, "0", "field \"endings[]\": expected text, found null"),
        (r#""xy""#, "0", "field \"endings[]\": expected an array, found text"),
        (r#"["x", "y"]"#, "2", "gold {label}: 2 is out of range, there are 2 choices"),
        (r#"["x", "y"]"#, "-1", "gold {label}: expected an index, found \"-1\""),
        (r#"["x", "y"]"#, "1.5", "gold {label}: expected an index, found \"1.5\""),
        (r#"["x", "y"]"#, "\"\"", "gold {label}: expected an index, found \"\""),
    ] {
        assert_eq!(ask(choices, gold), format!("{place}{expected}"));
    }
}

#[test]
fn labels_of_their_own_must_fit() {
    let folder = TempDir::new().unwrap();
    let piqa = || {
        let task = Task::named("piqa").unwrap();
        let error = task.questions_with(Some(folder.path()), &no_hub).unwrap_err();
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    let record = r#"{"goal": "g", "sol1": "a", "sol2": "b"}"#;
    write(&folder, "piqa/valid.jsonl", format!("{record}\n{record}\n"));
    assert!(piqa().contains("there is no piqa/valid-labels.lst"), "{}", piqa());
    write(&folder, "piqa/valid-labels.lst", "0\n");
    assert!(piqa().contains("piqa/valid-labels.lst: 1 labels, but"), "{}", piqa());
    write(&folder, "piqa/valid-labels.lst", "0\n7\n");
    assert!(piqa().contains("valid.jsonl: line 2: gold {label}: 7 is out of range"), "{}", piqa());
    write(&folder, "piqa/valid.jsonl", r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}"#);
    write(&folder, "piqa/valid-labels.lst", "0\n");
    assert!(piqa().contains("line 1: has a field \"label\", and so does"), "{}", piqa());
}

#[test]
fn a_definition_of_one_s_own_is_read_from_beside_its_data() {
    let folder = TempDir::new().unwrap();
    write(&folder, "own.toml", OWN);
    write(&folder, "own.jsonl", r#"{"ask": "a?", "may": ["x", "y"], "is": 1}"#);
    let task = Task::from_file(&folder.path().join("own.toml")).unwrap();
    let set = task.questions(None).unwrap();
    assert_eq!(set.questions.len(), 1);
    let request = Request { context: "a?".into(), continuation: " y".into() };
    assert_eq!((&set.questions[0].requests[1], set.questions[0].gold), (&request, 1));
    assert_eq!(set.files[0].file, folder.path().join("own.jsonl"));
}

#[test]
fn definitions_that_are_none_are_refused() {
    assert!(own(OWN).is_ok());
    for (from, to, expected) in [
        ("metrics", "measures", "unknown field `measures`"),
        ("name = \"own\"", "", "missing field `name`"),
        ("\"own\"", "\"../own\"", "name: expected letters"),
        ("[\"own.jsonl\"]", "[]", "files: expected at least one"),
        ("[\"acc\"]", "[]", "metrics: expected at least one"),
        ("[\"acc\"]", "[\"f1\"]", "unknown variant `f1`"),
        ("{ask}", "{ask", "a \"{\" without its \"}\""),
        ("{ask}", "{ask[]}", "context: \"{ask[]}\" gives a list"),
        ("{may[]}", "{may}", "choices: \"{may}\" gives one text"),
        ("{may[]}", "{may[]}{is[]}", "2 lists, expected one"),
        ("\"{may[]}\"", "[\"{may\"]", "a \"{\" without its \"}\""),
        ("\"{may[]}\"", "7", "expected a template or an array of templates"),
        ("{is}", "{is|loud}", "unknown filter \"loud\""),
        ("context", "contexts", "expected context and choices, or contexts and continuation"),
    ] {
        let text = OWN.replacen(from, to, 1);
        let error = own(&text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(own(&"#".repeat(2 << 20)).unwrap_err().contains("has at most"));
}

#[test]
fn data_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("own.toml");
    write(&folder, "own.toml", OWN);
    let error = Task::from_file(&path).unwrap().questions(None).unwrap_err();
    assert!(error.to_string().contains("there is no"), "{error}");
    assert_eq!(error.hint(), Some("name the folder of the data sets: --data-dir DIR"));
    assert!(wikitext::pages_with(Some(folder.path()), &no_hub).is_err());
    write(&folder, "wiki.test.raw", b"\xff");
    let error = wikitext::pages_with(Some(folder.path()), &no_hub).unwrap_err().to_string();
    assert!(error.contains("not UTF-8 at offset 0"), "{error}");
}

#[test]
fn what_cannot_be_asked_of_a_model_is_said() {
    let checkpoint = Checkpoint::open(&fixture("models/tiny")).unwrap();
    let said = |context: &str, continuation: &str, window| {
        let request = Request { context: context.into(), continuation: continuation.into() };
        Encoder::new(&checkpoint.tokenizer, window).request(&request).unwrap_err()
    };
    assert_eq!(said("  ", "a", 256), "the context has no tokens");
    assert_eq!(said("a", "", 256), "the continuation has no tokens");
    assert!(said("a", " the watering can of the hill", 3).contains("the model 3 positions"));
}

#[test]
fn a_tokenizer_without_bos_and_eos_cannot_stand_for_nothing() {
    let folder = TempDir::new().unwrap();
    let tiny = fixture("models/tiny");
    let copy = |name: &str| std::fs::read(tiny.join(name)).unwrap();
    write(&folder, "tokenizer.json", copy("tokenizer.json"));
    let tokenizer =
        adapruner_checkpoint::tokenizer::TextTokenizer::from_hf_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (None, None));
    let encoder = Encoder::new(&tokenizer, 256);
    let ask = |context: &str| {
        encoder.request(&Request { context: context.into(), continuation: " a".into() })
    };
    assert!(ask("").unwrap_err().contains("neither BOS nor EOS"));
    assert!(ask("the").is_ok());
    assert!(encoder.rolling("the hill").unwrap_err().contains("neither BOS nor EOS"));
}

#[test]
fn mutated_records_never_panic() {
    let path = fixture("tasks/arc/ARC-Easy-Test.jsonl");
    let text = std::fs::read(&path).unwrap();
    let folder = TempDir::new().unwrap();
    let task = Task::named("arc_easy").unwrap();
    for at in 0..400_usize {
        let mut bytes = text.clone();
        let place = at.wrapping_mul(2_654_435_761) % bytes.len();
        bytes[place] = [0, b'"', b'{', 0xff, b'9', b'\n'][at % 6];
        if at % 3 == 0 {
            bytes.truncate(place);
        }
        write(&folder, "arc/ARC-Easy-Test.jsonl", &bytes);
        let _ = task.questions(Some(Path::new(folder.path())));
    }
}
