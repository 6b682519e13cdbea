//! Journals in Redis, where a server is installed: that go on over restarts,
//! broken and slow links, and dead workers.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use adapruner_study::journal::{Backend, RedisBackend};
use adapruner_study::storage::{Attrs, Change};
use adapruner_study::{
    Direction, Error, JournalStorage, Outcome, RandomSampler, Space, Storage, Study, TrialState,
};
use serde_json::json;

use super::conformance::conformance;
use super::server::{Server, link};

/// Long enough for a machine that does much else.
const LONG: Duration = Duration::from_secs(30);

fn storage(url: &str) -> JournalStorage<RedisBackend> {
    let backend = RedisBackend::open(url, "").unwrap();
    JournalStorage::open(backend).unwrap().with_heartbeat_interval(Duration::ZERO)
}

fn study(storage: impl Storage + 'static) -> Study {
    Study::open(Arc::new(storage), "s", Direction::Minimize, RandomSampler::new(3)).unwrap()
}

const STEPS: u64 = 4;

fn space() -> Space {
    let builder = (0..6).fold(Space::builder(), |b, at| b.float(&format!("x{at}"), 0.0, 1.0));
    builder.subset("set", 20, 3).build().unwrap()
}

/// Trials until the study has `wanted`, given up after `silence`.
fn work(study: &Study, wanted: u64, silence: Duration, pause: Duration) {
    let every = Duration::from_millis(50);
    study.attend(every, || {
        loop {
            let Some((trial, _)) = study.ask_within(Some(wanted), &signed(), &space()).unwrap()
            else {
                let trials = study.trials().unwrap();
                let done = trials.iter().filter(|trial| trial.state == TrialState::Complete);
                if done.count() as u64 >= wanted {
                    return;
                }
                study.resume(silence).unwrap();
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            for step in 0..STEPS {
                trial.report(step, step as f64).unwrap();
                assert!(!trial.should_prune().unwrap());
                thread::sleep(pause);
            }
            trial.set_user_attr("cost", json!(1.5)).unwrap();
            study.tell(trial.number(), Outcome::Complete(trial.number() as f64)).unwrap();
        }
    });
}

fn signed() -> Attrs {
    [("worker".to_owned(), json!("w"))].into()
}

/// Every trial is complete, with all that was told of it, once.
fn assert_whole(server: &Server, wanted: u64) {
    let study = study(storage(&server.url()));
    let trials = study.trials().unwrap();
    assert_eq!(trials.len() as u64, wanted);
    for trial in &trials {
        assert_eq!((trial.state, trial.value()), (TrialState::Complete, Some(trial.number as f64)));
        assert_eq!((trial.params.len(), trial.intermediate.len()), (7, STEPS as usize));
        let attrs: Vec<&String> = trial.user_attrs.keys().collect();
        assert_eq!(attrs, ["cost", "worker"], "{trial:?}");
    }
    let mut seen = BTreeSet::new();
    for record in server.records() {
        let what = match record["op_code"].as_u64().unwrap() {
            // Trials are told apart by their place.
            4 => continue,
            5 => record["param_name"].to_string(),
            6 => record["state"].to_string(),
            7 => record["step"].to_string(),
            8 => record["user_attr"].to_string(),
            9 if !record["system_attr"].to_string().contains("heartbeat") => {
                record["system_attr"].to_string()
            }
            _ => continue,
        };
        let key = (record["op_code"].to_string(), record["trial_id"].to_string(), what);
        assert!(seen.insert(key.clone()), "{key:?} came twice");
    }
}

const URL: &str = "ADAPRUNER_TEST_REDIS";
const WANTED: &str = "ADAPRUNER_TEST_WANTED";
/// Set for a worker that says that it began a trial, and does nothing more.
const HANGS: &str = "ADAPRUNER_TEST_HANGS";
const SILENCE: &str = "ADAPRUNER_TEST_SILENCE_MS";

/// The other processes: this test, with the server in the environment.
#[test]
fn worker() {
    let (Ok(url), Ok(wanted)) = (std::env::var(URL), std::env::var(WANTED)) else { return };
    let wanted = wanted.parse().unwrap();
    let study = study(storage(&url));
    if std::env::var(HANGS).is_ok() {
        study.attend(Duration::from_millis(50), || {
            let begun = study.ask_within(Some(wanted), &signed(), &space()).unwrap().unwrap();
            use std::io::Write;
            writeln!(std::io::stdout(), "\nbegun {}", begun.0.number()).unwrap();
            loop {
                thread::park();
            }
        })
    }
    let silence = std::env::var(SILENCE).ok().map(|ms| Duration::from_millis(ms.parse().unwrap()));
    work(&study, wanted, silence.unwrap_or(LONG), Duration::from_millis(2));
}

fn process(url: &str, wanted: u64, more: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "storage::redis::worker", "--nocapture"]);
    command.env(URL, url).env(WANTED, wanted.to_string()).envs(more.iter().copied());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn assert_success(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn redis_conforms() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let prefixes = Cell::new(0);
    conformance(&|| {
        prefixes.set(prefixes.get() + 1);
        let open = || -> Box<dyn Storage> {
            let prefix = format!("p{}", prefixes.get());
            let backend = RedisBackend::open(&server.url(), &prefix).unwrap();
            Box::new(JournalStorage::open(backend).unwrap().with_heartbeat_interval(Duration::ZERO))
        };
        vec![open(), open()]
    });
}

