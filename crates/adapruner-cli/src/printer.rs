//! The only way results reach stdout.

use std::io::{self, IsTerminal, Write};

use adapruner::{footprint::Bytes, passed::PassedRecord};
use anyhow::Result;
use serde::Serialize;

/// Writes a document for another program (a completion script, a manual page) to stdout.
///
/// # Errors
/// A stdout that is closed or full.
pub fn document(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes results to stdout, for people or for programs.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// A printer of JSON (`--json`) or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Writes a piece of streamed text at once; nothing with `--json`. Control sequences do not
    /// reach a terminal.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn piece(self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            out.write_all(text.replace(steers, "\u{fffd}").as_bytes())?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        out.flush()
    }

    /// Writes a result: `value` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// Where stdout cannot be written; a reader that went away ends the program
    /// quietly.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let mut line = if self.json { serde_json::to_string_pretty(value)? } else { text(value) };
        line.truncate(line.trim_end().len());
        line.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// A count with spaces between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// What passes through a command unchanged, as a row of a table.
pub fn passed_row(passed: &PassedRecord) -> (&'static str, String) {
    let PassedRecord { class, parts, .. } = passed;
    let parts = parts.iter().map(|(title, count)| format!("{title} {}", grouped(*count)));
    let parts = parts.collect::<Vec<_>>().join(", ");
    ("unchanged", format!("{parts} parameters ({class}; not counted above, in no ratio)"))
}

/// Bytes in the unit that suits them.
pub fn bytes(number: u64) -> String {
    Bytes(number).to_string()
}

/// Rows of a label and a value, aligned.
pub fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(label, value)| format!("{label:<width$}  {value}\n")).collect()
}

/// Rows of cells, aligned; the last cell of a shorter row may have any length.
pub fn columns(rows: &[Vec<String>]) -> String {
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let full = rows.iter().filter(|row| row.len() == most || column + 1 < row.len());
        full.filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..most).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}  "));
        out.push_str(cells.collect::<String>().trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(134_515_008), "134 515 008");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        let rows = [vec!["a", "bb", "c"], vec!["dd", "e", "f"], vec!["g", "a long one"]];
        let rows = rows.map(|row| row.into_iter().map(String::from).collect());
        assert_eq!(columns(&rows), "a   bb  c\ndd  e   f\ng   a long one\n");
        assert_eq!(table(&[("a", "1".into()), ("bcd", "2".into())]), "a    1\nbcd  2\n");
    }
}
