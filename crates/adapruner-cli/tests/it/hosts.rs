//! A search over two hosts whose link breaks and one of whose workers dies.
//!
//! The hosts are network namespaces, joined by a pair of devices of their own:
//! nothing outside of them is touched, and they go when the test ends.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use adapruner_study::{
    Direction, JournalStorage, RandomSampler, Study, TrialState, journal::RedisBackend,
};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::program::tiny;
use crate::search::{LINE, Small};

/// The address of the host that has the server.
const SERVER: &str = "10.83.7.1";
const CLIENT: &str = "10.83.7.2";
const PORT: &str = "6379";
const TRIALS: u64 = 80;
/// How long the link is broken: longer than workers take between two records,
/// shorter than the silence after which one counts as dead.
const BROKEN: Duration = Duration::from_secs(8);
/// How long the test waits for anything.
const PATIENCE: Duration = Duration::from_secs(240);

/// Two hosts, the first with the server's address.
struct Hosts {
    names: [String; 2],
}

/// Runs `ip`; what it says where it fails.
fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {line}: {said}")) }
}

impl Hosts {
    /// Joins two hosts; `None`, recorded as skipped, where this machine has none.
    fn join() -> Option<Self> {
        adapruner_testing::require(&["ip"])?;
        let id = std::process::id();
        let hosts = Self { names: ["a", "b"].map(|end| format!("adapruner-{id}-{end}")) };
        match hosts.connect() {
            Ok(()) => Some(hosts),
            Err(why) => {
                adapruner_testing::unsupported(&format!("no network namespaces here: {why}"));
                None
            }
        }
    }

