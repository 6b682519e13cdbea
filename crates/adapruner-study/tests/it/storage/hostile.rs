//! Damaged journals: an error that names the place, never a panic, and every
//! beginning of a sound one is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adapruner_study::effects::{ItemEffect, item_effects};
use adapruner_study::importance::importances;
use adapruner_study::journal::{Backend, Line};
use adapruner_study::{
    Direction, Distribution, Error, JournalStorage, ParamValue, Result, Storage, StudyId, Trial,
    TrialState,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::optuna::fixture;

/// A journal in memory that can be looked at.
#[derive(Debug, Default)]
struct Text(Vec<u8>);

impl Backend for Text {
    fn append(&mut self, records: &[String]) -> Result<()> {
        self.0.extend(records.iter().flat_map(|record| format!("{record}\n").into_bytes()));
        Ok(())
    }

    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>> {
        let mut end = offset;
        let lines = self.0[offset as usize..].split_inclusive(|byte| *byte == b'\n');
        let whole = lines.filter_map(|line| {
            end += line.len() as u64;
            Some(Line { text: line.strip_suffix(b"\n")?.to_vec(), end })
        });
        Ok(whole.collect())
    }

    fn place(&self, number: u64) -> String {
        format!("text:{}", number + 1)
    }
}

/// Journals with every operation, of Optuna and of ours.
fn journals() -> Vec<Vec<u8>> {
    let mut journals: Vec<Vec<u8>> =
        ["tpe.log", "odd.log"].map(|name| std::fs::read(fixture(name)).unwrap()).into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let storage = JournalStorage::file(&path).unwrap();
    let study = storage.open_study("ours", &[Direction::Minimize]).unwrap();
    let subset = Distribution::Subset { pool: 9, least: 1, most: 4 };
    let items = ParamValue::Subset(vec![0, 3, 8]);
    let params = BTreeMap::from([("s".to_owned(), (subset.clone(), items.clone()))]);
    storage.enqueue_trial(study, params).unwrap();
    let trial = storage.claim_waiting(study).unwrap().unwrap();
    storage.report(study, trial, 3, f64::NAN).unwrap();
    storage.finish(study, trial, TrialState::Pruned, Some(f64::INFINITY)).unwrap();
    let trial = storage.create_trial(study).unwrap();
    storage.set_param(study, trial, "s", &subset, &items).unwrap();
    storage.heartbeat(study, trial).unwrap();
    storage.set_user_attr(study, Some(trial), "k", serde_json::json!([1])).unwrap();
    storage.finish(study, trial, TrialState::Failed, None).unwrap();
    journals.push(std::fs::read(&path).unwrap());
    journals
}

/// The trials of all studies with one objective.
fn trials(journal: Vec<u8>) -> Result<BTreeMap<u64, Vec<Arc<Trial>>>> {
    let storage = JournalStorage::open(Text(journal))?;
    let found = (0..8).filter_map(|id| Some((id, storage.trials(StudyId(id)).ok()?)));
    let found: BTreeMap<u64, Vec<Arc<Trial>>> = found.collect();
    // What can be told of them is told, or refused.
    for trials in found.values() {
        let names: BTreeSet<&String> = trials.iter().flat_map(|t| t.params.keys()).collect();
        for direction in [Direction::Minimize, Direction::Maximize] {
            if let Ok(shares) = importances(trials, direction) {
                let sum: f64 = shares.iter().map(|(_, share)| share).sum();
                assert!(shares.is_empty() || (sum - 1.0).abs() < 1e-9, "{shares:?}");
            }
            for name in &names {
                if let Ok(effects) = item_effects(trials, direction, name) {
                    let finite = |e: &ItemEffect| e.mean.is_finite() && e.deviation.is_finite();
                    assert!(effects.iter().all(finite), "{effects:?}");
                }
            }
        }
    }
    // A storage that opens can be worked with.
    if let Ok(study) = storage.open_study("another", &[Direction::Minimize]) {
        let number = storage.create_trial(study)?;
        storage.finish(study, number, TrialState::Complete, Some(1.0))?;
        storage.claim_waiting(study)?;
        storage.fail_stale(study, Duration::ZERO)?;
        assert_eq!(storage.trials(study)?[number as usize].value(), Some(1.0));
    }
    Ok(found)
}

#[test]
fn every_beginning_is_a_valid_state() {
    for journal in journals() {
        let mut last = BTreeMap::<u64, Vec<Arc<Trial>>>::new();
        let ends = journal.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        for end in ends.map(|(at, _)| at + 1) {
            let found = trials(journal[..end].to_vec()).unwrap();
            for (study, before) in &last {
                // Only a deleted study is gone; a finished trial stays.
                let Some(after) = found.get(study) else { continue };
                for (old, new) in before.iter().zip(after) {
                    assert_eq!(old.number, new.number);
                    assert!(!old.state.is_finished() || format!("{old:?}") == format!("{new:?}"));
                }
                assert!(before.len() <= after.len());
            }
            last = found;
        }
    }
}

#[test]
fn faults_are_named_with_their_line() {
    let head = r#"{"op_code":0,"worker_id":"w","study_name":"s","directions":[1]}"#;
    let trial = r#"{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":null}"#;
    for (line, expected) in [
        ("", "EOF"),
        (r#"{"op_code":6,"worker_id""#, "EOF"),
        ("\u{0}\u{0}", "expected value"),
        ("[]", "expected an object"),
        (r#"{"worker_id":"w"}"#, "op_code is missing"),
        (r#"{"op_code":11,"worker_id":"w"}"#, "operation 11 is not known"),
        (r#"{"op_code":7,"worker_id":"w","trial_id":0,"step":-1}"#, "step: expected an integer"),
        (
            r#"{"op_code":6,"worker_id":"w","trial_id":0,"state":9,"values":null}"#,
            "state: expected 0 to 4, found 9",
        ),
        (
            r#"{"op_code":9,"worker_id":"w","trial_id":0,"system_attr":{"adapruner:subset:s":{}}}"#,
            "adapruner:subset:s: SubsetDistribution: pool: expected an integer",
        ),
        (
            r#"{"op_code":5,"worker_id":"w","trial_id":0,"param_name":"p","param_value_internal":2,"distribution":"{\"name\": \"CategoricalDistribution\", \"attributes\": {\"choices\": [1, 2]}}"}"#,
            "expected an internal value",
        ),
        (
            r#"{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":"yesterday"}"#,
            "expected a date and time",
        ),
    ] {
        let text = format!("{head}\n{trial}\n{line}\n{trial}\n").into_bytes();
        let error = trials(text).unwrap_err();
        assert!(matches!(&error, Error::Journal { place, .. } if place == "text:3"), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // What another program may add, and what contradicts the state, is let pass.
    let passed = [
        r#"{"op_code":10,"worker_id":"w","trial_ids":[0]}"#,
        r#"{"op_code":4,"worker_id":"w","study_id":18446744073709551615,"datetime_start":null}"#,
        r#"{"op_code":7,"worker_id":"w","trial_id":99,"step":1,"intermediate_value":NaN}"#,
        head,
    ];
    let text = format!("{head}\n{}\n{trial}\n", passed.join("\r\n")).into_bytes();
    assert_eq!(trials(text).unwrap()[&0].len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_journals_are_errors_at_worst(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), 0..4u8), 0..4),
        end in any::<Index>(),
        cut: bool,
    ) {
        let journals = journals_once();
        let mut journal = which.get(journals).clone();
        for (at, byte, kind) in changes {
            let at = at.index(journal.len());
            match kind {
                0 => journal[at] = byte,
                1 => journal.insert(at, byte),
                2 => { journal.remove(at); }
                // Other digits: ids, codes, states, indices.
                _ => if let Some(at) = (at..journal.len()).find(|at| journal[*at].is_ascii_digit()) {
                    journal[at] = b'0' + byte % 10;
                }
            }
        }
        if cut {
            journal.truncate(end.index(journal.len()));
        }
        if let Err(error) = trials(journal) {
            let is_journal = matches!(error, Error::Journal { .. });
            prop_assert!(is_journal, "{}", error);
        }
    }
}

fn journals_once() -> &'static [Vec<u8>] {
    static JOURNALS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    JOURNALS.get_or_init(journals)
}
