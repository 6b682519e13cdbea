//! The state of a training on disk: parameters, moments and position.
//!
//! One safetensors file, replaced as a whole, so a program that is killed at any moment leaves
//! the last state. Orders and dropout are functions of seed and step, so the step is the
//! position in the data and the state of every generator.

use std::{collections::BTreeMap, path::Path};

use adapruner_checkpoint::{
    atomic::StateDir,
    mapped::MappedFile,
    sealed::{self, Floats, Must, Sealed},
};
use adapruner_model::train::adamw::Parameter;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::options::Record;
use crate::{
    error::{Error, Result},
    peft::numbers,
};

/// The metadata key of the file.
const KEY: &str = "adapruner";
/// The version of this format.
const VERSION: u32 = 4;
/// The version before files were sealed, which is read.
const UNSEALED: u32 = 1;

/// The best validation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// Its loss, in nats per learned token.
    pub loss: f64,
}

/// How far a training is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps that were made.
    pub step: u64,
    /// Tokens that were run.
    pub tokens: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// The best validation.
    pub best: Option<Best>,
    /// The last validation.
    pub last_validation: Option<Best>,
    /// Validations since the best.
    pub stale: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    record: Record,
    position: Position,
}

/// What of the parameters is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Parameters with their moments: a state to resume from.
    All,
    /// Parameters alone: a model to keep.
    Values,
}

/// Writes a state into a training's folder.
///
/// # Errors
/// A refusal of the operating system; the file is then as it was.
pub fn write(
    (folder, name): (&StateDir, &str),
    parameters: &BTreeMap<String, Parameter>,
    position: &Position,
    record: &Record,
    part: Part,
) -> Result<()> {
    let path = folder.join(name);
    let header = Header { version: VERSION, record: record.clone(), position: position.clone() };
    let header = serde_json::to_string(&header).map_err(|e| Error::format(&path, e.to_string()))?;
    let tensors = parameters.iter().flat_map(|(name, parameter)| {
        let Parameter { shape, values, first, second, .. } = parameter;
        let named = |kind: &str, values| Floats {
            name: format!("{kind}.{name}"),
            shape: shape.clone(),
            values,
        };
        let mut tensors = vec![named("value", &values[..])];
        if part == Part::All {
            tensors.extend([named("first", &first[..]), named("second", &second[..])]);
        }
        tensors
    });
    let tensors: Vec<Floats<'_>> = tensors.collect();
    let metadata = BTreeMap::from([(KEY.to_owned(), header)]);
    let staged = folder.file(name)?;
    sealed::write_safetensors((staged.path(), &path), &tensors, &metadata, Sealed::Yes)?;
    Ok(staged.commit()?)
}

/// Reads a state into `parameters`, if there is one.
///
/// # Errors
/// A file that is malformed, was made under another record (which says what
/// differs), or holds other parameters.
pub fn read(
    path: &Path,
    parameters: &mut BTreeMap<String, Parameter>,
    record: &Record,
    part: Part,
) -> Result<Option<Position>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = MappedFile::open(path)?;
    let refuse = |message: String| Error::format(path, message);
    let header = header(path, &file)?;
    check_record(path, record, &header.record)?;
    let tensors = SafeTensors::deserialize(&file).map_err(|e| refuse(e.to_string()))?;
    for (name, parameter) in parameters.iter_mut() {
        let shape = parameter.shape.clone();
        let load = |kind: &str| {
            let name = format!("{kind}.{name}");
            let refuse = |message: String| Error::tensor(path, &name, message);
            let view = tensors.tensor(&name).map_err(|_| refuse("missing".into()))?;
            if view.shape() != shape {
                return Err(refuse(format!("shape {shape:?} expected, {:?} found", view.shape())));
            }
            numbers(&view).map_err(refuse)
        };
        parameter.values = load("value")?;
        if part == Part::All {
            parameter.first = load("first")?;
            parameter.second = load("second")?;
        }
    }
    Ok(Some(header.position))
}

/// Refuses a file that was changed since it was written.
///
/// # Errors
/// One that is missing, malformed or changed.
pub fn check(path: &Path) -> Result<()> {
    if !path.exists() {
        return Err(missing(path));
    }
    header(path, &MappedFile::open(path)?).map(drop)
}

/// The error for a file that the state counts on.
pub fn missing(path: &Path) -> Error {
    let error = Error::format(path, "missing, though the state of the training names it");
    error.advise("put it back, or begin anew in another --work")
}

/// The header of a whole file.
fn header(path: &Path, file: &[u8]) -> Result<Header> {
    let refuse = |message: String| Error::format(path, message);
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(|e| refuse(e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let header = header.ok_or_else(|| refuse("no state of a training".into()))?;
    let header: Header = serde_json::from_str(header).map_err(|e| refuse(e.to_string()))?;
    let must = match header.version {
        UNSEALED => Must::MayLack,
        VERSION => Must::Have,
        other => return Err(refuse(format!("version {VERSION} expected, {other} found"))),
    };
    sealed::demand(path, file, must)?;
    Ok(header)
}

/// Refuses a file of another record, by the first thing that differs.
///
/// # Errors
/// Then.
pub fn check_record(path: &Path, expected: &Record, found: &Record) -> Result<()> {
    let none = || "nothing".to_owned();
    for key in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected != found {
            return Err(Error::Other {
                path: path.into(),
                what: key.clone(),
                expected: expected.cloned().unwrap_or_else(none),
                found: found.cloned().unwrap_or_else(none),
            });
        }
    }
    Ok(())
}