#[test]
fn keys_are_those_of_optuna() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let backend = RedisBackend::open(&server.url(), "a%sb").unwrap();
    let storage = JournalStorage::open(backend).unwrap();
    let study = storage.open_study("s", &[Direction::Minimize]).unwrap();
    storage.create_trial(study).unwrap();
    let mut connection = server.connection();
    let mut get = |key: &str| -> Option<String> {
        redis::cmd("GET").arg(key).query(&mut connection).unwrap()
    };
    assert_eq!(get("a%sb:log_number").as_deref(), Some("1"));
    assert!(get("a%sb:log:0").unwrap().contains("\"study_name\":\"s\""));
    assert!(get("a%sb:log:1").unwrap().contains("\"op_code\":4"));
    assert_eq!(get("a%sb:log:2"), None);
}

#[test]
fn a_server_that_stays_away_is_an_error_without_the_password() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let backend = RedisBackend::open(&server.url(), "").unwrap();
    let mut backend = backend.with_patience(Duration::from_millis(300));
    let url = server.url().replace("redis://", "redis://user:secret@");
    drop(server);
    for error in
        [backend.append(&["{}".into()]).unwrap_err(), RedisBackend::open(&url, "").unwrap_err()]
    {
        assert!(matches!(error, Error::Server { .. }));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

/// Every worker asks while others do; whoever is first, the last place goes once.
#[test]
fn no_more_trials_are_begun_than_were_asked_for() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    for round in 0..16_u64 {
        let wanted = 5 + round % 4;
        let open = || {
            let backend = RedisBackend::open(&server.url(), &format!("r{round}")).unwrap();
            study(JournalStorage::open(backend).unwrap())
        };
        let queued = || {
            let params = space().walk(|name, of| {
                let view = adapruner_study::sampler::View {
                    directions: &[Direction::Minimize],
                    trials: &[],
                    draw: 0,
                };
                use adapruner_study::Sampler;
                RandomSampler::new(9).single(&view, name, of)
            });
            params.unwrap()
        };
        let begun: u64 = thread::scope(|scope| {
            let one = || {
                let study = open();
                study.enqueue_first(queued()).unwrap();
                let ask = || study.ask_within(Some(wanted), &signed(), &space()).unwrap();
                std::iter::from_fn(|| ask().map(drop)).count() as u64
            };
            let threads: Vec<_> = (0..5).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(begun, wanted, "round {round}");
        let trials = open().trials().unwrap();
        assert_eq!(trials.len() as u64, wanted);
        assert!(trials.iter().all(|trial| trial.user_attrs["worker"] == "w"));
        // One of the five queued the first one, and one had it.
        let fixed = trials.iter().filter(|trial| trial.system_attrs.contains_key("fixed_params"));
        assert_eq!(fixed.count(), 1);
    }
}

#[test]
fn nothing_is_lost_or_doubled_over_restarts() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let mut server = Server::start(true);
    let children: Vec<Child> = (0..3).map(|_| process(&server.url(), 90, &[])).collect();
    for after in [10, 40] {
        let looking = study(storage(&server.url()));
        while looking.trials().unwrap().len() < after {
            thread::sleep(Duration::from_millis(5));
        }
        drop(looking);
        server.kill();
        thread::sleep(Duration::from_millis(400));
        server.restart();
    }
    children.into_iter().for_each(assert_success);
    assert_whole(&server, 90);
}

#[test]
fn nothing_is_lost_or_doubled_where_answers_are() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let urls = [5, 7].map(|cut| link(&server, Duration::ZERO, cut));
    // Connecting may fail as well, and is not tried again.
    let open = |url: &String| {
        std::iter::repeat_with(|| RedisBackend::open(url, "")).find_map(Result::ok).unwrap()
    };
    thread::scope(|scope| {
        for url in &urls {
            scope.spawn(|| {
                let study = study(JournalStorage::open(open(url)).unwrap());
                work(&study, 30, LONG, Duration::ZERO);
            });
        }
    });
    assert_whole(&server, 30);
}

