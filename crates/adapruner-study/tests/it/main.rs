//! Studies, samplers and pruners, against Optuna and against what is asked of
//! every implementation.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod conformance;
mod effects;
mod front;
mod importance;
mod optuna_pruners;
mod optuna_tpe;
mod resume;
mod space;
mod storage;
mod study;
