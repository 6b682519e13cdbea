//! How deep and how large the values of a template may be.

use minijinja::{Environment, Error, ErrorKind, State, Value, value::ValueKind};

use super::guarded::{BOUNDED, STORED};

/// Containers within containers. Every recursion of the engine over a value,
/// its end included, goes down so far at most.
const MAX_DEPTH: usize = 100;
/// Values in a container, those in its containers counted each time they stand
/// there.
const MAX_VALUES: usize = 200_000;
/// Bytes of the strings in a container.
const MAX_BYTES: usize = 32 << 20;
/// Values that are looked at for the price of an instruction.
const VALUES_PER_FUEL: usize = 16;

/// Size of a value as a tree.
#[derive(Debug, Default)]
pub(super) struct Size {
    values: usize,
    bytes: usize,
}

impl Size {
    /// Adds a value; `depth` is that of the containers around it.
    ///
    /// # Errors
    /// What is too deep or too large, or a namespace in a container.
    pub(super) fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.values += 1;
        self.bytes += value.as_str().map_or(0, str::len);
        if self.values > MAX_VALUES {
            return Err(refused(format!("a value of more than {MAX_VALUES} parts")));
        }
        if self.bytes > MAX_BYTES {
            return Err(refused(format!("a value of more than {MAX_BYTES} bytes")));
        }
        // Strings, numbers and functions hold no values.
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            return Ok(());
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth > 0 && is_namespace(value) {
            return Err(refused("a namespace inside of another value".into()));
        }
        if depth >= MAX_DEPTH {
            return Err(refused(format!("values nested deeper than {MAX_DEPTH}")));
        }
        if value.kind() == ValueKind::Map {
            for (key, held) in object.try_iter_pairs().into_iter().flatten() {
                self.add(&key, depth + 1)?;
                self.add(&held, depth + 1)?;
            }
        } else {
            for held in object.try_iter().into_iter().flatten() {
                self.add(&held, depth + 1)?;
            }
        }
        Ok(())
    }

    fn charge(&self, state: &State<'_, '_>) -> Result<(), Error> {
        state.consume_fuel((self.values / VALUES_PER_FUEL) as u64)
    }
}

/// Adds the filters that the guarded source calls.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter(BOUNDED, bounded);
    environment.add_filter(STORED, stored);
    // It prints values indented by their depth, and no template needs it.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
}

/// The value itself if it is of a bounded size. What can be gone through only
/// once becomes a list, because it is gone through here.
fn bounded(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let value = if value.kind() == ValueKind::Iterable {
        Value::from(value.try_iter()?.take(MAX_VALUES + 1).collect::<Vec<_>>())
    } else {
        value
    };
    let mut size = Size::default();
    let found = size.add(&value, 0);
    size.charge(state)?;
    found.map(|()| value)
}

/// The value itself if it may become a field of `namespace`.
fn stored(state: &State<'_, '_>, value: Value, namespace: &Value) -> Result<Value, Error> {
    let mut size = Size::default();
    // As if it stood in the namespace already.
    let found = size.add(&value, 1).and_then(|()| match is_namespace(namespace) {
        true => size.add(namespace, 0),
        false => Ok(()),
    });
    size.charge(state)?;
    found.map(|()| value)
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
