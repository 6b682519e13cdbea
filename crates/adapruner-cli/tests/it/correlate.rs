//! Losses held against accuracies: which models, what is kept, what is said.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    program::{command, stderr, stdout},
    search::{LINE, Small},
};

/// A small study, and the line that correlates its trials.
fn study(trials: u64) -> Small {
    let small = Small::new();
    small.search(&format!("--trials {trials}"));
    small
}

fn line(more: &str) -> String {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tasks");
    let data = data.to_str().unwrap();
    format!(
        "correlate {{study}} --text {{text}} --test {{pool}} --test-windows 3 --allow-overlap \
         --data-dir {data} {more}"
    )
}

/// The kept models by file name.
fn kept(study: &Path) -> BTreeMap<String, String> {
    let Ok(files) = std::fs::read_dir(study.join("results/correlate/points")) else {
        return BTreeMap::new();
    };
    let files = files.map(|file| file.unwrap().path()).filter(|file| {
        // Not those that are being written.
        file.extension().is_some_and(|extension| extension == "json")
            && !file.file_name().unwrap().to_str().unwrap().starts_with('.')
    });
    files
        .filter_map(|file| {
            let text = std::fs::read_to_string(&file).ok()?;
            Some((file.file_name().unwrap().to_str().unwrap().to_owned(), text))
        })
        .collect()
}

/// Points without what differs from run to run.
fn timeless(points: &Value) -> Value {
    let mut points = points.clone();
    for point in points.as_array_mut().unwrap() {
        if let Some(figures) = point.pointer_mut("/outcome/measured") {
            figures.as_object_mut().unwrap().remove("seconds");
        }
    }
    points
}

#[test]
fn every_loss_is_held_against_every_accuracy() {
    let small = study(10);
    let typed = line("--tasks piqa,boolq --trials 6 --ratios 0.1,0.2,0.3");
    let planned = small.json(&format!("{typed} --dry-run"));
    assert_eq!(planned["work"]["open"], 19);
    assert_eq!(planned["trials"].as_array().unwrap().len(), 6);
    assert!(planned["work"]["seconds"].as_f64().unwrap() > 0.0);
    assert!(kept(&small.study).is_empty());

    let found = small.json(&typed);
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 18);
    // The best trial and the first one are there.
    let best = small.search("--trials 10")["best"].clone();
    let trials: Vec<&Value> = points.iter().step_by(3).map(|point| &point["trial"]).collect();
    assert!(trials.contains(&&best["number"]) && trials.contains(&&Value::from(0)), "{trials:?}");
    // At the study's own ratio the best trial has the loss that the search found.
    let own = points.iter().find(|p| p["trial"] == best["number"] && p["ratio"] == 0.2).unwrap();
    let loss = own["outcome"]["measured"]["losses"][0]["loss"].as_f64().unwrap();
    assert!((loss - best["loss"].as_f64().unwrap()).abs() < 1e-9, "{loss} {best}");
    for point in points {
        let figures = &point["outcome"]["measured"];
        assert_eq!(figures["losses"].as_array().unwrap().len(), 2, "{point}");
        assert_eq!(figures["tasks"].as_array().unwrap().len(), 2);
        assert!(figures["mean"].is_null());
    }
    // The dense model is its own point: as `eval` has it.
    let dense = &found["dense"]["outcome"]["measured"];
    assert_eq!(
        (&found["dense"]["trial"], &dense["tasks"][1]["value"]),
        (&Value::Null, &0.375.into())
    );
    // Two losses, two tasks, three ratios of six models each: 18 models of 6 trials,
    // which are too few to be judged.
    let pairs = found["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    for pair in pairs {
        assert_eq!(pair["overall"]["points"], 18);
        let within = pair["within"].as_array().unwrap();
        assert_eq!(within.len(), 3);
        assert!(within.iter().all(|w| w["points"] == 6 && w["trials"] == 6), "{pair}");
        assert_eq!((&pair["overall"]["trials"], &pair["verdict"]), (&6.into(), &"too-few".into()));
        assert!(pair["overall"]["spearman"]["interval"].is_null(), "{pair}");
        assert!(pair["overall"]["spearman"]["p"].is_null(), "{pair}");
    }
    assert_eq!(found["sentences"].as_array().unwrap().len(), 2);

    // Nothing is measured again, and the text says the same.
    let before = kept(&small.study);
    assert_eq!(before.len(), 19);
    let output = command(small.words(&typed)).output().unwrap();
    let (shown, said) = (stdout(&output), stderr(&output));
    assert_eq!(kept(&small.study), before);
    assert!(said.contains("0 of 19 models to measure"), "{said}");
    for words in ["Spearman", "at ratio 0.3", "dense", found["sentences"][0].as_str().unwrap()] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    // Other questions are other models' figures: all are measured anew, beside them.
    small.json(&line("--tasks piqa,boolq --trials 2 --limit 4"));
    assert_eq!(kept(&small.study).len(), 19 + 3);

    small.json("report {study} --out {page}");
    let page = std::fs::read_to_string(small.dir.path().join("page.html")).unwrap();
    assert!(page.contains("id=\"correlation\"") && page.contains("boolq"));

    // A file with the intervals of a bootstrap of models is judged again.
    let path = small.study.join("results/correlate");
    let path = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    let mut older: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    older.as_object_mut().unwrap().remove("sealed");
    older["adapruner"] = "0.1.0".into();
    older["version"] = 1.into();
    older["sentences"] = serde_json::json!(["The search loss is a good guide to piqa."]);
    older["pairs"] = serde_json::json!([{ "verdict": "good" }]);
    std::fs::write(&path, older.to_string()).unwrap();
    small.json("report {study} --out {page} --force");
    let page = std::fs::read_to_string(small.dir.path().join("page.html")).unwrap();
    assert!(!page.contains("good guide") && page.contains("too few trials"), "judged again");
}

