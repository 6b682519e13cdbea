//! Bad input: one line of error, exit code 1, the disk as it was.

use std::{fs, path::Path};

use tempfile::{TempDir, tempdir};

use crate::program::{entries, fail, tiny};

/// A copy of the trained fixture model.
fn copy() -> TempDir {
    let dir = tempdir().unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let calibration = tiny().join("calibration.txt");
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    for (options, named) in [
        ("--ratio 0", "ratio"),
        ("--ratio 1", "ratio"),
        ("--ratio -0.5", "ratio"),
        ("--ratio nan", "found NaN"),
        ("--ratio 0.99", "largest reachable"),
        ("--ratio 0.2 --samples 0", "sample"),
        ("--ratio 0.2 --sample-tokens 1", "token"),
        ("--ratio 0.2 --sample-tokens 100000", "token"),
        ("--ratio 0.2 --samples 100000", "sample"),
        ("--ratio 0.2 --layout uniform --protect 1,1", "protect"),
        ("--ratio 0.2 --protect 2,2", "protect"),
        ("--ratio 0.2 --drop-attention 9", "drop-attention"),
        ("--ratio 0.2 --multiple-of 0", "multiple-of"),
        ("--ratio 0.2 --attention-share 2", "attention-share"),
        ("--ratio 0.2 --threads 0", "threads"),
        ("--ratio 0.2 --device cuda", "cuda"),
        ("", "ratio"),
        ("--drop-layers 1 --ratio -0.5", "found -0.5"),
        ("--vocab 400 --ratio -0.5", "found -0.5"),
    ] {
        let line = format!("prune {{model}} --calibration {{calibration}} --out {{out}} {options}");
        let line = line.replace("--ratio -0.5", "--ratio=-0.5");
        let paths = [("model", tiny()), ("calibration", calibration.clone()), ("out", out.clone())];
        let paths: Vec<(&str, &Path)> = paths.iter().map(|(n, p)| (*n, p.as_path())).collect();
        let error = fail(&line, &paths);
        assert!(error.contains(named), "{options}: {error}");
        assert!(entries(dir.path()).is_empty(), "{options}: {:?}", entries(dir.path()));
    }
}

#[test]
fn outputs_are_never_overwritten_unasked() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "precious").unwrap();
    let before = entries(dir.path());
    let line = "prune {model} {bare} --ratio 0.2 --importance random --out {out}";
    let tiny = tiny();
    let paths = [("model", tiny.as_path()), ("out", out.as_path())];
    assert!(fail(line, &paths).contains("already exists"));
    // Not an output of this program: not even by force.
    fail(&format!("{line} --force"), &paths);
    assert_eq!(entries(dir.path()), before);
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "precious");
    let copy = copy();
    let itself = [("model", copy.path()), ("out", copy.path())];
    fail(&format!("{line} --force"), &itself);
    assert!(copy.path().join("model.safetensors").is_file());
    let nowhere = dir.path().join("no/such/parent");
    let error = fail(line, &[("model", tiny.as_path()), ("out", nowhere.as_path())]);
    assert!(error.contains("no/such"), "{error}");
}

#[test]
fn models_that_cannot_be_opened_are_named() {
    let line = "inspect {model}";
    for (path, named) in [("/no/such/model", "no such file"), ("/etc/hostname", "GGUF")] {
        let error = fail(line, &[("model", Path::new(path))]);
        assert!(error.contains(path) && error.contains(named), "{error}");
    }
    let error = fail("inspect owner/name", &[]);
    assert!(error.contains("owner/name") && error.contains("hub"), "{error}");
}