    fn connect(&self) -> Result<(), String> {
        let [a, b] = &self.names;
        for name in &self.names {
            ip(&format!("netns add {name}"))?;
        }
        ip(&format!("link add link0 netns {a} type veth peer name link0 netns {b}"))?;
        for (name, address) in [(a, SERVER), (b, CLIENT)] {
            ip(&format!("-n {name} address add {address}/30 dev link0"))?;
            ip(&format!("-n {name} link set link0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// A command on a host. It replaces `ip`, and so has the child's number.
    fn on(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).arg(program);
        command
    }

    /// Breaks or mends the link, at the second host's end.
    fn set_link(&self, state: &str) {
        ip(&format!("-n {} link set link0 {state}", self.names[1])).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // It may not have been made. The devices go with it.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on the first host, once it takes connections.
fn server(hosts: &Hosts) -> (Running, TempDir) {
    let folder = tempdir().unwrap();
    let mut command = hosts.on(0, Path::new("redis-server"));
    command.args(["--bind", SERVER, "--port", PORT, "--protected-mode", "no", "--save", ""]);
    command.arg("--dir").arg(folder.path()).stdout(Stdio::piped());
    let mut server = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let ready = lines.by_ref().any(|line| line.unwrap().contains("Ready to accept"));
    assert!(ready, "the server did not start");
    std::thread::spawn(move || lines.for_each(drop));
    (server, folder)
}

fn url() -> String {
    format!("redis://{SERVER}:{PORT}")
}

/// A search on a host, with a folder of its own.
fn search(hosts: &Hosts, host: usize, small: &Small, line: &str) -> Running {
    let mut command = hosts.on(host, Path::new(env!("CARGO_BIN_EXE_adapruner")));
    command.args(small.words(line)).env_remove("ADAPRUNER_DATA").env_remove("ADAPRUNER_LOG");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().unwrap())
}

/// Waits until something is so.
fn wait(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "waiting for {what}");
        sleep(Duration::from_millis(100));
    }
}

/// Trials of the study by their state, as a process on the first host sees them.
fn trials(hosts: &Hosts) -> Vec<Value> {
    let mut command = hosts.on(0, &std::env::current_exe().unwrap());
    command.args(["--exact", "hosts::trials_of_the_study", "--nocapture"]).env(URL, url());
    let output = command.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    let lines = out.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

const URL: &str = "ADAPRUNER_TEST_REDIS";

/// The process that [`trials`] starts: this test, with the server in the
/// environment.
#[test]
fn trials_of_the_study() {
    use std::io::Write;

    let Ok(url) = std::env::var(URL) else { return };
    let storage = JournalStorage::open(RedisBackend::open(&url, "").unwrap()).unwrap();
    let sampler = RandomSampler::new(0);
    let study =
        Study::open(Arc::new(storage), "full-joint-tpe-42", Direction::Minimize, sampler).unwrap();
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    for trial in study.trials().unwrap() {
        let state = match trial.state {
            TrialState::Complete | TrialState::Pruned => "finished",
            TrialState::Failed => "given up",
            TrialState::Running | TrialState::Waiting => "running",
        };
        let draw = trial.system_attrs.get("study:draw").and_then(Value::as_u64);
        let line = serde_json::json!({
            "number": trial.number,
            "state": state,
            "draw": draw.unwrap_or(trial.number),
            "reports": trial.intermediate.len(),
        });
        writeln!(out, "{line}").unwrap();
    }
}

fn count(trials: &[Value], state: &str) -> usize {
    trials.iter().filter(|trial| trial["state"] == state).count()
}

#[test]
fn hosts_share_a_study_over_a_broken_link_and_a_dead_worker() {
    if adapruner_testing::require_redis().is_none() {
        return;
    }
    let Some(hosts) = Hosts::join() else { return };
    let (_server, _folder) = server(&hosts);
    // One chunk of many windows: a trial takes a second or more, and nearly
    // always one is at work when the worker is killed.
    let smalls = [Small::new(), Small::new(), Small::new()];
    let text = std::fs::read_to_string(tiny().join("text.txt")).unwrap();
    let long = smalls[0].dir.path().join("long.txt");
    std::fs::write(&long, text.repeat(60)).unwrap();
    let line = LINE.replace("{text}", long.to_str().unwrap());
    let line = line.replace("--limit 6", "--limit 600 --chunk 200 --threads 1 --memory 999");
    let line = format!("search {line} --trials {TRIALS} --storage {} --json", url());

    let mut near = search(&hosts, 0, &smalls[0], &line);
    let mut far = search(&hosts, 1, &smalls[1], &line);
    let mut dies = search(&hosts, 1, &smalls[2], &line);
    let signed_on = |small: &Small| {
        std::fs::read_dir(small.study.join("workers")).map_or(0, |dir| dir.count()) > 2
    };
    wait("all workers to sign on", || {
        for worker in [&mut near, &mut far, &mut dies] {
            assert!(worker.0.try_wait().unwrap().is_none(), "a worker ended");
        }
        smalls.iter().all(signed_on)
    });

    hosts.set_link("down");
    sleep(BROKEN);
    for worker in [&mut far, &mut dies] {
        assert!(worker.0.try_wait().unwrap().is_none(), "a worker did not wait for the link");
    }
    hosts.set_link("up");
    let before = count(&trials(&hosts), "finished");
    assert!(before < TRIALS as usize, "the study was over before the link was mended");
    // The far workers are at work again.
    let some = TRIALS.min(before as u64 + 3);
    wait("trials after the break", || count(&trials(&hosts), "finished") as u64 >= some);
    dies.0.kill().unwrap();
    dies.0.wait().unwrap();

    let result = |worker: &mut Running| {
        let child = &mut worker.0;
        let (mut out, mut said) = (String::new(), String::new());
        use std::io::Read;
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let (near, far) = (result(&mut near), result(&mut far));
    for key in ["best", "plan_digest", "complete", "stopped_early", "failed", "samples"] {
        assert!(!near[key].is_null(), "{key}");
        assert_eq!(near[key], far[key], "{key}");
    }
    let trials = trials(&hosts);
    let (finished, given_up) = (count(&trials, "finished"), count(&trials, "given up"));
    assert_eq!(finished as u64, TRIALS);
    assert_eq!(trials.len(), finished + given_up, "{trials:?}");
    // Of the dead worker, which had one at work.
    assert!(given_up <= 1, "{trials:?}");
    assert_eq!(near["failed"].as_u64(), Some(given_up as u64));
    let finished = || trials.iter().filter(|trial| trial["state"] == "finished");
    let draws: BTreeSet<u64> = finished().filter_map(|trial| trial["draw"].as_u64()).collect();
    assert_eq!(draws, (0..TRIALS).collect(), "every draw once");
    assert!(finished().all(|trial| trial["reports"].as_u64() > Some(0)));
}
