//! Metrics of activations on the command line, in statistics and in the search space.

use std::{fs, path::Path};

use adapruner_prune::{StatsBank, Terms, bank::BankArrays};
use serde_json::Value;
use tempfile::tempdir;

use crate::{
    program::{fail, json, succeed, tiny},
    search::{LINE, Small},
};

fn bank(path: &Path) -> StatsBank {
    StatsBank::from_bytes(&fs::read(path).unwrap()).unwrap()
}

/// The same statistics as version 2 had them: without activation sums.
fn as_version_2(bank: &StatsBank) -> StatsBank {
    let mut header = bank.header().clone();
    header.version = 2;
    let BankArrays { signed, element, fisher, batch_first, batch_mix, .. } = bank.arrays().clone();
    let empty = BankArrays::default();
    let arrays = BankArrays { signed, element, fisher, batch_first, batch_mix, ..empty };
    StatsBank::new(header, arrays).unwrap()
}

fn ffn(plan: &Value) -> Vec<Value> {
    let layers = plan.pointer("/full_plan/layers").and_then(Value::as_array);
    layers.unwrap_or_else(|| panic!("{plan}")).iter().map(|layer| layer["ffn"].clone()).collect()
}

#[test]
fn a_forward_pass_is_enough_for_wanda_and_flap() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let calibration = model.join("calibration.txt");
    let (forward, full) = (dir.path().join("forward"), dir.path().join("full"));
    let out = dir.path().join("out");
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("forward", forward.as_path()),
        ("full", full.as_path()),
        ("out", out.as_path()),
    ];
    let drawn = "--calibration {calibration} --samples 6 --sample-tokens 16";
    let plan = |importance: &str, more: &str| {
        let line = format!(
            "prune {{model}} {{bare}} --ratio 0.2 {drawn} --importance {importance} {more} --dry-run"
        );
        json(&line, &paths)
    };
    let collect = |name: &str, terms: &str| {
        json(&format!("stats {{model}} {drawn} --stats {{{name}}} {terms}"), &paths)
    };
    let report = collect("forward", "--terms activations");
    assert_eq!(report["terms"], "activations");
    assert_eq!(bank(&forward).header().terms, Terms::Activations);
    collect("full", "");
    let mut plans = Vec::new();
    for importance in ["wanda", "flap", "adapruner:activation=1,metric=flap"] {
        let own = ffn(&plan(importance, ""));
        assert_eq!(ffn(&plan(importance, "--stats {forward}")), own, "{importance}");
        assert_eq!(ffn(&plan(importance, "--stats {full}")), own, "{importance}");
        plans.push(own);
    }
    assert_ne!(plans[0], plans[1]);
    assert_eq!(plans[1], plans[2]);
    // What is collected for wanda alone is a forward pass, and no gradient follows from it.
    let line =
        format!("prune {{model}} {{bare}} --ratio 0.2 {drawn} --importance wanda --out {{out}}");
    let written = dir.path().join("written");
    let mut with = paths.to_vec();
    with.push(("written", written.as_path()));
    json(&format!("{line} --stats {{written}}"), &with);
    assert_eq!(fs::read(&written).unwrap(), fs::read(&forward).unwrap());
    let line = format!(
        "prune {{model}} {{bare}} --ratio 0.2 {drawn} --importance param_second --stats {{forward}} --dry-run"
    );
    let refused = fail(&line, &paths);
    for part in ["forward: ", "param_second needs the element and Fisher sums", "delete this one"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn statistics_of_an_earlier_version_are_refused_for_what_they_lack() {
    let (model, dir) = (tiny(), tempdir().unwrap());
    let (calibration, old) = (model.join("calibration.txt"), dir.path().join("old"));
    let paths = [
        ("model", model.as_path()),
        ("calibration", calibration.as_path()),
        ("old", old.as_path()),
    ];
    let drawn = "--calibration {calibration} --samples 4 --sample-tokens 16 --stats {old}";
    json(&format!("stats {{model}} {drawn}"), &paths);
    let line = |what: &str| {
        format!("prune {{model}} {{bare}} --ratio 0.2 {drawn} --importance {what} --dry-run")
    };
    let before = json(&line("param_first"), &paths);
    fs::write(&old, as_version_2(&bank(&old)).to_bytes().unwrap()).unwrap();
    assert_eq!(ffn(&json(&line("param_first"), &paths)), ffn(&before));
    let refused = fail(&line("flap"), &paths);
    for part in ["old: ", "flap needs the activation sums", "earlier versions have none", "hint: "]
    {
        assert!(refused.contains(part), "{refused}");
    }
}

/// FLAP's way to compare layers: standardised scores in one ranking.
#[test]
fn layers_are_compared_by_standardised_scores() {
    let (model, calibration) = (tiny(), tiny().join("calibration.txt"));
    let paths = [("model", model.as_path()), ("calibration", calibration.as_path())];
    let of = |allocation: &str| {
        let line = format!(
            "prune {{model}} {{bare}} --ratio 0.2 --calibration {{calibration}} --samples 6 --sample-tokens \
             16 --importance flap --attention-share free --allocation {allocation} --dry-run"
        );
        ffn(&json(&line, &paths))
    };
    let (standard, none) = (of("global:standard"), of("global:none"));
    assert_ne!(standard, none);
    let kept: Vec<usize> = standard.iter().map(|ffn| ffn.as_array().unwrap().len()).collect();
    assert!(kept.iter().any(|&width| width != kept[0]), "{kept:?}");
}

#[test]
fn trials_blend_activations_in() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    fs::write(&config, "[space]\nactivation = [0.5, 1]\nactivation-metric = \"flap\"\n").unwrap();
    let found = small.search(&format!("--trials 5 --config {}", config.display()));
    let best = &found["best"]["configuration"];
    assert!((0.5..=1.0).contains(&best["activation"].as_f64().unwrap()), "{best}");
    assert_eq!(best["activation_metric"], "flap");
    assert_eq!(bank(&small.study.join("bank.safetensors")).header().version, 3);
    // And are applied as they were measured.
    let applied = small.json("apply {model} --study {study} --out {out}");
    assert_eq!(applied["study"]["configuration"], *best);
}

