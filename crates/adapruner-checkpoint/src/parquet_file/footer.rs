//! The footer of a parquet file, checked before the parquet crate decodes it.
//!
//! Beyond what [`thrift`](super::thrift) says, the schema must be one tree: the
//! crate recurses as deeply as it nests, sets memory aside for as many children
//! as an element promises, and holds a column's whole path for every column.
//!
//! Structs: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>

use super::thrift::{Fault, Input, Kind, Shape, Tag, field, tagged, walk};

/// Elements of a schema within each other, at most.
const DEEPEST: usize = 32;
/// Bytes of the paths of all elements, at most.
const PATHS: u64 = 64 << 20;
/// Bytes that a name takes beside its own.
const NAME: u64 = 48;

const STRUCT_EMPTY: Kind = Kind::Struct(&Shape::of(&[]));

static TIME_UNIT: Shape =
    Shape::of(&[field(1, STRUCT_EMPTY), field(2, STRUCT_EMPTY), field(3, STRUCT_EMPTY)]);
static DECIMAL: Shape = Shape::of(&[field(1, Kind::I32), field(2, Kind::I32)]);
static TIME: Shape = Shape::of(&[field(1, Kind::Bool), field(2, Kind::Struct(&TIME_UNIT))]);
static INTEGER: Shape = Shape::of(&[field(1, Kind::I8), field(2, Kind::Bool)]);
static VARIANT: Shape = Shape::of(&[field(1, Kind::I8)]);
static GEOGRAPHY: Shape = Shape::of(&[field(1, Kind::Binary), field(2, Kind::I32)]);

static LOGICAL_TYPE: Shape = Shape::of(&[
    field(1, STRUCT_EMPTY),
    field(2, STRUCT_EMPTY),
    field(3, STRUCT_EMPTY),
    field(4, STRUCT_EMPTY),
    field(5, Kind::Struct(&DECIMAL)),
    field(6, STRUCT_EMPTY),
    field(7, Kind::Struct(&TIME)),
    field(8, Kind::Struct(&TIME)),
    field(10, Kind::Struct(&INTEGER)),
    field(11, STRUCT_EMPTY),
    field(12, STRUCT_EMPTY),
    field(13, STRUCT_EMPTY),
    field(14, STRUCT_EMPTY),
    field(15, STRUCT_EMPTY),
    field(16, Kind::Struct(&VARIANT)),
    field(17, Kind::Struct(&GEOGRAPHY)),
    field(18, Kind::Struct(&GEOGRAPHY)),
    field(19, STRUCT_EMPTY),
]);

static SCHEMA_ELEMENT: Shape = Shape {
    fields: &[
        field(1, Kind::I32),
        field(2, Kind::I32),
        field(3, Kind::I32),
        tagged(4, Kind::Binary, Tag::NameBytes),
        tagged(5, Kind::I32, Tag::Children),
        field(6, Kind::I32),
        field(7, Kind::I32),
        field(8, Kind::I32),
        field(9, Kind::I32),
        field(10, Kind::Struct(&LOGICAL_TYPE)),
    ],
    end: Some(Tag::ElementEnd),
};

static KEY_VALUE: Shape = Shape::of(&[field(1, Kind::Binary), field(2, Kind::Binary)]);

static STATISTICS: Shape = Shape::of(&[
    field(1, Kind::Binary),
    field(2, Kind::Binary),
    field(3, Kind::I64),
    field(4, Kind::I64),
    field(5, Kind::Binary),
    field(6, Kind::Binary),
    field(7, Kind::Bool),
    field(8, Kind::Bool),
    field(9, Kind::I64),
]);

static ENCODING_STATS: Shape =
    Shape::of(&[field(1, Kind::I32), field(2, Kind::I32), field(3, Kind::I32)]);

static SIZE_STATISTICS: Shape = Shape::of(&[
    field(1, Kind::I64),
    field(2, Kind::List(&Kind::I64)),
    field(3, Kind::List(&Kind::I64)),
]);

static BOUNDING_BOX: Shape = Shape::of(&[
    field(1, Kind::Double),
    field(2, Kind::Double),
    field(3, Kind::Double),
    field(4, Kind::Double),
    field(5, Kind::Double),
    field(6, Kind::Double),
    field(7, Kind::Double),
    field(8, Kind::Double),
]);

static GEOSPATIAL: Shape =
    Shape::of(&[field(1, Kind::Struct(&BOUNDING_BOX)), field(2, Kind::List(&Kind::I32))]);

