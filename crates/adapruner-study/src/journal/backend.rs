//! Where the records of a journal are kept.

use std::collections::VecDeque;

use crate::error::Result;

/// One record's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// JSON, without the end of the line.
    pub text: Vec<u8>,
    /// Where the next record begins: an offset for [`Backend::read_from`].
    pub end: u64,
}

/// A list of records that only grows, shared by any number of processes.
pub trait Backend: Send {
    /// Adds records, in this order, and lasting when it returns.
    ///
    /// # Errors
    ///
    /// If they could not be added; then none is there, as far as can be told.
    fn append(&mut self, records: &[String]) -> Result<()>;

    /// The records from an offset on: 0, or where a line ended.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or there are fewer than there were.
    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>>;

    /// What to call the record of a number, from 0, in a message.
    fn place(&self, number: u64) -> String;
}

/// Records in memory, for one process, forgotten once read.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    unread: VecDeque<String>,
    read: u64,
}

impl Backend for MemoryBackend {
    fn append(&mut self, records: &[String]) -> Result<()> {
        self.unread.extend(records.iter().cloned());
        Ok(())
    }

    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>> {
        let from = offset.max(self.read);
        self.read = from + self.unread.len() as u64;
        let lines = self.unread.drain(..).zip(from + 1..);
        Ok(lines.map(|(text, end)| Line { text: text.into_bytes(), end }).collect())
    }

    fn place(&self, number: u64) -> String {
        format!("record {}", number.saturating_add(1))
    }
}
