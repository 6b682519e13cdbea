//! Processes of the program, and how they end.

use std::{
    fs::File,
    io::Read as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A process that takes longer hangs. Undisturbed ones take some seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is kept of a process's stderr, in bytes.
const KEPT: u64 = 1 << 16;

/// The program, and how it is started.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
}

/// A signal that ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends it at once.
    Kill,
    /// As Ctrl-C.
    Interrupt,
    /// As a shutdown.
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::Kill => 9,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// How a process ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Code(i32),
    /// By a signal, ours or one of the system (SIGABRT, SIGSEGV).
    Signal(i32),
    /// Not within [`PATIENCE`]; it was killed then.
    Hung,
}

/// A process that ended.
#[derive(Debug)]
pub struct Ended {
    /// What was typed.
    pub line: String,
    /// How.
    pub end: End,
    /// Its stderr, the end of it where it is long.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// Whether it ended well.
    pub fn well(&self) -> bool {
        matches!(self.end, End::Code(0))
    }

    /// What does not hold, unless it ended with one of `codes` or by `signal`,
    /// as every process does that has not come to catching signals yet.
    pub fn judge(&self, codes: &[i32], signal: Option<Signal>) -> Option<String> {
        let fine = match self.end {
            End::Code(code) => codes.contains(&code),
            End::Signal(number) => signal.is_some_and(|signal| signal.number() == number),
            End::Hung => false,
        };
        (!fine).then(|| self.say(&format!("expected exit code {codes:?}")))
    }

    /// A message about this process.
    pub fn say(&self, what: &str) -> String {
        let last: Vec<&str> = self.stderr.lines().rev().take(4).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("{what}, found {:?}: {}\n      {}", self.end, self.line, last.join("\n      "))
    }
}

/// A process at work.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    start: Instant,
    stderr: tempfile::NamedTempFile,
}

impl Program {
    /// The program at `path`.
    ///
    /// # Errors
    /// None there.
    pub fn new(path: &Path) -> Result<Self> {
        let path = std::fs::canonicalize(path)
            .with_context(|| format!("{}: build it first, or give --program", path.display()))?;
        Ok(Self { path })
    }

    /// Starts it in a process group of its own, under `ulimit -f` where
    /// `file_blocks` (of 1024 bytes) is given.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn start(&self, words: &[String], file_blocks: Option<u64>) -> Result<Running> {
        let stderr = tempfile::NamedTempFile::new()?;
        let mut command = match file_blocks {
            None => Command::new(&self.path),
            Some(blocks) => {
                let mut shell = Command::new("bash");
                let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
                shell.args(["-c", &script, "bash"]).arg(&self.path);
                shell
            }
        };
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(stderr.path())?).process_group(0);
        // Nothing depends on the network or on this user's settings.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HOME", "/nonexistent");
        command.env_remove("ADAPRUNER_DATA").env_remove("ADAPRUNER_LOG");
        let child =
            command.spawn().with_context(|| format!("{}: cannot start", self.path.display()))?;
        Ok(Running { child, line: words.join(" "), start: Instant::now(), stderr })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn run(&self, words: &[String]) -> Result<Ended> {
        self.start(words, None)?.wait()
    }
}

impl Running {
    /// Sends a signal to this process alone; one that has ended is none the worse.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            send(signal, &self.child.id().to_string())?;
        }
        Ok(())
    }

    /// Whether it is still at work.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn wait(mut self) -> Result<Ended> {
        let mut hung = false;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if !hung && self.start.elapsed() > PATIENCE {
                hung = true;
                self.child.kill()?;
            }
            thread::sleep(Duration::from_millis(2));
        };
        let end = match (hung, status.code(), status.signal()) {
            (true, _, _) => End::Hung,
            (false, Some(code), _) => End::Code(code),
            (false, None, signal) => End::Signal(signal.unwrap_or(0)),
        };
        let mut stderr = Vec::new();
        File::open(self.stderr.path())?.take(KEPT).read_to_end(&mut stderr)?;
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Ended { line: self.line, end, stderr, took: self.start.elapsed() })
    }

    /// The process group, which outlives the process where it left others.
    pub fn group(&self) -> u32 {
        self.child.id()
    }
}

/// Ends what is left of process groups that were started here.
///
/// # Errors
/// No `kill`.
pub fn end_groups(groups: &[u32]) -> Result<()> {
    for group in groups {
        send(Signal::Kill, &format!("-{group}"))?;
    }
    Ok(())
}

fn send(signal: Signal, to: &str) -> Result<()> {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal.name(), "--", to]).stderr(Stdio::null());
    // It may have ended in between.
    let _ = kill.status().context("kill: cannot start")?;
    Ok(())
}
