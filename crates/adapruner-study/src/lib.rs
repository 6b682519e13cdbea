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
//! | [`sampler`] | what to try next: random search, TPE, subsets |
//! | [`error`] | what can go wrong |

pub mod distribution;
pub mod error;
pub mod sampler;
pub mod trial;

pub use distribution::{Choice, Distribution, ParamValue};
pub use error::{Error, Result};
pub use sampler::{RandomSampler, Sampler, TpeSampler};
pub use trial::{Direction, Trial, TrialState};
