//! What a model has beside its language model: parts that pass through unchanged.

use std::collections::BTreeMap;

use adapruner_checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

/// The parts of a larger model that are no language model.
///
/// A ratio, a number of parameters and a budget are those of the language model alone; the size
/// of a written folder counts these parts, which are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedRecord {
    /// The class of the whole.
    pub class: String,
    /// Parameters of all parts.
    pub parameters: u64,
    /// Parameters by part.
    pub parts: BTreeMap<String, u64>,
}

impl PassedRecord {
    /// What a model has beside its language model, if anything.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let passed = checkpoint.pass_through.as_ref()?;
        Some(Self {
            class: passed.composite().class(),
            parameters: passed.parameters(),
            parts: passed.parts().map(|(title, count)| (title.to_owned(), count)).collect(),
        })
    }
}
