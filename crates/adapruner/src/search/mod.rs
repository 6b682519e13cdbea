//! The search: calibration samples and importance metric, jointly (arXiv
//! 2503.06184), with where the model is cut.
//!
//! Statistics of a whole pool are collected once; a trial is then scores → plan
//! → slice → evaluate. What it finds is kept in a folder that any number of
//! workers share and that Optuna's tools open.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dimension`] | the dimensions of the space, their ranges and reasons |
//! | [`space`] | [`SearchSpace`]: each dimension searched or fixed |
//! | [`configuration`] | [`Configuration`]: one point of it |
//! | [`settings`] | what a search is told; [`Arm`]: one way of searching |
//! | [`folder`] | the study's folder, and who works on it |
//! | [`record`] | `search.json`: what the search is made of |
//! | [`pool`] | `pool.jsonl`: the samples, readable |
//! | [`prepare`] | what comes before the first trial |
//! | [`objective`] | [`Objective`]: what a trial does |
//! | [`run`] | the loop |
//! | [`outcome`] | what was found, and what it cost |
//! | [`stored`] | the studies of a folder, as they stand |
//! | [`compare`] | several arms with equal budgets and several seeds |
//! | [`transfer`] | what was found, applied, also to another model |
//! | [`correlate`] | whether losses tell what pruned models can do |
//! | [`page`] | the studies of a folder as a page |
//! | [`diagnose`] | signs of a search that failed |

pub mod compare;
pub mod configuration;
pub mod correlate;
pub mod diagnose;
pub mod dimension;
pub mod folder;
pub mod objective;
pub mod outcome;
pub mod page;
pub mod pool;
pub mod prepare;
pub mod record;
pub mod run;
pub mod settings;
pub mod space;
pub mod stored;
pub mod transfer;

pub use configuration::Configuration;
pub use folder::{STUDY, StudyFolder};
pub use objective::Objective;
pub use outcome::{SearchResult, Tests};
pub use record::SearchRecord;
pub use run::{Ended, Search};
pub use settings::{Arm, EarlyStop, SamplerChoice, SearchSettings};
pub use space::{Extent, GivenSpace, SearchSpace, Varied};
pub use stored::StoredStudy;
