//! Thrift's compact protocol, checked before the parquet crate decodes it.
//!
//! The crate skips an unknown list of truth values element by element without
//! reading a byte, so that seven bytes cost two billion steps. It also decodes a
//! field that it knows as the type it expects, whatever type the file states.
//! [`walk`] therefore accepts a struct only if every known field has the stated
//! type, fields are in ascending order, and every element of a list takes at
//! least a byte. An accepted struct means the same to both readers, and the
//! crate's work on it is in proportion to its bytes.
//!
//! Protocol: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use std::io::Read;

/// Why a struct was refused.
pub(super) type Fault = String;

/// Structs, lists and sets within each other, at most.
const DEEPEST: usize = 24;
/// Bytes of the smallest struct that is an element of a list in parquet's
/// metadata: one field of two bytes, and the end.
const SMALLEST_STRUCT: u64 = 3;

/// The type of a field that the crate decodes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    Double,
    Binary,
    Struct(&'static Shape),
    List(&'static Self),
}

/// A field that the crate decodes.
#[derive(Clone, Copy)]
pub(super) struct Field {
    id: i16,
    kind: Kind,
    /// What to report its value as.
    tag: Option<Tag>,
}

/// A struct: the fields that the crate decodes; it skips the others.
pub(super) struct Shape {
    pub fields: &'static [Field],
    /// What to report at its end.
    pub end: Option<Tag>,
}

impl Shape {
    pub const fn of(fields: &'static [Field]) -> Self {
        Self { fields, end: None }
    }
}

/// A value that the caller of [`walk`] sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Elements of the schema, before the first of them.
    Elements,
    /// Bytes of a schema element's name.
    NameBytes,
    /// Children of a schema element.
    Children,
    /// The end of a schema element.
    ElementEnd,
    /// The type of a page.
    PageType,
    /// Bytes of a page once unpacked.
    Unpacked,
    /// Bytes of a page in the file.
    Packed,
    /// Values of a data page of version 1.
    ValuesV1,
    /// Values of a data page of version 2.
    ValuesV2,
    /// Entries of a dictionary page.
    Entries,
}

/// A field without a report.
pub(super) const fn field(id: i16, kind: Kind) -> Field {
    Field { id, kind, tag: None }
}

/// A field that is reported: the value of an integer, the bytes of a binary, the
/// elements of a list before the first.
pub(super) const fn tagged(id: i16, kind: Kind, tag: Tag) -> Field {
    Field { id, kind, tag: Some(tag) }
}

/// Bytes that are walked over.
pub(super) struct Input<R> {
    from: R,
    /// Bytes that may still be read.
    left: u64,
}

impl<R: Read> Input<R> {
    /// The next `bytes` bytes of `from`.
    pub fn new(from: R, bytes: u64) -> Self {
        Self { from, left: bytes }
    }

    /// Bytes that were not read.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or("metadata end early")?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1)?;
        let mut byte = [0];
        self.from.read_exact(&mut byte).map_err(|e| format!("metadata: {e}"))?;
        Ok(byte[0])
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Fault> {
        self.take(bytes)?;
        let found = std::io::copy(&mut self.from.by_ref().take(bytes), &mut std::io::sink());
        match found {
            Ok(found) if found == bytes => Ok(()),
            Ok(_) => Err("metadata end early".into()),
            Err(error) => Err(format!("metadata: {error}")),
        }
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("an integer of more than 64 bits in the metadata".into())
    }

    fn integer(&mut self, bits: u32) -> Result<i64, Fault> {
        let value = self.varint()?;
        let value = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
        let fits = bits == i64::BITS || (-1 << (bits - 1)..1 << (bits - 1)).contains(&value);
        if fits { Ok(value) } else { Err(format!("{value} is no integer of {bits} bits")) }
    }
}

/// Types on the wire.
mod wire {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const I8: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I32: u8 = 5;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const UUID: u8 = 13;
}

