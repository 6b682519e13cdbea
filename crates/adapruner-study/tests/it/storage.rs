//! Storages: one suite for all, and what each kind of journal has of its own.

mod conformance;
mod hostile;
pub mod optuna;
mod processes;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod server;

use adapruner_study::journal::MemoryBackend;
use adapruner_study::{Direction, FileBackend, JournalStorage, MemoryStorage, Storage, Study};

use conformance::conformance;

#[test]
fn memory_conforms() {
    let _: JournalStorage<MemoryBackend> = MemoryStorage::default();
    conformance(&|| vec![Box::new(MemoryStorage::new())]);
}

#[test]
fn files_conform() {
    let folders = std::cell::RefCell::new(Vec::new());
    conformance(&|| {
        let folder = tempfile::tempdir().unwrap();
        let open = || -> Box<dyn Storage> {
            let storage = JournalStorage::file(folder.path().join("journal.log")).unwrap();
            Box::new(storage.with_heartbeat_interval(std::time::Duration::ZERO))
        };
        let storages = vec![open(), open()];
        folders.borrow_mut().push(folder);
        storages
    });
}

/// Whoever asks first, no more trials are begun than were asked for.
#[test]
fn the_last_trial_goes_to_one_worker() {
    let space = adapruner_study::Space::builder().float("x", 0.0, 1.0).build().unwrap();
    for round in 0..8_u64 {
        let (wanted, folder) = (3 + round % 3, tempfile::tempdir().unwrap());
        let open = || {
            let storage = JournalStorage::file(folder.path().join("journal.log")).unwrap();
            let sampler = adapruner_study::RandomSampler::new(0);
            Study::open(std::sync::Arc::new(storage), "s", Direction::Minimize, sampler).unwrap()
        };
        let one = || {
            let study = open();
            let ask = || study.ask_within(Some(wanted), &Default::default(), &space).unwrap();
            std::iter::from_fn(|| ask().map(drop)).count() as u64
        };
        let begun: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((begun, open().trials().unwrap().len() as u64), (wanted, wanted));
    }
}

#[test]
fn heartbeats_do_not_fill_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let storage = JournalStorage::file(&path).unwrap();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    let trial = storage.create_trial(study).unwrap();
    for _ in 0..100 {
        storage.heartbeat(study, trial).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("adapruner:heartbeat")).count(), 1);
    // Nor is a trial stale before the next is due.
    assert_eq!(storage.fail_stale(study, std::time::Duration::ZERO).unwrap(), [0u64; 0]);
}

#[test]
fn clocks_that_go_backwards_break_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let year = |year: &str| format!("\"{year}-01-01T00:00:00.000000+00:00\"");
    let start = |year_of: &str| {
        format!(
            "{{\"op_code\":4,\"worker_id\":\"adapruner-x\",\"study_id\":0,\"datetime_start\":{}}}\n",
            year(year_of)
        )
    };
    let text = "{\"op_code\":0,\"worker_id\":\"w\",\"study_name\":\"s\",\"directions\":[1]}\n"
        .to_owned()
        + &start("9000")
        + &start("2001")
        + &format!(
            "{{\"op_code\":6,\"worker_id\":\"w\",\"trial_id\":0,\"state\":1,\"values\":[1],\
             \"datetime_complete\":{}}}\n",
            year("1999")
        )
        + &start("9000");
    std::fs::write(&path, text).unwrap();
    let storage = JournalStorage::open(FileBackend::open(&path).unwrap()).unwrap();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    let trials = storage.trials(study).unwrap();
    assert!(trials[0].ended_ms < trials[0].started_ms && trials[0].value() == Some(1.0));
    // The trial of the past is stale, that of the future may yet be alive.
    assert_eq!(storage.fail_stale(study, std::time::Duration::from_secs(99)).unwrap(), [1]);
}
