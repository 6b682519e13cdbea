//! Converts the levels of a parquet column to JSON values.

use parquet::{
    basic::{ConvertedType, LogicalType, Repetition},
    schema::types::Type,
};
use serde_json::{Map, Value};

/// What a part of a column's path does to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It is a field of a record.
    Field(String),
    /// It may be missing.
    Optional,
    /// It is an element of an array.
    Each,
}

/// Whose child a node of the schema is.
#[derive(Clone, Copy)]
enum Parent {
    /// A record's: the child is a field.
    Record,
    /// A list's: the child repeats, and its name says nothing.
    List,
    /// What repeats in a list: the child is the element.
    Repeated,
}

/// The steps from a record down to the column `path`; `None` where the schema
/// has no such column.
pub(super) fn steps(root: &Type, path: &[String]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let (mut node, mut parent) = (root, Parent::Record);
    for name in path {
        if !node.is_group() {
            return None;
        }
        node = node.get_fields().iter().find(|field| field.name() == name)?;
        if matches!(parent, Parent::Record) {
            steps.push(Step::Field(name.clone()));
        }
        let info = node.get_basic_info();
        if info.has_repetition() {
            match info.repetition() {
                Repetition::REQUIRED => {}
                Repetition::OPTIONAL => steps.push(Step::Optional),
                Repetition::REPEATED => steps.push(Step::Each),
            }
        }
        parent = match parent {
            Parent::List if is_wrapper(node) => Parent::Repeated,
            Parent::Record | Parent::List | Parent::Repeated if is_list(node) => Parent::List,
            Parent::Record | Parent::List | Parent::Repeated => Parent::Record,
        };
    }
    Some(steps)
}

/// Whether a node is marked as a list, with one child that repeats.
fn is_list(node: &Type) -> bool {
    let info = node.get_basic_info();
    let marked = info.converted_type() == ConvertedType::LIST
        || matches!(info.logical_type_ref(), Some(LogicalType::List));
    let repeats = |field: &Type| {
        let info = field.get_basic_info();
        info.has_repetition() && info.repetition() == Repetition::REPEATED
    };
    node.is_group() && marked && matches!(node.get_fields(), [only] if repeats(only))
}

/// Whether what repeats in a list only holds the element. (Older writers repeat
/// the element itself, under these names.)
fn is_wrapper(node: &Type) -> bool {
    let older = node.name() == "array" || node.name().ends_with("_tuple");
    node.is_group() && node.get_fields().len() == 1 && !older
}

/// Puts one value of a column into a record: `defined` of its levels are there,
/// and it is number `slot` of the arrays it lies in.
pub(super) fn put(
    target: &mut Value,
    steps: &[Step],
    defined: i16,
    slot: usize,
    value: Option<Value>,
) -> Result<(), &'static str> {
    let Some((step, rest)) = steps.split_first() else {
        *target = value.ok_or("has no value where one must be")?;
        return Ok(());
    };
    match step {
        Step::Field(name) => {
            if target.is_null() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(fields) = target else { return Err("is nested in two ways") };
            let field = fields.entry(name.as_str()).or_insert(Value::Null);
            put(field, rest, defined, slot, value)
        }
        Step::Optional if defined == 0 => Ok(()),
        Step::Optional => put(target, rest, defined - 1, slot, value),
        Step::Each => {
            if target.is_null() {
                *target = Value::Array(Vec::new());
            }
            let Value::Array(elements) = target else { return Err("is nested in two ways") };
            if defined == 0 {
                return Ok(());
            }
            if elements.len() == slot {
                elements.push(Value::Null);
            }
            let element = elements.get_mut(slot).ok_or("is uneven")?;
            put(element, rest, defined - 1, slot, value)
        }
    }
}