impl Kind {
    fn is_written_as(self, found: u8) -> bool {
        match self {
            Self::Bool => matches!(found, wire::TRUE | wire::FALSE),
            Self::I8 => found == wire::I8,
            Self::I16 => found == wire::I16,
            Self::I32 => found == wire::I32,
            Self::I64 => found == wire::I64,
            Self::Double => found == wire::DOUBLE,
            Self::Binary => found == wire::BINARY,
            Self::Struct(_) => found == wire::STRUCT,
            Self::List(_) => found == wire::LIST,
        }
    }
}

/// Receives the tagged values in the order in which they stand.
pub(super) type Visit<'v> = dyn FnMut(Tag, i64) -> Result<(), Fault> + 'v;

/// Walks over one struct.
///
/// # Errors
/// One that the crate would read in another way, whose lists promise more than
/// there are bytes for, that is nested too deeply or ends early; what `visit`
/// refuses.
pub(super) fn walk<R: Read>(
    input: &mut Input<R>,
    shape: &'static Shape,
    visit: &mut Visit<'_>,
) -> Result<(), Fault> {
    Walk { input, visit }.structure(Some(shape), DEEPEST)
}

struct Walk<'w, 'v, R> {
    input: &'w mut Input<R>,
    visit: &'w mut Visit<'v>,
}

impl<R: Read> Walk<'_, '_, R> {
    fn structure(&mut self, shape: Option<&'static Shape>, depth: usize) -> Result<(), Fault> {
        let mut last = 0;
        loop {
            let head = self.input.byte()?;
            if head == 0 {
                return shape
                    .and_then(|shape| shape.end)
                    .map_or(Ok(()), |tag| (self.visit)(tag, 0));
            }
            let id = match i64::from(head >> 4) {
                0 => self.input.integer(i16::BITS)?,
                step => i64::from(last) + step,
            };
            let id = i16::try_from(id).ok().filter(|id| *id > last);
            last = id.ok_or("fields of the metadata are not in ascending order")?;
            let known = shape.and_then(|shape| shape.fields.iter().find(|field| field.id == last));
            let kind = known.map(|field| field.kind);
            self.value(head & 0xf, kind, known.and_then(|field| field.tag), depth)?;
        }
    }

    fn value(
        &mut self,
        found: u8,
        kind: Option<Kind>,
        tag: Option<Tag>,
        depth: usize,
    ) -> Result<(), Fault> {
        if kind.is_some_and(|kind| !kind.is_written_as(found)) {
            return Err(format!("a field of the metadata has type {found}, not its own"));
        }
        let depth = depth.checked_sub(1).ok_or("the metadata are nested too deeply")?;
        let value = match found {
            // The type of the field is its value.
            wire::TRUE | wire::FALSE => 0,
            wire::I8 => i64::from(self.input.byte()?.cast_signed()),
            wire::I16 => self.input.integer(i16::BITS)?,
            wire::I32 => self.input.integer(i32::BITS)?,
            wire::I64 => self.input.integer(i64::BITS)?,
            wire::DOUBLE => self.skip(8)?,
            wire::UUID => self.skip(16)?,
            wire::BINARY => {
                let bytes = self.input.varint()?;
                self.skip(bytes)?
            }
            wire::LIST | wire::SET => return self.list(kind, tag, depth),
            wire::STRUCT => {
                let shape = match kind {
                    Some(Kind::Struct(shape)) => Some(shape),
                    Some(_) | None => None,
                };
                return self.structure(shape, depth);
            }
            // Parquet's metadata have no maps.
            _ => return Err(format!("a value of type {found} in the metadata")),
        };
        tag.map_or(Ok(()), |tag| (self.visit)(tag, value))
    }

