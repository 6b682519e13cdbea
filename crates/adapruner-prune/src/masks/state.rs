//! [`MaskState`]: the state from which stopped learning resumes with the same steps.
//!
//! As bytes it is a sealed safetensors file: of every list `NAME` the scores (`value.NAME`),
//! their moments (`first.NAME`, `second.NAME`) and the units of the best mask so far
//! (`best.NAME`, 0 or 1), all F32 `[units]`; the metadata key [`KEY`] holds its position and
//! inputs. Orders of samples are a function of seed and step.

use std::collections::BTreeMap;

use adapruner_checkpoint::sealed::{self, Floats, Seal, Sealed};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::{
    gates::{Gates, Kept},
    learn::Measured,
};
use crate::error::{Error, Result};

/// Metadata key of the header.
const KEY: &str = "adapruner.masks";
/// The version of this format.
const VERSION: u32 = 1;
/// Longest header that is read, in bytes.
const HEADER_LIMIT: usize = 16 << 20;

/// What a learning was made from, by name.
pub type MaskRecord = BTreeMap<String, String>;

/// How far a learning is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Steps that were made.
    pub(super) step: u64,
    /// The best measurement.
    pub(super) best: Measured,
    /// Measurements since the best.
    pub(super) stale: u64,
    /// All measurements, the plan's first.
    pub(super) measured: Vec<Measured>,
}

/// A learning between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskState {
    header: Header,
    /// By name.
    lists: BTreeMap<String, SavedList>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    record: MaskRecord,
    position: Position,
}

/// The numbers of one list, all `[units]`.
#[derive(Debug, Clone, Default, PartialEq)]
struct SavedList {
    value: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    best: Vec<f32>,
}

impl SavedList {
    /// The parts by name.
    fn parts(&self) -> [(&'static str, &Vec<f32>); 4] {
        let Self { value, first, second, best } = self;
        [("value", value), ("first", first), ("second", second), ("best", best)]
    }

    fn part_mut(&mut self, name: &str) -> Option<&mut Vec<f32>> {
        match name {
            "value" => Some(&mut self.value),
            "first" => Some(&mut self.first),
            "second" => Some(&mut self.second),
            "best" => Some(&mut self.best),
            _ => None,
        }
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::MaskState(message.into())
}

impl MaskState {
    pub(super) fn new(
        record: &MaskRecord,
        position: &Position,
        gates: &Gates,
        best: &Kept,
    ) -> Self {
        let header =
            Header { version: VERSION, record: record.clone(), position: position.clone() };
        let flag = |kept: &bool| if *kept { 1.0 } else { 0.0 };
        let lists = gates.names().zip(gates.parameters()).zip(best).map(|((name, of), best)| {
            let saved = SavedList {
                value: of.values.clone(),
                first: of.first.clone(),
                second: of.second.clone(),
                best: best.iter().map(flag).collect(),
            };
            (name, saved)
        });
        Self { header, lists: lists.collect() }
    }

    /// The state as bytes, which [`MaskState::from_bytes`] reads.
    ///
    /// # Errors
    /// Sizes that the format cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let unwritten = |e: &dyn std::fmt::Display| malformed(format!("cannot be written: {e}"));
        let header = serde_json::to_string(&self.header).map_err(|e| unwritten(&e))?;
        let tensors = self.lists.iter().flat_map(|(name, list)| {
            list.parts().map(|(part, values)| Floats {
                name: format!("{part}.{name}"),
                shape: vec![values.len()],
                values,
            })
        });
        let tensors: Vec<Floats<'_>> = tensors.collect();
        let metadata = BTreeMap::from([(KEY.to_owned(), header)]);
        let mut bytes = Vec::new();
        sealed::safetensors(&mut bytes, &tensors, &metadata, Sealed::Yes)
            .map_err(|e| unwritten(&e))?;
        Ok(bytes)
    }

    /// Reads a state.
    ///
    /// # Errors
    /// Bytes that are no state or were changed since they were written, a version that this
    /// program does not know, lists whose parts differ in length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| malformed(format!("not a safetensors file: {e}")))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = header.ok_or_else(|| malformed(format!("the metadata has no {KEY}")))?;
        if header.len() > HEADER_LIMIT {
            let found = header.len();
            return Err(malformed(format!(
                "the header has {found} bytes, expected at most {HEADER_LIMIT}"
            )));
        }
        let header: Header = serde_json::from_str(header)
            .map_err(|e| malformed(format!("the header is malformed: {e}")))?;
        if header.version != VERSION {
            let found = header.version;
            return Err(malformed(format!("version {VERSION} expected, {found} found")));
        }
        if sealed::check(bytes) != Seal::Whole {
            return Err(malformed(
                "damaged: its content is not what was written (its own digest differs)",
            ));
        }
        let tensors =
            SafeTensors::deserialize(bytes).map_err(|e| malformed(format!("malformed: {e}")))?;
        let mut lists: BTreeMap<String, SavedList> = BTreeMap::new();
        for (name, view) in tensors.iter() {
            let unknown = || malformed(format!("{name}: no part of a state"));
            let (part, list) = name.split_once('.').ok_or_else(unknown)?;
            if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
                let (dtype, shape) = (view.dtype(), view.shape());
                let found = format!("{name}: F32 [units] expected, {dtype:?} of {shape:?} found");
                return Err(malformed(found));
            }
            let list = lists.entry(list.to_owned()).or_default();
            let numbers = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            *list.part_mut(part).ok_or_else(unknown)? = numbers.collect();
        }
        for (name, list) in &lists {
            let units = list.value.len();
            if let Some((part, values)) = list.parts().into_iter().find(|(_, v)| v.len() != units) {
                let found = values.len();
                return Err(malformed(format!(
                    "{part}.{name}: {units} units expected, {found} found"
                )));
            }
        }
        Ok(Self { header, lists })
    }

    /// Puts the scores and their moments into `gates`; how far the learning is, and its best
    /// mask.
    ///
    /// # Errors
    /// A state of another learning, which says what differs.
    pub(super) fn restore(
        self,
        record: &MaskRecord,
        gates: &mut Gates,
    ) -> Result<(Position, Kept)> {
        let Self { header: Header { record: found, position, .. }, mut lists } = self;
        check_record(record, &found)?;
        let names: Vec<String> = gates.names().collect();
        let mut kept = Kept::new();
        for (name, parameter) in names.iter().zip(gates.parameters_mut()) {
            let SavedList { value, first, second, best } = lists.remove(name).unwrap_or_default();
            let (units, found) = (parameter.values.len(), value.len());
            if found != units {
                return Err(malformed(format!(
                    "value.{name}: {units} units expected, {found} found"
                )));
            }
            (parameter.values, parameter.first, parameter.second) = (value, first, second);
            kept.push(best.iter().map(|&flag| flag != 0.0).collect());
        }
        Ok((position, kept))
    }
}

fn check_record(expected: &MaskRecord, found: &MaskRecord) -> Result<()> {
    let none = || "nothing".to_owned();
    for what in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(what), found.get(what));
        if expected != found {
            return Err(Error::OtherMasks {
                what: what.clone(),
                expected: expected.cloned().unwrap_or_else(none),
                found: found.cloned().unwrap_or_else(none),
            });
        }
    }
    Ok(())
}
