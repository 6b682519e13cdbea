//! A Redis server of our own, and a link to it that is slow or breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use adapruner_study::journal::RedisBackend;

/// A server, stopped when dropped.
pub struct Server {
    child: Child,
    port: u16,
    keeps: bool,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// One that keeps what it acknowledged over a restart, or nothing.
    pub fn start(keeps: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(port, keeps, folder.path().into());
        let server = Self { child, port, keeps, folder };
        server.wait();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.keeps, self.folder.path().into());
        self.wait();
    }

    fn wait(&self) {
        let start = Instant::now();
        while let Err(error) = RedisBackend::open(&self.url(), "") {
            assert!(start.elapsed() < Duration::from_secs(20), "{error}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// How often scripts were called: the round trips of all backends.
    pub fn calls(&self) -> u64 {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.connection()).unwrap();
        let eval = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        eval.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    }

    /// All records.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let mut connection = self.connection();
        let last: u64 = redis::cmd("GET").arg(":log_number").query(&mut connection).unwrap();
        let record = |number: u64| {
            let mut get = redis::cmd("GET");
            let text: String = get.arg(format!(":log:{number}")).query(&mut connection).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        (0..=last).map(record).collect()
    }
}

fn spawn(port: u16, keeps: bool, folder: PathBuf) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
    command.args(["--appendonly", if keeps { "yes" } else { "no" }]).arg("--dir").arg(folder);
    // By default a server that waits for a busy disk answers before it has written, and being
    // killed then loses what it acknowledged.
    command.args(["--appendfsync", "always"]);
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// A link to a server: every byte takes `delay`, each way; of every `cut` answers
/// (0: none) one is lost, and the connection with it.
pub fn link(server: &Server, delay: Duration, cut: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (here, there) = (listener.local_addr().unwrap().port(), server.port);
    let answers = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", there)) else { continue };
            let (client_too, server_too) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            let answers = answers.clone();
            pass(client, server, delay, || true);
            pass(server_too, client_too, delay, move || {
                cut == 0 || !(answers.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(cut)
            });
        }
    });
    format!("redis://127.0.0.1:{here}")
}

/// Passes on what comes, a while later; ends both where `keeps` says so.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    delay: Duration,
    keeps: impl Fn() -> bool + Send + 'static,
) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let broken = from.try_clone().unwrap();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            if sender.send((Instant::now() + delay, bytes[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if !keeps() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        // It may be closed already.
        let _ = (broken.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