    /// Skips bytes; their number.
    fn skip(&mut self, bytes: u64) -> Result<i64, Fault> {
        self.input.skip(bytes)?;
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    fn list(&mut self, kind: Option<Kind>, tag: Option<Tag>, depth: usize) -> Result<(), Fault> {
        let element = match kind {
            Some(Kind::List(element)) => Some(*element),
            Some(_) | None => None,
        };
        let head = self.input.byte()?;
        let size = match head >> 4 {
            15 => self.input.varint()?,
            size => u64::from(size),
        };
        if let Some(tag) = tag {
            (self.visit)(tag, i64::try_from(size).unwrap_or(i64::MAX))?;
        }
        let found = head & 0xf;
        let smallest = match found {
            _ if size == 0 => 0,
            // An element has a byte, which the crate skips without reading it.
            wire::TRUE | wire::FALSE => return Err("truth values listed in the metadata".into()),
            wire::STRUCT => SMALLEST_STRUCT,
            _ => 1,
        };
        if size.saturating_mul(smallest) > self.input.left() {
            return Err(format!("a list of {size} elements in {} bytes", self.input.left()));
        }
        for _ in 0..size {
            self.value(found, element, None, depth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Shape = Shape { fields: &[tagged(1, Kind::I32, Tag::Packed)], end: None };
    static OUTER: Shape = Shape::of(&[
        tagged(1, Kind::I64, Tag::Unpacked),
        tagged(2, Kind::List(&Kind::Struct(&INNER)), Tag::Elements),
        tagged(3, Kind::Binary, Tag::NameBytes),
        field(4, Kind::Bool),
    ]);

    fn walked(bytes: &[u8]) -> Result<(Vec<(Tag, i64)>, u64), Fault> {
        let mut seen = Vec::new();
        let mut input = Input::new(bytes, bytes.len() as u64);
        walk(&mut input, &OUTER, &mut |tag, value| {
            seen.push((tag, value));
            Ok(())
        })?;
        Ok((seen, input.left()))
    }

    #[test]
    fn values_are_seen_in_their_order() {
        let bytes = [
            0x16, 0x03, // 1: i64 -2
            0x19, 0x2c, 0x15, 0x80, 0x02, 0, 0x15, 0x01, 0, // 2: structs of 128 and -1
            0x18, 3, b'a', b'b', b'c', // 3: binary
            0x12, // 4: false
            0x0b, 100, // a map by its whole number, refused below
        ];
        let known = &bytes[..bytes.len() - 2];
        let expected = vec![
            (Tag::Unpacked, -2),
            (Tag::Elements, 2),
            (Tag::Packed, 128),
            (Tag::Packed, -1),
            (Tag::NameBytes, 3),
        ];
        assert_eq!(walked(&[known, &[0, 9, 9]].concat()), Ok((expected, 2)));
        assert_eq!(walked(&bytes).unwrap_err(), "a value of type 11 in the metadata");
    }

    #[test]
    fn what_the_crate_would_read_in_another_way_is_refused() {
        let ordered = "fields of the metadata are not in ascending order";
        for (bytes, expected) in [
            (&[0x15, 0, 0][..], "a field of the metadata has type 5, not its own"),
            (&[0x1c, 0, 0], "a field of the metadata has type 12, not its own"),
            (&[0x16, 0, 0x06, 2, 0, 0], ordered),
            (&[0x16, 0, 0x06, 1, 0, 0], ordered),
            (&[0x16, 0, 0x06, 0xff, 0xff, 0x07, 0, 0], "-65536 is no integer of 16 bits"),
            (&[0xf0, 0], "a value of type 0 in the metadata"),
            (&[0x16], "metadata end early"),
            (&[0x16, 0x80], "metadata end early"),
            (&[0x38, 4, 0, 0, 0], "metadata end early"),
            // Structs of three bytes at least, doubles of eight.
            (&[0x29, 0x2c, 0x15, 0, 0, 0], "a list of 2 elements in 4 bytes"),
            (&[0xf9, 0x17, 0, 0], "metadata end early"),
            (&[0xf9, 0x11, 0], "truth values listed in the metadata"),
        ] {
            assert_eq!(walked(bytes).unwrap_err(), expected, "{bytes:x?}");
        }
        assert!(walked(&[0x26, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        let deep = [&[0xfc_u8; 1][..], &[0x1c; 100], &[0; 101]].concat();
        assert_eq!(walked(&deep).unwrap_err(), "the metadata are nested too deeply");
    }
}
