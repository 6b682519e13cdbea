//! Further processes of this program that work on the same study.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

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
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut workers = Self { children: Vec::with_capacity(count) };
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.args(std::env::args_os().skip(1)).arg("--worker");
            // Closed when this process ends, however it does.
            command.stdin(Stdio::piped()).stdout(Stdio::null());
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
            drop(child.stdin.take());
            let status = child.wait().context("cannot wait for a worker")?;
            if !status.success() {
                tracing::warn!("a worker ended with {status}; the others did its part");
            }
        }
        Ok(())
    }
}