static COLUMN_METADATA: Shape = Shape::of(&[
    field(1, Kind::I32),
    field(2, Kind::List(&Kind::I32)),
    field(3, Kind::List(&Kind::Binary)),
    field(4, Kind::I32),
    field(5, Kind::I64),
    field(6, Kind::I64),
    field(7, Kind::I64),
    field(8, Kind::List(&Kind::Struct(&KEY_VALUE))),
    field(9, Kind::I64),
    field(10, Kind::I64),
    field(11, Kind::I64),
    field(12, Kind::Struct(&STATISTICS)),
    field(13, Kind::List(&Kind::Struct(&ENCODING_STATS))),
    field(14, Kind::I64),
    field(15, Kind::I32),
    field(16, Kind::Struct(&SIZE_STATISTICS)),
    field(17, Kind::Struct(&GEOSPATIAL)),
]);

static COLUMN_CHUNK: Shape = Shape::of(&[
    field(1, Kind::Binary),
    field(2, Kind::I64),
    field(3, Kind::Struct(&COLUMN_METADATA)),
    field(4, Kind::I64),
    field(5, Kind::I32),
    field(6, Kind::I64),
    field(7, Kind::I32),
]);

static SORTING_COLUMN: Shape =
    Shape::of(&[field(1, Kind::I32), field(2, Kind::Bool), field(3, Kind::Bool)]);

static ROW_GROUP: Shape = Shape::of(&[
    field(1, Kind::List(&Kind::Struct(&COLUMN_CHUNK))),
    field(2, Kind::I64),
    field(3, Kind::I64),
    field(4, Kind::List(&Kind::Struct(&SORTING_COLUMN))),
    field(5, Kind::I64),
    field(6, Kind::I64),
    field(7, Kind::I16),
]);

static COLUMN_ORDER: Shape =
    Shape::of(&[field(1, STRUCT_EMPTY), field(2, STRUCT_EMPTY), field(3, STRUCT_EMPTY)]);

static FILE_METADATA: Shape = Shape::of(&[
    field(1, Kind::I32),
    tagged(2, Kind::List(&Kind::Struct(&SCHEMA_ELEMENT)), Tag::Elements),
    field(3, Kind::I64),
    field(4, Kind::List(&Kind::Struct(&ROW_GROUP))),
    field(5, Kind::List(&Kind::Struct(&KEY_VALUE))),
    field(6, Kind::Binary),
    field(7, Kind::List(&Kind::Struct(&COLUMN_ORDER))),
]);

/// Checks the metadata of a footer.
///
/// # Errors
/// Metadata that the crate would read in another way or that would cost it time
/// or memory out of proportion.
pub(super) fn check(metadata: &[u8]) -> Result<(), Fault> {
    let mut tree = Tree::default();
    let mut input = Input::new(metadata, metadata.len() as u64);
    walk(&mut input, &FILE_METADATA, &mut |tag, value| tree.see(tag, value))?;
    tree.finish()
}

/// A schema whose elements come one after another, parents first.
#[derive(Debug, Default)]
struct Tree {
    /// Elements that may still come.
    left: i64,
    /// Of the element that is read.
    name: i64,
    children: i64,
    /// The open elements: children that are missing, bytes of the path.
    open: Vec<(i64, u64)>,
    has_root: bool,
    /// Bytes of all paths.
    paths: u64,
}

impl Tree {
    fn see(&mut self, tag: Tag, value: i64) -> Result<(), Fault> {
        match tag {
            Tag::Elements => self.left = value,
            Tag::NameBytes => self.name = value,
            Tag::Children => self.children = value,
            Tag::ElementEnd => self.element()?,
            Tag::PageType
            | Tag::Unpacked
            | Tag::Packed
            | Tag::ValuesV1
            | Tag::ValuesV2
            | Tag::Entries => {}
        }
        Ok(())
    }

    fn element(&mut self) -> Result<(), Fault> {
        let (name, children) = (std::mem::take(&mut self.name), std::mem::take(&mut self.children));
        self.left -= 1;
        if !(0..=self.left).contains(&children) {
            let left = self.left;
            return Err(format!("schema: an element with {children} children, {left} follow"));
        }
        let above = match self.open.last_mut() {
            Some((missing, path)) => {
                *missing -= 1;
                *path
            }
            None if self.has_root => return Err("schema: more than one tree".into()),
            None => 0,
        };
        self.has_root = true;
        let path = above + name.unsigned_abs() + NAME;
        self.paths = self.paths.saturating_add(path);
        if self.paths > PATHS {
            return Err(format!("schema: names of more than {PATHS} bytes"));
        }
        if children > 0 {
            self.open.push((children, path));
        }
        if self.open.len() > DEEPEST {
            return Err(format!("schema: nested more than {DEEPEST} deep"));
        }
        while self.open.last().is_some_and(|(missing, _)| *missing == 0) {
            self.open.pop();
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Fault> {
        if self.has_root && self.open.is_empty() {
            return Ok(());
        }
        Err("schema: elements are missing".into())
    }
}