#[test]
fn damaged_models_are_refused_with_file_and_tensor() {
    let text = tiny().join("text.txt");
    let check = |damage: &dyn Fn(&Path), named: &[&str]| {
        let dir = copy();
        damage(dir.path());
        let before = entries(dir.path());
        let error = fail("eval {model} --text {text}", &[("model", dir.path()), ("text", &text)]);
        for word in named {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(entries(dir.path()), before);
    };
    let weights = |dir: &Path| dir.join("model.safetensors");
    check(
        &|dir| {
            let bytes = fs::read(weights(dir)).unwrap();
            fs::write(weights(dir), &bytes[..bytes.len() / 2]).unwrap();
        },
        &["model.safetensors"],
    );
    check(&|dir| fs::write(weights(dir), [0xff; 64]).unwrap(), &["model.safetensors"]);
    check(&|dir| fs::write(weights(dir), []).unwrap(), &["model.safetensors", "empty"]);
    check(
        &|dir| {
            // The last tensor's last BF16 number becomes NaN.
            let mut bytes = fs::read(weights(dir)).unwrap();
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&[0xff, 0x7f]);
            fs::write(weights(dir), bytes).unwrap();
        },
        &["tensor", "NaN"],
    );
    check(
        &|dir| {
            let path = dir.join("config.json");
            let config = fs::read_to_string(&path).unwrap();
            fs::write(&path, config.replace("\"LlamaForCausalLM\"", "\"BertModel\"")).unwrap();
        },
        &["BertModel", "not supported"],
    );
    check(
        &|dir| {
            let path = dir.join("config.json");
            let config = fs::read_to_string(&path).unwrap();
            let wider = config.replace("\"intermediate_size\": 128", "\"intermediate_size\": 129");
            assert_ne!(wider, config);
            fs::write(&path, wider).unwrap();
        },
        &["tensor", "mlp", "129"],
    );
    check(&|dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(), &["tokenizer.json"]);
    check(&|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer"]);
}

#[test]
fn texts_that_cannot_be_used_are_named() {
    let dir = tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    for (path, named) in [
        (write("empty.txt", b""), "empty"),
        (write("short.txt", b"too short"), "token"),
        (write("bad.txt", b"\xff\xfe\xfd some text"), "UTF-8"),
        (write("bad.jsonl", b"{\"text\": \"a\"}\n{\"text\": 1}\n"), "line 2"),
        (write("field.jsonl", b"{\"body\": \"a\"}\n"), "text"),
        (write("bad.parquet", b"PAR1 nothing"), "parquet"),
        (write("ids.json", b"[[1, 2], [-1]]"), "-1"),
        (write("large.json", b"[[1, 2, 999999, 3]]"), "999999"),
        (dir.path().join("missing.txt"), "missing.txt"),
    ] {
        let line = "eval {model} --text {text} --window 4";
        let line = if named == "token" { "eval {model} --text {text}" } else { line };
        let error = fail(line, &[("model", &tiny()), ("text", &path)]);
        assert!(error.contains(named), "{named}: {error}");
    }
    let error = fail("eval {model} --text wikitext3", &[("model", &tiny())]);
    assert!(error.contains("wikitext2"), "{error}");
}

#[test]
fn text_that_was_calibrated_on_is_not_measured_on() {
    let calibration = tiny().join("calibration.txt");
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let tiny = tiny();
    let paths =
        [("model", tiny.as_path()), ("calibration", calibration.as_path()), ("out", out.as_path())];
    let line =
        "prune {model} --ratio 0.2 --calibration {calibration} --text {calibration} --out {out}";
    let error = fail(line, &paths);
    assert!(error.contains("share") && error.contains("--allow-overlap"), "{error}");
    assert!(entries(dir.path()).is_empty());
    crate::program::succeed(&format!("{line} --allow-overlap"), &paths);
}

#[test]
fn statistics_and_plans_that_are_none_are_refused() {
    let dir = tempdir().unwrap();
    let bad = dir.path().join("bad.json");
    let out = dir.path().join("out");
    for content in [&b"{}"[..], b"[1]", b"\xff", b"{\"plan\": {\"version\": 9}}"] {
        fs::write(&bad, content).unwrap();
        let error = fail(
            "apply {model} --plan {bad} --out {out}",
            &[("model", &tiny()), ("bad", &bad), ("out", &out)],
        );
        assert!(error.contains("bad.json") && error.contains("plan"), "{error}");
        let error = fail(
            "prune {model} --ratio 0.2 --calibration {text} --stats {bad} --out {out}",
            &[("model", &tiny()), ("bad", &bad), ("out", &out), ("text", &tiny().join("text.txt"))],
        );
        assert!(error.contains("bad.json") && error.contains("statistics"), "{error}");
        assert!(!out.exists());
    }
}
