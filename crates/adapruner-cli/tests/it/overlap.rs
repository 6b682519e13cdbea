//! No output of any command destroys what the command reads, or anything else
//! that is not its own; not even by force.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tempfile::{TempDir, tempdir};

use crate::program::{command, entries, fail, stderr, succeed, tiny};

/// A folder with a model `m` and texts, all of it a user's.
fn belongings() -> TempDir {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["m", "x", "r", "r/adapter", "s", "s/results", "work", "w", "data"] {
        fs::create_dir(at(folder)).unwrap();
    }
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        for model in ["m", "x"] {
            fs::copy(&path, at(model).join(path.file_name().unwrap())).unwrap();
        }
    }
    for text in ["c.txt", "t.txt", "x/t.txt", "data/t.txt"] {
        fs::copy(tiny().join("calibration.txt"), at(text)).unwrap();
    }
    for precious in [
        "r/adapter/adapter_config.json",
        "r/adapter/adapter_model.safetensors",
        "r/manifest.json",
        "x/manifest.json",
        "s/bank.safetensors",
        "s/pool.jsonl",
        "s/journal.log",
        "s/results/a.json",
        "work/best.safetensors",
        "work/log.jsonl",
        "w/masks.safetensors",
        "task.toml",
        "plan.json",
        "p.txt",
    ] {
        fs::write(at(precious), format!("precious {precious}")).unwrap();
    }
    fs::write(at("c.toml"), "[plan]\nratio = 0.2\n").unwrap();
    dir
}

/// Every file with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = entries(dir).into_iter().filter(|path| path.is_file());
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Lines whose output is, contains or lies in what they read.
const DESTRUCTIVE: [&str; 36] = [
    "stats m --calibration c.txt --stats m/model.safetensors --force",
    "stats m --calibration c.txt --stats c.txt --force",
    "stats m --calibration c.txt --stats m/new.safetensors",
    "recover m --data t.txt --teacher x --out x --force",
    "recover m --data x/t.txt --out x --force",
    "recover m --data t.txt --out m/recovered",
    "recover m --data t.txt --out o --work m",
    "recover m --data t.txt --out o --work m/work",
    "merge m --adapter r/adapter --out r --force",
    "merge m --adapter r/adapter --out r/adapter --force",
    "merge m --adapter r/adapter --out m --force",
    "apply m --study s --out s --force",
    "apply m --study s --out s/pruned",
    "apply m --plan x/manifest.json --out x --force",
    "apply m --plan plan.json --compensate --compensate-text x/t.txt --out x --force",
    "prune m --ratio 0.2 --calibration x/t.txt --out x --force",
    "prune m --ratio 0.2 --calibration c.txt --text x/t.txt --out x --force",
    "prune m --ratio 0.2 --calibration c.txt --out m --force",
    "prune m --config c.toml --calibration c.txt --out c.toml --force",
    "prune m --ratio 0.2 --calibration c.txt --stats m/bank.safetensors --out o",
    "prune m --ratio 0.2 --calibration c.txt --learn-masks 2 --masks-state m --out o",
    "apply m --plan plan.json --learn-masks 2 --mask-text x/t.txt --out x --force",
    "export m --out m --force",
    "export m --out m/gguf --format gguf",
    "sample m --out m/config.json --force",
    "sample m --out m/new.json",
    "compare-models m x --text t.txt --out t.txt --force",
    "compare-models m x --text t.txt --out x/model.safetensors --force",
    "compare-models m x --text t.txt --data-dir data --out data/t.txt --force",
    "eval m --tasks piqa --task-file task.toml --data-dir data --log-samples task.toml --force",
    "eval m --text t.txt --tasks piqa --log-samples t.txt --force",
    "report s --out s/journal.log --force",
    "report s --recovery r --out r/manifest.json --force",
    "run m/config.json --init m --force",
    "search m --ratio 0.2 --calibration c.txt --text t.txt --study m",
    "search m --ratio 0.2 --calibration c.txt --text t.txt --study m/study",
];

#[test]
fn outputs_never_touch_what_is_read() {
    let dir = belongings();
    let before = contents(dir.path());
    for line in DESTRUCTIVE {
        let error = fail_in(dir.path(), line);
        let said =
            ["is", "contains", "lies in"].iter().any(|how| error.contains(&format!(" {how} ")));
        assert!(said && error.contains("which is read as"), "{line}: {error}");
        assert_eq!(contents(dir.path()), before, "{line}");
    }
}

