//! Black-box optimisation by trials: samplers (random, multivariate TPE, subset selection),
//! early stopping, and studies in Optuna's journal format.
//!
//! The crate knows only numbers and names, not their meaning.
//!
//! ```
//! use std::sync::Arc;
//!
//! use adapruner_study::{
//!     ActiveTrial, Direction, Error, MemoryStorage, Optimize, Outcome, Study, TpeSampler,
//! };
//!
//! let storage = Arc::new(MemoryStorage::new());
//! let study = Study::open(storage, "bowl", Direction::Minimize, TpeSampler::new(7))?;
//! let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
//!     let x = trial.float("x", -5.0, 5.0)?;
//!     let set = trial.subset("set", 12, 3, 3)?;
//!     Ok(Outcome::Complete(x * x + set.iter().sum::<usize>() as f64))
//! };
//! study.optimize(&Optimize::new().trials(60), objective)?;
//! let best = study.best_trial()?.expect("sixty trials");
//! assert!(best.value() < Some(12.0));
//! # Ok::<(), Error>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`distribution`] | distributions of parameters, and their values |
//! | [`trial`] | [`Trial`]: one evaluation, its parameters, reports and outcome |
//! | [`storage`] | [`Storage`] of trials; in memory |
//! | [`journal`] | Optuna's journal: in a file, in Redis |
//! | [`space`] | [`Space`]: named parameters and conditions |
//! | [`study`] | [`Study`]: ask, tell, optimize, resume |
//! | [`front`] | several objectives: fronts, ranks, hypervolume |
//! | [`sampler`] | what to try next: random search, TPE, subsets |
//! | [`pruner`] | when to stop a trial early |
//! | [`importance`] | how much each parameter mattered |
//! | [`effects`] | what each item of a subset adds to the objective |
//! | `testing` | conformance suites for samplers and pruners (feature `testing`) |
//! | [`error`] | errors |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests read what they wrote"))]

pub mod distribution;
pub mod effects;
pub mod error;
pub mod front;
pub mod importance;
pub mod journal;
pub mod pruner;
pub mod sampler;
pub mod space;
pub mod storage;
pub mod study;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trial;

pub use distribution::{Choice, Distribution, ParamValue};
pub use error::{Error, Result};
pub use front::front_of;
pub use journal::{FileBackend, JournalStorage};
pub use pruner::Pruner;
pub use sampler::{RandomSampler, Sampler, TpeSampler};
pub use space::Space;
pub use storage::{MemoryStorage, Storage, StudyId};
pub use study::{ActiveTrial, Optimize, Outcome, Study, best_of, since_best};
pub use trial::{Direction, Trial, TrialState, of_objective};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
