//! Searching a space by trials: samplers (random, multivariate TPE, subset
//! selection), early stopping, and studies that are kept in Optuna's journal
//! format.
//!
//! The crate knows numbers and names, never what they are for.
//!
//! | module | what it holds |
//! |---|---|
//! | [`distribution`] | what values a parameter can take, and values themselves |
//! | [`trial`] | [`Trial`]: one evaluation, its parameters, reports and outcome |
//! | [`storage`] | [`Storage`]: where trials are kept; in memory |
//! | [`journal`] | Optuna's journal: in a file, in Redis |
//! | [`error`] | what can go wrong |

pub mod distribution;
pub mod error;
pub mod journal;
pub mod storage;
pub mod trial;

pub use distribution::{Choice, Distribution, ParamValue};
pub use error::{Error, Result};
pub use journal::{FileBackend, JournalStorage};
pub use storage::{MemoryStorage, Storage, StudyId};
pub use trial::{Direction, Trial, TrialState};
