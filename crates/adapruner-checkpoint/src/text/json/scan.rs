//! A JSON scanner that holds only a piece of a file in memory.
//!
//! It extracts the needed fields of a record and skips the rest, in which it also accepts
//! non-standard values that other programs write: `NaN`, `Infinity`, `-Infinity` and surrogates
//! without their other half.

use std::{fmt::Display, path::Path};

use crate::{
    error::{Error, Result},
    text::pieces::Pieces,
};

/// Objects and arrays in each other, at most.
const DEEPEST: usize = 128;
/// Bytes of a key that are kept.
const KEY: usize = 1 << 12;
/// Characters of a number that are kept.
const NUMBER: usize = 32;

/// What to do with an escape for half a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lone {
    /// It is an error.
    Refused,
    /// U+FFFD stands for it.
    Replaced,
}

/// Reads JSON from a file, piece by piece.
pub(super) struct Scanner {
    pieces: Pieces,
    /// Place in the piece.
    at: usize,
    line: u64,
    /// Offset of the line's first byte.
    line_start: u64,
    /// What is read meanwhile, and how much of it there may be.
    kept: Option<(String, usize)>,
}

impl Scanner {
    pub(super) fn new(mut pieces: Pieces) -> Result<Self> {
        pieces.load()?;
        Ok(Self { at: 0, line: 1, line_start: pieces.start(), kept: None, pieces })
    }