#[test]
fn all_seven_tasks_have_a_mean() {
    let small = study(4);
    let seven = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa";
    let found = small.json(&line(&format!("--tasks {seven} --trials 2")));
    let outcomes: Vec<&str> = found["pairs"].as_array().unwrap()[..8]
        .iter()
        .map(|pair| pair["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes[7], "mean of seven");
    let figures = &found["points"][0]["outcome"]["measured"];
    let values = figures["tasks"].as_array().unwrap().iter().map(|t| t["value"].as_f64().unwrap());
    let mean = values.sum::<f64>() / 7.0;
    assert!((figures["mean"][0].as_f64().unwrap() - mean).abs() < 1e-12);
    // Two models are too few, and that is said.
    assert!(found["pairs"].as_array().unwrap().iter().all(|pair| pair["verdict"] == "too-few"));
    assert!(found["sentences"][0].as_str().unwrap().contains("too few trials"));
}

#[test]
fn a_killed_run_goes_on_and_finds_the_same() {
    const MORE: &str = "--tasks piqa,arc_easy --trials 6 --ratios 0.1,0.2,0.3 --threads 1";
    let (small, undisturbed) = (study(7), study(7));
    let whole = undisturbed.json(&line(MORE));
    let start = || -> Child {
        let mut command = command(small.words(&line(MORE)));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut before = BTreeMap::new();
    for kill in 1..=3 {
        let mut child = start();
        for _ in 0..2000 {
            if kept(&small.study).len() >= 4 * kill {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if kill == 2 {
            let pid = child.id().to_string();
            let sent = std::process::Command::new("kill").args(["-INT", &pid]).status();
            assert!(sent.unwrap().success());
            assert_eq!(child.wait().unwrap().code(), Some(130));
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let now = kept(&small.study);
        assert!(now.len() < 19 && now.len() >= 4 * kill, "{}", now.len());
        for (name, text) in &before {
            assert_eq!(now.get(name), Some(text), "{name} after kill {kill}");
        }
        before = now;
    }
    let found = small.json(&line(MORE));
    let after = kept(&small.study);
    assert_eq!(after.len(), 19);
    assert!(before.iter().all(|(name, text)| after.get(name) == Some(text)));
    assert_eq!(timeless(&found["points"]), timeless(&whole["points"]));
    assert_eq!(found["pairs"], whole["pairs"]);
    // A point that is damaged is said.
    let name = after.keys().next().unwrap();
    let path = small.study.join("results/correlate/points").join(name);
    std::fs::write(&path, "{").unwrap();
    let output = command(small.words(&line(MORE))).output().unwrap();
    assert!(stderr(&output).contains(name.as_str()), "{}", stderr(&output));
}

#[test]
fn a_ratio_that_cannot_be_reached_is_skipped_and_said() {
    let small = study(4);
    let typed = line("--tasks piqa --trials 2 --ratios 0.2,0.95");
    let found = small.json(&typed);
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        let reason = point["outcome"]["skipped"]["reason"].as_str();
        if point["ratio"] == 0.95 {
            assert!(reason.unwrap().contains("cannot remove 0.95"), "{point}");
        } else {
            assert!(reason.is_none(), "{point}");
        }
    }
    assert!(found["pairs"].as_array().unwrap().iter().all(|pair| pair["overall"]["points"] == 2));
    let output = command(small.words(&typed)).output().unwrap();
    assert!(stdout(&output).contains("skipped: ratio: cannot remove 0.95"));
    assert!(stderr(&output).contains("0 of 5 models"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_correlated_is_refused() {
    let small = study(3);
    for (more, named) in [
        ("", "--tasks piqa"),
        ("--tasks hellaswga", "did you mean hellaswag?"),
        ("--tasks wikitext", "it has no accuracy"),
        ("--tasks piqa --trials 1", "at least 2 expected, 1 found"),
        ("--tasks piqa --ratios 0.2,1.5", "numbers between 0 and 1 expected, 1.5 found"),
        ("--tasks piqa --limit 0", "limit"),
        ("--tasks piqa --study-name other", "study other: does not exist"),
        ("--tasks piqa --dtype f32", "the dtype was bf16, now f32"),
    ] {
        let refused = small.fail(&line(more));
        assert!(refused.contains(named), "{more}: {refused}");
    }
    let other = line("--tasks piqa").replace("--text {text}", "--text {pool}");
    let refused = small.fail(&other);
    assert!(refused.contains("the evaluation text digest was"), "{refused}");
    let same = line("--tasks piqa").replace("--allow-overlap ", "").replace("{pool}", "{text}");
    let refused = small.fail(&same);
    assert!(refused.contains("share passages with the evaluation text"), "{refused}");
    assert!(kept(&small.study).is_empty());
    // A study in which nothing succeeded.
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    std::fs::write(&config, "[space]\nprotect-first = 3\nprotect-last = 0\n").unwrap();
    let search = LINE.replace("--ratio 0.2", "--ratio 0.5");
    small.fail(&format!("search {search} --config {}", config.display()));
    let refused = small.fail(&line("--tasks piqa"));
    assert!(refused.contains("no study has a complete trial"), "{refused}");
    let refused = small.fail(&line("--tasks piqa --study-name full-joint-tpe-42"));
    assert!(refused.contains("none of 20 trials has a loss"), "{refused}");
}
