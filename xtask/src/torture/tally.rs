//! What was tried, and what failed.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

/// Failures of one row that are printed in full.
const SHOWN: usize = 3;

#[derive(Debug, Default)]
struct Row {
    tried: u64,
    failures: Vec<String>,
    left_out: bool,
    note: Option<String>,
}

/// Counts of rounds by part and by what they were about.
#[derive(Debug)]
pub struct Tally {
    seed: u64,
    rows: BTreeMap<(String, String), Row>,
}

impl Tally {
    /// Nothing yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, rows: BTreeMap::new() }
    }

    fn row(&mut self, part: &str, what: &str) -> &mut Row {
        self.rows.entry((part.to_owned(), what.to_owned())).or_default()
    }

    /// Counts a round, with what did not hold in it.
    pub fn count(&mut self, part: &str, what: &str, failures: Vec<String>) {
        let row = self.row(part, what);
        row.tried += 1;
        if !failures.is_empty() {
            row.failures.push(failures.join("\n    "));
        }
    }

    /// Says that something was left out on purpose.
    pub fn leave_out(&mut self, part: &str, what: &str) {
        self.row(part, what).left_out = true;
    }

    /// Says how something was done.
    pub fn note(&mut self, part: &str, what: &str, note: &str) {
        self.row(part, what).note = Some(note.to_owned());
    }

    /// Rounds.
    pub fn tried(&self) -> u64 {
        self.rows.values().map(|row| row.tried).sum()
    }

    /// Rounds in which something did not hold.
    pub fn failed(&self) -> usize {
        self.rows.values().map(|row| row.failures.len()).sum()
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|((part, what), row)| {
            json!({
                "part": part, "what": what, "tried": row.tried, "failed": row.failures.len(),
                "left_out": row.left_out, "note": row.note, "failures": row.failures,
            })
        });
        json!({
            "seed": self.seed, "tried": self.tried(), "failed": self.failed(),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.keys().map(|(_, what)| what.len()).max().unwrap_or(0).max(4);
        writeln!(f, "{:7} {:width$} {:>6} {:>7}", "part", "what", "tried", "failed")?;
        for ((part, what), row) in &self.rows {
            write!(f, "{part:7} {what:width$} {:6} {:7}", row.tried, row.failures.len())?;
            if row.left_out {
                write!(f, "  left out")?;
            }
            if let Some(note) = &row.note {
                write!(f, "  {note}")?;
            }
            writeln!(f)?;
        }
        for ((part, what), row) in &self.rows {
            for failure in row.failures.iter().take(SHOWN) {
                writeln!(f, "\n{part}, {what}:\n    {failure}")?;
            }
            if row.failures.len() > SHOWN {
                writeln!(f, "    … and {} more", row.failures.len() - SHOWN)?;
            }
        }
        write!(f, "\n{} rounds, {} failed, seed {}", self.tried(), self.failed(), self.seed)
    }
}
