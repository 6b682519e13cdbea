//! A flipped bit in what the program wrote is an error that names the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::tempdir;

use crate::program::{entries, fail, succeed, tiny};

/// Calls `check` with a bit of a file flipped: one in its first bytes, one in
/// its middle, its last one.
fn flipped(path: &Path, check: &mut dyn FnMut()) {
    let whole = fs::read(path).unwrap();
    for bit in [3, whole.len() * 4 + 1, whole.len() * 8 - 1] {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
        check();
    }
    fs::write(path, whole).unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn models_are_held_against_their_manifests() {
    let dir = tempdir().unwrap();
    let (model, out) = (tiny(), dir.path().join("out"));
    let text = model.join("text.txt");
    let paths = [("m", &*model), ("out", &*out), ("text", &*text)];
    succeed(
        "prune {m} {bare} --ratio 0.2 --importance magnitude_l2 --out {out} --format hf,gguf",
        &paths,
    );
    let gguf = out.join("model.gguf");
    let files: Vec<PathBuf> = entries(&out).into_iter().collect();
    assert!(files.len() > 5, "{files:?}");
    for path in files.iter().filter(|path| **path != gguf) {
        flipped(path, &mut || {
            let error = fail("eval {out} --text {text} --window 32 --limit 2", &paths);
            assert!(error.contains(&name(path)), "{}: {error}", path.display());
        });
    }
    flipped(&gguf, &mut || {
        let error = fail("inspect {gguf}", &[("gguf", &gguf)]);
        assert!(error.contains("model.gguf"), "{error}");
        // The folder beside it is as it was.
        succeed("inspect {out}", &paths);
    });
    // Edited on purpose.
    let config = out.join("config.json");
    let edited =
        fs::read_to_string(&config).unwrap().replace("\"rope_theta\": 1", "\"rope_theta\": 2");
    fs::write(&config, edited).unwrap();
    let error = fail("inspect {out}", &paths);
    assert!(error.contains("config.json") && error.contains("--no-verify"), "{error}");
    succeed("inspect {out} --no-verify", &paths);
    fs::remove_file(&config).unwrap();
    let error = fail("inspect {out}", &paths);
    assert!(error.contains("config.json") && error.contains("no such file found"), "{error}");
}

#[test]
fn statistics_and_plans_are_held_against_their_own_digests() {
    let dir = tempdir().unwrap();
    let (model, out, stats) = (tiny(), dir.path().join("out"), dir.path().join("bank.safetensors"));
    let (calibration, next) = (model.join("calibration.txt"), dir.path().join("next"));
    let manifest = out.join("manifest.json");
    let paths = [
        ("m", &*model),
        ("c", &*calibration),
        ("stats", &*stats),
        ("out", &*out),
        ("next", &*next),
        ("plan", &*manifest),
    ];
    let line = "prune {m} {taylor} --ratio 0.2 --calibration {c} --stats {stats} --out";
    succeed(&format!("{line} {{out}}"), &paths);
    flipped(&stats, &mut || {
        let error = fail(&format!("{line} {{next}}"), &paths);
        assert!(error.contains("bank.safetensors"), "{error}");
    });
    flipped(&manifest, &mut || {
        let error = fail("apply {m} --plan {plan} --out {next}", &paths);
        assert!(error.contains("manifest.json"), "{error}");
    });
    assert!(!next.exists());
    succeed("apply {m} --plan {plan} --out {next}", &paths);
}

#[test]
fn the_files_of_a_study_are_held_against_their_digests() {
    let dir = tempdir().unwrap();
    let (model, study, page) = (tiny(), dir.path().join("study"), dir.path().join("page.html"));
    let (calibration, text) = (model.join("calibration.txt"), model.join("text.txt"));
    let paths =
        [("m", &*model), ("c", &*calibration), ("t", &*text), ("s", &*study), ("page", &*page)];
    let search = "search {m} --ratio 0.2 --calibration {c} --samples 16 --sample-tokens 16 --text {t} \
                  --window 32 --limit 4 --trials 3 --allow-overlap --study {s}";
    succeed(search, &paths);
    for name in ["search.json", "bank.safetensors", "pool.jsonl"] {
        flipped(&study.join(name), &mut || {
            let error = fail(search, &paths);
            assert!(error.contains(name), "{name}: {error}");
        });
    }
    let result = fs::read_dir(study.join("results")).unwrap().next().unwrap().unwrap().path();
    flipped(&result, &mut || {
        let error = fail("report {s} --out {page}", &paths);
        assert!(error.contains(&name(&result)), "{error}");
    });
    succeed("report {s} --out {page}", &paths);
    // A value that is gone, as by hand: the digest tells, and without one the count.
    let record = study.join("search.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json["prepared"]["dense_losses"].as_array_mut().unwrap().pop();
    fs::write(&record, json.to_string()).unwrap();
    assert!(fail(search, &paths).contains("search.json: damaged"));
    json.as_object_mut().unwrap().remove("sealed");
    json["adapruner"] = "0.1.0".into();
    fs::write(&record, json.to_string()).unwrap();
    let error = fail(search, &paths);
    assert!(error.contains("losses on 4 chunks, found 3"), "{error}");
}

#[test]
fn adapters_and_trainings_are_held_against_their_digests() {
    let dir = tempdir().unwrap();
    let (model, out, merged) = (tiny(), dir.path().join("out"), dir.path().join("merged"));
    let (text, adapter) = (model.join("text.txt"), out.join("adapter"));
    let paths =
        [("m", &*model), ("t", &*text), ("out", &*out), ("a", &*adapter), ("merged", &*merged)];
    succeed(
        "recover {m} --data {t} --cutoff 32 --batch-size 4 --max-steps 2 --warmup 0 --out {out} --format hf",
        &paths,
    );
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        flipped(&adapter.join(name), &mut || {
            let error = fail("merge {m} --adapter {a} --out {merged}", &paths);
            assert!(error.contains(name), "{name}: {error}");
        });
    }
    succeed("merge {m} --adapter {a} --out {merged}", &paths);
    // The log is named, too: the folder may be replaced.
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains("training.jsonl"), "{manifest}");
}