/// The first trial is the best setting by hand: Wanda where it may be chosen, the first order
/// where not.
#[test]
fn a_search_begins_with_wanda() {
    let begun = |more: &str, space: &str| {
        let small = Small::new();
        let config = small.dir.path().join("space.toml");
        fs::write(&config, format!("[space]\n{space}\n")).unwrap();
        let found = small.search(&format!("--trials 1 {more} --config {}", config.display()));
        assert_eq!(found["best"]["number"], 0);
        let first = found["best"]["configuration"].clone();
        assert_eq!((&first["alpha1"], &first["beta_fine"]), (&0.0.into(), &0.01.into()));
        (first["activation"].as_f64().unwrap(), first["activation_metric"].clone())
    };
    assert_eq!(begun("", ""), (1.0, "wanda".into()));
    assert_eq!(begun("--space paper", ""), (0.0, "wanda".into()));
    assert_eq!(begun("", "activation = false"), (0.0, "wanda".into()));
    assert_eq!(
        begun("", "activation = [0.1, 0.5]\nactivation-metric = \"flap\""),
        (0.5, "flap".into())
    );
}

#[test]
fn the_paper_has_no_activation_metric() {
    let small = Small::new();
    let paths = small.paths();
    let paths: Vec<_> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let row = |more: &str| {
        let shown = succeed(&format!("search {LINE} --show-space {more}"), &paths);
        let rows: Vec<String> = shown
            .lines()
            .filter(|line| line.trim_start().starts_with("activation"))
            .map(str::to_owned)
            .collect();
        assert!(rows.len() >= 2, "{shown}");
        rows.join("\n")
    };
    let (full, paper) = (row(""), row("--space paper"));
    assert!(full.contains("0 to 1") && full.contains("wanda | flap"), "{full}");
    assert!(!paper.contains("0 to 1") && !paper.contains("wanda | flap"), "{paper}");
}

/// Edits the space of every study in a journal, as one without checks of its lines.
fn edit_spaces(journal: &Path, edit: impl Fn(&mut Vec<Value>)) {
    let text = fs::read_to_string(journal).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("check");
        if let Some(Value::Array(dimensions)) = line.pointer_mut("/user_attr/space/dimensions") {
            edit(dimensions);
        }
        format!("{line}\n")
    });
    fs::write(journal, lines.collect::<String>()).unwrap();
}

#[test]
fn a_study_of_an_older_space_is_refused_by_name_and_can_be_applied() {
    let small = Small::new();
    small.search("--trials 3");
    edit_spaces(&small.study.join("journal.log"), |dimensions| {
        dimensions.retain(|dimension| !dimension[0].as_str().unwrap().starts_with("activation"));
        assert_eq!(dimensions.len(), 13);
    });
    let refused = small.refused("--trials 4");
    assert!(refused.contains("another space"), "{refused}");
    assert!(refused.contains("it was without activation, activation-metric"), "{refused}");
    let applied = small.json("apply {model} --study {study} --out {out}");
    let configuration = &applied["study"]["configuration"];
    assert_eq!(
        (&configuration["activation"], &configuration["activation_metric"]),
        (&Value::from(0.0), &Value::from("wanda"))
    );
    // A space that lacks what always was there, or has something twice, is damaged.
    for twice in [false, true] {
        edit_spaces(&small.study.join("journal.log"), |dimensions| {
            let first = dimensions[0].clone();
            if twice {
                dimensions.extend([first.clone(), first])
            } else {
                dimensions.remove(0);
            }
        });
        let refused = small.fail("apply {model} --study {study} --force --out {out}");
        assert!(refused.contains("attributes are damaged"), "{refused}");
    }
}

/// The statistics of an earlier version serve a new search no longer: they are collected again.
#[test]
fn a_search_collects_what_older_statistics_lack() {
    let small = Small::new();
    small.search("--trials 2");
    let path = small.study.join("bank.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, as_version_2(&bank(&path)).to_bytes().unwrap()).unwrap();
    small.search("--trials 2 --sampler random");
    assert!(fs::read(&path).unwrap() == whole);
}
