//! Storage of a journal's records.

use std::collections::VecDeque;
use std::time::Instant;

use super::record::is_claim;
use crate::error::Result;

/// One record's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// JSON, without the end of the line.
    pub text: Vec<u8>,
    /// Where the next record begins: an offset for [`Backend::read_from`].
    pub end: u64,
}

/// Result of an [`exchange`](Backend::exchange).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The records from the offset on, those that were added among them.
    pub lines: Vec<Line>,
    /// Whether the records were added: all, or none.
    pub added: bool,
}

/// An append-only list of records, shared by any number of processes.
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

    /// Adds records and reads from an offset on, as one step that no other
    /// process comes between. With `others`, nothing is added if more than so
    /// many trials were begun in the records from the offset on.
    ///
    /// The provided method is one step only where a single process uses the
    /// journal.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append) and [`read_from`](Self::read_from).
    fn exchange(
        &mut self,
        records: &[String],
        offset: u64,
        others: Option<u64>,
    ) -> Result<Exchange> {
        let mut lines = self.read_from(offset)?;
        if !within(&lines, others) {
            return Ok(Exchange { lines, added: false });
        }
        if !records.is_empty() {
            self.append(records)?;
            lines.extend(self.read_from(lines.last().map_or(offset, |line| line.end))?);
        }
        Ok(Exchange { lines, added: true })
    }

    /// Whether every call waits for a network, so that few calls with much in
    /// them are best.
    fn is_remote(&self) -> bool {
        false
    }

    /// Since when the journal could be reached without a break, where that is
    /// not from the beginning: before it, the silence of others tells nothing.
    fn reachable_since(&self) -> Option<Instant> {
        None
    }

    /// What to call the record of a number, from 0, in a message.
    fn place(&self, number: u64) -> String;
}

/// Whether at most `others` trials were begun in these records.
pub(super) fn within(lines: &[Line], others: Option<u64>) -> bool {
    let begun = || lines.iter().filter(|line| is_claim(&line.text)).count() as u64;
    others.is_none_or(|others| begun() <= others)
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
