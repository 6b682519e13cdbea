//! `generate`: what is said, and how it ends.

use std::{io::Write, process::Stdio};

use tempfile::tempdir;

use crate::program::{command, fail, json, stdout, succeed, tiny, words};

#[test]
fn what_is_printed_is_what_json_says() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    for options in ["", " --temperature 0.9 --top-k 50 --top-p 0.9 --seed 3", " --raw"] {
        let line = format!("generate {{model}} --prompt Hello --max-tokens 24{options}");
        let report = json(&line, &paths);
        let answer = &report["answers"][0];
        let text = answer["text"].as_str().unwrap();
        let shown = succeed(&line, &paths);
        assert_eq!(shown.strip_suffix('\n').unwrap().trim_end(), text.trim_end(), "{line}");
        let tokens = answer["tokens"].as_array().unwrap().len();
        match answer["ended"].as_str().unwrap() {
            "max_tokens" => assert_eq!(tokens, 24),
            "eos" => assert!(tokens < 24),
            other => panic!("{other}"),
        }
        assert_eq!(json(&line, &paths)["answers"][0]["tokens"], answer["tokens"]);
    }
}

/// The embedding of this model has four rows more than the tokenizer has tokens.
#[test]
fn rows_without_a_token_are_never_drawn() {
    let (model, dir) = (crate::program::model("gqa3_untied"), tempdir().unwrap());
    let out = dir.path().join("ids.json");
    let paths = [("model", model.as_path()), ("out", &out)];
    let size = json("inspect {model}", &paths)["tokenizer_size"].as_u64().unwrap();
    assert_eq!(size, 266);
    let line = "sample {model} --samples 40 --sample-tokens 32 --temperature 9 --out {out}";
    succeed(line, &paths);
    let rows: Vec<Vec<u64>> = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(rows.concat().len(), 40 * 32);
    assert!(rows.concat().iter().all(|id| *id < size));
    let line = "generate {model} --raw --prompt Hi --temperature 9 --max-tokens 40 --samples 20";
    for answer in json(line, &paths)["answers"].as_array().unwrap() {
        let tokens = answer["tokens"].as_array().unwrap();
        assert!(tokens.iter().all(|id| id.as_u64().unwrap() < size));
    }
}

#[test]
fn the_chat_template_is_used_unless_raw() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    let line = "generate {model} --prompt Hi --max-tokens 2";
    let report = json(&format!("{line} --system Brief"), &paths);
    let expected = "<|im_start|>system\nBrief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(report["prompt"]["text"], expected);
    assert_eq!(report["prompt"]["chat"], true);
    let raw = json(&format!("{line} --raw"), &paths);
    assert_eq!(raw["prompt"]["text"], "Hi");
    assert!(raw["prompt_tokens"].as_u64() < report["prompt_tokens"].as_u64());
    let error = fail(&format!("{line} --raw --system Brief"), &paths);
    assert!(error.contains("not used by a raw prompt"), "{error}");
}

#[test]
fn prompts_come_from_files_and_stdin() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "two\nlines\n").unwrap();
    let paths = [("model", model.as_path()), ("file", &file)];
    let report = json("generate {model} --raw --prompt-file {file} --max-tokens 1", &paths);
    assert_eq!(report["prompt"]["text"], "two\nlines");

    let line = words("generate {model} --raw --max-tokens 1 --json", &paths);
    let mut child = command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin\r\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["prompt"]["text"], "from stdin");

    std::fs::write(&file, [0xff]).unwrap();
    let error = fail("generate {model} --prompt-file {file}", &paths);
    assert!(error.contains("prompt.txt: not UTF-8"), "{error}");
}

#[test]
fn several_answers_differ_and_do_not_depend_on_their_number() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    let line = "generate {model} --prompt Hi --raw --max-tokens 12 --temperature 1.2 --samples";
    let (three, two) = (json(&format!("{line} 3"), &paths), json(&format!("{line} 2"), &paths));
    let tokens = |report: &serde_json::Value, at: usize| report["answers"][at]["tokens"].clone();
    assert_ne!(tokens(&three, 0), tokens(&three, 1));
    for at in 0..2 {
        assert_eq!(tokens(&three, at), tokens(&two, at));
    }
    assert!(succeed(&format!("{line} 2"), &paths).contains("--- 2 of 2\n"));
}

#[test]
fn answers_end_with_the_context() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    let line = "generate {model} --prompt Hi --raw --max-tokens 100000 --temperature 3";
    let report = json(line, &paths);
    let (answer, taken) = (&report["answers"][0], report["prompt_tokens"].as_u64().unwrap());
    if answer["ended"] == "context" {
        let context = json("inspect {model}", &paths)["config"]["max_position_embeddings"].clone();
        let made = answer["tokens"].as_array().unwrap().len() as u64;
        assert_eq!(taken + made, context.as_u64().unwrap() + 1);
    } else {
        assert_eq!(answer["ended"], "eos");
    }
    let long = "a b c d e f g h ".repeat(200);
    let dir = tempdir().unwrap();
    let file = dir.path().join("long.txt");
    std::fs::write(&file, long).unwrap();
    let paths = [("model", model.as_path()), ("file", &file)];
    let error = fail("generate {model} --raw --prompt-file {file}", &paths);
    assert!(error.contains("must also hold an answer"), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = tiny();
    let paths = [("model", model.as_path())];
    for (options, expected) in [
        ("--max-tokens 0", "max-tokens: at least 1 expected"),
        ("--samples 2", "2 answers at temperature 0 would be the same"),
        ("--temperature NaN", "temperature: a number of at least 0 expected"),
        ("--temperature 1 --top-k 0", "top-k: at least 1 expected"),
        ("--temperature 1 --top-p 1.5", "top-p: a number above 0"),
    ] {
        let error = fail(&format!("generate {{model}} --prompt Hi {options}"), &paths);
        assert!(error.contains(expected), "{options}: {error}");
    }
    let output = command(words("generate {model} --prompt Hi --top-k 3", &paths)).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
