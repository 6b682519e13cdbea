//! Searches that are killed, interrupted, or find their files damaged.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    program::{command, stderr},
    search::{LINE, Small},
};

/// What a journal says of a trial that ended: its parameters, subset and value.
type Finished = BTreeMap<u64, String>;

/// The finished trials of a journal by number, as text; those that failed left
/// out. Numbers that come twice are found.
fn finished(study: &Path) -> Finished {
    let journal = std::fs::read_to_string(study.join("journal.log")).unwrap_or_default();
    let mut trials: Vec<(Vec<String>, Option<String>)> = Vec::new();
    for line in journal.lines() {
        // The last line may be torn.
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        let id = || record["trial_id"].as_u64().unwrap() as usize;
        match record["op_code"].as_u64().unwrap() {
            4 => trials.push((Vec::new(), None)),
            5 => trials[id()]
                .0
                .push(format!("{}={}", record["param_name"], record["param_value_internal"])),
            6 if matches!(record["state"].as_u64(), Some(1 | 2)) => {
                let (params, end) = &mut trials[id()];
                assert!(end.is_none(), "trial {} ended twice", id());
                params.sort();
                *end = Some(format!("{} {params:?} {}", record["state"], record["values"]));
            }
            9 => {
                let attr = record["system_attr"].as_object().unwrap();
                for (key, value) in attr.iter().filter(|(key, _)| key.contains("subset")) {
                    trials[id()].0.push(format!("{key}={value}"));
                }
            }
            _ => {}
        }
    }
    let ended = trials.into_iter().enumerate();
    ended.filter_map(|(number, (_, end))| Some((number as u64, end?))).collect()
}

