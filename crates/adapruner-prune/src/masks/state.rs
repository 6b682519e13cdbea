//! The state of a learning as bytes, from which one that was stopped goes on with the
//! very same steps.
//!
//! A sealed safetensors file: of every list `NAME` the scores (`value.NAME`), their
//! moments (`first.NAME`, `second.NAME`) and the units of the best mask so far
//! (`best.NAME`, 0 or 1), all F32 `[units]`; the metadata key [`KEY`] holds how far it is
//! and what it was made from. Orders of samples are a function of seed and step.

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

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    record: MaskRecord,
    position: Position,
}

/// The state as bytes.
///
/// # Errors
/// Sizes that the format cannot hold.
pub(super) fn to_bytes(
    record: &MaskRecord,
    position: &Position,
    gates: &Gates,
    best: &Kept,
) -> Result<Vec<u8>> {
    let unwritten = |e: &dyn std::fmt::Display| Error::MaskState(format!("cannot be written: {e}"));
    let header = Header { version: VERSION, record: record.clone(), position: position.clone() };
    let header = serde_json::to_string(&header).map_err(|e| unwritten(&e))?;
    let flag = |kept: &bool| if *kept { 1.0_f32 } else { 0.0 };
    let best: Vec<Vec<f32>> = best.iter().map(|kept| kept.iter().map(flag).collect()).collect();
    let lists = gates.names().zip(gates.parameters()).zip(&best);
    let tensors = lists.flat_map(|((name, parameter), best)| {
        let parts = [
            ("value", &parameter.values),
            ("first", &parameter.first),
            ("second", &parameter.second),
            ("best", best),
        ];
        parts.map(|(part, values)| Floats {
            name: format!("{part}.{name}"),
            shape: vec![values.len()],
            values,
        })
    });
    let tensors: Vec<Floats<'_>> = tensors.collect();
    let metadata = BTreeMap::from([(KEY.to_owned(), header)]);
    let mut bytes = Vec::new();
    sealed::safetensors(&mut bytes, &tensors, &metadata, Sealed::Yes).map_err(|e| unwritten(&e))?;
    Ok(bytes)
}

/// Reads a state into `gates`; how far it is, and its best mask.
///
/// # Errors
/// Bytes that are no such state or were changed since they were written; a state of
/// another learning, which says what differs.
pub(super) fn read(
    bytes: &[u8],
    record: &MaskRecord,
    gates: &mut Gates,
) -> Result<(Position, Kept)> {
    let malformed = |message: String| Error::MaskState(message);
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| malformed(format!("not a safetensors file: {e}")))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let header = header.ok_or_else(|| malformed(format!("the metadata has no {KEY}")))?;
    let header: Header = serde_json::from_str(header)
        .map_err(|e| malformed(format!("the header is malformed: {e}")))?;
    if header.version != VERSION {
        let found = header.version;
        return Err(malformed(format!("version {VERSION} expected, {found} found")));
    }
    if sealed::check(bytes) != Seal::Whole {
        let message = "damaged: its content is not what was written (its own digest differs)";
        return Err(malformed(message.into()));
    }
    check_record(record, &header.record)?;
    let tensors =
        SafeTensors::deserialize(bytes).map_err(|e| malformed(format!("malformed: {e}")))?;
    let load = |part: &str, name: &str, length: usize| -> Result<Vec<f32>> {
        let name = format!("{part}.{name}");
        let view = tensors.tensor(&name).map_err(|_| malformed(format!("{name}: missing")))?;
        if view.dtype() != Dtype::F32 || view.shape() != [length] {
            let (dtype, shape) = (view.dtype(), view.shape());
            let message =
                format!("{name}: F32 of [{length}] expected, {dtype:?} of {shape:?} found");
            return Err(malformed(message));
        }
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let names: Vec<String> = gates.names().collect();
    let mut best = Kept::new();
    for (name, parameter) in names.iter().zip(gates.parameters_mut()) {
        let length = parameter.values.len();
        parameter.values = load("value", name, length)?;
        parameter.first = load("first", name, length)?;
        parameter.second = load("second", name, length)?;
        best.push(load("best", name, length)?.iter().map(|&flag| flag != 0.0).collect());
    }
    Ok((header.position, best))
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
