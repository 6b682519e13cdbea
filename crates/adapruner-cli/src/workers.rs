//! Further processes of this program that work on the same study.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::Path,
    process::{Child, ExitStatus, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    children,
    interrupt::{INTERRUPTED, PARENT},
    terminal::say,
};

/// Names the file that a stage of `run` keeps locked as long as it lives, so that a
/// run that follows on one that was killed waits until its stage is gone.
pub const STAGE_LOCK: &str = "ADAPRUNER_STAGE_LOCK";

/// Locks a file, until the value is dropped or the process ends. Says so where it
/// has to wait for another process.
///
/// # Errors
/// No permission, a file system without locks.
pub fn wait_for(path: &Path, what: &str) -> Result<File> {
    let name = path.display();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("{name}: cannot open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say(&format!("{name}: {what} is at work here; waiting for its end"));
            file.lock().with_context(|| format!("{name}: cannot lock"))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("{name}: cannot lock"));
        }
    }
    Ok(file)
}

/// In a stage of `run`, its lock.
///
/// # Errors
/// Those of [`wait_for`].
pub fn hold_stage() -> Result<Option<File>> {
    let path = std::env::var_os(STAGE_LOCK);
    path.map(|path| wait_for(Path::new(&path), "the stage of an earlier run")).transpose()
}

/// Asks a process that was started with [`PARENT`] to come to an end.
pub fn ask_to_end(child: &mut Child) {
    if let Some(stdin) = &mut child.stdin {
        // One that is gone needs not be asked.
        let _ = stdin.write_all(b"\n");
    }
}

/// Worker processes; they end when this process does.
#[derive(Debug)]
pub struct Workers {
    children: Vec<Child>,
}

impl Workers {
    /// Starts processes with this one's arguments and `--worker`.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn start(count: usize) -> Result<Self> {
        let mut workers = Self { children: Vec::with_capacity(count) };
        for _ in 0..count {
            let mut command = children::this_program()?;
            command.args(std::env::args_os().skip(1)).arg("--worker");
            // Closed when this process ends, however it does.
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            command.env(PARENT, "1").env_remove(STAGE_LOCK);
            workers.children.push(command.spawn().context("cannot start a worker")?);
        }
        Ok(workers)
    }

    /// Waits for them.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn join(mut self) -> Result<()> {
        for child in &mut self.children {
            ask_to_end(child);
            // Not `Child::wait`, which closes the pipe: that would end it at once.
            let status = wait(child).context("cannot wait for a worker")?;
            if !status.success() && status.code() != Some(INTERRUPTED) {
                tracing::warn!("a worker ended with {status}; the others did its part");
            }
        }
        Ok(())
    }
}

fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    let stdin = child.stdin.take();
    let status = child.wait();
    drop(stdin);
    status
}