fn start(small: &Small, more: &str) -> Child {
    let mut command = command(small.words(&format!("search {LINE} {more}")));
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn killed_twenty_times_it_finds_what_an_undisturbed_search_finds() {
    const TRIALS: &str = "--trials 40 --chunk 1 --threads 1";
    let undisturbed = Small::new();
    let whole = undisturbed.search(TRIALS);
    let small = Small::new();
    let mut before = Finished::new();
    for kill in 0..20_u64 {
        let mut child = start(&small, TRIALS);
        // From before the first trial to the midst of later ones.
        thread::sleep(Duration::from_millis(40 + (kill * 7919) % 400));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished(&small.study);
        for (number, trial) in &before {
            assert_eq!(now.get(number), Some(trial), "trial {number} after kill {kill}");
        }
        before = now;
    }
    let found = small.search(TRIALS);
    assert_eq!(found["best"]["configuration"], whole["best"]["configuration"]);
    assert_eq!(found["best"]["loss"], whole["best"]["loss"]);
    assert_eq!(found["plan_digest"], whole["plan_digest"]);
    // Every single trial is the undisturbed search's, in its order.
    let (disturbed, straight) = (finished(&small.study), finished(&undisturbed.study));
    assert!(disturbed.values().eq(straight.values()), "{disturbed:#?}\n{straight:#?}");
    assert_eq!(straight.len(), 40);
    for (number, trial) in &before {
        assert_eq!(disturbed.get(number), Some(trial));
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_cleanly_and_the_search_goes_on() {
    let small = Small::new();
    let line = format!("search {LINE} --trials 100000 --json");
    let mut command = command(small.words(&line));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    for _ in 0..600 {
        if finished(&small.study).len() >= 3 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["ended"], "interrupted");
    let kept = finished(&small.study);
    assert!(kept.len() >= 3);
    let more = small.search(&format!("--trials {}", kept.len() + 2));
    assert_eq!(finished(&small.study).len(), kept.len() + 2, "{more}");
}

#[test]
fn damaged_and_foreign_files_are_said() {
    let small = Small::new();
    small.search("--trials 4");
    let keep = |name: &str| std::fs::read(small.study.join(name)).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(small.study.join(name), bytes).unwrap();
    let journal = keep("journal.log");
    // A torn last line is mended; what is whole is kept.
    put("journal.log", &journal[..journal.len() - 7]);
    small.search("--trials 5");
    assert_eq!(finished(&small.study).len(), 5);
    // A line in the middle is not.
    let text = String::from_utf8(journal.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let torn = format!("{}\n{{\"op_code\": 5, \n{}\n", lines[0], lines[1..].join("\n"));
    put("journal.log", torn.as_bytes());
    let refused = small.refused("--trials 5");
    assert!(refused.contains("journal.log"), "{refused}");
    let unknown = format!("{text}{{\"op_code\": 77, \"worker_id\": \"x\"}}\n");
    put("journal.log", unknown.as_bytes());
    let refused = small.refused("--trials 5");
    assert!(refused.contains("journal.log") && refused.contains("77"), "{refused}");
    put("journal.log", &journal);
    let record = keep("search.json");
    crate::program::edit_unsealed(&small.study.join("search.json"), |record| {
        record["version"] = 2.into();
    });
    let refused = small.refused("--trials 5");
    assert!(refused.contains("expected version 1, found version 2"), "{refused}");
    put("search.json", &record[..record.len() / 2]);
    assert!(small.refused("--trials 5").contains("search.json"));
    put("search.json", &record);
    let bank = keep("bank.safetensors");
    put("bank.safetensors", &bank[..bank.len() / 2]);
    assert!(small.refused("--trials 5").contains("bank.safetensors"));
    put("bank.safetensors", &bank);
    let pool = keep("pool.jsonl");
    put("pool.jsonl", b"{}\n");
    assert!(small.refused("--trials 5").contains("pool.jsonl: damaged"));
    put("pool.jsonl", &pool);
    small.search("--trials 5");
    // A folder of somebody else's journal.
    std::fs::remove_file(small.study.join("search.json")).unwrap();
    assert!(small.refused("--trials 5").contains("not a study of this program"));
}

#[test]
fn what_cannot_work_is_refused_before_it_begins() {
    let small = Small::new();
    let empty = small.dir.path().join("empty.txt");
    std::fs::write(&empty, "  \n").unwrap();
    let line = LINE.replace("{pool}", empty.to_str().unwrap());
    assert!(small.fail(&format!("search {line}")).contains("empty"));
    for (more, named) in [
        ("--memory 0.0001", "GiB"),
        ("--chunk 0", "chunk"),
        ("--workers 0", "workers"),
        ("--trials 0", "trials"),
        ("--test-windows 0", "test-windows"),
        ("--max-minutes 0", "max-minutes"),
        ("--max-minutes nan", "NaN found"),
        ("--memory -1", "memory"),
        ("--protect 1,1", "protect-first"),
        ("--drop-attention 1", "drop-attention"),
        ("--attention-share 0.1", "attention-share"),
        ("--allocation global", "allocation"),
        ("--stats bank", "study's folder"),
    ] {
        let refused = small.refused(more);
        assert!(refused.contains(named), "{more}: {refused}");
    }
    assert!(!small.study.exists());
    let line = LINE.replace("--samples 24", "--samples 0");
    assert!(small.fail(&format!("search {line}")).contains("at least 1"));
}

#[test]
fn a_search_in_which_nothing_succeeds_says_why() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    // All but one layer spared: a half of all cannot come from the last.
    std::fs::write(&config, "[space]\nprotect-first = 3\nprotect-last = 0\n").unwrap();
    let line = LINE.replace("--ratio 0.2", "--ratio 0.5");
    let refused = small.fail(&format!("search {line} --config {}", config.display()));
    assert!(refused.contains("none of 20 trials is feasible"), "{refused}");
    assert!(refused.contains("cannot remove 0.5 of the parameters"), "{refused}");
    assert!(refused.contains("hint: a smaller --ratio"), "{refused}");
    // And again at once, for the same reason.
    let journal = std::fs::read(small.study.join("journal.log")).unwrap();
    let again = small.fail(&format!("search {line} --config {}", config.display()));
    assert!(again.contains("none of 20"), "{again}");
    assert_eq!(std::fs::read(small.study.join("journal.log")).unwrap(), journal);
    // Fewer trials than that are none too few.
    let other = line.replace("{study}", small.dir.path().join("other").to_str().unwrap());
    let few = small.fail(&format!("search {other} --trials 3 --config {}", config.display()));
    assert!(few.contains("none of 3 trials is feasible"), "{few}");
}

/// Trials for which the ratio is out of reach count, as what they are.
#[test]
fn infeasible_trials_are_counted_and_ranked_last() {
    let small = Small::new();
    let config = small.dir.path().join("space.toml");
    std::fs::write(&config, "[space]\nprotect-first = [0, 3]\nprotect-last = 0\n").unwrap();
    let line = LINE.replace("--ratio 0.2", "--ratio 0.5");
    let more = format!("--trials 30 --early-stop off --config {}", config.display());
    let found = small.json(&format!("search {line} {more}"));
    let count = |key: &str| found[key].as_u64().unwrap();
    let infeasible = count("infeasible");
    assert!((1..15).contains(&infeasible), "{infeasible} of 30");
    assert_eq!((count("complete") + infeasible, count("stopped_early")), (30, 0));
    assert_eq!(count("failed"), 0);
    // In the journal they are what Optuna's sampler takes them for.
    let journal = std::fs::read_to_string(small.study.join("journal.log")).unwrap();
    let violated = journal.lines().filter(|line| line.contains("\"constraints\":[0."));
    assert_eq!(violated.count() as u64, infeasible);
}

/// Windows and samples that take a while, all in one chunk.
#[cfg(unix)]
fn slow(small: &Small, samples: usize, windows: usize) -> String {
    let long = |name: &str| {
        let path = small.dir.path().join(name);
        let text = std::fs::read_to_string(crate::program::tiny().join(name)).unwrap();
        std::fs::write(&path, text.repeat(300)).unwrap();
        path.display().to_string()
    };
    let line =
        LINE.replace("{pool}", &long("calibration.txt")).replace("{text}", &long("text.txt"));
    let line = line.replace("--samples 24", &format!("--samples {samples}"));
    let line = line.replace("--sample-tokens 16", "--sample-tokens 32");
    line.replace(
        "--limit 6",
        &format!("--limit {windows} --chunk 1000000 --threads 1 --memory 999"),
    )
}

/// Interrupts a search once `begun` says so; what it printed.
#[cfg(unix)]
fn interrupt_once(small: &Small, line: &str, begun: impl Fn() -> bool) -> std::process::Output {
    let mut command = command(small.words(line));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

/// While statistics are collected there is nothing to bring to an end.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_preparation_at_once() {
    let small = Small::new();
    let line = format!("search {} --trials 3", slow(&small, 3000, 6));
    let record = small.study.join("search.json");
    let output = interrupt_once(&small, &line, || record.is_file());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(!small.study.join("bank.safetensors").exists());
    assert!(output.stdout.is_empty());
}

/// Before any trial is complete there is nothing to sum up, and the trial at work
/// is given up in the midst of its only chunk.
#[cfg(unix)]
#[test]
fn an_interrupt_before_a_trial_is_complete_is_one() {
    let small = Small::new();
    let line = format!("search {} --trials 3", slow(&small, 24, 2000));
    let journal = small.study.join("journal.log");
    let begun = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        text.contains("\"param_name\"") && text.ends_with('\n')
    };
    let output = interrupt_once(&small, &line, begun);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert!(finished(&small.study).is_empty());
    // It is given up, to be drawn again.
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.contains("\"op_code\":6") && text.contains("\"state\":3"), "{text}");
}

#[test]
fn a_full_disk_loses_nothing() {
    let small = Small::new();
    small.search("--trials 4");
    let before = finished(&small.study);
    // The shell's limit on the size of files stands for a full disk.
    let size = std::fs::metadata(small.study.join("journal.log")).unwrap().len();
    let words = small.words(&format!("search {LINE} --trials 40"));
    let line = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", size / 512 + 24);
    let output = std::process::Command::new("sh")
        .args(["-c", &line, "sh", env!("CARGO_BIN_EXE_adapruner")])
        .args(words)
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("journal.log") || said.contains("cannot"), "{said}");
    let after = finished(&small.study);
    assert!(after.len() > before.len() && after.len() < 40, "{}", after.len());
    for (number, trial) in &before {
        assert_eq!(after.get(number), Some(trial));
    }
    small.search("--trials 40");
    assert_eq!(finished(&small.study).len(), 40);
}