    /// Number of the line that is read, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn path(&self) -> &Path {
        self.pieces.path()
    }

    /// An error at the next character.
    pub(super) fn refuse(&self, message: impl Display) -> Error {
        Error::format(self.path(), format!("{}: {message}", self.place()))
    }

    /// Where the next character stands.
    pub(super) fn place(&self) -> String {
        let column = self.pieces.start() + self.at as u64 + 1 - self.line_start;
        format!("line {}, column {column}", self.line)
    }

    /// An error at the next character, which is not what was expected.
    pub(super) fn expected(&mut self, what: impl Display) -> Error {
        let place = self.place();
        match self.found() {
            Ok(found) => {
                Error::format(self.path(), format!("{place}: expected {what}, found {found}"))
            }
            Err(error) => error,
        }
    }

    /// What comes next, in words.
    fn found(&mut self) -> Result<String> {
        let Some(next) = self.peek()? else { return Ok("the end of the file".into()) };
        Ok(match next {
            b'{' => "an object".into(),
            b'[' => "an array".into(),
            b'"' => "a string".into(),
            b'n' => "null".into(),
            b't' | b'f' => "a boolean".into(),
            b'N' | b'I' => "NaN or Infinity".into(),
            b'-' | b'0'..=b'9' => format!("the number {}", self.number()?),
            _ => format!("{:?}", self.rest().chars().next().unwrap_or_default()),
        })
    }

    fn rest(&self) -> &str {
        &self.pieces.piece()[self.at..]
    }

    /// The next byte.
    pub(super) fn peek(&mut self) -> Result<Option<u8>> {
        while self.at == self.pieces.piece().len() {
            // The place of the file's end stays after its last byte.
            if !self.pieces.load()? {
                self.at = 0;
                return Ok(None);
            }
            self.at = 0;
        }
        Ok(Some(self.pieces.piece().as_bytes()[self.at]))
    }

    /// Goes over the next bytes, which are in the piece.
    fn take(&mut self, bytes: usize) -> Result<()> {
        let read = &self.pieces.piece()[self.at..self.at + bytes];
        if let Some((kept, most)) = &mut self.kept {
            kept.push_str(read);
            if kept.len() > *most {
                let message = format!("a record of more than {most} bytes");
                return Err(self.refuse(message));
            }
        }
        self.at += bytes;
        Ok(())
    }

    /// Keeps the text of what `read` goes over, of at most so many bytes.
    pub(super) fn keep(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<String> {
        self.kept = Some((String::new(), most));
        let done = read(self);
        let kept = self.kept.take().map(|(text, _)| text).unwrap_or_default();
        done.map(|()| kept)
    }

    /// Goes over white space; the byte after it.
    pub(super) fn skip_space(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b'\n') => {
                    self.take(1)?;
                    self.line += 1;
                    self.line_start = self.pieces.start() + self.at as u64;
                }
                Some(b' ' | b'\t' | b'\r') => self.take(1)?,
                next => return Ok(next),
            }
        }
    }

    /// Takes the next byte if it is this one.
    pub(super) fn eat(&mut self, byte: u8) -> Result<bool> {
        let there = self.peek()? == Some(byte);
        if there {
            self.take(1)?;
        }
        Ok(there)
    }

    fn demand(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte)? { Ok(()) } else { Err(self.expected(format!("{:?}", char::from(byte)))) }
    }

    /// The elements of an array, whose first byte comes next: `each` reads one.
    pub(super) fn elements(&mut self, mut each: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.demand(b'[')?;
        if self.skip_space()? == Some(b']') {
            return self.take(1);
        }
        loop {
            self.skip_space()?;
            each(self)?;
            match self.skip_space()? {
                Some(b',') => self.take(1)?,
                Some(b']') => return self.take(1),
                _ => return Err(self.expected("',' or ']'")),
            }
        }
    }

    /// The members of an object, whose first byte comes next: `each` is given a
    /// key and reads the value.
    pub(super) fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, &str) -> Result<()>,
    ) -> Result<()> {
        self.demand(b'{')?;
        if self.skip_space()? == Some(b'}') {
            return self.take(1);
        }
        loop {
            if self.skip_space()? != Some(b'"') {
                return Err(self.expected("a key in quotes"));
            }
            let mut key = String::new();
            self.string(Lone::Replaced, &mut |part| {
                let room = part.floor_char_boundary(KEY.saturating_sub(key.len()));
                key.push_str(&part[..room]);
                Ok(())
            })?;
            self.skip_space()?;
            self.demand(b':')?;
            self.skip_space()?;
            each(self, &key)?;
            match self.skip_space()? {
                Some(b',') => self.take(1)?,
                Some(b'}') => return self.take(1),
                _ => return Err(self.expected("',' or '}'")),
            }
        }
    }

    /// A string, whose opening quote comes next, part by part.
    pub(super) fn string(
        &mut self,
        lone: Lone,
        to: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        self.demand(b'"')?;
        loop {
            let Some(next) = self.peek()? else {
                return Err(self.refuse("the file ends within a string"));
            };
            match next {
                b'"' => return self.take(1),
                b'\\' => {
                    self.take(1)?;
                    self.escaped(lone, to)?;
                }
                0..0x20 => {
                    let found = format!("a control character {next:#04x} within a string");
                    return Err(self.refuse(found));
                }
                _ => {
                    let rest = self.rest();
                    let ends = |byte: u8| matches!(byte, b'"' | b'\\' | 0..0x20);
                    let own = rest.bytes().position(ends).unwrap_or(rest.len());
                    to(&rest[..own])?;
                    self.take(own)?;
                }
            }
        }
    }

    /// An escape, whose backslash was taken.
    fn escaped(&mut self, lone: Lone, to: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let Some(kind) = self.peek()? else {
            return Err(self.refuse("the file ends within a string"));
        };
        let plain = match kind {
            b'"' => "\"",
            b'\\' => "\\",
            b'/' => "/",
            b'b' => "\u{8}",
            b'f' => "\u{c}",
            b'n' => "\n",
            b'r' => "\r",
            b't' => "\t",
            b'u' => return self.unicode(lone, to),
            _ => return Err(self.refuse("an escape that JSON does not have")),
        };
        self.take(1)?;
        to(plain)
    }

    /// A character by its number; surrogates come in twos.
    fn unicode(&mut self, lone: Lone, to: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut high = self.code()?;
        loop {
            if let Some(char) = char::from_u32(high) {
                return to(char.encode_utf8(&mut [0; 4]));
            }
            let mut low = None;
            if high < 0xdc00 && self.peek()? == Some(b'\\') {
                self.take(1)?;
                if self.peek()? != Some(b'u') {
                    self.half(high, lone, to)?;
                    return self.escaped(lone, to);
                }
                low = Some(self.code()?);
            }
            match low {
                Some(low) if (0xdc00..0xe000).contains(&low) => {
                    high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                }
                Some(other) => {
                    self.half(high, lone, to)?;
                    high = other;
                }
                None => return self.half(high, lone, to),
            }
        }
    }

    fn half(
        &mut self,
        code: u32,
        lone: Lone,
        to: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        match lone {
            Lone::Replaced => to("\u{fffd}"),
            Lone::Refused => {
                let message = format!("the lone surrogate \\u{code:04x}, half of a character");
                Err(self.refuse(message))
            }
        }
    }

    /// `u` and four digits of base 16.
    fn code(&mut self) -> Result<u32> {
        self.take(1)?;
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek()?.and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.expected("four digits of base 16 after \\u"));
            };
            self.take(1)?;
            code = code << 4 | digit;
        }
        Ok(code)
    }

    /// A number; its first characters.
    pub(super) fn number(&mut self) -> Result<String> {
        let mut said = String::new();
        if self.eat(b'-')? {
            said.push('-');
            if self.peek()? == Some(b'I') {
                self.word("Infinity")?;
                return Ok("-Infinity".into());
            }
        }
        if self.eat(b'0')? {
            said.push('0');
        } else {
            self.digits(&mut said)?;
        }
        if self.eat(b'.')? {
            said.push('.');
            self.digits(&mut said)?;
        }
        if matches!(self.peek()?, Some(b'e' | b'E')) {
            self.take(1)?;
            said.push('e');
            if let Some(sign @ (b'+' | b'-')) = self.peek()? {
                self.take(1)?;
                said.push(sign.into());
            }
            self.digits(&mut said)?;
        }
        Ok(said)
    }

    fn digits(&mut self, said: &mut String) -> Result<()> {
        let mut any = false;
        while let Some(digit @ b'0'..=b'9') = self.peek()? {
            self.take(1)?;
            any = true;
            if said.len() < NUMBER {
                said.push(digit.into());
            }
        }
        if any { Ok(()) } else { Err(self.refuse("a number without digits")) }
    }

    fn word(&mut self, word: &str) -> Result<()> {
        for byte in word.bytes() {
            if !self.eat(byte)? {
                return Err(self.refuse(format!("expected {word}")));
            }
        }
        Ok(())
    }

    /// Goes over a value.
    pub(super) fn skip(&mut self) -> Result<()> {
        self.skip_within(0)
    }

    fn skip_within(&mut self, depth: usize) -> Result<()> {
        match self.peek()? {
            Some(b'{' | b'[') if depth == DEEPEST => {
                Err(self.refuse(format!("more than {DEEPEST} objects and arrays in each other")))
            }
            Some(b'{') => self.members(|scanner, _| scanner.skip_within(depth + 1)),
            Some(b'[') => self.elements(|scanner| scanner.skip_within(depth + 1)),
            Some(b'"') => self.string(Lone::Replaced, &mut |_| Ok(())),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'N') => self.word("NaN"),
            Some(b'I') => self.word("Infinity"),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ => Err(self.expected("a JSON value")),
        }
    }
}
