//! Settings from a TOML file.

use tempfile::tempdir;

use crate::program::{fail, json, tiny};

#[test]
fn a_file_fills_in_what_is_not_typed() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let config = dir.path().join("prune.toml");
    let text = model.join("text.txt");
    std::fs::write(
        &config,
        format!(
            "[plan]\nratio = 0.3\nlayout = \"uniform\"\n\n[importance]\nimportance = \"magnitude_l1\"\n\n\
             [masks]\nlearn-masks = 0\n\
             [eval]\ntext = {:?}\nwindow = 32\n\n[run]\nthreads = 1\n",
            text.to_str().unwrap()
        ),
    )
    .unwrap();
    let paths = [("model", model.as_path()), ("config", config.as_path())];
    let from_file = json("prune {model} --config {config} --dry-run", &paths);
    assert_eq!(from_file["full_plan"]["requested_ratio"], 0.3);
    assert_eq!(from_file["full_plan"]["layout"], "uniform");
    let typed = json("prune {model} --config {config} --ratio 0.1 --dry-run", &paths);
    assert_eq!(typed["full_plan"]["requested_ratio"], 0.1);
    assert_eq!(json("eval {model} --config {config}", &paths)["window"], 32);
}

#[test]
fn tasks_of_a_file_are_asked() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let config = dir.path().join("eval.toml");
    let log = dir.path().join("answers.jsonl");
    let data = model.join("../../tasks");
    let eval = format!("[eval]\ndata-dir = {:?}\n", data.to_str().unwrap());
    let tasks = format!(
        "[tasks]\ntasks = [\"piqa\", \"boolq\"]\nsample = 3\nlog-samples = {:?}\n",
        log.to_str().unwrap()
    );
    std::fs::write(&config, format!("{eval}{tasks}")).unwrap();
    let paths = [("model", model.as_path()), ("config", config.as_path())];
    let report = json("eval {model} --config {config}", &paths);
    assert_eq!(report["n-samples"]["boolq"]["effective"], 3);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 6);
    let report = json("eval {model} --config {config} --tasks piqa --sample 2 --force", &paths);
    assert_eq!(report["n-samples"]["piqa"]["effective"], 2);
    assert!(report["n-samples"].get("boolq").is_none());
    std::fs::write(&config, format!("{eval}limit = 2\n{tasks}")).unwrap();
    std::fs::remove_file(&log).unwrap();
    let error = fail("eval {model} --config {config}", &paths);
    assert!(error.contains("exclude each other"), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    let dir = tempdir().unwrap();
    let config = dir.path().join("bad.toml");
    for (content, named) in [
        ("[plan]\nration = 0.3\n", "ration"),
        ("[plans]\n", "plans"),
        ("[run]\ndtype = \"f12\"\n", "f12"),
        ("[plan\n", "plan"),
    ] {
        std::fs::write(&config, content).unwrap();
        let error =
            fail("eval {model} --config {config}", &[("model", &tiny()), ("config", &config)]);
        assert!(error.contains("bad.toml") && error.contains(named), "{content}: {error}");
    }
}
