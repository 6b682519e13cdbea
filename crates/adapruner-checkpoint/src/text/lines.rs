//! Texts whose lines are rows, in the form that the Hugging Face data sets give
//! them, and the paragraphs of plain text. Lines may be longer than memory.

use std::ops::Range;

use super::{pieces::Pieces, store::Writer};
use crate::error::Result;

/// The rows of a raw WikiText file: a line with its `\n`, or the empty string
/// where the line is blank.
pub(super) fn wikitext(mut pieces: Pieces, to: &mut Writer) -> Result<()> {
    // A line has begun; the last byte of it was a carriage return.
    let (mut begun, mut returned, mut blank) = (false, false, true);
    while pieces.load()? {
        for part in pieces.piece().split_inclusive('\n') {
            begun = true;
            blank = blank && part.trim().is_empty();
            match part.strip_suffix('\n') {
                Some(line) => {
                    to.push(line)?;
                    if line.ends_with('\r') || (line.is_empty() && returned) {
                        to.trim_to(to.bytes() - 1);
                    }
                    to.push("\n")?;
                    if blank {
                        to.clear();
                    }
                    to.end()?;
                    (begun, returned, blank) = (false, false, true);
                }
                None => {
                    to.push(part)?;
                    returned = part.ends_with('\r');
                }
            }
        }
    }
    if begun {
        if blank {
            to.clear();
        }
        to.end()?;
    }
    Ok(())
}

/// Lines without the space around them.
pub(super) fn stripped(mut pieces: Pieces, to: &mut Writer) -> Result<()> {
    // Bytes of the line up to its last character that is no space.
    let (mut begun, mut kept) = (false, 0);
    while pieces.load()? {
        for part in pieces.piece().split_inclusive('\n') {
            begun = true;
            let text = if kept == 0 { part.trim_start() } else { part };
            let own = text.trim_end().len();
            if own > 0 {
                kept = to.bytes() + own as u64;
            }
            to.push(text)?;
            if part.ends_with('\n') {
                to.trim_to(kept);
                to.end()?;
                (begun, kept) = (false, 0);
            }
        }
    }
    if begun {
        to.trim_to(kept);
        to.end()?;
    }
    Ok(())
}

/// The blocks between blank lines, each with its inner line breaks and without
/// its last one, found in a text that comes piece by piece.
#[derive(Default)]
pub(super) struct Paragraphs {
    block: Option<Range<usize>>,
    /// Bytes that came.
    at: usize,
    line: Line,
}

/// What came of a line.
#[derive(Default)]
struct Line {
    start: usize,
    /// The end of its last character that is no line break.
    end: usize,
    filled: bool,
}

impl Paragraphs {
    /// Takes a piece, and hands each block that ends in it to `each`.
    pub(super) fn push(&mut self, piece: &str, mut each: impl FnMut(Range<usize>)) {
        for part in piece.split_inclusive('\n') {
            let own = part.trim_end_matches(['\n', '\r']).len();
            if own > 0 {
                self.line.end = self.at + own;
            }
            self.line.filled = self.line.filled || !part.trim().is_empty();
            self.at += part.len();
            if part.ends_with('\n') {
                self.end_line(&mut each);
            }
        }
    }

    /// Hands out the last block.
    pub(super) fn end(mut self, mut each: impl FnMut(Range<usize>)) {
        self.end_line(&mut each);
        self.block.take().into_iter().for_each(&mut each);
    }

    fn end_line(&mut self, each: &mut impl FnMut(Range<usize>)) {
        let line =
            std::mem::replace(&mut self.line, Line { start: self.at, end: self.at, filled: false });
        if line.filled {
            let start = self.block.as_ref().map_or(line.start, |block| block.start);
            self.block = Some(start..line.end);
        } else {
            self.block.take().into_iter().for_each(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::text::{
        pieces::PIECE,
        store::{Form, Writer},
    };

    fn rows(text: &str, read: fn(Pieces, &mut Writer) -> Result<()>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, text).unwrap();
        let mut writer = Writer::new(Path::new("text"), Form::Text, "\n\n");
        read(Pieces::open(&path).unwrap(), &mut writer).unwrap();
        let store = writer.finish().unwrap();
        let document = |at| store.text(store.range(at)).collect::<Result<String>>();
        (0..store.len()).map(document).collect::<Result<_>>().unwrap()
    }

    fn paragraphs<'a>(text: &'a str, pieces: &[&str]) -> Vec<&'a str> {
        let (mut found, mut out) = (Paragraphs::default(), Vec::new());
        for piece in pieces {
            found.push(piece, |block| out.push(&text[block]));
        }
        found.end(|block| out.push(&text[block]));
        out
    }

    #[test]
    fn wikitext_rows_are_those_of_the_data_set() {
        let found = rows(" \n = A = \n \n one <unk> \n\ntwo\r\n\t\nend", wikitext);
        assert_eq!(found, ["", " = A = \n", "", " one <unk> \n", "", "two\n", "", "end"]);
    }

    /// Lines that end where a piece does.
    #[test]
    fn rows_over_several_pieces_are_whole() {
        for before in PIECE - 3..PIECE + 3 {
            let (text, space) = ("x".repeat(before), " ".repeat(before));
            let file = format!("{text}\r\n{text}\n{space}\r\n{text}\rb\n{space}");
            let expected = [
                format!("{text}\n"),
                format!("{text}\n"),
                "".into(),
                format!("{text}\rb\n"),
                "".into(),
            ];
            assert!(rows(&file, wikitext) == expected, "{before}");
            let file = format!("{space}a{space}b{space}\r\n{space}\n{text}");
            assert!(rows(&file, stripped) == [format!("a{space}b"), "".into(), text], "{before}");
        }
    }

    #[test]
    fn ptb_rows_are_stripped() {
        assert_eq!(rows(" a <unk> N \n\n b\r\n", stripped), ["a <unk> N", "", "b"]);
    }

    #[test]
    fn paragraphs_lie_between_blank_lines() {
        for (text, expected) in [
            ("\n\none\n  two \n \n\r\nthree\r\n", vec!["one\n  two ", "three"]),
            (" \n\n", vec![]),
            ("x", vec!["x"]),
            ("a\r", vec!["a"]),
            ("a \r\n\nb", vec!["a ", "b"]),
        ] {
            assert_eq!(paragraphs(text, &[text]), expected);
            for at in 0..text.len() {
                assert_eq!(paragraphs(text, &[&text[..at], &text[at..]]), expected, "{at}");
            }
        }
    }
}
