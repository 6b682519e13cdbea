//! The log of a training: one JSON object per line, one line per step.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use adapruner_checkpoint::{Error as FileError, atomic::StateDir, input};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counted from 1.
    pub step: u64,
    /// Counted from 1.
    pub epoch: u64,
    /// In nats per learned token, before the step.
    pub loss: f64,
    /// The teacher's part of the loss, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub teacher_loss: Option<f64>,
    /// The matching of hidden states, a part of the loss, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hidden_loss: Option<f64>,
    /// After the step, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Of this step.
    pub learning_rate: f64,
    /// Of the gradient, before clipping.
    pub gradient_norm: f64,
    /// Tokens that were run so far.
    pub tokens: u64,
    /// Of this step.
    pub tokens_per_second: f64,
    /// Since the beginning, those before a stop included.
    pub seconds: f64,
}

/// The file that steps are appended to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a training that has made `steps` steps: what was logged
    /// beyond them, before it was killed, is taken out.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open((folder, name): (&StateDir, &str), steps: u64) -> Result<Self> {
        let path = folder.join(name);
        let kept = if path.exists() { kept(&path, steps)? } else { Vec::new() };
        let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
        folder.write(name, text.as_bytes())?;
        let file =
            OpenOptions::new().append(true).open(&path).map_err(FileError::io(&path, "open"))?;
        Ok(Self { path, file })
    }

    /// Appends a step.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        let mut line =
            serde_json::to_string(entry).map_err(|e| Error::format(&self.path, e.to_string()))?;
        line.push('\n');
        Ok(self.file.write_all(line.as_bytes()).map_err(FileError::io(&self.path, "write"))?)
    }
}

/// The steps of a training that is over.
///
/// # Errors
/// A file that cannot be read, or a line that is not a step.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let file = input::open_capped(path, input::LOG)?.0;
    let entry = |(at, line): (usize, std::io::Result<String>)| {
        let line = line.map_err(FileError::io(path, "read"))?;
        let refuse = |e: serde_json::Error| Error::format(path, format!("line {}: {e}", at + 1));
        serde_json::from_str(&line).map_err(refuse)
    };
    BufReader::new(file).lines().enumerate().map(entry).collect()
}

/// The lines of the first `steps` steps; a last line that was cut short by a
/// kill is none.
fn kept(path: &Path, steps: u64) -> Result<Vec<String>> {
    let file = input::open_capped(path, input::LOG)?.0;
    let mut kept = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(FileError::io(path, "read"))?;
        match serde_json::from_str::<Entry>(&line) {
            Ok(entry) if entry.step <= steps => kept.push(line),
            Ok(_) | Err(_) => break,
        }
    }
    Ok(kept)
}
