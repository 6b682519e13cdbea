//! Several processes at one journal, also such as are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adapruner_study::{
    Direction, Distribution, FileBackend, JournalStorage, ParamValue, Storage, Trial, TrialState,
};
use serde_json::json;

const JOURNAL: &str = "ADAPRUNER_TEST_JOURNAL";
const TRIALS: &str = "ADAPRUNER_TEST_TRIALS";
/// Short, so that locks of the killed do not hold up the test.
const LOCK_GRACE: Duration = Duration::from_millis(200);

fn open(path: &Path) -> JournalStorage<FileBackend> {
    let backend = FileBackend::open(path).unwrap().with_lock_grace(LOCK_GRACE);
    JournalStorage::open(backend).unwrap()
}

fn subset() -> Distribution {
    Distribution::Subset { pool: 99, least: 1, most: 3 }
}

/// Does a trial, telling what is done once it is.
fn one_trial(storage: &dyn Storage) -> adapruner_study::Result<()> {
    let study = storage.open_study("s", &[Direction::Minimize])?;
    let claimed = storage.claim_waiting(study)?;
    let number = claimed.map_or_else(|| storage.create_trial(study), Ok)?;
    let mut out = std::io::stdout();
    writeln!(out, "\nbegun {number}").unwrap();
    let items = ParamValue::Subset(vec![number as usize % 98, 98]);
    storage.set_param(study, number, "s", &subset(), &items)?;
    storage.report(study, number, 1, number as f64)?;
    storage.set_user_attr(study, Some(number), "text", json!("x".repeat(300)))?;
    storage.finish(study, number, TrialState::Complete, Some(number as f64))?;
    writeln!(out, "\ndone {number}").unwrap();
    Ok(())
}

/// The other processes: this test, with the journal in the environment.
#[test]
fn worker() {
    let (Ok(journal), Ok(trials)) = (std::env::var(JOURNAL), std::env::var(TRIALS)) else {
        return;
    };
    let storage = open(Path::new(&journal));
    for _ in 0..trials.parse::<u64>().unwrap() {
        if let Err(error) = one_trial(&storage) {
            writeln!(std::io::stdout(), "\nerror {error}").unwrap();
            return;
        }
    }
}

fn start(command: &mut Command, journal: &Path, trials: u64) -> Child {
    command
        .args(["--exact", "storage::processes::worker", "--nocapture"])
        .env(JOURNAL, journal)
        .env(TRIALS, trials.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn spawn(journal: &Path, trials: u64) -> Child {
    start(&mut Command::new(std::env::current_exe().unwrap()), journal, trials)
}

/// What a process told before it ended, by word.
fn told(child: Child) -> BTreeMap<String, Vec<String>> {
    let output = child.wait_with_output().unwrap();
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for line in BufReader::new(&output.stdout[..]).lines().map_while(Result::ok) {
        if let Some((word @ ("begun" | "done" | "error"), rest)) = line.split_once(' ') {
            told.entry(word.into()).or_default().push(rest.into());
        }
    }
    told
}

fn numbers(told: &BTreeMap<String, Vec<String>>, word: &str) -> Vec<u64> {
    let found = told.get(word).into_iter().flatten();
    found.filter_map(|number| number.parse().ok()).collect()
}

fn is_whole(trial: &Trial) -> bool {
    let items = ParamValue::Subset(vec![trial.number as usize % 98, 98]);
    trial.state == TrialState::Complete
        && trial.value() == Some(trial.number as f64)
        && trial.params == BTreeMap::from([("s".into(), (subset(), items))])
        && trial.intermediate == BTreeMap::from([(1, trial.number as f64)])
        && trial.user_attrs.len() == 1
}

#[test]
fn no_number_is_given_twice_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let storage = JournalStorage::file(&path).unwrap();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    for _ in 0..10 {
        storage.enqueue_trial(study, BTreeMap::new()).unwrap();
    }
    let children: Vec<Child> = (0..4).map(|_| spawn(&path, 15)).collect();
    let mut all: Vec<u64> =
        children.into_iter().flat_map(|child| numbers(&told(child), "done")).collect();
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<u64>>());
    let trials = storage.trials(study).unwrap();
    assert_eq!(trials.len(), 60);
    assert!(trials.iter().all(|trial| is_whole(trial)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_was_finished_outlives_killed_writers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let storage = open(&path);
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    let (mut begun, mut done) = (Vec::new(), BTreeSet::new());
    for _ in 0..20 {
        let mut children = [spawn(&path, u64::MAX), spawn(&path, u64::MAX)];
        std::thread::sleep(Duration::from_millis(rand::random_range(30..90)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let told = told(child);
            assert_eq!(told.get("error"), None);
            begun.extend(numbers(&told, "begun"));
            done.extend(numbers(&told, "done"));
        }
        // Mends what they left, after a wait if one was killed with the lock.
        storage.set_user_attr(study, None, "round", json!(begun.len())).unwrap();
    }
    assert!(!done.is_empty());
    let unique: BTreeSet<u64> = begun.iter().copied().collect();
    assert_eq!(unique.len(), begun.len());
    let trials = open(&path).trials(study).unwrap();
    assert!(done.iter().all(|number| is_whole(&trials[*number as usize])));
    // Those of the dead can be told from the finished, and failed.
    let stale = open(&path).with_heartbeat_interval(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(10));
    let failed = stale.fail_stale(study, Duration::from_millis(1)).unwrap();
    assert!(failed.iter().all(|number| !done.contains(number)));
    let trials = storage.trials(study).unwrap();
    assert!(trials.iter().all(|trial| trial.state.is_finished()));
}

/// The limit on the size of files stands for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_whole_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let storage = open(&path);
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    shell.arg(std::env::current_exe().unwrap());
    let told = told(start(&mut shell, &path, 1000));
    assert!(told["error"][0].contains("cannot append to"), "{told:?}");
    let text = std::fs::read(&path).unwrap();
    assert!(text.ends_with(b"\n") && text.len() > 4096);
    let trials = storage.trials(study).unwrap();
    let done = numbers(&told, "done");
    assert!(!done.is_empty());
    assert!(done.iter().all(|number| is_whole(&trials[*number as usize])));
    // With room again all goes on.
    assert_eq!(storage.create_trial(study).unwrap(), trials.len() as u64);
}
