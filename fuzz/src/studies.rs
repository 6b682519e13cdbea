//! Readers of what searches and runs keep.

use std::path::Path;

use adapruner::{
    search::{SearchRecord, StoredStudy, StudyFolder, pool as pools},
    whole::RunRecord,
};
use adapruner_study::{Direction, JournalStorage, Storage, front_of};

use crate::room::{file, folder, resealed, seed};

/// A journal: what is read can be asked, and its studies go on or are refused.
pub(crate) fn journal(bytes: &[u8]) {
    let files = [("journal.log", bytes), ("search.json", seed!("search_record/search.json"))];
    let folder = folder("journal", &files);
    let Ok(storage) = JournalStorage::file(folder.join("journal.log")) else { return };
    let Ok(names) = storage.study_names() else { return };
    for name in names {
        let found = storage.directions(&name).expect("a study that is named");
        let both = [[Direction::Minimize], [Direction::Maximize]];
        for directions in both.iter().map(|one| &one[..]).chain([&found[..]]) {
            let Ok(study) = storage.open_study(&name, directions) else { continue };
            let _ = front_of(&storage.trials(study).expect("trials"), directions);
            let trials = storage.trials(study).expect("an opened study has trials");
            assert!(trials.iter().enumerate().all(|(at, trial)| trial.number == at as u64));
            storage.study_attrs(study).expect("an opened study has attributes");
        }
    }
    let studies = StudyFolder::open(&folder).and_then(|folder| StoredStudy::all(&folder, None));
    for study in studies.into_iter().flatten() {
        let _ = study.best();
        for trial in &study.trials {
            let _ = study.trial(trial.number);
        }
    }
}

/// `search.json`.
pub(crate) fn search_record(bytes: &[u8]) {
    let path = file("search_record", "search.json", &resealed(bytes));
    let Ok(record) = SearchRecord::read(&path) else { return };
    assert!(record.differences(&record).is_empty());
    let _ = record.plan_options();
    if let Some(prepared) = &record.prepared {
        let _ = prepared.cheapest();
    }
}

/// `pool.jsonl`.
pub(crate) fn pool(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = pools::parse(Path::new("pool.jsonl"), text);
}

/// `run.json`.
pub(crate) fn run_record(bytes: &[u8]) {
    let _ = RunRecord::read(&file("run_record", "run.json", &resealed(bytes)));
}