#[test]
fn the_latency_is_paid_a_few_times_a_trial() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let url = link(&server, Duration::from_millis(20), 0);
    let study = study(JournalStorage::open(RedisBackend::open(&url, "").unwrap()).unwrap());
    let before = server.calls();
    study.attend(LONG, || {
        for _ in 0..12 {
            let (trial, _) = study.ask_within(Some(12), &signed(), &space()).unwrap().unwrap();
            for step in 0..30 {
                trial.report(step, step as f64).unwrap();
                trial.should_prune().unwrap();
            }
            trial.set_user_attr("cost", json!(1.5)).unwrap();
            study.tell(trial.number(), Outcome::Complete(1.0)).unwrap();
        }
    });
    let calls = server.calls() - before;
    // To begin, to end, and what is under way in between.
    assert!(calls <= 12 * 4, "{calls} calls");
    let trials = study.trials().unwrap();
    assert!(trials.iter().all(|trial| trial.intermediate.len() == 30 && trial.params.len() == 7));
}

#[test]
fn a_dead_worker_is_told_of_and_given_up_and_the_others_go_on() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let server = Server::start(false);
    let mut dead = process(&server.url(), 20, &[(HANGS, "1")]);
    let mut lines = BufReader::new(dead.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = lines.find_map(|line| line.strip_prefix("begun ")?.parse::<u64>().ok()).unwrap();
    let judge = study(storage(&server.url()));
    let silences = judge.silences().unwrap();
    assert_eq!(silences.iter().map(|of| of.number).collect::<Vec<_>>(), [number]);
    dead.kill().unwrap();
    dead.wait().unwrap();
    let others: Vec<Child> =
        (0..2).map(|_| process(&server.url(), 20, &[(SILENCE, "1000")])).collect();
    others.into_iter().for_each(assert_success);
    let trials = judge.trials().unwrap();
    let states: BTreeMap<bool, usize> = trials.iter().fold(BTreeMap::new(), |mut states, trial| {
        *states.entry(trial.state == TrialState::Complete).or_default() += 1;
        states
    });
    assert_eq!(states, BTreeMap::from([(false, 1), (true, 20)]));
    assert_eq!(trials[number as usize].state, TrialState::Failed);
    assert_eq!(judge.silences().unwrap(), []);
    // What the dead one drew is drawn again.
    let redrawn = |trial: &&Arc<adapruner_study::Trial>| {
        trial.system_attrs.get("study:draw") == Some(&json!(number))
    };
    assert_eq!(trials.iter().filter(redrawn).count(), 1);
}

#[test]
fn a_server_that_was_away_makes_nobody_silent() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let mut server = Server::start(true);
    let (worker, judge) = (storage(&server.url()), storage(&server.url()));
    let study = worker.open_study("s", &[Direction::Minimize]).unwrap();
    worker.create_trial(study).unwrap();
    judge.trials(study).unwrap();
    server.kill();
    thread::sleep(Duration::from_millis(1200));
    server.restart();
    // Nothing was heard for longer, but nothing could be.
    assert_eq!(judge.fail_stale(study, Duration::from_secs(1)).unwrap(), [0; 0]);
    worker.heartbeat(study, 0).unwrap();
    judge.trials(study).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(judge.fail_stale(study, Duration::from_secs(1)).unwrap(), [0]);
    // The worker learns of it, and its next trial is another.
    let late = worker.change(study, 0, &[Change::Report { step: 0, value: 1.0 }]).unwrap_err();
    assert!(matches!(late, Error::Trial { number: 0, .. }), "{late}");
    assert_eq!(worker.create_trial(study).unwrap(), 1);
}

#[test]
fn a_server_that_lost_records_is_found_out() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let mut server = Server::start(false);
    let (first, second) = (storage(&server.url()), storage(&server.url()));
    let id = first.open_study("s", &[Direction::Minimize]).unwrap();
    first.create_trial(id).unwrap();
    second.trials(id).unwrap();
    server.kill();
    server.restart();
    let error = first.create_trial(id).unwrap_err();
    assert!(matches!(error, Error::Journal { .. }), "{error}");
    assert!(error.to_string().contains("lost records"), "{error}");
    // Also where there are as many again, by another.
    let other = storage(&server.url());
    let id = other.open_study("other", &[Direction::Minimize]).unwrap();
    assert_eq!((0..4).map(|_| other.create_trial(id).unwrap()).last(), Some(3));
    let error = second.trials(id).unwrap_err();
    assert!(error.to_string().contains("lost records"), "{error}");
}
