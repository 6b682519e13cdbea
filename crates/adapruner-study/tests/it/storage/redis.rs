//! Journals in Redis, where a server is installed.

use std::cell::Cell;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adapruner_study::journal::{Backend, RedisBackend};
use adapruner_study::{Direction, Error, JournalStorage, Storage};

use super::conformance::conformance;

/// A server of our own, stopped when dropped.
struct Server {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None` where there is no server to start.
fn server() -> Option<Server> {
    let program = adapruner_testing::require_redis()?;
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(program)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, url: format!("redis://127.0.0.1:{port}"), _folder: folder };
    let start = Instant::now();
    while let Err(error) = RedisBackend::open(&server.url, "") {
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

#[test]
fn redis_conforms() {
    let Some(server) = server() else { return };
    let prefixes = Cell::new(0);
    conformance(&|| {
        prefixes.set(prefixes.get() + 1);
        let open = || -> Box<dyn Storage> {
            let backend = RedisBackend::open(&server.url, &format!("p{}", prefixes.get())).unwrap();
            Box::new(JournalStorage::open(backend).unwrap().with_heartbeat_interval(Duration::ZERO))
        };
        vec![open(), open()]
    });
}

#[test]
fn keys_are_those_of_optuna() {
    let Some(server) = server() else { return };
    let backend = RedisBackend::open(&server.url, "a%sb").unwrap();
    let storage = JournalStorage::open(backend).unwrap();
    let study = storage.open_study("s", Direction::Minimize).unwrap();
    storage.create_trial(study).unwrap();
    let mut connection = redis::Client::open(&server.url[..]).unwrap().get_connection().unwrap();
    let mut get = |key: &str| -> Option<String> {
        redis::cmd("GET").arg(key).query(&mut connection).unwrap()
    };
    assert_eq!(get("a%sb:log_number").as_deref(), Some("1"));
    assert!(get("a%sb:log:0").unwrap().contains("\"study_name\":\"s\""));
    assert!(get("a%sb:log:1").unwrap().contains("\"op_code\":4"));
    assert_eq!(get("a%sb:log:2"), None);
}

#[test]
fn a_server_that_went_away_is_an_error_without_the_password() {
    let Some(server) = server() else { return };
    let mut backend = RedisBackend::open(&server.url, "").unwrap();
    let url = server.url.replace("redis://", "redis://user:secret@");
    drop(server);
    for error in
        [backend.append(&["{}".into()]).unwrap_err(), RedisBackend::open(&url, "").unwrap_err()]
    {
        assert!(matches!(error, Error::Server { .. }));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
