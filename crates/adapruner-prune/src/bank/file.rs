//! A bank as bytes: safetensors with the header as JSON in its metadata.
//!
//! Tensors, named as [`BankArrays`]' fields, all F32, absent where they were not
//! collected; the metadata key [`HEADER_KEY`] holds the header. The file carries a
//! digest of itself ([`sealed`]), but where version 1 wrote it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use adapruner_checkpoint::sealed::{self, Floats, Seal, Sealed};
use safetensors::{Dtype, SafeTensors};

use super::{BankArrays, BankHeader, StatsBank, UNSEALED_VERSION};
use crate::error::{Error, Result};

/// Metadata key of the header.
const HEADER_KEY: &str = "adapruner.statistics";

/// Longest header that is read, in bytes.
const HEADER_LIMIT: usize = 64 << 20;

impl StatsBank {
    /// The bank as the bytes of a safetensors file.
    ///
    /// # Errors
    /// Sizes that the format cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).map_err(|e| Error::Bank(format!("cannot be written: {e}")))?;
        Ok(bytes)
    }

    /// Writes the bytes of [`StatsBank::to_bytes`] to `to`, without another copy of the
    /// bank in memory.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let arrays = self.arrays();
        let (samples, vectors) = (self.samples(), self.layout().len());
        let columns = self.columns().len();
        let tensors: Vec<Floats<'_>> = [
            ("signed", vec![samples, vectors], &arrays.signed),
            ("element", vec![samples, vectors], &arrays.element),
            ("fisher", vec![samples, vectors], &arrays.fisher),
            ("batch_first", vec![vectors], &arrays.batch_first),
            ("batch_mix", vec![vectors], &arrays.batch_mix),
            ("input_sum", vec![samples, columns], &arrays.input_sum),
            ("input_square", vec![samples, columns], &arrays.input_square),
            ("column_abs", vec![columns], &arrays.column_abs),
            ("column_square", vec![columns], &arrays.column_square),
        ]
        .into_iter()
        .filter(|(_, _, values)| !values.is_empty())
        .map(|(name, shape, values)| Floats { name: name.to_owned(), shape, values })
        .collect();
        let header = serde_json::to_string(self.header())?;
        let metadata = BTreeMap::from([(HEADER_KEY.to_owned(), header)]);
        sealed::safetensors(to, &tensors, &metadata, Sealed::Yes)
    }

    /// Reads what [`StatsBank::to_bytes`] wrote.
    ///
    /// # Errors
    /// Bytes that are no such file or were changed since they were written, a
    /// version this program does not know, shapes that do not follow from the
    /// header.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed = |e: safetensors::SafeTensorError| {
            Error::Bank(format!("not a safetensors file of statistics: {e}"))
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(HEADER_KEY))
            .ok_or_else(|| Error::Bank(format!("the metadata has no {HEADER_KEY}")))?;
        if header.len() > HEADER_LIMIT {
            return Err(Error::Bank(format!(
                "the header has {} bytes, expected at most {HEADER_LIMIT}",
                header.len()
            )));
        }
        let header: BankHeader = serde_json::from_str(header)
            .map_err(|e| Error::Bank(format!("the header is malformed: {e}")))?;
        match sealed::check(bytes) {
            Seal::Whole => {}
            Seal::None if header.version == UNSEALED_VERSION => {}
            Seal::None | Seal::Broken => {
                let message = "damaged: the content is not what was written (its own digest \
                               differs); collect it again";
                return Err(Error::Bank(message.into()));
            }
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let read = |name: &str, per_sample: bool| -> Result<Vec<f32>> {
            let Ok(view) = tensors.tensor(name) else { return Ok(Vec::new()) };
            let rows = if per_sample { Some(&header.samples()) } else { None };
            let shape = view.shape();
            if view.dtype() != Dtype::F32
                || shape.len() != usize::from(per_sample) + 1
                || rows.is_some_and(|rows| shape[0] != *rows)
            {
                return Err(Error::Bank(format!(
                    "{name}: expected F32 of {}, found {:?} of {shape:?}",
                    match rows {
                        Some(samples) => format!("[{samples}, numbers]"),
                        None => "[numbers]".to_owned(),
                    },
                    view.dtype()
                )));
            }
            Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let arrays = BankArrays {
            signed: read("signed", true)?,
            element: read("element", true)?,
            fisher: read("fisher", true)?,
            batch_first: read("batch_first", false)?,
            batch_mix: read("batch_mix", false)?,
            input_sum: read("input_sum", true)?,
            input_square: read("input_square", true)?,
            column_abs: read("column_abs", false)?,
            column_square: read("column_square", false)?,
        };
        Self::new(header, arrays)
    }
}