/// Runs a line in a folder, which must fail with exit code 1; stderr.
fn fail_in(dir: &Path, line: &str) -> String {
    let output = command(line.split(' ')).current_dir(dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}: {}", stderr(&output));
    stderr(&output)
}

#[test]
fn files_of_a_user_in_folders_of_ours_are_kept() {
    let dir = belongings();
    let before = contents(dir.path());
    for (line, named) in [
        ("search m --ratio 0.2 --calibration c.txt --text t.txt --study s", "s/"),
        ("recover m --data t.txt --out o --work work", "work/best.safetensors"),
        (
            "prune m --ratio 0.2 --calibration c.txt --learn-masks 2 --masks-state w --out o",
            "w/masks.safetensors",
        ),
    ] {
        let error = fail_in(dir.path(), line);
        let refused = error.contains("is there, but the folder holds no");
        assert!(refused && error.contains(named), "{error}");
        assert_eq!(contents(dir.path()), before, "{line}");
    }
}

/// Models in the hub's cache are links to files elsewhere.
#[cfg(unix)]
#[test]
fn what_a_model_links_to_is_read_as_well() {
    let dir = tempdir().unwrap();
    let (blob, model) = (dir.path().join("blob"), dir.path().join("m"));
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    fs::rename(model.join("model.safetensors"), &blob).unwrap();
    std::os::unix::fs::symlink(&blob, model.join("model.safetensors")).unwrap();
    let before = contents(dir.path());
    let calibration = tiny().join("calibration.txt");
    let paths = [("m", &*model), ("c", &*calibration), ("blob", &*blob)];
    let error = fail("stats {m} --calibration {c} --stats {blob} --force", &paths);
    assert!(error.contains("--stats is") && error.contains("read as MODEL"), "{error}");
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn an_output_is_replaced_only_while_it_is_as_it_was_written() {
    let dir = tempdir().unwrap();
    let (model, out) = (tiny(), dir.path().join("out"));
    let paths = [("m", &*model), ("out", &*out)];
    let line = "prune {m} {bare} --ratio 0.2 --importance magnitude_l2 --out {out} --force";
    for _ in 0..2 {
        succeed(line, &paths);
    }
    let written = contents(&out);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let error = fail(line, &paths);
    assert!(error.contains("does not name") && error.contains("notes.txt"), "{error}");
    fs::remove_file(out.join("notes.txt")).unwrap();
    // Somebody trained it further, and kept the names.
    let weights = out.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let error = fail(line, &paths);
    assert!(error.contains("was changed") && error.contains("model.safetensors"), "{error}");
    assert_eq!(fs::read(&weights).unwrap(), bytes);
    fs::write(&weights, &written[&weights]).unwrap();
    succeed(line, &paths);
}

/// `report` and `apply` read a study and change nothing in it, so that they need
/// no permission to write there.
#[test]
fn a_study_that_is_only_read_stays_as_it_is() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (model, texts) = (tiny(), [tiny().join("calibration.txt"), tiny().join("text.txt")]);
    let (study, page, out) = (at("s"), at("page.html"), at("out"));
    let paths = [
        ("m", &*model),
        ("c", &*texts[0]),
        ("t", &*texts[1]),
        ("s", &*study),
        ("page", &*page),
        ("out", &*out),
    ];
    succeed(
        "search {m} --ratio 0.2 --calibration {c} --samples 16 --sample-tokens 16 --text {t} --window 32 \
         --limit 4 --trials 3 --allow-overlap --study {s}",
        &paths,
    );
    let state = || -> Vec<_> {
        let files = entries(&study).into_iter().chain([study.clone()]);
        files.map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path)).collect()
    };
    let before = state();
    succeed("report {s} --out {page}", &paths);
    succeed("apply {m} --study {s} --out {out}", &paths);
    assert_eq!(state(), before);
    // What is missing is not made.
    fs::remove_file(study.join("journal.log")).unwrap();
    let error = fail("report {s} --out {page} --force", &paths);
    assert!(error.contains("journal.log"), "{error}");
    assert!(!study.join("journal.log").exists());
}
